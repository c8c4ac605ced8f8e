"""Keys, limits and audit over real connections to PostgreSQL and Redis (scripts/services.sh starts both)."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledger_drive import (
    APPEND_SOME,
    APPEND_UNTIL_KILLED,
    REDIS,
    Clock,
    acknowledged,
    admin,
    new_postgres,
    output,
    row,
    service,
    start,
)
from redis.asyncio import Redis

from azeotrope.core.errors import ConfigError, MissingError
from azeotrope.gateway.ledger.audit_chain import Verifier, read_public_keys
from azeotrope.gateway.ledger.audit_log import AuditError, AuditLog, AuditSettings
from azeotrope.gateway.ledger.audit_read import pages_by_time
from azeotrope.gateway.ledger.audit_row import encode, stored
from azeotrope.gateway.ledger.database import Database, DatabaseError, open_database
from azeotrope.gateway.ledger.folder import Folder
from azeotrope.gateway.ledger.identity import AuthDownError, AuthError, Identity
from azeotrope.gateway.ledger.key_ring import KeyRing, KeyRingSettings
from azeotrope.gateway.ledger.key_store import KeyStore, now_ms
from azeotrope.gateway.ledger.local_limits import LocalLimiter
from azeotrope.gateway.ledger.opening import open_audit_log
from azeotrope.gateway.ledger.quota import (
    DAY,
    Denial,
    Lease,
    Limiter,
    LimitError,
    Limits,
    LimitsDownError,
    Quota,
    Room,
)
from azeotrope.gateway.ledger.schema import audit_rows, facts
from azeotrope.gateway.ledger.secret import Secret
from azeotrope.gateway.ledger.shared_limits import SharedLease, SharedLimiter, SharedSettings
from azeotrope.gateway.ledger.verify import Report, verify
from azeotrope.gateway.shared_shelf import RedisShelf
from azeotrope.gateway.vault import Record, Vault
from azeotrope.gateway.wire.request import Call, Seal

PEPPER = Secret(bytes(range(32)))
WHO = Identity("key1", "acme", "default")
SAME_TENANT = Identity("key2", "acme", "default")
OTHER = Identity("key3", "other", "default")


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


# PostgreSQL


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with new_postgres() as fresh:
        yield fresh


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    opened = open_database(url)
    yield opened
    opened.close()


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "gw")


def checked(database: Database, folder: Folder, **options: Any) -> Report:
    return verify(database, Verifier(read_public_keys(folder.public_keys)), heads=folder.heads, **options)


def test_postgres_life_of_a_key(database: Database) -> None:
    store = KeyStore(database, PEPPER)
    hostile = "'; DROP TABLE gateway_keys; --"
    first = store.create("Grün & Söhne", "premium", hostile, expires_ms=now_ms() + 10**6)

    async def works(keys: KeyRing, text: Secret) -> bool:
        try:
            return (await keys.authenticate(f"Bearer {text.text()}")).tenant == "Grün & Söhne"
        except AuthError:
            return False

    async def test() -> None:
        keys = KeyRing(store)
        assert await works(keys, first.text)
        second = store.rotate(first.record.id, 10**6)
        third = store.rotate(first.record.id, 10**6)
        assert [await works(keys, key.text) for key in (first, second, third)] == [False, True, True]
        await keys.aclose()
        assert store.list("Grün & Söhne")[0].used_ms is not None
        store.revoke(first.record.id)
        keys = KeyRing(store)
        assert not await works(keys, third.text)
        await keys.aclose()

    run(test)
    assert store.list()[0].note == hostile
    for unknown in (hostile, "\x00", "a" * 14):
        assert store.find(unknown) is None
        with pytest.raises(MissingError):
            store.rotate(unknown, 0)
    with pytest.raises(ConfigError, match="pepper"):
        KeyStore(database, Secret(b"x" * 32))


def test_postgres_gateways_that_start_together_make_one_schema() -> None:
    with new_postgres() as fresh, ThreadPoolExecutor(4) as pool:
        for opened in [pool.submit(open_database, fresh) for _ in range(4)]:
            opened.result().close()


def test_postgres_newer_schema_is_refused(database: Database, url: str) -> None:
    version = sa.update(facts).where(facts.c.name == "schema")
    with database.write() as connection:
        connection.execute(version.values(value="99"))
    try:
        with pytest.raises(ConfigError, match="schema 99") as caught:
            open_database(url)
        assert urlsplit(url).password not in str(caught.value)
    finally:
        with database.write() as connection:
            connection.execute(version.values(value="1"))


def test_postgres_audit_survives_kill_9_and_several_writers(database: Database, folder: Folder, url: str) -> None:
    killed, other = [start(script, folder.path, url) for script in (APPEND_UNTIL_KILLED, APPEND_SOME)]
    told = acknowledged(killed)
    output(other)
    kept = {(one.request_id, one.chain, str(one.seq)) for page in pages_by_time(database) for one in page}
    assert told <= kept
    report = checked(database, folder)
    assert report.ok, report.problems
    assert report.chains == 2
    assert report.rows >= len(told) + 200


def test_postgres_changes_are_found(folder: Folder) -> None:
    with new_postgres() as fresh:
        database = open_database(fresh)

        async def test() -> None:
            log = open_audit_log(database, folder)
            await asyncio.gather(*(log.append(row(n)) for n in range(20)))
            await log.close()

        run(test)
        changes = {
            "columns": sa.update(audit_rows).where(audit_rows.c.seq == 3).values(tenant="x"),
            "changed": sa.update(audit_rows).where(audit_rows.c.seq == 5).values(row=encode(stored(row(99)))),
            "deleted": sa.delete(audit_rows).where(audit_rows.c.seq == 7),
            "truncated": sa.delete(audit_rows).where(audit_rows.c.seq > 15),
        }
        for change in changes.values():
            with database.write() as connection:
                connection.execute(change)
        found = {problem.kind: problem.seq for problem in checked(database, folder).problems}
        # Row 5 differs from the columns beside it too.
        assert found == {"columns": 5, "changed": 5, "deleted": 7, "truncated": 16}
        database.close()


def test_postgres_that_goes_away_is_reported_and_comes_back(folder: Folder) -> None:
    with new_postgres() as fresh:
        database = open_database(fresh)
        store = KeyStore(database, PEPPER)
        known, new = store.create("acme"), store.create("acme")

        async def test() -> None:
            keys = KeyRing(store, KeyRingSettings(retry_seconds=0, cache_seconds=600))
            await keys.authenticate(known.text.text())
            settings = AuditSettings(patience_seconds=0, retry_seconds=0.05)
            log = open_audit_log(database, folder, settings)
            await log.append(row(0))
            admin(fresh, "ALTER DATABASE DATABASE_NAME WITH ALLOW_CONNECTIONS false")
            admin(fresh, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'DATABASE_NAME'")
            with pytest.raises(AuditError, match="cannot be used"):
                await log.append(row(1))
            assert urlsplit(fresh).password not in log.problem
            with pytest.raises(AuthDownError):
                await keys.authenticate(new.text.text())
            await keys.authenticate(known.text.text())
            admin(fresh, "ALTER DATABASE DATABASE_NAME WITH ALLOW_CONNECTIONS true")
            while log.problem:
                await asyncio.sleep(0.01)
            await log.append(row(2))
            await keys.authenticate(new.text.text())
            await log.close()
            await keys.aclose()

        run(test)
        assert [one.request_id for page in pages_by_time(database) for one in page] == ["req_000000", "req_000002"]
        report = checked(database, folder)
        assert report.ok, report.problems
        database.close()


def test_postgres_connections_that_break_under_load_lose_no_receipt(folder: Folder) -> None:
    """Connections are cut again and again while rows are written: receipts are true, nothing is written twice."""
    with new_postgres() as fresh:
        database = open_database(fresh)

        async def write(log: AuditLog, told: set[str]) -> None:
            for number in range(25):
                await log.append(row(number))
                told.add(row(number).request_id)

        async def test() -> set[str]:
            log = open_audit_log(database, folder, AuditSettings(patience_seconds=60, group_seconds=0))
            told: set[str] = set()
            work = asyncio.create_task(write(log, told))
            cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'DATABASE_NAME'"
            while not work.done():
                await asyncio.to_thread(admin, fresh, cut)
                await asyncio.sleep(0.05)
            await work
            await log.close()
            return told

        told = asyncio.run(test())
        kept = [one.request_id for page in pages_by_time(database) for one in page]
        assert sorted(kept) == sorted(told)
        report = checked(database, folder)
        assert report.ok, report.problems
        database.close()


def test_postgres_with_another_encoding_is_refused() -> None:
    with new_postgres() as fresh:
        admin(fresh, "DROP DATABASE DATABASE_NAME")
        admin(
            fresh, "CREATE DATABASE DATABASE_NAME ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
        )
        with pytest.raises(ConfigError, match="LATIN1"):
            open_database(fresh)


def test_postgres_wrong_password_is_not_quoted(url: str) -> None:
    wrong = url.replace(urlsplit(url).password or "?", "canary-4f9a1e7c")
    with pytest.raises(DatabaseError) as caught:
        open_database(wrong)
    assert "canary" not in str(caught.value)


# Redis


@pytest.fixture
def redis_url() -> str:
    return service(REDIS)


def prefix() -> str:
    return f"t-{secrets.token_hex(6)}"


@asynccontextmanager
async def shared(url: str, **changes: Any) -> AsyncIterator[SharedLimiter]:
    options = {"url": url, "prefix": prefix(), "timeout_seconds": 20, **changes}
    limiter = SharedLimiter(SharedSettings(**options))
    try:
        yield limiter
    finally:
        client = Redis.from_url(url)
        async for name in client.scan_iter(f"{limiter.settings.prefix}:*"):
            await client.delete(name)
        await client.aclose()
        await limiter.aclose()


async def denied(limiter: Limiter, limits: Limits, estimate: int = 0, who: Identity = WHO) -> Denial:
    with pytest.raises(LimitError) as caught:
        await limiter.admit(who, limits, estimate)
    return caught.value.denial


def per_key(**quota: int) -> Limits:
    return Limits(key=Quota(**quota))


def test_redis_tells_which_limit_and_how_long(redis_url: str) -> None:
    async def test() -> None:
        async with shared(redis_url) as limiter:
            limits = Limits(
                key=Quota(requests_per_minute=2, tokens_per_minute=100), tenant=Quota(tokens_per_day=500)
            )
            assert (await limiter.admit(WHO, limits, 10)).room == Room(1, 90)
            assert (await limiter.admit(WHO, limits, 10)).room.requests == 0
            await (await limiter.admit(SAME_TENANT, limits, 0)).refund()
            assert (await limiter.admit(SAME_TENANT, limits, 0)).room.requests == 1
            denial = await denied(limiter, limits, 10)
            assert (denial.limit, denial.scope) == ("requests_per_minute", "key")
            assert denial.retry_after is not None
            assert 10 < denial.retry_after <= 30
            assert await denied(limiter, limits, 101) == Denial("tokens_per_minute", "key", None)
            day = await denied(limiter, Limits(tenant=Quota(tokens_per_day=500)), 481)
            assert (day.limit, day.scope) == ("tokens_per_day", "tenant")
            assert day.retry_after is not None
            assert DAY - 60 < day.retry_after <= DAY
            assert (await limiter.admit(OTHER, limits, 100)).room == Room(1, 0)

    run(test)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(1, 4), st.integers(1, 6), st.integers(1, 60), st.integers(1, 90),
    st.lists(st.tuples(st.sampled_from([WHO, SAME_TENANT, OTHER]), st.integers(0, 60), st.integers(0, 90),
                       st.sampled_from(["admit", "admit", "settle", "refund", "leave"])), max_size=25),
)  # fmt: skip
def test_redis_and_the_local_limiter_agree(
    redis_url: str, places: int, tenant_places: int, key_day: int, tenant_day: int, steps: list[Any]
) -> None:
    """On what no clock decides: the same requests are admitted, the same limit refuses, the same is left."""
    limits = Limits(
        key=Quota(concurrent=places, tokens_per_day=key_day),
        tenant=Quota(concurrent=tenant_places, tokens_per_day=tenant_day),
    )

    async def admit(limiter: Limiter, who: Identity, estimate: int) -> tuple[Any, Lease | None]:
        try:
            lease = await limiter.admit(who, limits, estimate)
        except LimitError as error:
            denial = error.denial
            return (denial.limit, denial.scope, denial.retry_after is None), None
        return lease.room, lease

    async def test() -> None:
        local, leases = LocalLimiter(monotonic=Clock()), []
        async with shared(redis_url) as limiter:
            for who, estimate, used, what in steps:
                if what == "admit" or not leases:
                    (one, here), (other, there) = (
                        await admit(local, who, estimate),
                        await admit(limiter, who, estimate),
                    )
                    assert one == other
                    if here is not None and there is not None:
                        leases.append((here, there))
                    continue
                for lease in leases.pop(0):
                    if what == "leave":
                        async with lease:
                            pass
                    else:
                        await (lease.settle(used) if what == "settle" else lease.refund())
                        await lease.settle(10**6)  # a second time changes nothing

    run(test)


def test_redis_buckets_settle_and_refill(redis_url: str) -> None:
    async def test() -> None:
        async with shared(redis_url) as limiter:
            limits = per_key(tokens_per_minute=6000)
            lease = await limiter.admit(WHO, limits, 6000)
            assert (await denied(limiter, limits, 3000)).limit == "tokens_per_minute"
            await lease.settle(2000)
            lease = await limiter.admit(WHO, limits, 4000)
            await lease.settle(10_000)  # in debt
            wait = (await denied(limiter, limits, 6000)).retry_after
            assert wait is not None
            assert 90 < wait <= 120
            lease = await limiter.admit(OTHER, limits, 6000)
            await lease.refund()
            before = time.monotonic()
            await limiter.admit(OTHER, limits, 6000)
            wait = (await denied(limiter, limits, 200, OTHER)).retry_after
            assert wait is not None
            await asyncio.sleep(wait)
            await limiter.admit(OTHER, limits, 200)
            left = (await limiter.admit(OTHER, limits, 0)).room.tokens
            came = (time.monotonic() - before + 0.1) * 100  # no more than this can have come since
            assert left is not None
            assert left <= came - 200

    run(test)


def test_redis_holds_the_vault_of_several_processes(redis_url: str) -> None:
    async def test() -> None:
        prefix = f"t{secrets.token_hex(6)}"
        shelves = [RedisShelf(redis_url, prefix=prefix, most=500, timeout=20) for _ in range(2)]
        one, two = (Vault(shelf, bytes(range(32)), ttl=60) for shelf in shelves)
        record = Record("Because.", (Seal("signature", "s"),))
        a, b, long, none = (Call(name, "f") for name in ("a", "b", "long", "none"))
        await one.seal("acme", [a, b], record)
        await one.seal("acme", [long], Record("x" * 1000))
        found = await two.open("acme", [(call, "") for call in (a, long, b, none)])
        assert found == [record, None, record, None]
        assert await two.open("other", [(a, "")]) == [None]
        client = Redis.from_url(redis_url)
        names = [name async for name in client.scan_iter(match=f"{prefix}:*")]
        assert len(names) == 2
        assert all([0 < await client.pttl(name) <= 60_000 for name in names])
        assert not any([b"Because" in await client.get(name) for name in names])
        await client.aclose()
        await one.close()
        await two.close()

    run(test)


def test_redis_keeps_nothing_forever(redis_url: str) -> None:
    async def test() -> None:
        async with shared(redis_url, lease_seconds=10) as limiter:
            await limiter.admit(WHO, Limits(tenant=Quota(tokens_per_day=9), key=Quota(requests_per_minute=5)), 9)
            await (await limiter.admit(OTHER, Limits(), 9)).settle(3)
            client = Redis.from_url(redis_url)
            left = {
                name: await client.pttl(name) async for name in client.scan_iter(f"{limiter.settings.prefix}:*")
            }
            await client.aclose()
            assert len(left) >= 4
            assert all(0 < ms <= DAY * 1000 + 2000 for ms in left.values())
            assert min(left.values()) <= 20_000

    run(test)


ADMIT_UNTIL_DENIED = """
import asyncio, sys, time
from azeotrope.gateway.ledger.identity import Identity
from azeotrope.gateway.ledger.quota import LimitError, Limits, Quota
from azeotrope.gateway.ledger.shared_limits import SharedLimiter, SharedSettings

async def main():
    url, prefix, me = sys.argv[1:]
    limiter = SharedLimiter(SharedSettings(url=url, prefix=prefix, timeout_seconds=20))
    limits = Limits(tenant=Quota(tokens_per_day=1000, concurrent=80))
    who, admitted = Identity(me, "acme", "default"), 0
    leases = []
    for _ in range(150):
        try:
            leases.append(await limiter.admit(who, limits, 10))
            admitted += 1
        except LimitError as error:
            await asyncio.sleep(0)
        if len(leases) > 30:
            await leases.pop(0).settle(10)
    for lease in leases:
        await lease.settle(10)
    await limiter.aclose()
    print(admitted)

asyncio.run(main())
"""


def test_redis_two_processes_enforce_one_limit(redis_url: str) -> None:
    """Different keys of one tenant in different processes: 1000 tokens at 10 each are 100 requests, not 200."""
    name = prefix()
    processes = [start(ADMIT_UNTIL_DENIED, redis_url, name, me) for me in ("key1", "key2")]
    admitted = [int(output(process)) for process in processes]
    assert sum(admitted) == 100

    async def test() -> None:
        async with shared(redis_url, prefix=name) as limiter:
            denial = await denied(limiter, Limits(tenant=Quota(tokens_per_day=1000, concurrent=80)), 10)
            assert denial.limit == "tokens_per_day"

    run(test)


HOLD = """
import asyncio, sys
from azeotrope.gateway.ledger.identity import Identity
from azeotrope.gateway.ledger.quota import Limits, Quota
from azeotrope.gateway.ledger.shared_limits import SharedLimiter, SharedSettings

async def main():
    settings = SharedSettings(url=sys.argv[1], prefix=sys.argv[2], lease_seconds=2, timeout_seconds=20)
    limiter = SharedLimiter(settings)
    lease = await limiter.admit(Identity("key2", "acme", "default"), Limits(), 0)
    print("held", flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


def test_redis_places_of_a_process_that_dies_are_free_again(redis_url: str) -> None:
    name = prefix()
    holder = start(HOLD, redis_url, name)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    limits = Limits(tenant=Quota(concurrent=1))

    async def test() -> None:
        async with shared(redis_url, prefix=name) as limiter:
            until = time.monotonic() + 3.5  # longer than a lease: it is renewed while the process lives
            while time.monotonic() < until:
                assert (await denied(limiter, limits)).limit == "concurrent"
                await asyncio.sleep(0.1)
            holder.kill()
            holder.communicate()
            until = time.monotonic() + 20
            while time.monotonic() < until:
                try:
                    await limiter.admit(WHO, limits, 0)
                    return
                except LimitError:
                    await asyncio.sleep(0.1)
            raise AssertionError("the place was never free again")

    run(test)


def test_redis_clock_that_was_set_back_locks_nobody_out(redis_url: str) -> None:
    """What was written an hour ahead of the server's clock: refilling goes on, and leases end in time."""

    async def test() -> None:
        async with shared(redis_url, lease_seconds=1) as limiter:
            limits = per_key(requests_per_minute=6000, concurrent=1, tokens_per_day=10)
            lease = await limiter.admit(WHO, limits, 5)
            assert isinstance(lease, SharedLease)
            limiter._live.clear()  # as if the process had died
            client: Any = Redis.from_url(redis_url)
            ahead = int((time.time() + 7200) * 1e6)
            await client.hset(lease.keys[0], mapping={"rl": "0", "ra": str(ahead), "ds": str(ahead)})
            await client.zadd(lease.keys[1], {lease.name: ahead})
            await client.aclose()
            assert (await denied(limiter, limits)).limit == "concurrent"
            unlimited = limits.model_copy(update={"key": limits.key.model_copy(update={"concurrent": None})})
            until = time.monotonic() + 20
            while time.monotonic() < until:
                try:
                    await limiter.admit(WHO, limits, 5)
                    break
                except LimitError:
                    await asyncio.sleep(0.05)
            else:
                raise AssertionError("the lease of a dead process never ended")
            denial = await denied(limiter, unlimited, 5)
            assert denial.limit == "tokens_per_day"
            assert denial.retry_after is not None
            assert denial.retry_after <= DAY

    run(test)


class Cable:
    """A connection to Redis that can be cut, or go silent."""

    def __init__(self, url: str) -> None:
        self.target = urlsplit(url)
        self.up, self.silent, self.connections = True, False, 0
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        return f"redis://:{self.target.password}@127.0.0.1:{port}/0"

    async def __aexit__(self, *error: object) -> None:
        self.cut()
        self._server.close()

    def cut(self) -> None:
        self.up = False
        for writer in self._writers:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if not self.up:
            writer.close()
            return
        far_reader, far_writer = await asyncio.open_connection(self.target.hostname, self.target.port)
        self._writers |= {writer, far_writer}
        await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                while self.silent:
                    await asyncio.sleep(0.01)
                writer.write(data)
        except OSError:
            pass
        finally:
            writer.close()


@pytest.mark.parametrize("how", ["cut", "silent"])
def test_redis_that_goes_away_closes_or_opens_and_comes_back(redis_url: str, how: str) -> None:
    async def test() -> None:
        cable = Cable(redis_url)
        options = {"timeout_seconds": 1.0, "retry_seconds": 0.05, "longest_retry_seconds": 0.1, "prefix": prefix()}
        limits = per_key(requests_per_minute=1)
        async with cable as url, shared(redis_url, prefix=options["prefix"]):
            closed = SharedLimiter(SharedSettings(url=url, **options))
            opened = SharedLimiter(SharedSettings(url=url, when_down="open", **options))
            await closed.admit(WHO, limits, 0)
            await denied(opened, limits)
            if how == "cut":
                cable.cut()
            else:
                cable.silent = True
            with pytest.raises(LimitsDownError):
                await closed.admit(WHO, limits, 0)
            await opened.admit(WHO, limits, 0)  # counted here: the bucket of this process is full
            await denied(opened, limits)
            for _ in range(100):
                with pytest.raises(LimitsDownError):
                    await closed.admit(WHO, limits, 0)
            cable.up, cable.silent = True, False
            for limiter in (closed, opened):
                while limiter.problem:
                    await asyncio.sleep(0.01)
                assert (await denied(limiter, limits)).limit == "requests_per_minute"
                await limiter.aclose()

    run(test)


def test_redis_is_told_later_what_ended_while_it_was_away(redis_url: str) -> None:
    async def test() -> None:
        cable = Cable(redis_url)
        name = prefix()
        limits = per_key(tokens_per_day=100, concurrent=2)
        async with cable as url, shared(redis_url, prefix=name) as direct:
            limiter = SharedLimiter(SharedSettings(url=url, prefix=name, retry_seconds=0.05, timeout_seconds=0.5))
            first, second = [await limiter.admit(WHO, limits, 50) for _ in range(2)]
            cable.cut()
            await first.settle(10)
            await second.refund()
            assert (await denied(direct, limits)).limit == "concurrent"
            cable.up = True
            while limiter.problem:
                await asyncio.sleep(0.01)
            await direct.admit(WHO, limits, 90)
            await denied(direct, limits, 1)
            await limiter.aclose()

    run(test)


def test_redis_a_canceled_request_gives_back_what_it_reserved(redis_url: str) -> None:
    """A client that leaves while its request is being admitted: the place and the tokens are free again."""

    async def test() -> None:
        async with shared(redis_url) as limiter:
            limits = per_key(concurrent=1, tokens_per_day=10)
            await (await limiter.admit(WHO, limits, 0)).settle(0)
            for pause in range(40):
                task = asyncio.create_task(limiter.admit(WHO, limits, 10))
                for _ in range(pause):
                    await asyncio.sleep(0)
                task.cancel()
                done = await asyncio.gather(task, return_exceptions=True)
                if not isinstance(done[0], BaseException):
                    await done[0].refund()
                while limiter._tasks - {t for t in limiter._tasks if t.get_name() != "settle"}:
                    await asyncio.sleep(0.005)
            assert not limiter.problem
            lease = await limiter.admit(WHO, limits, 10)
            await lease.settle(10)

    run(test)


def test_redis_settling_survives_a_canceled_request(redis_url: str) -> None:
    async def test() -> None:
        async with shared(redis_url) as limiter:
            limits = per_key(concurrent=1)
            lease = await limiter.admit(WHO, limits, 0)
            task = asyncio.create_task(lease.settle(5))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            while limiter._live or any(t.get_name() == "settle" for t in limiter._tasks):
                await asyncio.sleep(0.005)
            await limiter.admit(WHO, limits, 0)

    run(test)


def test_redis_that_lost_its_scripts_is_given_them_again(redis_url: str) -> None:
    async def test() -> None:
        async with shared(redis_url) as limiter:
            await limiter.admit(WHO, Limits(), 0)
            client = Redis.from_url(redis_url)
            await client.script_flush()
            await client.aclose()
            lease = await limiter.admit(WHO, Limits(), 0)
            await lease.settle(0)
            assert limiter.problem == ""

    run(test)


def test_many_requests_at_once_wait_for_a_connection(redis_url: str) -> None:
    async def test() -> None:
        async with shared(redis_url, connections=2, timeout_seconds=20) as limiter:
            leases = await asyncio.gather(*(limiter.admit(WHO, per_key(concurrent=100), 0) for _ in range(100)))
            await asyncio.gather(*(lease.settle(0) for lease in leases))
            assert limiter.problem == ""

    run(test)
