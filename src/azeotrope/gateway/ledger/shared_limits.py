"""Limits that several processes enforce as one, counted in Redis (or Valkey) by the server's clock.

One round trip admits a request. While Redis does not answer, requests are refused ("closed") or counted in this
process alone ("open"), and none of them waits for it: a task in the background asks, ever less often, whether it
is back. Places of the concurrency limit are leases that this process renews: if it dies, they end by themselves.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections import deque
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Literal, NamedTuple, Self

from pydantic import Field, SecretStr
from redis.exceptions import RedisError

from azeotrope.core.methods import Settings
from azeotrope.gateway.ledger.identity import Identity
from azeotrope.gateway.ledger.local_limits import LocalLimiter
from azeotrope.gateway.ledger.quota import (
    Denial,
    Lease,
    LimitError,
    LimitName,
    Limits,
    LimitsDownError,
    Quota,
    Room,
    Scope,
)
from azeotrope.gateway.ledger.redis_link import connect
from azeotrope.gateway.ledger.shared_script import ADMIT, RENEW, SETTLE

SCOPES: Final[tuple[Scope, ...]] = ("key", "tenant")
NAMES: Final[tuple[LimitName, ...]] = ("requests_per_minute", "tokens_per_minute", "concurrent", "tokens_per_day")
MICRO: Final = 1_000_000
OWED: Final = 10_000  # settlements kept while Redis is down
RENEWED_TOGETHER: Final = 200


class SharedSettings(Settings):
    """Where the shared counters are, and what happens without them."""

    url: SecretStr = Field(description="redis://HOST:PORT/DB, rediss://... or unix://...")
    when_down: Literal["closed", "open"] = Field(
        default="closed", description="refuse requests while Redis is down, or count in each process alone"
    )
    timeout_seconds: float = Field(default=1.0, gt=0, le=30, description="longest wait for an answer")
    lease_seconds: float = Field(
        default=30.0, ge=1, le=3600, description="how soon the places of a process that died are free again"
    )
    retry_seconds: float = Field(default=0.1, gt=0, description="first pause before Redis is asked again")
    longest_retry_seconds: float = Field(default=10.0, gt=0, description="longest such pause")
    connections: int = Field(default=16, ge=1)
    prefix: str = Field(default="azeotrope", pattern="^[a-z0-9_-]{1,32}$", description="of the names in Redis")


class _Settlement(NamedTuple):
    """What is to be told to Redis of one lease."""

    keys: tuple[str, ...]
    arguments: tuple[int | str, ...]


class SharedLease:
    """A place in the shared counters (see `Lease`)."""

    def __init__(
        self, limiter: SharedLimiter, keys: tuple[str, ...], limits: Limits, estimate: int, *, name: str = ""
    ) -> None:
        self.name = name or secrets.token_hex(12)
        self.keys = keys
        self.room = Room()
        self.windows = (-1, -1)  # known once it is admitted
        self._limiter, self._limits, self._estimate, self._open = limiter, limits, estimate, True

    async def settle(self, tokens: int) -> None:
        """The request ended having used `tokens`."""
        await self._end(max(0, tokens) - self._estimate, 0)

    async def refund(self) -> None:
        """Give everything back."""
        await self._end(-self._estimate, -1)

    def settlement(self, tokens: int, requests: int) -> _Settlement:
        """Return what Redis must be told when these were used beyond what was reserved."""
        arguments: list[int | str] = [self.name, tokens, requests]
        for quota, window in zip((self._limits.key, self._limits.tenant), self.windows, strict=True):
            arguments += [
                *map(_number, (quota.requests_per_minute, quota.tokens_per_minute, quota.tokens_per_day))
            ]
            arguments.append(window)
        return _Settlement(self.keys, tuple(arguments))

    def undone(self) -> _Settlement:
        """Return what Redis must be told when nobody learned whether it admitted the request."""
        return self.settlement(-self._estimate, -1)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end(0, 0)

    async def _end(self, tokens: int, requests: int) -> None:
        if self._open:
            self._open = False
            await self._limiter.end(self, self.settlement(tokens, requests))


class SharedLimiter:
    """Counts in Redis (see `Limiter`). Made and used on one event loop; `aclose` it.

    `problem` says why Redis cannot be used just now, "" if it can.
    """

    def __init__(self, settings: SharedSettings, local: LocalLimiter | None = None) -> None:
        self.settings = settings
        self.problem = ""
        self._local = local or LocalLimiter()
        self._redis = connect(
            settings.url.get_secret_value(), timeout=settings.timeout_seconds, connections=settings.connections
        )
        self._admit = self._redis.register_script(ADMIT)
        self._settle = self._redis.register_script(SETTLE)
        self._renew = self._redis.register_script(RENEW)
        self._live: dict[str, SharedLease] = {}
        self._owed: deque[_Settlement] = deque(maxlen=OWED)
        self._tasks: set[asyncio.Task[None]] = set()
        self._next_try = 0.0
        self._renewing = False

    async def admit(self, identity: Identity, limits: Limits, estimate: int) -> Lease:
        """Reserve, in both scopes or in none. Raises LimitError, LimitsDownError (only when set to "closed")."""
        estimate = max(0, estimate)
        if self.problem:
            return await self._admit_alone(identity, limits, estimate)
        lease = SharedLease(self, self._names(identity), limits, estimate)
        arguments: list[int | str] = [lease.name, estimate, int(self.settings.lease_seconds * MICRO)]
        for quota in (limits.key, limits.tenant):
            arguments += _numbers(quota)
        try:
            async with asyncio.timeout(self.settings.timeout_seconds):
                answer = await self._admit(lease.keys, arguments)
        except asyncio.CancelledError:
            self._background(self._tell(lease.undone()))
            raise
        except (RedisError, OSError) as error:
            self._owed.append(lease.undone())
            self._fail(error)
            return await self._admit_alone(identity, limits, estimate)
        if not answer[0]:
            wait = None if answer[3] < 0 else answer[3] / MICRO
            raise LimitError(Denial(NAMES[answer[2]], SCOPES[answer[1]], wait))
        lease.room = Room(*(None if left < 0 else left for left in answer[1:3]))
        lease.windows = (answer[3], answer[4])
        self._live[lease.name] = lease
        if not self._renewing:
            self._renewing = True
            self._background(self._renew_all())
        return lease

    async def end(self, lease: SharedLease, settlement: _Settlement) -> None:
        """Tell Redis how a lease ended; if it is down, later. Nothing is lost if the request is canceled."""
        self._live.pop(lease.name, None)
        await asyncio.shield(self._background(self._tell(settlement)))

    async def aclose(self) -> None:
        """Let what is being told to Redis be told, then close. Older debts of an outage are dropped."""
        self._live.clear()
        settling = [task for task in self._tasks if task.get_name() == "settle"]
        if settling:
            await asyncio.wait(settling, timeout=2 * self.settings.timeout_seconds)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(RedisError, OSError):
            await self._redis.aclose()

    async def _admit_alone(self, identity: Identity, limits: Limits, estimate: int) -> Lease:
        if self.settings.when_down == "open":
            return await self._local.admit(identity, limits, estimate)
        raise LimitsDownError(max(0.0, self._next_try - time.monotonic()) + self.settings.timeout_seconds)

    async def _tell(self, settlement: _Settlement) -> None:
        if self.problem:
            self._owed.append(settlement)
            return
        try:
            async with asyncio.timeout(self.settings.timeout_seconds):
                await self._settle(settlement.keys, settlement.arguments)
        except (RedisError, OSError) as error:
            self._owed.append(settlement)
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """Stop asking Redis; a task in the background finds out when it is back."""
        if not self.problem:
            self.problem = f"Redis does not answer ({type(error).__name__})."
            self._next_try = time.monotonic() + self.settings.retry_seconds
            self._background(self._wait_for_return())

    async def _wait_for_return(self) -> None:
        pause = self.settings.retry_seconds
        while True:
            self._next_try = time.monotonic() + pause
            await asyncio.sleep(pause)
            pause = min(2 * pause, self.settings.longest_retry_seconds)
            try:
                async with asyncio.timeout(2 * self.settings.timeout_seconds):
                    await self._redis.ping()
                await self._pay()
            except (RedisError, OSError):
                continue
            self.problem = ""
            return

    async def _pay(self) -> None:
        """Tell Redis what ended while it was down. It counts once, and not at all if the lease ended before."""
        while self._owed:
            settlement = self._owed.popleft()
            try:
                async with asyncio.timeout(self.settings.timeout_seconds):
                    await self._settle(settlement.keys, settlement.arguments)
            except BaseException:  # also where the task is canceled: nobody else remembers it
                self._owed.appendleft(settlement)
                raise

    async def _renew_all(self) -> None:
        """Renew the leases of running requests three times within the time they last."""
        while True:
            await asyncio.sleep(self.settings.lease_seconds / 3)
            leases = [] if self.problem else list(self._live.values())
            try:
                for start in range(0, len(leases), RENEWED_TOGETHER):
                    async with asyncio.timeout(4 * self.settings.timeout_seconds):
                        await self._renew_some(leases[start : start + RENEWED_TOGETHER])
            except (RedisError, OSError) as error:
                self._fail(error)

    async def _renew_some(self, leases: list[SharedLease]) -> None:
        length = int(self.settings.lease_seconds * MICRO)
        async with self._redis.pipeline(transaction=False) as pipe:
            for lease in leases:
                if lease.name in self._live:
                    await self._renew([lease.keys[1], lease.keys[3]], [lease.name, length], client=pipe)
            await pipe.execute()

    def _background(self, work: Any) -> asyncio.Task[None]:
        name = "settle" if work.__name__ == "_tell" else work.__name__
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _names(self, identity: Identity) -> tuple[str, ...]:
        """Return the names of the four counters; the braces keep a tenant's on one node of a cluster."""
        tenant = hashlib.sha256(identity.tenant.encode()).hexdigest()[:24]
        key = hashlib.sha256(identity.key_id.encode()).hexdigest()[:24]
        base = f"{self.settings.prefix}:{{{tenant}}}"
        return f"{base}:k:{key}:use", f"{base}:k:{key}:leases", f"{base}:use", f"{base}:leases"


def _numbers(quota: Quota) -> list[int | str]:
    named = (quota.requests_per_minute, quota.tokens_per_minute, quota.concurrent, quota.tokens_per_day)
    return [_number(limit) for limit in named]


def _number(limit: int | None) -> int:
    return -1 if limit is None else limit
