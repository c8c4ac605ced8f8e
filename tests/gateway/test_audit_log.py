"""Audit rows: their form, how they are written, and what happens when they cannot be."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from ledger_drive import APPEND_SOME, APPEND_UNTIL_KILLED, acknowledged, output, row, start

from azeotrope.core.errors import ConfigError, RunError
from azeotrope.gateway.ledger.audit_chain import Signer, Verifier, genesis, publish, read_public_keys
from azeotrope.gateway.ledger.audit_log import (
    AuditClosedError,
    AuditError,
    AuditFullError,
    AuditLog,
    AuditSettings,
    Receipt,
)
from azeotrope.gateway.ledger.audit_read import count_rows, original, pages_by_time
from azeotrope.gateway.ledger.audit_row import AuditRow, Digester, decode, encode, plain, stored
from azeotrope.gateway.ledger.audit_writer import ChainWriter, Entry
from azeotrope.gateway.ledger.database import ConflictError, Database, DatabaseError, open_database
from azeotrope.gateway.ledger.folder import Folder
from azeotrope.gateway.ledger.heads_file import read_heads
from azeotrope.gateway.ledger.opening import open_audit_log
from azeotrope.gateway.ledger.schema import audit_rows
from azeotrope.gateway.ledger.sealed import Sealer, Unsealer, auditor_key
from azeotrope.gateway.ledger.secret import Secret
from azeotrope.gateway.ledger.verify import Report, verify

SEED = Secret(bytes(range(32)))
FAST = AuditSettings(patience_seconds=0, retry_seconds=0.02, group_seconds=0)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "gw")


@pytest.fixture
def database(folder: Folder) -> Iterator[Database]:
    opened = open_database(folder.database)
    yield opened
    opened.close()


def checked(database: Database, folder: Folder, **options: Any) -> Report:
    verifier = Verifier(read_public_keys(folder.public_keys))
    return verify(database, verifier, heads=folder.heads, **options)


@contextmanager
def broken(monkeypatch: pytest.MonkeyPatch, *, after_commit: bool = False) -> Iterator[list[int]]:
    """A database whose every transaction that writes fails, after it was committed or instead."""
    write, insert, failed = Database.write, Database.insert, [0]

    @contextmanager
    def failing(self: Database) -> Iterator[sa.Connection]:
        failed[0] += 1
        if after_commit:
            with write(self) as connection:
                yield connection
        raise DatabaseError("The database is gone.")

    def failing_too(self: Database, rows: Any) -> None:
        failed[0] += 1
        if after_commit:
            insert(self, rows)
        raise DatabaseError("The database is gone.")

    with monkeypatch.context() as patch:
        patch.setattr(Database, "write", failing)
        patch.setattr(Database, "insert", failing_too)
        yield failed


# The form of a row


def test_canonical_json_is_what_it_was() -> None:
    """A stored chain can only be verified if this never changes."""
    text = encode(stored(row(1, tenant="Grün", reasons=("a", "b"))))
    assert text == (
        '{"altered":true,"chars_transformed":17,"completion_tokens":300,"dialect":"chat",'
        '"key_id":"abcdefghij2345","latency_ms":1234.5,"model_requested":"r1","model_served":"deepseek-r1",'
        '"overhead_ms":0.412,"policy":"0f0f0f0f0f0f0f0f","prompt_digest":"' + "ab" * 32 + '","prompt_tokens":101,'
        '"reasoning_tokens":200,"reasons":["a","b"],"reply_digest":"' + "cd" * 32 + '",'
        '"request_id":"req_000001","sealed":"","stance":"reasoning=summary","status":200,"streamed":false,'
        '"tenant":"Grün","time_ms":1790000000001,"v":1}'
    )
    again = json.loads(text)
    assert text == json.dumps(again, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


@given(st.text(), st.text(max_size=2000), st.integers(), st.floats(), st.lists(st.text(), max_size=50))
def test_any_row_can_be_stored(name: str, model: str, number: int, span: float, reasons: list[str]) -> None:
    """Surrogates, control characters, huge numbers, NaN: a client cannot prevent its own row."""
    written = stored(row(0, tenant=name, model_requested=model, prompt_tokens=number, latency_ms=span,
                         reasons=tuple(reasons)))  # fmt: skip
    text = encode(written)
    assert decode(text) == written
    assert text.isprintable()
    text.encode("utf-8")
    assert len(text) < 30_000
    assert stored(written) == written


@given(st.text(max_size=600))
def test_plain_text_is_kept_as_it_is(text: str) -> None:
    kept = plain(text)
    assert plain(kept) == kept
    assert len(kept) <= 256
    assert kept.isprintable()
    if text.isprintable() and len(text) <= 256:
        assert kept == text


@pytest.mark.parametrize("change", [
    lambda t: t + " ", lambda t: " " + t, lambda t: t.replace('"status":200', '"status": 200'),
    lambda t: t.replace('"v":1', '"v":1,"x":1'), lambda t: t.replace('"v":1', '"v":1,"v":1'),
    lambda t: t.replace("200", "2e2"), lambda t: t[:-1], lambda t: "[]", lambda t: "",
])  # fmt: skip
def test_only_the_canonical_form_is_read(change: Any) -> None:
    text = encode(stored(row()))
    assert change(text) != text
    with pytest.raises(ValueError):  # noqa: PT011
        decode(change(text))


def test_digests_are_keyed_by_tenant() -> None:
    one, other = Digester(SEED), Digester(Secret(b"x" * 32))
    found = {d.digest(tenant, "hello") for d in (one, other) for tenant in ("a", "b")}
    assert len(found) == 4
    assert hashlib.sha256(b"hello").hexdigest() not in found
    piecewise = one.begin("a")
    piecewise.update(b"hel")
    piecewise.update(b"lo")
    assert piecewise.hexdigest() == one.digest("a", "hello")
    assert one.digest("a", "\ud800") != one.digest("a", "?")


# Writing


def test_the_chain_is_what_it_says(database: Database, folder: Folder) -> None:
    """h_0 = H(genesis || chain), h_i = H(h_{i-1} || row_i), computed here once more."""

    async def test() -> list[Receipt]:
        log = open_audit_log(database, folder)
        receipts = [await log.append(row(n)) for n in range(3)]
        receipts += await asyncio.gather(*(log.append(row(n)) for n in range(3, 40)))
        await log.close()
        return receipts

    receipts = asyncio.run(test())
    chain = receipts[0].chain
    assert receipts == [Receipt(chain, n + 1) for n in range(40)]
    with database.read() as connection:
        written = connection.execute(sa.select(audit_rows).order_by(audit_rows.c.seq)).all()
    state = hashlib.sha256(b"azeotrope audit chain 1\n" + chain.encode()).digest()
    assert state == genesis(chain)
    for number, one in enumerate(written):
        assert (one.chain, one.seq) == (chain, number + 1)
        assert one.row == encode(stored(row(number)))
        state = hashlib.sha256(state + one.row.encode()).digest()
        assert one.hash == state
    report = checked(database, folder)
    assert (report.ok, report.rows, report.chains, report.unsigned) == (True, 40, 1, 0)
    lines = [head for _, head, _ in read_heads(folder.heads)]
    assert lines[0] is not None
    assert lines[-1] is not None
    assert (lines[0].seq, lines[-1].seq, lines[-1].final, lines[-1].hash) == (0, 40, True, state.hex())


def test_heads_are_signed_by_number_and_by_time(database: Database, folder: Folder) -> None:
    async def test() -> None:
        log = open_audit_log(database, folder, AuditSettings(head_rows=10, head_seconds=3600, batch_rows=4))
        await asyncio.gather(*(log.append(row(n)) for n in range(35)))
        await log.close()
        heads = [head for _, head, _ in read_heads(folder.heads) if head is not None]
        assert max(b.seq - a.seq for a, b in pairwise(heads)) <= 12
        assert len(heads) <= 6

    asyncio.run(test())

    async def by_time() -> None:
        log = open_audit_log(database, folder, AuditSettings(head_seconds=0.02))
        receipt = await log.append(row())
        while not any(
            head is not None and (head.chain, head.seq) == receipt for _, head, _ in read_heads(folder.heads)
        ):
            await asyncio.sleep(0.01)
        await log.close()

    asyncio.run(by_time())
    assert checked(database, folder).ok


def test_closing_writes_what_waits(database: Database, folder: Folder) -> None:
    async def test() -> None:
        log = open_audit_log(database, folder)
        waiting = [log.append(row(n)) for n in range(2000)]
        await log.close()
        assert [(await one).seq for one in waiting] == list(range(1, 2001))
        with pytest.raises(AuditClosedError):
            await log.append(row())
        await log.close()

    asyncio.run(test())
    assert count_rows(database) == 2000


def test_a_canceled_request_loses_no_row(database: Database, folder: Folder) -> None:
    async def test() -> None:
        log = open_audit_log(database, folder)
        first, second = log.append(row(0)), log.append(row(1))
        first.cancel()
        assert (await second).seq == 2
        await log.close()

    asyncio.run(test())
    assert count_rows(database) == 2


def test_a_row_that_is_none_fails_alone(database: Database, folder: Folder) -> None:
    async def test() -> None:
        log = open_audit_log(database, folder)
        good, bad, after = (
            log.append(row(0)), log.append(row(1, prompt_tokens="many")), log.append(row(2)),
        )  # fmt: skip
        assert (await good).seq == 1
        with pytest.raises(AuditError, match="type"):
            await bad
        assert (await after).seq == 2
        assert (log.refused, log.problem) == (1, "")
        await log.close()

    asyncio.run(test())
    assert checked(database, folder).ok


def test_logs_of_several_loops_in_a_row(database: Database, folder: Folder) -> None:
    """A loop that was closed before its rows were written takes nobody along."""
    log = open_audit_log(database, folder)

    async def leave() -> None:
        log.append(row(0))

    async def stay() -> None:
        await log.append(row(1))
        await log.close()

    asyncio.run(leave())
    asyncio.run(stay())
    assert count_rows(database) == 2


def test_a_forked_process_is_told(database: Database, folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        log = open_audit_log(database, folder)
        pid = os.getpid()
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: pid + 1)
            with pytest.raises(AuditError, match="forked"):
                await log.append(row())
        await log.append(row())
        await log.close()

    asyncio.run(test())


# What fails


def test_when_too_many_wait_rows_fail(database: Database, folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        log = open_audit_log(database, folder, AuditSettings(rows=10, group_seconds=0))
        with database.write():  # somebody holds the lock: the writer waits
            first = log.append(row(0))
            while log._queue:
                await asyncio.sleep(0.001)
            waiting = [log.append(row(n)) for n in range(1, 11)]
            with pytest.raises(AuditFullError, match="10 audit rows wait"):
                await log.append(row(11))
        await asyncio.gather(first, *waiting)
        await log.append(row(11))
        assert log.refused == 1
        await log.close()

    asyncio.run(test())
    assert count_rows(database) == 12


def test_waiting_originals_take_bounded_memory(database: Database, folder: Folder) -> None:
    async def test() -> None:
        log = open_audit_log(database, folder, AuditSettings(megabytes=1))
        with database.write():
            waiting = [log.append(row(0), Secret("x" * 600_000))]
            while log._queue:
                await asyncio.sleep(0.001)
            waiting += [log.append(row(n), Secret("x" * 600_000)) for n in (1, 2)]
            with pytest.raises(AuditFullError):
                await log.append(row(3))
        await asyncio.gather(*waiting)
        await log.close()

    asyncio.run(test())


def test_a_database_that_is_down_fails_rows_at_once_and_comes_back(
    database: Database, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        log = open_audit_log(database, folder, FAST)
        await log.append(row(0))
        with broken(monkeypatch) as failed:
            lost = [log.append(row(n)) for n in range(1, 50)]
            told = await asyncio.gather(*lost, return_exceptions=True)
            assert {(type(one), str(one)) for one in told} == {(AuditError, "The database is gone.")}
            assert "gone" in log.problem
            before = failed[0]
            while failed[0] < before + 2:
                await asyncio.sleep(0.01)
            with pytest.raises(AuditError, match="gone"):
                await log.append(row(50))
        while log.problem:
            await asyncio.sleep(0.01)
        assert (await log.append(row(51))).seq == 2
        assert log.refused == 50
        await log.close()

    asyncio.run(test())
    report = checked(database, folder)
    assert (report.ok, report.rows) == (True, 2)


def test_a_short_failure_is_waited_for(
    database: Database, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        log = open_audit_log(database, folder, AuditSettings(patience_seconds=60))
        with broken(monkeypatch) as failed:
            waiting = log.append(row(0))
            while failed[0] < 2:
                await asyncio.sleep(0.01)
        assert (await waiting).seq == 1
        await log.close()

    asyncio.run(test())
    assert checked(database, folder).ok


def test_a_head_that_cannot_be_signed_for_a_moment_stops_no_row(
    database: Database, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        log = open_audit_log(database, folder, AuditSettings(patience_seconds=60, head_seconds=0.02))
        await log.append(row(0))
        with broken(monkeypatch) as failed:  # nothing waits: it is the head that fails
            while failed[0] < 2:
                await asyncio.sleep(0.01)
            assert not log.problem
            waiting = log.append(row(1))
        assert (await waiting).seq == 2
        assert log.refused == 0
        await log.close()

    asyncio.run(test())
    assert checked(database, folder).ok


@pytest.mark.parametrize("patience", [0.0, 60.0])
def test_a_commit_of_which_nobody_heard_is_not_repeated(
    database: Database, folder: Folder, monkeypatch: pytest.MonkeyPatch, patience: float
) -> None:
    """The connection broke after the commit: the rows are there, and the chain goes on behind them."""

    async def test() -> int:
        settings = AuditSettings(patience_seconds=patience, retry_seconds=0.02, group_seconds=0)
        log = open_audit_log(database, folder, settings)
        with broken(monkeypatch, after_commit=True) as failed:
            waiting = [log.append(row(n)) for n in range(5)]
            while failed[0] < 1:
                await asyncio.sleep(0.001)
            if patience:
                await asyncio.gather(*waiting)
            else:
                await asyncio.gather(*waiting, return_exceptions=True)
        while log.problem:
            await asyncio.sleep(0.01)
        last = (await log.append(row(9))).seq
        await log.close()
        return last

    last = asyncio.run(test())
    report = checked(database, folder)
    assert (report.ok, report.rows) == (True, last)
    ids = [one.request_id for page in pages_by_time(database) for one in page]
    assert len(set(ids)) == len(ids) == last


def test_an_insertion_that_failed_holds_no_lock(database: Database, folder: Folder) -> None:
    """Whoever keeps its error, with all that was going on then, must not keep others from writing."""
    rows = [{"chain": "c", "seq": 1, "hash": b"h", "row": "r", "time_ms": 1, "tenant": "t", "request_id": "q"}]
    database.insert({audit_rows: rows})
    kept = []
    for _ in range(3):
        with pytest.raises(ConflictError) as caught:
            database.insert({audit_rows: rows})
        kept.append(caught.value)
        other = open_database(folder.database)
        other.insert({audit_rows: [{**rows[0], "seq": 1 + len(kept)}]})
        other.close()
    with database.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(audit_rows)) == 4


def test_a_chain_that_somebody_else_changed_is_not_continued(
    database: Database, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = ChainWriter(database, Signer(SEED))
    entries = [Entry(row(0))]
    writer.write(entries)
    with broken(monkeypatch), pytest.raises(DatabaseError):
        writer.write([Entry(row(1))])
    with database.write() as connection:
        connection.execute(sa.delete(audit_rows))
    for _ in range(2):
        with pytest.raises(DatabaseError, match="not as this process wrote it"):
            writer.write([Entry(row(2))])


def test_a_full_disk_is_reported_and_survived(folder: Folder) -> None:
    """SQLite itself finds no room; when there is room again, the log goes on by itself."""
    database = open_database(folder.database)
    most = [40]

    @sa.event.listens_for(database.engine, "checkout")
    def limit(connection: Any, record: Any, proxy: Any) -> None:
        connection.cursor().execute(f"PRAGMA max_page_count = {most[0]}")

    async def test() -> None:
        log = open_audit_log(database, folder, FAST)
        kept = 0

        async def fill() -> None:
            nonlocal kept
            while kept < 10_000:
                await log.append(row(kept, reasons=("x" * 200,) * 10))
                kept += 1

        with pytest.raises(AuditError, match="full"):
            await fill()
        assert kept > 3
        assert "full" in log.problem
        with pytest.raises(AuditError, match="full"):
            await log.append(row())
        most[0] = 100_000
        while log.problem:
            await asyncio.sleep(0.01)
        assert (await log.append(row())).seq == kept + 1
        await log.close()

    asyncio.run(test())
    report = checked(database, folder)
    assert report.ok
    database.close()


def test_a_heads_file_that_cannot_be_written_is_said_and_stops_nothing(
    database: Database, folder: Folder, tmp_path: Path
) -> None:
    (tmp_path / "a file").touch()

    async def test() -> None:
        log = AuditLog(database, Signer(SEED), tmp_path / "a file" / "heads.jsonl", AuditSettings(head_rows=1))
        assert (await log.append(row())).seq == 1
        assert "heads.jsonl" in log.heads_problem
        assert log.problem == ""
        await log.close()

    asyncio.run(test())


def test_a_bug_in_the_writer_is_not_silent(
    database: Database, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    monkeypatch.setattr(threading, "excepthook", lambda args: None)

    async def test() -> None:
        log = open_audit_log(database, folder)
        monkeypatch.setattr(log._writer, "write", lambda *a, **k: 1 / 0)
        with pytest.raises(AuditError, match="ZeroDivisionError"):
            await log.append(row())
        with pytest.raises(AuditError, match="restart"):
            await log.append(row())
        with pytest.raises(AuditError, match="no final head"):
            await log.close()

    asyncio.run(test())


# Processes


def test_what_was_acknowledged_survives_kill_9_and_nobody_else_is_disturbed(
    database: Database, folder: Folder
) -> None:
    """Two processes write one database; one is killed in the middle of it."""
    killed, other = [start(script, folder.path, folder.database) for script in (APPEND_UNTIL_KILLED, APPEND_SOME)]
    told = acknowledged(killed)
    output(other)
    kept = {(one.request_id, one.chain, str(one.seq)) for page in pages_by_time(database) for one in page}
    assert told <= kept
    report = checked(database, folder)
    assert report.ok, report.problems
    assert (report.chains, report.rows) == (2, len(kept))
    assert report.rows >= len(told) + 200
    open_and_close(database, folder)  # which signs what the dead process left unsigned
    report = checked(database, folder)
    assert (report.ok, report.unsigned) == (True, 0)


def open_and_close(database: Database, folder: Folder) -> None:
    async def test() -> None:
        await open_audit_log(database, folder).close()

    asyncio.run(test())


# Sealed originals


def test_an_original_is_for_the_auditor_alone(database: Database, folder: Folder, tmp_path: Path) -> None:
    secret, public = auditor_key(tmp_path / "auditor.key", create=True)
    text = "The teacher's own words. " * 50

    async def test() -> Receipt:
        log = open_audit_log(database, folder, auditor=public.hex())
        await log.append(row(0))
        receipt = await log.append(row(1, tenant="acme"), Secret(text))
        await log.close()
        return receipt

    receipt = asyncio.run(test())
    on_disk = b"".join(path.read_bytes() for path in folder.path.iterdir())
    assert b"own words" not in on_disk
    sealed = original(database, receipt.chain, receipt.seq)
    assert sealed is not None
    opened = Unsealer(secret).open(sealed, receipt.chain, "acme", "req_000001")
    assert opened.text() == text
    assert original(database, receipt.chain, 1) is None
    report = checked(database, folder, originals=True)
    assert (report.ok, report.originals) == (True, 1)


def test_a_sealed_original_opens_only_where_it_belongs(tmp_path: Path) -> None:
    secret, public = auditor_key(tmp_path / "auditor.key", create=True)
    sealer, unsealer = Sealer(public), Unsealer(secret)
    sealed = sealer.seal(Secret("words"), "chain", "acme", "req")
    assert unsealer.open(sealed, "chain", "acme", "req").text() == "words"
    wrong = [
        (sealed, "chain2", "acme", "req"), (sealed, "chain", "acm", "ereq"), (sealed, "chain", "acme", "req2"),
        (sealed[:-1] + bytes([sealed[-1] ^ 1]), "chain", "acme", "req"), (b"", "chain", "acme", "req"),
        (sealed[:20], "chain", "acme", "req"),
    ]  # fmt: skip
    for case in wrong:
        with pytest.raises(RunError, match="cannot be opened"):
            unsealer.open(*case)
    with pytest.raises(RunError, match="cannot be opened"):
        Unsealer(SEED).open(sealed, "chain", "acme", "req")


def test_a_weak_public_key_is_refused() -> None:
    with pytest.raises(ConfigError, match="weak"):
        Sealer(bytes(32))


# Keys that sign


def test_public_keys_are_published_once(folder: Folder) -> None:
    first, second = Signer(SEED), Signer(Secret(b"x" * 32))
    for signer in (first, first, second, first):
        publish(folder.public_keys, signer.public)
    assert read_public_keys(folder.public_keys) == [first.public, second.public]
    assert stat.S_IMODE(folder.public_keys.stat().st_mode) & 0o022 == 0


def test_a_changed_head_is_not_genuine() -> None:
    import msgspec

    signer = Signer(SEED)
    verifier = Verifier([signer.public])
    head = signer.sign("20260101t000000z-0", 5, bytes(32), final=False, time_ms=1)
    assert verifier.genuine(head)
    changes: list[dict[str, Any]] = [
        {"seq": 6}, {"final": True}, {"hash": "01" * 32}, {"chain": "20260101t000000z-1"}, {"time_ms": 2},
        {"signature": ""}, {"signature": "zz"}, {"signature": "00" * 64}, {"signer": "0" * 16},
    ]  # fmt: skip
    for change in changes:
        assert not verifier.genuine(msgspec.structs.replace(head, **change))
    assert not Verifier([]).genuine(head)


def test_rows_know_no_text_of_prompts() -> None:
    """Whoever adds a field should ask first whether it can hold one."""
    assert set(AuditRow.__struct_fields__) == {
        "time_ms", "request_id", "tenant", "key_id", "policy", "stance", "reasons", "model_requested",
        "model_served", "dialect", "streamed", "status", "prompt_tokens", "completion_tokens", "reasoning_tokens",
        "chars_transformed", "altered", "latency_ms", "overhead_ms", "prompt_digest", "reply_digest",
    }  # fmt: skip
