"""Limits counted inside this process: no wait and no lock.

They hold for one process and are forgotten when it ends. Where several processes serve one tenant, or a quota must
outlive a restart, use `shared_limits`.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from azeotrope.gateway.ledger.bucket import Bucket, Day
from azeotrope.gateway.ledger.identity import Identity
from azeotrope.gateway.ledger.quota import Denial, LimitError, LimitName, Limits, Quota, Room, Scope

BUSY_RETRY: Final = 1.0  # nobody knows when a running request ends
SCANNED: Final = 16  # how many counters are looked at to find one that may be forgotten


class _Account:
    """The counters of one key or tenant."""

    __slots__ = ("active", "day", "requests", "tokens")

    def __init__(self) -> None:
        self.requests: Bucket | None = None
        self.tokens: Bucket | None = None
        self.day: Day | None = None
        self.active = 0

    def ready(self, quota: Quota, now: float) -> None:
        """Bring the counters that `quota` limits up to date, and drop the others: no debt from unlimited times."""
        self.requests = _refilled(self.requests, quota.requests_per_minute, now)
        self.tokens = _refilled(self.tokens, quota.tokens_per_minute, now)
        if quota.tokens_per_day is None:
            self.day = None
        elif self.day is None:
            self.day = Day(now)
        else:
            self.day.turn(now)

    def refusal(self, quota: Quota, estimate: int, scope: Scope, now: float) -> Denial | None:
        """Return the denial with the longest wait, None if nothing refuses."""
        waits: list[tuple[LimitName, float | None]] = []
        if quota.concurrent is not None and self.active >= quota.concurrent:
            waits.append(("concurrent", BUSY_RETRY))
        if quota.requests_per_minute is not None and self.requests:
            waits.append(("requests_per_minute", self.requests.wait(1)))
        if quota.tokens_per_minute is not None and self.tokens:
            waits.append(("tokens_per_minute", self.tokens.wait(estimate)))
        if quota.tokens_per_day is not None and self.day:
            waits.append(("tokens_per_day", self.day.wait(estimate, quota.tokens_per_day, now)))
        worst: Denial | None = None
        for limit, wait in waits:
            if wait is None:
                return Denial(limit, scope, None)
            if wait > 0 and (worst is None or wait > (worst.retry_after or 0)):
                worst = Denial(limit, scope, wait)
        return worst

    def take(self, requests: int, tokens: float, window: float) -> None:
        """Count, in every counter there is."""
        if self.requests:
            self.requests.take(requests)
        if self.tokens:
            self.tokens.take(tokens)
        if self.day:
            self.day.take(tokens, window)

    def idle(self, now: float) -> bool:
        """Whether forgetting the account gives nobody anything."""
        full = all(bucket is None or bucket.full(now) for bucket in (self.requests, self.tokens))
        return not self.active and full and (self.day is None or self.day.over(now))


class LocalLease:
    """A place in this process's counters (see `Lease`)."""

    __slots__ = ("_accounts", "_estimate", "_open", "_windows", "room")

    def __init__(self, accounts: tuple[_Account, ...], estimate: int, room: Room) -> None:
        self.room = room
        self._accounts, self._estimate, self._open = accounts, estimate, True
        self._windows = tuple(account.day.start if account.day else 0.0 for account in accounts)

    async def settle(self, tokens: int) -> None:
        """The request ended having used `tokens`."""
        self._end(0, max(0, tokens) - self._estimate)

    async def refund(self) -> None:
        """Give everything back."""
        self._end(-1, -self._estimate)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(0, 0)

    def _end(self, requests: int, tokens: int) -> None:
        if not self._open:
            return
        self._open = False
        for account, window in zip(self._accounts, self._windows, strict=True):
            account.active -= 1
            account.take(requests, tokens, window)


class LocalLimiter:
    """Counts in this process (see `Limiter`). For one event loop, or one thread.

    At most `size` accounts are kept: the ones longest unused go first, and among the oldest few those that are
    owed nothing (no running request, no debt, no use of today's quota).
    """

    def __init__(self, size: int = 100_000, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.size = max(size, 2 * SCANNED)  # the two accounts of one request must not push each other out
        self._monotonic = monotonic
        self._accounts: OrderedDict[tuple[Scope, str], _Account] = OrderedDict()

    async def admit(self, identity: Identity, limits: Limits, estimate: int) -> LocalLease:
        """Reserve, in both scopes or in none. Raises LimitError."""
        estimate = max(0, estimate)
        now = self._monotonic()
        key, tenant = self._account(("key", identity.key_id), now), self._account(("tenant", identity.tenant), now)
        key.ready(limits.key, now)
        tenant.ready(limits.tenant, now)
        denial = worse(
            key.refusal(limits.key, estimate, "key", now), tenant.refusal(limits.tenant, estimate, "tenant", now)
        )
        if denial is not None:
            raise LimitError(denial)
        for account in (key, tenant):
            account.active += 1
            account.take(1, estimate, account.day.start if account.day else 0.0)
        room = Room(
            tighter(_left(limits.key.requests_per_minute, key.requests),
                    _left(limits.tenant.requests_per_minute, tenant.requests)),
            tighter(_left(limits.key.tokens_per_minute, key.tokens),
                    _left(limits.tenant.tokens_per_minute, tenant.tokens)),
        )  # fmt: skip
        return LocalLease((key, tenant), estimate, room)

    async def aclose(self) -> None:
        """Nothing runs in the background."""

    def _account(self, name: tuple[Scope, str], now: float) -> _Account:
        account = self._accounts.get(name)
        if account is None:
            while len(self._accounts) >= self.size and self._forget_one(now):
                pass
            account = self._accounts[name] = _Account()
        else:
            self._accounts.move_to_end(name)
        return account

    def _forget_one(self, now: float) -> bool:
        """Forget one account; False if all that were looked at have running requests."""
        oldest = [name for _, name in zip(range(SCANNED), self._accounts, strict=False)]
        free = [name for name in oldest if not self._accounts[name].active]
        chosen = next((name for name in free if self._accounts[name].idle(now)), free[0] if free else None)
        if chosen is not None:
            del self._accounts[chosen]
        return chosen is not None


def _refilled(bucket: Bucket | None, size: int | None, now: float) -> Bucket | None:
    if size is None:
        return None
    if bucket is None:
        return Bucket(size, now)
    bucket.refill(size, now)
    return bucket


def worse(one: Denial | None, other: Denial | None) -> Denial | None:
    """Return the denial that lasts longer."""
    if one is None or other is None:
        return one or other
    if one.retry_after is None or (other.retry_after is not None and one.retry_after >= other.retry_after):
        return one
    return other


def tighter(one: int | None, other: int | None) -> int | None:
    """Return the smaller of two amounts that are left, None being no limit."""
    if one is None or other is None:
        return one if other is None else other
    return min(one, other)


def _left(limit: int | None, bucket: Bucket | None) -> int | None:
    return None if limit is None or bucket is None else max(0, int(bucket.level))
