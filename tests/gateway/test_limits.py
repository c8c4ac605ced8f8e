"""Limits counted in one process, and shared limits without their Redis."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_drive import Clock
from pydantic import ValidationError

from azeotrope.core.errors import ConfigError
from azeotrope.gateway.ledger.bucket import Bucket, Day
from azeotrope.gateway.ledger.identity import Identity
from azeotrope.gateway.ledger.local_limits import LocalLimiter
from azeotrope.gateway.ledger.quota import DAY, Denial, Lease, LimitError, Limits, LimitsDownError, Quota, Room
from azeotrope.gateway.ledger.shared_limits import SharedLimiter, SharedSettings

WHO = Identity("key1", "acme", "default")
SAME_TENANT = Identity("key2", "acme", "default")
OTHER = Identity("key3", "other", "default")
CANARY = "canary-4f9a1e7c"


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


async def denied(limiter: LocalLimiter, limits: Limits, estimate: int = 0, who: Identity = WHO) -> Denial:
    with pytest.raises(LimitError) as caught:
        await limiter.admit(who, limits, estimate)
    return caught.value.denial


def per_key(**quota: int) -> Limits:
    return Limits(key=Quota(**quota))


# The counters


@given(
    st.integers(1, 10**6),
    st.lists(st.tuples(st.floats(0, 300), st.floats(0, 2)), max_size=40),
)
def test_a_bucket_never_gives_more_than_its_size_and_what_came_since(
    size: int, steps: list[tuple[float, float]]
) -> None:
    """Over any stretch: taken <= size + rate x time."""
    bucket, now, taken = Bucket(size, 0.0), 0.0, 0.0
    for pause, share in steps:
        now += pause
        bucket.refill(size, now)
        amount = share * size
        wait = bucket.wait(amount)
        assert (wait is None) == (amount > size)
        if wait == 0:
            bucket.take(amount)
            taken += amount
        assert taken <= size * (1 + now / 60) * (1 + 1e-9)
        assert -1e-6 * size <= bucket.level <= size


@given(st.integers(1, 10**6), st.floats(0, 1), st.floats(0, 1))
def test_waiting_as_long_as_told_is_enough(size: int, used: float, wanted: float) -> None:
    bucket = Bucket(size, 0.0)
    bucket.take(used * size)
    wait = bucket.wait(wanted * size)
    assert wait is not None
    assert wait == pytest.approx(max(0.0, (used + wanted - 1) * 60), abs=1e-6)
    bucket.refill(size, wait + 1e-6)
    assert bucket.wait(wanted * size) == 0
    if wait > 0.001:
        early = Bucket(size, 0.0)
        early.take(used * size)
        early.refill(size, wait - 0.001)
        assert early.wait(wanted * size) != 0


@given(st.lists(st.floats(-1000, 1000), max_size=30))
def test_a_clock_that_steps_back_gives_and_takes_nothing(steps: list[float]) -> None:
    bucket, now, latest = Bucket(60, 0.0), 0.0, 0.0
    bucket.take(60 * 1000)
    for step in steps:
        now += step
        latest = max(latest, now)
        bucket.refill(60, now)
        assert bucket.level == pytest.approx(min(60, 60 - 60_000 + latest), abs=1e-6)


def test_debt_is_paid_from_what_comes() -> None:
    bucket = Bucket(60, 0.0)
    bucket.take(180)
    assert bucket.wait(1) == 121
    bucket.refill(60, 60.0)
    assert bucket.level == -60
    bucket.refill(60, 1e9)
    assert bucket.level == 60


def test_a_new_size_keeps_no_more_than_it_holds() -> None:
    bucket = Bucket(600, 0.0)
    bucket.refill(60, 0.0)
    assert bucket.level == 60
    bucket.refill(600, 6.0)
    assert bucket.level == 120


def test_a_day_begins_with_the_first_use() -> None:
    day = Day(0.0)
    day.turn(5000.0)
    day.take(70, day.start)
    assert day.wait(30, 100, 5000.0) == 0
    assert day.wait(31, 100, 6000.0) == DAY - 1000
    assert day.wait(101, 100, 6000.0) is None
    day.turn(5000.0 + DAY - 1)
    assert day.used == 70
    day.turn(5000.0 + DAY)
    assert day.used == 0


def test_what_an_earlier_day_reserved_is_not_given_to_this_one() -> None:
    day = Day(0.0)
    day.take(100, 0.0)
    day.turn(DAY)
    day.take(40, day.start)
    day.take(-100, 0.0)
    assert day.used == 40
    day.take(10, 0.0)  # but what was used beyond the estimate counts now
    assert day.used == 50
    day.take(-1000, day.start)
    assert day.used == 0


# Admission


def test_requests_per_minute() -> None:
    async def test() -> None:
        clock = Clock()
        limiter, limits = LocalLimiter(monotonic=clock), per_key(requests_per_minute=3)
        for _ in range(3):
            await (await limiter.admit(WHO, limits, 0)).settle(0)
        denial = await denied(limiter, limits)
        assert (denial.limit, denial.scope) == ("requests_per_minute", "key")
        assert denial.retry_after == pytest.approx(20)
        await limiter.admit(SAME_TENANT, limits, 0)
        clock.now += 20.001
        await limiter.admit(WHO, limits, 0)
        await denied(limiter, limits)

    run(test)


def test_keys_of_a_tenant_share_its_limits() -> None:
    async def test() -> None:
        limiter = LocalLimiter(monotonic=Clock())
        limits = Limits(key=Quota(requests_per_minute=3), tenant=Quota(requests_per_minute=4))
        for who in (WHO, WHO, SAME_TENANT, SAME_TENANT):
            await limiter.admit(who, limits, 0)
        for who in (WHO, SAME_TENANT):
            denial = await denied(limiter, limits, who=who)
            assert denial.scope == "tenant"
        await limiter.admit(OTHER, limits, 0)

    run(test)


def test_a_refusal_takes_nothing_in_either_scope() -> None:
    async def test() -> None:
        limiter = LocalLimiter(monotonic=Clock())
        tight = Limits(key=Quota(requests_per_minute=100, tokens_per_day=100), tenant=Quota(tokens_per_minute=10))
        for _ in range(200):
            await denied(limiter, tight, estimate=11)
        lease = await limiter.admit(WHO, tight, 10)
        assert lease.room == Room(99, 0)

    run(test)


def test_the_longest_wait_is_told() -> None:
    async def test() -> None:
        clock = Clock()
        limiter = LocalLimiter(monotonic=clock)
        limits = Limits(key=Quota(requests_per_minute=60, concurrent=1), tenant=Quota(tokens_per_minute=60))
        await limiter.admit(WHO, limits, 60)
        denial = await denied(limiter, limits, estimate=30)
        assert (denial.limit, denial.scope, denial.retry_after) == ("tokens_per_minute", "tenant", 30)
        never = await denied(limiter, limits, estimate=61)
        assert (never.limit, never.retry_after) == ("tokens_per_minute", None)
        clock.now += 30
        busy = await denied(limiter, limits, estimate=30)
        assert (busy.limit, busy.scope) == ("concurrent", "key")
        assert busy.retry_after is not None

    run(test)


@pytest.mark.parametrize(
    ("error", "words"),
    [(Denial("tokens_per_minute", "tenant", 12.4), "13 s"), (Denial("tokens_per_day", "key", None), "smaller")],
)
def test_a_refusal_says_which_limit(error: Denial, words: str) -> None:
    text = str(LimitError(error))
    assert error.limit in text
    assert error.scope in text
    assert words in text


def test_settling_corrects_the_estimate() -> None:
    async def test() -> None:
        clock = Clock()
        limiter, limits = LocalLimiter(monotonic=clock), per_key(tokens_per_minute=100, tokens_per_day=1000)
        lease = await limiter.admit(WHO, limits, 100)
        await denied(limiter, limits, 1)
        await lease.settle(30)
        lease = await limiter.admit(WHO, limits, 70)
        await denied(limiter, limits, 1)
        await lease.settle(170)  # 100 more than there are: in debt for a minute
        denial = await denied(limiter, limits, 1)
        assert denial.retry_after == pytest.approx(60.6)
        clock.now += 120.1
        lease = await limiter.admit(WHO, limits, 100)
        await lease.refund()
        assert (await limiter.admit(WHO, limits, 100)).room.tokens == 0

    run(test)


def test_a_refund_gives_the_request_back_and_settling_does_not() -> None:
    async def test() -> None:
        limiter, limits = LocalLimiter(monotonic=Clock()), per_key(requests_per_minute=1)
        for _ in range(5):
            await (await limiter.admit(WHO, limits, 0)).refund()
        await (await limiter.admit(WHO, limits, 0)).settle(0)
        await denied(limiter, limits)

    run(test)


def test_a_lease_ends_once_however_often_it_is_told() -> None:
    async def test() -> None:
        limiter, limits = LocalLimiter(monotonic=Clock()), per_key(tokens_per_minute=100, concurrent=2)
        other = await limiter.admit(WHO, limits, 0)
        async with await limiter.admit(WHO, limits, 50) as lease:
            await lease.settle(10)
            await lease.settle(0)
            await lease.refund()
        await limiter.admit(WHO, limits, 90)
        assert (await denied(limiter, limits)).limit == "concurrent"
        await other.settle(0)
        assert (await denied(limiter, limits, 1)).limit == "tokens_per_minute"

    run(test)


def test_a_lease_that_nobody_settles_is_charged_as_estimated() -> None:
    async def test() -> None:
        limiter, limits = LocalLimiter(monotonic=Clock()), per_key(tokens_per_minute=100, concurrent=1)
        with suppress(RuntimeError):
            async with await limiter.admit(WHO, limits, 60):
                assert (await denied(limiter, limits)).limit == "concurrent"
                raise RuntimeError
        await denied(limiter, limits, 41)
        await limiter.admit(WHO, limits, 40)

    run(test)


def test_a_limit_that_is_lifted_leaves_no_debt() -> None:
    async def test() -> None:
        limiter, limits = LocalLimiter(monotonic=Clock()), per_key(tokens_per_minute=100, tokens_per_day=100)
        await limiter.admit(WHO, limits, 100)
        lease = await limiter.admit(WHO, Limits(), 10**9)
        await lease.settle(10**9)
        await limiter.admit(WHO, limits, 100)
        await denied(limiter, limits, 1)

    run(test)


def test_no_limits_refuse_nothing() -> None:
    async def test() -> None:
        limiter = LocalLimiter(monotonic=Clock())
        for _ in range(100):
            assert (await limiter.admit(WHO, Limits(), 10**9)).room == Room()

    run(test)


@settings(max_examples=60)
@given(
    st.integers(1, 4), st.integers(1, 6), st.integers(1, 50), st.integers(1, 80),
    st.lists(st.tuples(st.sampled_from([WHO, SAME_TENANT, OTHER]), st.integers(0, 60), st.integers(0, 90),
                       st.sampled_from(["admit", "settle", "refund"])), max_size=60),
)  # fmt: skip
def test_places_and_quotas_are_exact(
    places: int, tenant_places: int, key_day: int, tenant_day: int, steps: list[Any]
) -> None:
    """The clock stands still: what runs, and what was charged, decide alone."""
    limits = Limits(
        key=Quota(concurrent=places, tokens_per_day=key_day),
        tenant=Quota(concurrent=tenant_places, tokens_per_day=tenant_day),
    )

    async def test() -> None:
        limiter = LocalLimiter(monotonic=Clock())
        open_: list[tuple[Identity, int, Lease]] = []
        charged: dict[str, int] = {}
        for who, estimate, used, what in steps:
            if what != "admit" and open_:
                owner, reserved, lease = open_.pop(0)
                await (lease.settle(used) if what == "settle" else lease.refund())
                for name in (owner.key_id, owner.tenant):
                    charged[name] += (used if what == "settle" else 0) - reserved
                continue
            mine = sum(owner.key_id == who.key_id for owner, _, _ in open_)
            ours = sum(owner.tenant == who.tenant for owner, _, _ in open_)
            fits = (
                mine < places
                and ours < tenant_places
                and charged.get(who.key_id, 0) + estimate <= key_day
                and charged.get(who.tenant, 0) + estimate <= tenant_day
            )
            try:
                open_.append((who, estimate, await limiter.admit(who, limits, estimate)))
                assert fits
                for name in (who.key_id, who.tenant):
                    charged[name] = charged.get(name, 0) + estimate
            except LimitError:
                assert not fits

    run(test)


def test_memory_is_bounded_and_forgets_what_owes_nothing_first() -> None:
    async def test() -> None:
        clock = Clock()
        limiter, limits = LocalLimiter(size=100, monotonic=clock), per_key(requests_per_minute=1, concurrent=1)
        running = await limiter.admit(WHO, limits, 0)
        clock.now += 61
        in_debt = Identity("debtor", "debtor", "x")
        await (await limiter.admit(in_debt, per_key(tokens_per_minute=10), 5)).settle(10_000)
        for number in range(500):
            clock.now += 61  # each is forgotten for free by the time its place is needed
            who = Identity(f"k{number}", f"t{number}", "x")
            await (await limiter.admit(who, limits, 0)).settle(0)
        assert len(limiter._accounts) <= 100
        assert (await denied(limiter, limits)).limit == "concurrent"
        denial = await denied(limiter, per_key(tokens_per_minute=10), 10, who=in_debt)
        assert denial.limit == "tokens_per_minute"
        await running.settle(0)
        await limiter.admit(WHO, limits, 0)

    run(test)


def test_accounts_with_running_requests_are_never_forgotten() -> None:
    async def test() -> None:
        limiter, limits = LocalLimiter(size=40, monotonic=Clock()), per_key(concurrent=1)
        everyone = [Identity(f"k{n}", f"t{n}", "x") for n in range(100)]
        leases = [await limiter.admit(who, limits, 0) for who in everyone]
        for who in everyone:
            await denied(limiter, limits, who=who)
        for lease in leases:
            await lease.settle(0)
        for n in range(100):
            await (await limiter.admit(Identity(f"n{n}", f"n{n}", "x"), limits, 0)).settle(0)
        assert len(limiter._accounts) <= 40

    run(test)


@pytest.mark.parametrize("bad", [{"requests_per_minute": 0}, {"tokens_per_day": -1}, {"tokens": 5}])
def test_quotas_that_make_no_sense_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        Quota(**bad)


# Shared limits without their Redis (with it: test_services.py)


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def shared(**changes: Any) -> SharedLimiter:
    values = {"url": f"redis://:{CANARY}@127.0.0.1:{closed_port()}/0", "retry_seconds": 30.0, **changes}
    return SharedLimiter(SharedSettings(**values))


def test_without_redis_requests_are_refused_by_default() -> None:
    async def test() -> None:
        limiter = shared()
        for _ in range(50):
            with pytest.raises(LimitsDownError) as caught:
                await limiter.admit(WHO, Limits(), 0)
            assert 0 < caught.value.retry_after < 60
        assert "Redis" in limiter.problem
        assert CANARY not in limiter.problem + str(caught.value) + repr(limiter.settings)
        await limiter.aclose()

    run(test)


def test_without_redis_requests_are_counted_here_if_so_set() -> None:
    async def test() -> None:
        limiter = shared(when_down="open")
        for _ in range(3):
            await limiter.admit(WHO, per_key(requests_per_minute=3), 0)
        with pytest.raises(LimitError):
            await limiter.admit(WHO, per_key(requests_per_minute=3), 0)
        await limiter.aclose()

    run(test)


def test_a_dead_redis_is_asked_by_nobody_who_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """One request finds out; then only the task in the background connects, again and again."""

    async def test() -> None:
        tries: list[None] = []
        connect = asyncio.open_connection

        async def counted(*where: Any, **how: Any) -> Any:
            tries.append(None)
            return await connect(*where, **how)

        monkeypatch.setattr(asyncio, "open_connection", counted)
        limiter = shared(when_down="open")
        for _ in range(300):
            await limiter.admit(WHO, Limits(), 0)
        assert len(tries) == 1
        await limiter.aclose()
        again = shared(when_down="open", retry_seconds=0.02, longest_retry_seconds=0.1)
        await again.admit(WHO, Limits(), 0)
        tries.clear()
        while len(tries) < 3:
            await asyncio.sleep(0.01)
        await again.aclose()

    run(test)


@pytest.mark.parametrize("url", [CANARY, f"http://u:{CANARY}@h", f"redis://:{CANARY}@h:port/0", ""])
def test_a_redis_url_that_cannot_be_used_is_not_quoted(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SharedLimiter(SharedSettings(url=url))
    assert CANARY not in str(caught.value)
