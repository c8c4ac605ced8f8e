"""API keys: their text, how they are kept, checked, cached, rotated and revoked, and the command line."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import pickle
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_drive import Clock

from azeotrope.cli.app import app
from azeotrope.cli.entry import call
from azeotrope.core.errors import AzeotropeError, ConfigError, MissingError, RunError
from azeotrope.gateway.ledger import key_ring, key_store, schema
from azeotrope.gateway.ledger.database import Database, DatabaseError, open_database
from azeotrope.gateway.ledger.folder import PEPPER_VARIABLE, Folder
from azeotrope.gateway.ledger.identity import AuthDownError, AuthError
from azeotrope.gateway.ledger.key_ring import KeyRing, KeyRingSettings
from azeotrope.gateway.ledger.key_store import KeyStore
from azeotrope.gateway.ledger.key_text import (
    ID_LETTERS,
    full_text,
    issued,
    key_digest,
    new_id,
    new_secret,
    parse_key_text,
)
from azeotrope.gateway.ledger.keyfile import load_key
from azeotrope.gateway.ledger.schema import api_keys, facts
from azeotrope.gateway.ledger.secret import Secret

PEPPER = Secret(bytes(range(32)))
DAY_MS = 86_400_000
CANARY = "canary-4f9a1e7c"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(f"sqlite:///{tmp_path / 'gateway.db'}")
    yield opened
    opened.close()


@pytest.fixture
def store(database: Database) -> KeyStore:
    return KeyStore(database, PEPPER)


def ring(store: KeyStore, clock: Clock | None = None, **changes: Any) -> KeyRing:
    return KeyRing(store, KeyRingSettings(**changes), monotonic=clock or Clock())


def queries(database: Database) -> list[str]:
    """The statements that are run from now on."""
    seen: list[str] = []

    @sa.event.listens_for(database.engine, "before_cursor_execute")
    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        seen.append(statement)

    return seen


# Secrets


def test_a_secret_shows_nowhere() -> None:
    secret = Secret(CANARY)
    shown = [
        repr(secret),
        str(secret),
        f"{secret}",
        f"{secret!r:>20}",
        f"{secret:x}",
        "".join(map(str, [secret])),
        repr([secret]),
    ]
    assert not any(CANARY in text for text in shown)
    assert secret.text() == CANARY
    assert secret == Secret(CANARY)
    assert secret != Secret("other")
    assert secret != CANARY
    assert copy.deepcopy({"k": secret})["k"].text() == CANARY


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_secret_is_never_serialized(protocol: int) -> None:
    with pytest.raises(TypeError) as caught:
        pickle.dumps({"k": Secret(CANARY)}, protocol)
    assert CANARY not in str(caught.value)
    for encode in (json.dumps, msgspec.json.encode, msgspec.msgpack.encode, vars):
        with pytest.raises(TypeError) as caught:
            encode(Secret(CANARY))
        assert CANARY not in str(caught.value)


# Key files


def test_a_key_file_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "pepper.key"
    made = load_key(path)
    assert len(made.reveal()) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_key(path) == made
    assert [file.name for file in path.parent.iterdir()] == ["pepper.key"]


def test_a_key_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pepper.key"
    load_key(path)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_key(path)


@pytest.mark.parametrize("text", [CANARY, "", "ab" * 31, "ab" * 33, "zz" * 32, "a b" * 22, "é" * 64])
def test_what_is_not_a_key_is_refused_and_not_quoted(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "pepper.key"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="64 hexadecimal digits") as caught:
        load_key(path)
    assert CANARY not in str(caught.value)
    if text:
        monkeypatch.setenv("SOME_KEY", text)
        with pytest.raises(ConfigError, match="SOME_KEY") as caught:
            load_key(tmp_path / "none", "SOME_KEY")
        assert CANARY not in str(caught.value)


def test_the_environment_comes_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "0A" * 32)
    assert load_key(tmp_path / "none", "SOME_KEY").reveal() == b"\n" * 32
    assert not (tmp_path / "none").exists()


def test_a_missing_key_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"nowhere\.key"):
        load_key(tmp_path / "nowhere.key", create=False)


def test_a_pipe_or_a_folder_is_no_key_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("pipe", "."):
        with pytest.raises(ConfigError):
            load_key(tmp_path / name)


def test_processes_that_start_together_agree_on_one_key(tmp_path: Path) -> None:
    gate = threading.Barrier(8)

    def load() -> bytes:
        gate.wait()
        return load_key(tmp_path / "pepper.key").reveal()

    with ThreadPoolExecutor(8) as pool:
        found = {pool.submit(load) for _ in range(8)}
    assert len({future.result() for future in found}) == 1


# The text of a key


@given(st.binary(min_size=32, max_size=32), st.sampled_from(["", "Bearer ", "bearer  ", "BEARER \t", " "]))
def test_a_key_is_read_back(pepper: bytes, before: str) -> None:
    key_id, secret = new_id(Secret(pepper)), new_secret()
    parsed = parse_key_text(before + full_text(key_id, secret).text() + " ")
    assert parsed is not None
    assert (parsed.id, parsed.secret) == (key_id, secret)
    assert issued(Secret(pepper), key_id)


@given(st.text(max_size=120) | st.text("azk_.Bearer 2", max_size=120))
def test_other_text_is_no_key(text: str) -> None:
    assert parse_key_text(text) is None


@given(st.data())
def test_every_changed_id_is_seen_as_made_up(data: st.DataObject) -> None:
    key_id = new_id(PEPPER)
    at = data.draw(st.integers(10, 13))
    other = data.draw(st.sampled_from(sorted(ID_LETTERS - {key_id[at]})))
    assert not issued(PEPPER, key_id[:at] + other + key_id[at + 1 :])


def test_secrets_are_long_and_differ() -> None:
    made = [new_secret().text() for _ in range(200)]
    assert len(set(made)) == 200
    assert {len(text) for text in made} == {43}


# The database


def test_only_a_digest_is_stored(store: KeyStore, tmp_path: Path) -> None:
    made = store.create("acme")
    parsed = parse_key_text(made.text.text())
    assert parsed is not None
    assert made.record.digest.reveal() == key_digest(PEPPER, parsed.secret)
    on_disk = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert made.record.id.encode() in on_disk
    assert parsed.secret.reveal() not in on_disk
    assert parsed.secret.text() not in repr(made)
    assert repr(made.record.digest.reveal()) not in repr(made.record)


def test_the_database_is_for_its_owner_only(database: Database, store: KeyStore, tmp_path: Path) -> None:
    store.create("acme")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes.pop("gateway.db") == 0o600
    assert set(modes.values()) <= {0o600}


def test_sql_in_names_is_text(store: KeyStore, database: Database) -> None:
    hostile = "'; DROP TABLE gateway_keys; --"
    made = store.create(hostile, tier=hostile, note=hostile)
    assert [(k.tenant, k.tier, k.note) for k in store.list(hostile)] == [(hostile,) * 3]
    assert store.find(hostile) is None
    assert store.find("\x00") is None
    with pytest.raises(ConfigError):
        store.list("\ud800")
    with pytest.raises(MissingError):
        store.revoke(hostile)
    assert store.find(made.record.id) is not None


@pytest.mark.parametrize("name", ["", " acme", "a\nb", "a\x00b", "\x1b[31m", "a" * 129, "\ud800"])
def test_names_that_cannot_be_used_are_refused(store: KeyStore, name: str) -> None:
    with pytest.raises(ConfigError):
        store.create(name)
    with pytest.raises(ConfigError):
        store.create("acme", tier=name)
    assert store.list() == []


def test_an_expiry_must_be_in_the_future(store: KeyStore) -> None:
    for ms in (0, key_store.now_ms() - 1, 10**18):
        with pytest.raises(ConfigError, match="future"):
            store.create("acme", expires_ms=ms)


def test_another_pepper_is_refused(store: KeyStore, database: Database) -> None:
    store.create("acme")
    with pytest.raises(ConfigError, match="pepper"):
        KeyStore(database, Secret(b"x" * 32))
    assert len(KeyStore(database, PEPPER).list()) == 1


def test_a_newer_schema_is_refused_by_name(database: Database, tmp_path: Path) -> None:
    with database.write() as connection:
        connection.execute(sa.update(facts).where(facts.c.name == "schema").values(value="99"))
    for create in (True, False):
        with pytest.raises(ConfigError, match=r"gateway\.db' has gateway schema 99"):
            open_database(f"sqlite:///{tmp_path / 'gateway.db'}", create=create)


def test_an_older_schema_is_brought_up_to_date(
    store: KeyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = store.create("acme")

    def second(connection: sa.Connection) -> None:
        connection.execute(sa.text("ALTER TABLE gateway_keys ADD COLUMN color TEXT"))

    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, second))
    url = f"sqlite:///{tmp_path / 'gateway.db'}"
    with pytest.raises(ConfigError, match="start the gateway once"):
        open_database(url, create=False)
    for _ in range(2):  # the second time there is nothing to do
        opened = open_database(url)
        with opened.read() as connection:
            row = connection.execute(sa.text("SELECT id, color FROM gateway_keys")).one()
            assert tuple(row) == (made.record.id, None)
            version = connection.scalar(sa.select(facts.c.value).where(facts.c.name == "schema"))
            assert version == "2"
        opened.close()


def test_a_failed_migration_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path / 'gateway.db'}"
    open_database(url).close()

    def broken(connection: sa.Connection) -> None:
        connection.execute(sa.text("ALTER TABLE gateway_keys ADD COLUMN color TEXT"))
        connection.execute(sa.text("SELECT * FROM nowhere"))

    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, broken))
    with pytest.raises(DatabaseError):
        open_database(url)
    monkeypatch.undo()
    opened = open_database(url)
    with opened.read() as connection:
        assert "color" not in {column["name"] for column in sa.inspect(connection).get_columns("gateway_keys")}
    opened.close()


def test_processes_that_start_together_make_one_schema(tmp_path: Path) -> None:
    gate = threading.Barrier(6)

    def start() -> str:
        gate.wait()
        opened = open_database(f"sqlite:///{tmp_path / 'gateway.db'}")
        made = KeyStore(opened, PEPPER).create("acme")
        opened.close()
        return made.record.id

    with ThreadPoolExecutor(6) as pool:
        made = [future.result() for future in [pool.submit(start) for _ in range(6)]]
    opened = open_database(f"sqlite:///{tmp_path / 'gateway.db'}")
    assert sorted(key.id for key in KeyStore(opened, PEPPER).list()) == sorted(made)
    opened.close()


@pytest.mark.parametrize(
    ("url", "error"),
    [
        (f"mysql://u:{CANARY}@h/d", ConfigError),
        (CANARY, ConfigError),
        ("", ConfigError),
        ("sqlite://", ConfigError),
        ("sqlite:///:memory:", ConfigError),
        (f"sqlite:///x.db?key={CANARY}", ConfigError),
        (f"postgresql://u:{CANARY}@h:port/d", ConfigError),
        (f"postgresql://u:{CANARY}@127.0.0.1:1/d", DatabaseError),
        (f"postgresql://u@127.0.0.1:1/d?password={CANARY}", DatabaseError),
        ("sqlite:////proc/nowhere/x.db", RunError),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_its_password(
    url: str, error: type[AzeotropeError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error) as caught:
        open_database(url)
    assert CANARY not in str(caught.value)
    assert str(caught.value).endswith(".")


def test_a_file_that_is_no_database_is_said(tmp_path: Path) -> None:
    (tmp_path / "gateway.db").write_bytes(b"hello " * 1000)
    with pytest.raises(DatabaseError, match=r"gateway\.db"):
        open_database(f"sqlite:///{tmp_path / 'gateway.db'}")


def test_reading_makes_no_database(tmp_path: Path) -> None:
    with pytest.raises(MissingError):
        open_database(f"sqlite:///{tmp_path / 'gateway.db'}", create=False)
    (tmp_path / "empty.db").touch()
    with pytest.raises(MissingError, match="not that of a gateway"):
        open_database(f"sqlite:///{tmp_path / 'empty.db'}", create=False)
    assert (tmp_path / "empty.db").stat().st_size == 0


# Checking


def test_a_key_is_known(store: KeyStore) -> None:
    made = store.create("acme", "premium")

    async def run() -> None:
        keys = ring(store)
        for text in (made.text.text(), "Bearer " + made.text.text()):
            who = await keys.authenticate(text)
            assert (who.key_id, who.tenant, who.tier) == (made.record.id, "acme", "premium")
        await keys.aclose()

    asyncio.run(run())


def test_whatever_is_wrong_the_refusal_is_the_same(
    store: KeyStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One type, one text, and the same digest computed over a secret of the same length."""
    good, expired, revoked = (store.create("acme") for _ in range(3))
    store.revoke(revoked.record.id)
    with database.write() as connection:
        connection.execute(sa.update(api_keys).where(api_keys.c.id == expired.record.id).values(expires_ms=1))
    wrong = full_text(good.record.id, new_secret()).text()
    unknown = full_text(new_id(PEPPER), new_secret()).text()
    made_up = full_text("a" * 14, new_secret()).text()
    digested: list[int] = []
    monkeypatch.setattr(
        key_ring, "key_digest", lambda pepper, secret: digested.append(len(secret.reveal())) or bytes(32)
    )
    monkeypatch.setattr(key_ring, "_NO_DIGEST", bytes(31) + b"x")

    async def run() -> KeyRing:
        keys = ring(store)
        texts = (wrong, unknown, made_up, expired.text.text(), revoked.text.text(), "", "junk", "Bearer \ud800")
        said = set()
        for text in texts:
            digested.clear()
            with pytest.raises(AuthError) as caught:
                await keys.authenticate(text)
            said.add((type(caught.value), str(caught.value)))
            assert digested == [43]
        assert len(said) == 1
        return keys

    refused = asyncio.run(run()).refused
    assert refused == {"secret": 3, "unknown": 2, "form": 3}  # no digest matches here, so none gets further


def test_causes_are_counted(store: KeyStore, database: Database) -> None:
    expired, revoked = store.create("acme"), store.create("acme")
    store.revoke(revoked.record.id)
    with database.write() as connection:
        connection.execute(sa.update(api_keys).where(api_keys.c.id == expired.record.id).values(expires_ms=1))

    async def run() -> KeyRing:
        keys = ring(store)
        for text in (expired.text.text(), revoked.text.text()):
            with pytest.raises(AuthError):
                await keys.authenticate(text)
        return keys

    assert asyncio.run(run()).refused == {"expired": 1, "revoked": 1}


def test_made_up_ids_do_not_reach_the_database(store: KeyStore, database: Database) -> None:
    made = store.create("acme")

    async def run() -> None:
        keys = ring(store)
        await keys.authenticate(made.text.text())
        seen = queries(database)
        for number in range(500):
            with pytest.raises(AuthError):
                await keys.authenticate(full_text(f"{number:010d}aaaa".translate(DIGITS), new_secret()).text())
        assert len(seen) <= 2  # one id in a million passes; the keys' pepper is fixed, the ids are too

    asyncio.run(run())


DIGITS = str.maketrans("0189", "abcd")


def test_guesses_at_a_known_id_cost_no_query(store: KeyStore, database: Database) -> None:
    made = store.create("acme")

    async def run() -> None:
        keys = ring(store)
        await keys.authenticate(made.text.text())
        seen = queries(database)
        for _ in range(100):
            with pytest.raises(AuthError):
                await keys.authenticate(full_text(made.record.id, new_secret()).text())
        await keys.authenticate(made.text.text())
        assert seen == []

    asyncio.run(run())


def test_requests_that_wait_for_one_key_share_a_query(store: KeyStore, database: Database) -> None:
    made = store.create("acme")

    async def run() -> None:
        keys = ring(store)
        seen = queries(database)
        found = await asyncio.gather(*(keys.authenticate(made.text.text()) for _ in range(50)))
        assert len(set(found)) == 1
        assert sum("SELECT" in statement for statement in seen) == 1

    asyncio.run(run())


def test_a_canceled_request_does_not_take_the_others_along(store: KeyStore) -> None:
    made = store.create("acme")

    async def run() -> None:
        keys = ring(store)
        first, second = (asyncio.create_task(keys.authenticate(made.text.text())) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        assert (await second).tenant == "acme"
        with pytest.raises(asyncio.CancelledError):
            await first

    asyncio.run(run())


def test_a_revoked_key_stops_at_once_here_and_soon_elsewhere(store: KeyStore, database: Database) -> None:
    here, elsewhere = store.create("acme"), store.create("acme")
    other_process = KeyStore(database, PEPPER)
    clock = Clock()

    async def run() -> None:
        keys = ring(store, clock, cache_seconds=10)
        for key in (here, elsewhere):
            await keys.authenticate(key.text.text())
        store.revoke(here.record.id)
        other_process.revoke(elsewhere.record.id)
        with pytest.raises(AuthError):
            await keys.authenticate(here.text.text())
        clock.now += 9.9
        await keys.authenticate(elsewhere.text.text())
        clock.now += 0.2
        with pytest.raises(AuthError):
            await keys.authenticate(elsewhere.text.text())

    asyncio.run(run())


def test_a_key_revoked_while_it_is_read_is_not_cached(
    store: KeyStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The read began before the revocation and ends after it."""
    made = store.create("acme")
    find, reads = store.find, []

    def slow(key_id: str) -> Any:
        record = find(key_id)
        reads.append(key_id)
        if len(reads) == 1:
            store.revoke(key_id)
        return record

    monkeypatch.setattr(store, "find", slow)

    async def run() -> None:
        keys = ring(store)
        for _ in range(2):
            with pytest.raises(AuthError):
                await keys.authenticate(made.text.text())

    asyncio.run(run())
    assert len(reads) > 2


def test_a_second_revocation_changes_nothing(store: KeyStore) -> None:
    made = store.create("acme")
    first = store.revoke(made.record.id)
    assert first.revoked_ms is not None
    assert store.revoke(made.record.id) == first
    with pytest.raises(ConfigError, match="revoked"):
        store.rotate(made.record.id, 0)


def test_rotation_leaves_the_old_secret_a_while(store: KeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    first = store.create("acme")
    now = key_store.now_ms()

    async def works(keys: KeyRing, key: Any) -> bool:
        try:
            await keys.authenticate(key.text.text())
        except AuthError:
            return False
        return True

    async def run() -> None:
        keys = ring(store)
        second = store.rotate(first.record.id, DAY_MS)
        assert second.record.id == first.record.id
        assert [await works(keys, key) for key in (first, second)] == [True, True]
        monkeypatch.setattr(key_ring, "now_ms", lambda: now + DAY_MS + 60_000)
        assert [await works(keys, key) for key in (first, second)] == [False, True]
        monkeypatch.setattr(key_ring, "now_ms", lambda: now)
        third = store.rotate(first.record.id, DAY_MS)
        assert [await works(keys, key) for key in (first, second, third)] == [False, True, True]
        fourth = store.rotate(first.record.id, 0)
        assert [await works(keys, key) for key in (second, third, fourth)] == [False, False, True]

    asyncio.run(run())


def test_rotation_of_what_cannot_be(store: KeyStore) -> None:
    with pytest.raises(MissingError):
        store.rotate("a" * 14, 0)
    made = store.create("acme")
    for overlap in (-1, 10**18):
        with pytest.raises(ConfigError, match="overlap"):
            store.rotate(made.record.id, overlap)


def test_the_cache_is_bounded_and_keeps_what_is_used(store: KeyStore, database: Database) -> None:
    made = [store.create("acme") for _ in range(6)]

    async def run() -> None:
        keys = ring(store, cache_size=3)
        for key in made:
            await keys.authenticate(made[0].text.text())
            await keys.authenticate(key.text.text())
        assert len(keys._cache) == 3
        seen = queries(database)
        await keys.authenticate(made[0].text.text())
        assert seen == []

    asyncio.run(run())


def test_without_the_database_unknown_keys_are_unavailable_and_known_ones_by_choice(
    store: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, new = store.create("acme"), store.create("acme")

    tries: list[str] = []

    def down(key_id: str) -> Any:
        tries.append(key_id)
        raise DatabaseError("down")

    async def run(stale: float) -> tuple[bool, bool]:
        clock = Clock()
        keys = ring(store, clock, cache_seconds=10, stale_seconds=stale)
        await keys.authenticate(known.text.text())
        with monkeypatch.context() as patch:
            patch.setattr(store, "find", down)
            with pytest.raises(AuthDownError):
                await keys.authenticate(new.text.text())
            clock.now += 30
            asked = len(tries)
            kept = True
            try:
                await keys.authenticate(known.text.text())
            except AuthDownError:
                kept = False
            for _ in range(50):
                with suppress(AuthDownError):
                    await keys.authenticate(known.text.text())
            assert len(tries) == asked + 1  # only one request waits to learn that it is down
            clock.now += 100
            with pytest.raises(AuthDownError):
                await keys.authenticate(known.text.text())
        clock.now += 2
        await keys.authenticate(known.text.text())  # it is back
        return kept, keys.refused["database"] > 0

    assert asyncio.run(run(0)) == (False, True)
    assert asyncio.run(run(60)) == (True, True)


def test_last_use_is_written_and_never_goes_back(store: KeyStore) -> None:
    made, unused = store.create("acme"), store.create("acme")

    async def run() -> None:
        keys = ring(store)
        await keys.authenticate(made.text.text())
        assert store.list()[0].used_ms is None
        await keys.aclose()

    before = key_store.now_ms()
    asyncio.run(run())
    used = {key.id: key.used_ms for key in store.list()}
    assert used[unused.record.id] is None
    at = used[made.record.id]
    assert at is not None
    assert before <= at <= key_store.now_ms()
    store.mark_used([(made.record.id, at - 5)])
    assert store.find(made.record.id).used_ms == at  # type: ignore[union-attr]


def test_last_use_is_written_while_running(store: KeyStore) -> None:
    made = store.create("acme")

    async def run() -> None:
        keys = ring(store, used_seconds=0.01)
        await keys.authenticate(made.text.text())
        for _ in range(500):
            if store.list()[0].used_ms is not None:
                break
            await asyncio.sleep(0.01)
        assert store.list()[0].used_ms is not None
        await keys.aclose()

    asyncio.run(run())


# The command line


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from azeotrope.cli import keys as command

    if "keys" not in {group.name for group in app.registered_groups}:
        monkeypatch.setattr(app, "registered_groups", list(app.registered_groups))
        app.add_typer(command.keys, name="keys")
    monkeypatch.setenv("AZEOTROPE_FOLDER", str(tmp_path / "gw"))
    for name in ("AZEOTROPE_DATABASE", PEPPER_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = call([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def told(result: tuple[int, str, str]) -> Any:
    assert result[0] == 0, result[2]
    return json.loads(result[1])


def test_cli_life_of_a_key(cli: Any, tmp_path: Path) -> None:
    code, out, err = cli("keys", "create", "--tenant", "acme", "--tier", "premium", "--note", "batch jobs")
    assert code == 0, err
    text = out.strip()
    assert out == text + "\n"
    assert text not in err
    parsed = parse_key_text(text)
    assert parsed is not None
    made = told(cli("keys", "create", "--tenant", "other", "--expires", "90d", "--json"))
    assert parse_key_text(made["key"]) is not None
    listed = told(cli("keys", "list", "--json"))
    assert [(key["tenant"], key["tier"], key["state"]) for key in listed] == [
        ("acme", "premium", "active"), ("other", "default", "active"),
    ]  # fmt: skip
    assert parsed.secret.text() not in json.dumps(listed)
    shown = cli("keys", "list", "--tenant", "acme")
    assert parsed.id in shown[1]
    assert "other" not in shown[1]
    rotated = told(cli("keys", "rotate", parsed.id, "--overlap", "1h", "--json"))
    assert rotated["key"] != text
    assert rotated["old_secret_until"] is not None
    assert told(cli("keys", "rotate", parsed.id, "--overlap", "0", "--json"))["old_secret_until"] is None
    assert told(cli("keys", "revoke", parsed.id, "--json"))["state"] == "revoked"
    opened = open_database(Folder(tmp_path / "gw").database)
    assert len(KeyStore(opened, Folder(tmp_path / "gw").pepper(create=False)).list()) == 2
    opened.close()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("revoke", "a" * 14), 3),
        (("revoke", "\x1b[31m"), 3),
        (("rotate", "a" * 14, "--overlap", "soon"), 2),
        (("create", "--tenant", ""), 2),
        (("create", "--tenant", "a", "--expires", "yesterday"), 2),
        (("create", "--tenant", "a", "--expires", "2001-01-01"), 2),
        (("create", "--tenant", "a", "--database", f"mysql://u:{CANARY}@h/d"), 2),
        (("list", "--folder", "/nowhere"), 3),
    ],
)
def test_cli_says_what_is_wrong(cli: Any, arguments: tuple[str, ...], code: int) -> None:
    assert cli("keys", "create", "--tenant", "acme")[0] == 0
    found, out, err = cli("keys", *arguments)
    assert found == code, err
    assert out == ""
    assert len(err.strip().splitlines()) == 1
    assert CANARY not in err
    assert "\x1b" not in err


@given(st.text(max_size=12))
@settings(max_examples=200)
def test_spans_and_moments_never_crash(text: str) -> None:
    from azeotrope.cli.keys import moment, span_ms

    for read in (moment, span_ms):
        with suppress(ConfigError):
            assert isinstance(read(text), int)
