"""Whatever is done to an audit log is found, and where; the command line that says so."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledger_drive import row

from azeotrope.cli.app import app
from azeotrope.cli.entry import call
from azeotrope.core.errors import ConfigError
from azeotrope.gateway.ledger import audit_read
from azeotrope.gateway.ledger import verify as verify_module
from azeotrope.gateway.ledger.audit_chain import Signer, Verifier, link, read_public_keys
from azeotrope.gateway.ledger.audit_log import AuditSettings
from azeotrope.gateway.ledger.audit_row import encode, stored
from azeotrope.gateway.ledger.audit_writer import ChainWriter, Entry
from azeotrope.gateway.ledger.database import open_database
from azeotrope.gateway.ledger.folder import Folder
from azeotrope.gateway.ledger.heads_file import HeadsFile
from azeotrope.gateway.ledger.opening import open_audit_log
from azeotrope.gateway.ledger.sealed import auditor_key
from azeotrope.gateway.ledger.secret import Secret
from azeotrope.gateway.ledger.verify import LISTED, KnownHead, Report, parse_known_head, verify

ROWS = 12
Tamper = Callable[[sqlite3.Connection], Any]


async def write(folder: Folder, rows: int, *, auditor: str = "", settings: AuditSettings | None = None) -> str:
    database = open_database(folder.database)
    log = open_audit_log(database, folder, settings or AuditSettings(batch_rows=3, head_rows=4), auditor)
    for number in range(rows):
        waiting = log.append(row(number), Secret("the original") if auditor and number % 2 else None)
        if number % 3 == 2 or number == rows - 1:
            await waiting
    await log.close()
    database.close()
    return log.chain


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Folder, str]:
    """A folder with one closed chain of twelve rows, never changed."""
    folder = Folder(tmp_path_factory.mktemp("audit") / "gw")
    chain = asyncio.run(write(folder, ROWS))
    return folder, chain


@pytest.fixture
def copy(whole: tuple[Folder, str], tmp_path: Path) -> tuple[Folder, str]:
    return copied(whole[0], tmp_path), whole[1]


def copied(folder: Folder, to: Path) -> Folder:
    to = to / "copy"
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(folder.path, to)
    return Folder(to)


def tamper(folder: Folder, *statements: str | Tamper) -> None:
    with closing(sqlite3.connect(folder.path / "gateway.db")) as connection, connection:
        for statement in statements:
            connection.execute(statement) if isinstance(statement, str) else statement(connection)


def checked(folder: Folder, *, heads: bool = True, **options: Any) -> Report:
    database = open_database(folder.database, create=False)
    try:
        verifier = Verifier(read_public_keys(folder.public_keys))
        return verify(database, verifier, heads=folder.heads if heads else None, **options)
    finally:
        database.close()


def kinds(report: Report) -> list[tuple[str, int | None]]:
    return [(problem.kind, problem.seq) for problem in report.problems]


def rehash(connection: sqlite3.Connection) -> None:
    """What an attacker without the signing key can do: make every hash anew, and number the rows from 1."""
    rows = connection.execute("SELECT rowid, chain, row FROM audit_rows ORDER BY chain, seq").fetchall()
    from azeotrope.gateway.ledger.audit_chain import genesis

    state, seq = genesis(rows[0][1]), 0
    connection.execute("UPDATE audit_rows SET seq = -seq")
    for rowid, _, text in rows:
        state, seq = link(state, text), seq + 1
        connection.execute("UPDATE audit_rows SET hash = ?, seq = ? WHERE rowid = ?", (state, seq, rowid))


def test_an_untouched_log_is_intact(whole: tuple[Folder, str]) -> None:
    progress: list[tuple[int, int]] = []
    report = checked(whole[0], progress=lambda done, total: progress.append((done, total)))
    assert report.ok
    assert (report.rows, report.chains, report.unsigned, report.notes) == (ROWS, 1, 0, [])
    assert report.heads >= 3
    assert progress[-1] == (ROWS, ROWS)


EDIT = encode(stored(row(4, status=500)))


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("UPDATE audit_rows SET row = replace(row, '\"status\":200', '\"status\":201') WHERE seq = 5",
         ("changed", 5)),
        ("UPDATE audit_rows SET hash = zeroblob(32) WHERE seq = 5", ("changed", 5)),
        ("DELETE FROM audit_rows WHERE seq = 5", ("deleted", 5)),
        ("DELETE FROM audit_rows WHERE seq BETWEEN 5 AND 7", ("deleted", 5)),
        ("DELETE FROM audit_rows WHERE seq = 1", ("deleted", 1)),
        ("DELETE FROM audit_rows WHERE seq > 9", ("truncated", 10)),
        ("DELETE FROM audit_rows WHERE seq = 12", ("truncated", 12)),
        ("DELETE FROM audit_rows", ("truncated", 1)),
        ("UPDATE audit_rows SET time_ms = 1 WHERE seq = 5", ("columns", 5)),
        ("UPDATE audit_rows SET tenant = 'somebody' WHERE seq = 5", ("columns", 5)),
        ("UPDATE audit_rows SET request_id = 'x' WHERE seq = 5", ("columns", 5)),
        ("UPDATE audit_rows SET seq = seq + 1 WHERE seq = 12", ("deleted", 12)),
        ("INSERT INTO audit_rows SELECT chain, 13, hash, row, time_ms, tenant, request_id FROM audit_rows "
         "WHERE seq = 12", ("changed", 13)),
        ("INSERT INTO audit_rows SELECT chain, 0, hash, row, time_ms, tenant, request_id FROM audit_rows "
         "WHERE seq = 12", ("inserted", None)),
        ("UPDATE audit_rows SET row = x'00' WHERE seq = 5", ("inserted", None)),
        ("UPDATE audit_rows SET seq = 'five' WHERE seq = 5", ("deleted", 5)),
        ("UPDATE audit_rows SET hash = 'text' WHERE seq = 5", ("inserted", None)),
        ("UPDATE audit_heads SET line = replace(line, '\"seq\":', '\"seq\":1') WHERE final", ("head", 12)),
        ("UPDATE audit_heads SET line = 5 WHERE final", ("head", 12)),
        ("UPDATE audit_heads SET seq = 4 WHERE final", ("head", 4)),
        ("UPDATE audit_heads SET final = 'abc' WHERE final", ("head", 12)),
        ("DELETE FROM audit_heads WHERE final", ("heads deleted", 12)),
        ("DELETE FROM audit_heads", ("heads deleted", 0)),
    ],
)  # fmt: skip
def test_one_statement_is_found_and_where(
    copy: tuple[Folder, str], statement: str, found: tuple[str, int | None]
) -> None:
    tamper(copy[0], statement)
    report = checked(copy[0])
    assert not report.ok
    assert found in kinds(report)
    for problem in report.problems:
        assert problem.message.endswith(".")
    if statement.startswith("UPDATE audit_rows SET row = replace"):
        assert kinds(report) == [found]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_change_is_found(whole: tuple[Folder, str], tmp_path: Path, data: st.DataObject) -> None:
    """An edit, a swap, a deletion or a repetition anywhere, with the hashes as they were or all made anew."""
    folder = copied(whole[0], tmp_path)
    seq = data.draw(st.integers(1, ROWS))
    other = data.draw(st.integers(1, ROWS).filter(lambda n: n != seq))
    what = data.draw(st.sampled_from(["edit", "swap", "delete", "repeat", "cut"]))
    anew = data.draw(st.booleans())

    def change(connection: sqlite3.Connection) -> None:
        text = dict(connection.execute("SELECT seq, row FROM audit_rows"))
        put = "UPDATE audit_rows SET row = ?, request_id = ?, time_ms = ? WHERE seq = ?"

        def place(source: str, at: int) -> None:
            value = json.loads(source)
            connection.execute(put, (source, value["request_id"], value["time_ms"], at))

        if what == "edit":
            at = data.draw(st.integers(0, len(text[seq]) - 1))
            letter = data.draw(st.characters(codec="ascii").filter(lambda c: c != text[seq][at]))
            connection.execute(
                "UPDATE audit_rows SET row = ? WHERE seq = ?", (text[seq][:at] + letter + text[seq][at + 1 :], seq)
            )
        elif what == "swap":
            place(text[seq], other)
            place(text[other], seq)
        elif what == "repeat":
            place(text[seq], other)
        elif what == "delete":
            connection.execute("DELETE FROM audit_rows WHERE seq = ?", (seq,))
        else:
            connection.execute("DELETE FROM audit_rows WHERE seq >= ?", (seq,))
        if anew and connection.execute("SELECT count(*) FROM audit_rows").fetchone()[0]:
            rehash(connection)

    tamper(folder, change)
    report = checked(folder, heads=data.draw(st.booleans()))
    assert not report.ok
    first = min((problem for problem in report.problems if problem.seq), key=lambda problem: problem.seq or 0)
    changed = min(seq, other) if what == "swap" else other if what == "repeat" else seq
    assert first.sound < changed
    if not anew:
        assert first.seq == changed


def test_a_chain_made_anew_is_found_after_the_last_head_that_fits(copy: tuple[Folder, str]) -> None:
    heads = [json.loads(line)["seq"] for line in copy[0].heads.read_text().splitlines()]
    before = max(seq for seq in heads if seq < 10)
    tamper(copy[0], "UPDATE audit_rows SET row = replace(row, 'r1', 'r2') WHERE seq = 10", rehash)
    report = checked(copy[0], heads=False)
    assert kinds(report)[0] == ("rewritten", before + 1)


def test_a_log_cut_back_to_a_head_needs_a_head_from_elsewhere(copy: tuple[Folder, str]) -> None:
    """With the later heads deleted too, the database alone is consistent: that is what the file is for."""
    folder, chain = copy
    heads = [json.loads(line) for line in folder.heads.read_text().splitlines()]
    middle = next(head for head in heads if 0 < head["seq"] < ROWS)
    tamper(folder, f"DELETE FROM audit_rows WHERE seq > {middle['seq']}",
           f"DELETE FROM audit_heads WHERE seq > {middle['seq']}")  # fmt: skip
    alone = checked(folder, heads=False)
    assert alone.ok
    assert "No heads file" in alone.notes[0]
    with_file = checked(folder)
    assert ("truncated", middle["seq"] + 1) in kinds(with_file)
    last = heads[-1]
    known = parse_known_head(f"{chain}:{last['seq']}:{last['hash']}")
    assert kinds(checked(folder, heads=False, known=[known])) == [("truncated", middle["seq"] + 1)]
    assert checked(folder, heads=False, known=[parse_known_head(json.dumps(middle))]).ok


def test_a_chain_that_is_gone_is_found(copy: tuple[Folder, str]) -> None:
    folder, chain = copy
    asyncio.run(write(folder, 5))
    tamper(folder, f"DELETE FROM audit_rows WHERE chain = '{chain}'",
           f"DELETE FROM audit_heads WHERE chain = '{chain}'")  # fmt: skip
    assert checked(folder, heads=False).ok
    report = checked(folder)
    assert ("truncated", 1) in kinds(report)
    assert {problem.chain for problem in report.problems} == {chain}
    assert report.chains == 2


def test_the_owner_of_the_key_is_found_out_by_heads_kept_elsewhere(copy: tuple[Folder, str]) -> None:
    """Rows and heads all made anew and signed: only the old file contradicts, even with the new head appended."""
    folder, chain = copy
    signer = Signer(folder.signing_key())

    def resign(connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE audit_rows SET row = replace(row, 'r1', 'r2') WHERE seq = 2")
        rehash(connection)
        connection.execute("DELETE FROM audit_heads WHERE seq > 0")
        (state,) = connection.execute("SELECT hash FROM audit_rows WHERE seq = ?", (ROWS,)).fetchone()
        head = signer.sign(chain, ROWS, state, final=True, time_ms=1)
        connection.execute("INSERT INTO audit_heads VALUES (?, ?, 1, ?)", (chain, ROWS, head.line()))
        with open(folder.heads, "a", encoding="ascii") as file:
            file.write(head.line() + "\n")

    tamper(folder, resign)
    assert checked(folder, heads=False).ok
    assert ("rewritten", 1) in kinds(checked(folder))


def test_rows_of_no_known_writer_are_found(copy: tuple[Folder, str]) -> None:
    folder, _ = copy
    tamper(folder, "INSERT INTO audit_rows SELECT 'forged', seq, hash, row, time_ms, tenant, request_id "
                   "FROM audit_rows", rehash_forged)  # fmt: skip
    report = checked(folder)
    assert [(p.kind, p.chain) for p in report.problems] == [("unsigned", "forged")]


def rehash_forged(connection: sqlite3.Connection) -> None:
    from azeotrope.gateway.ledger.audit_chain import genesis

    state = genesis("forged")
    for seq, text in connection.execute("SELECT seq, row FROM audit_rows WHERE chain = 'forged' ORDER BY seq"):
        state = link(state, text)
        connection.execute("UPDATE audit_rows SET hash = ? WHERE chain = 'forged' AND seq = ?", (state, seq))


def test_a_head_of_another_signer_is_not_believed(copy: tuple[Folder, str]) -> None:
    folder, chain = copy
    head = Signer(Secret(b"x" * 32)).sign(chain, 99, bytes(32), final=True, time_ms=1)
    with open(folder.heads, "a", encoding="ascii") as file:
        file.write(head.line() + "\n")
    assert kinds(checked(folder)) == [("signature", 99)]


def test_a_line_cut_off_is_a_note_and_other_junk_a_problem(copy: tuple[Folder, str]) -> None:
    folder, _ = copy
    whole_file = folder.heads.read_text()
    last = whole_file.splitlines()[-1]
    folder.heads.write_text(whole_file + last[:50])
    report = checked(folder)
    assert report.ok
    assert "cut off" in report.notes[0]
    asyncio.run(write(folder, 3))  # the next gateway begins a line of its own
    report = checked(folder)
    assert report.ok, report.problems
    assert report.chains == 2
    folder.heads.write_text(folder.heads.read_text() + "{}\nhello\n" + "x" * 10_000 + "\n")
    assert {kind for kind, _ in kinds(checked(folder))} == {"head"}


def test_a_gateway_that_starts_meanwhile_is_no_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its chain appears after the heads were read."""
    folder = Folder(tmp_path / "gw")

    async def started(n: int) -> None:
        database = open_database(folder.database)
        log = open_audit_log(database, folder, AuditSettings(head_rows=3))
        await asyncio.gather(*(log.append(row(i)) for i in range(n)))
        await log.close()
        database.close()

    asyncio.run(started(4))
    read = verify_module._read_table

    def then_another_starts(*arguments: Any) -> None:
        read(*arguments)
        asyncio.run(started(7))

    monkeypatch.setattr(verify_module, "_read_table", then_another_starts)
    report = checked(folder)
    assert report.ok, report.problems


def test_what_a_gateway_writes_meanwhile_is_no_problem(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "gw")

    async def test() -> None:
        database = open_database(folder.database)
        log = open_audit_log(database, folder, AuditSettings(head_rows=3))
        done = False

        async def work() -> None:
            while not done:
                await asyncio.gather(*(log.append(row(n)) for n in range(5)))

        worker = asyncio.create_task(work())
        for _ in range(10):
            report = await asyncio.to_thread(checked, folder)
            assert report.ok, report.problems
        done = True
        await worker
        await log.close()
        database.close()

    asyncio.run(test())


def test_rows_after_the_last_head_are_counted(tmp_path: Path) -> None:
    """A gateway that was killed leaves a tail that nobody signed: that is said."""
    folder = Folder(tmp_path / "gw")

    async def test() -> None:
        database = open_database(folder.database)
        log = open_audit_log(database, folder, AuditSettings(head_seconds=3600, head_rows=10**6))
        for number in range(5):
            await log.append(row(number))
        report = checked(folder)
        assert report.ok
        assert report.unsigned == 5
        assert "5 rows" in report.notes[0]
        await log.close()
        assert checked(folder).unsigned == 0
        database.close()

    asyncio.run(test())


async def leave_unsigned(folder: Folder, rows: int) -> str:
    """A chain as a process leaves it that is killed: no head but the first."""
    database = open_database(folder.database)
    writer = ChainWriter(database, Signer(folder.signing_key()))
    HeadsFile(folder.heads).append(writer.head)
    writer.write([Entry(row(number)) for number in range(rows)])
    database.close()
    return writer.chain


def test_the_next_gateway_signs_what_was_left_unsigned(copy: tuple[Folder, str]) -> None:
    folder, _ = copy
    chain = asyncio.run(leave_unsigned(folder, 5))
    assert checked(folder).unsigned == 5
    for _ in range(2):
        asyncio.run(write(folder, 1))
    report = checked(folder)
    assert (report.ok, report.unsigned) == (True, 0), report.problems
    heads = [json.loads(line) for line in folder.heads.read_text().splitlines()]
    assert [head["seq"] for head in heads if head["chain"] == chain] == [0, 5]
    tamper(folder, f"DELETE FROM audit_rows WHERE chain = '{chain}' AND seq = 5")
    assert kinds(checked(folder, heads=False)) == [("truncated", 5)]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_rows SET row = replace(row, '200', '201') WHERE chain = '{}' AND seq = 3",
        "DELETE FROM audit_rows WHERE chain = '{}' AND seq = 3",
        "UPDATE audit_rows SET row = x'00' WHERE chain = '{}' AND seq = 3",
        "UPDATE audit_heads SET line = replace(line, '\"time_ms\":', '\"time_ms\":1') WHERE chain = '{}'",
        "UPDATE audit_heads SET line = 'x' WHERE chain = '{}'",
    ],
)
def test_what_is_not_sound_is_not_signed(copy: tuple[Folder, str], statement: str) -> None:
    folder, _ = copy
    chain = asyncio.run(leave_unsigned(folder, 5))
    tamper(folder, statement.format(chain))
    before = checked(folder)
    assert not before.ok
    asyncio.run(write(folder, 1))
    after = checked(folder)
    assert kinds(after) == kinds(before)
    assert after.unsigned == before.unsigned


def test_pages_are_read_whole(copy: tuple[Folder, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the size of a page: nothing is read twice or left out at its border."""
    folder, _ = copy
    asyncio.run(write(folder, 7))
    for size in (1, 2, 3, 7, 12, 19, 20):
        monkeypatch.setattr(audit_read, "PAGE", size)
        report = checked(folder)
        assert report.ok, (size, report.problems)
        assert report.rows == ROWS + 7
        database = open_database(folder.database, create=False)
        found = [(r.time_ms, r.chain, r.seq) for page in audit_read.pages_by_time(database) for r in page]
        assert found == sorted(set(found))
        assert len(found) == ROWS + 7
        some = [r.seq for page in audit_read.pages_by_time(
            database, since_ms=row(3).time_ms, until_ms=row(5).time_ms, tenant="acme") for r in page]  # fmt: skip
        assert sorted(some) == [4, 4, 5, 5]
        assert not list(audit_read.pages_by_time(database, tenant="nobody"))
        database.close()


def test_many_problems_are_counted_and_some_listed(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "gw")
    asyncio.run(write(folder, LISTED + 50, settings=AuditSettings()))
    tamper(folder, "UPDATE audit_rows SET tenant = 'x'")
    report = checked(folder)
    assert len(report.problems) == LISTED
    assert report.unlisted == 50


@pytest.mark.parametrize("text", ["", "a:b", "a:1:zz", "A B:1:" + "00" * 32, "a:-1:" + "00" * 32, "{}", "{",
                                  "a:1:" + "00" * 31, "a:٣:" + "00" * 32])  # fmt: skip
def test_what_is_no_head_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="CHAIN:ROWS:HASH"):
        parse_known_head(text)


def test_a_known_head_is_read() -> None:
    assert parse_known_head("a-1:7:" + "0F" * 32) == KnownHead("a-1", 7, b"\x0f" * 32)


def test_nothing_hostile_reaches_the_terminal(copy: tuple[Folder, str]) -> None:
    tamper(copy[0], "UPDATE audit_rows SET chain = char(27) || '[31m' WHERE seq = 5")
    report = checked(copy[0])
    assert not report.ok
    assert all(text.isprintable() for p in report.problems for text in (p.chain, p.message))


# Sealed originals


def test_originals_are_compared_if_asked(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "gw")
    _, public = auditor_key(tmp_path / "auditor.key", create=True)
    asyncio.run(write(folder, 6, auditor=public.hex()))
    assert checked(folder, originals=True).originals == 3
    tamper(folder, "DELETE FROM audit_originals WHERE seq = 2")
    erased = checked(folder, originals=True)
    assert erased.ok
    assert erased.notes == ["1 sealed originals were erased."]
    tamper(folder, "UPDATE audit_originals SET sealed = x'00' WHERE seq = 4")
    assert checked(folder).ok
    assert kinds(checked(folder, originals=True)) == [("original", 4)]
    tamper(folder, "UPDATE audit_originals SET sealed = 'text', seq = 99 WHERE seq = 4")
    assert kinds(checked(folder, originals=True)) == [("original", 99)]


# The command line


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from azeotrope.cli import audit as command

    if "audit" not in {group.name for group in app.registered_groups}:
        monkeypatch.setattr(app, "registered_groups", list(app.registered_groups))
        app.add_typer(command.audit, name="audit")
    monkeypatch.delenv("AZEOTROPE_DATABASE", raising=False)
    monkeypatch.delenv("AZEOTROPE_FOLDER", raising=False)

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = call([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_cli_verify(cli: Any, copy: tuple[Folder, str]) -> None:
    folder, chain = copy
    code, out, err = cli("audit", "verify", "--folder", folder.path)
    assert (code, err) == (0, "")
    assert out.startswith(f"intact: {ROWS} rows in 1 chains")
    public = read_public_keys(folder.public_keys)[0].hex()
    folder.public_keys.unlink()
    elsewhere = folder.heads.rename(folder.path / "elsewhere.jsonl")
    assert cli("audit", "verify", "--folder", folder.path)[0] == 3
    base = ("audit", "verify", "--folder", folder.path, "--public-key", public)
    assert cli(*base, "--heads", elsewhere)[0] == 0
    assert cli(*base, "--heads", folder.path / "nowhere")[0] == 3
    assert cli(*base, "--head", "nonsense")[0] == 2
    assert cli(*base[:-1], "nonsense")[0] == 2
    assert cli(*base, "--head", f"{chain}:{ROWS + 1}:{'00' * 32}")[0] == 4
    assert cli(*base[:-1], "00" * 31 + "02")[0] == 4
    tamper(folder, "DELETE FROM audit_rows WHERE seq = 5")
    code, out, err = cli(*base, "--json")
    found = json.loads(out)
    assert code == 4
    assert len(err.strip().splitlines()) == 1
    assert not found["intact"]
    assert (found["problems"][0]["kind"], found["problems"][0]["row"]) == ("deleted", 5)
    assert f"Chain {chain}: Row 5 is missing." in cli(*base)[1]


def test_cli_says_how_far_it_is(cli: Any, copy: tuple[Folder, str], monkeypatch: pytest.MonkeyPatch) -> None:
    from azeotrope.cli import audit as command

    monkeypatch.setattr(command, "SAID_EVERY", -1.0)
    code, _, err = cli("audit", "verify", "--folder", copy[0].path)
    assert code == 0
    assert f"{ROWS} of {ROWS} rows checked" in err


def test_cli_verify_of_nothing_makes_nothing(cli: Any, tmp_path: Path) -> None:
    code, out, err = cli("audit", "verify", "--folder", tmp_path / "nowhere", "--public-key", "00" * 31 + "02")
    assert (code, out) == (3, "")
    assert "no database" in err
    assert not (tmp_path / "nowhere").exists()


def test_cli_export(cli: Any, tmp_path: Path) -> None:
    folder = Folder(tmp_path / "gw")
    code, out, _ = cli("audit", "auditor-key", tmp_path / "auditor.key", "--json")
    assert code == 0
    asyncio.run(write(folder, 6, auditor=json.loads(out)["public_key"]))
    code, out, _ = cli("audit", "export", "--folder", folder.path)
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [one["seq"] for one in rows] == [1, 2, 3, 4, 5, 6]
    from azeotrope.gateway.ledger.audit_chain import genesis

    state = genesis(rows[0]["chain"])
    for one in rows:  # what is exported can be verified by anybody
        state = link(state, one["row"])
        assert one["hash"] == state.hex()
        assert "original" not in one
    target = tmp_path / "out.jsonl"
    base = ("audit", "export", "--folder", folder.path, "--out", target)
    assert cli(*base, "--auditor-key", tmp_path / "auditor.key")[0] == 0
    opened = [json.loads(line).get("original") for line in target.read_text().splitlines()]
    assert opened == [None, "the original"] * 3
    assert cli(*base)[0] == 2
    assert cli(*base, "--force", "--auditor-key", tmp_path / "none")[0] == 3
    cli("audit", "auditor-key", tmp_path / "other.key")
    assert cli(*base, "--force", "--auditor-key", tmp_path / "other.key")[0] == 0
    assert target.read_text().count("original_problem") == 3
    assert "the original" not in target.read_text()
    assert cli(*base, "--force", "--until", "2001-01-01")[0] == 0
    assert target.read_text() == ""
    assert cli("audit", "export", "--folder", folder.path, "--out", tmp_path / "no" / "x")[0] == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["auditor.key", "gw", "other.key", "out.jsonl"]
