"""Keys checked at the speed of requests: from a bounded cache, and now and then from the database."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

from pydantic import Field

from azeotrope.core.methods import Settings
from azeotrope.gateway.ledger.database import DatabaseError
from azeotrope.gateway.ledger.identity import AuthDownError, AuthError, Identity
from azeotrope.gateway.ledger.key_store import KeyRecord, KeyStore, now_ms
from azeotrope.gateway.ledger.key_text import issued, key_digest, parse_key_text
from azeotrope.gateway.ledger.secret import Secret

_NOBODY: Final = "a" * 14, Secret("A" * 43)  # what a header without a key is checked as
_NO_DIGEST: Final = bytes(32)


class KeyRingSettings(Settings):
    """How long a key read from the database is believed."""

    cache_seconds: float = Field(
        default=10.0, gt=0, le=3600,
        description="a key revoked by another process stops working within this time (by this process: at once)",
    )  # fmt: skip
    cache_size: int = Field(default=10_000, ge=1, description="keys held in memory")
    stale_seconds: float = Field(
        default=0.0, ge=0,
        description="while the database is down, believe keys seen this long ago (0: refuse all: fail closed)",
    )  # fmt: skip
    used_seconds: float = Field(default=30.0, gt=0, description="how often the times of last use are written")
    retry_seconds: float = Field(default=1.0, ge=0, description="pause before a failed database is asked again")
    lookups: int = Field(default=4, ge=1, description="questions to the database at one time")


class _Cached(NamedTuple):
    record: KeyRecord | None
    read_at: float
    identity: Identity | None


class KeyRing:
    """Checks API keys. Made and used on one event loop; `aclose` writes the last times of use.

    `refused` counts refusals by cause, for metrics: the client is never told the cause.
    """

    def __init__(
        self, store: KeyStore, settings: KeyRingSettings | None = None,
        *, monotonic: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.settings = settings or KeyRingSettings()
        self.refused: Counter[str] = Counter()
        self._store, self._monotonic = store, monotonic
        self._cache: OrderedDict[str, _Cached] = OrderedDict()
        self._pending: dict[str, asyncio.Task[_Cached]] = {}
        self._lookups = asyncio.Semaphore(self.settings.lookups)
        self._ask_again_at = float("-inf")
        self._changed = object()  # another one whenever a key is changed by this process
        self._used: dict[str, int] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None
        store.listeners.append(self.forget)

    async def authenticate(self, header: str) -> Identity:
        """Return whose key `header` (``Bearer azk_...``, or the key alone) holds.

        Raises AuthError for whatever is not a working key, AuthDownError if the database cannot be asked.
        """
        parsed = parse_key_text(header)
        key_id, secret = parsed or _NOBODY
        known = _Cached(None, 0.0, None)
        if issued(self._store.pepper, key_id) and parsed:
            known = self._fresh(key_id) or await self._look_up(key_id)
        cause = self._judge(known.record, secret)
        if cause or known.identity is None:
            self.refused[cause if parsed else "form"] += 1
            raise AuthError
        self._note_use(key_id)
        return known.identity

    def forget(self, key_id: str) -> None:
        """Drop what is cached of a key. Any thread may call it."""
        self._changed = object()
        self._cache.pop(key_id, None)

    async def aclose(self) -> None:
        """Write the times of last use that are still to be written, and stop listening to the store."""
        if self.forget in self._store.listeners:
            self._store.listeners.remove(self.forget)
        if self._timer is not None:
            self._timer.cancel()
        if self._writing is not None:
            await asyncio.wait({self._writing})
        await self._write_used()

    def _judge(self, record: KeyRecord | None, secret: Secret) -> str:
        """Return why the key does not work, "" if it does. Takes the same path whatever is wrong."""
        now = now_ms()
        digest = key_digest(self._store.pepper, secret)
        new = record.digest.reveal() if record else _NO_DIGEST
        in_overlap = record is not None and record.old_until_ms is not None and now < record.old_until_ms
        old = record.old_digest.reveal() if record and record.old_digest and in_overlap else _NO_DIGEST
        matches = hmac.compare_digest(digest, new) | hmac.compare_digest(digest, old)
        if record is None:
            return "unknown"
        if not matches:
            return "secret"
        state = record.state(now)
        return "" if state == "active" else state

    def _fresh(self, key_id: str) -> _Cached | None:
        known = self._cache.get(key_id)
        if known is None or self._monotonic() - known.read_at > self.settings.cache_seconds:
            return None
        self._cache.move_to_end(key_id)
        return known

    async def _look_up(self, key_id: str) -> _Cached:
        """Ask the database; requests that wait for the same key share one question."""
        task = self._pending.get(key_id)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._load(key_id))
            self._pending[key_id] = task
            task.add_done_callback(lambda done: self._loaded(key_id, done))
        return await asyncio.shield(task)

    def _loaded(self, key_id: str, task: asyncio.Task[_Cached]) -> None:
        self._pending.pop(key_id, None)
        if not task.cancelled():
            task.exception()  # seen, also if every request that waited was cancelled

    async def _load(self, key_id: str) -> _Cached:
        async with self._lookups:
            while True:
                before, read_at = self._changed, self._monotonic()
                if read_at < self._ask_again_at:  # it was down a moment ago: no request waits to learn that again
                    return self._stale(key_id)
                try:
                    record = await asyncio.to_thread(self._store.find, key_id)
                except DatabaseError:
                    self._ask_again_at = self._monotonic() + self.settings.retry_seconds
                    return self._stale(key_id)
                known = self._keep(key_id, record, read_at)
                if before is self._changed:  # else a key was changed meanwhile, perhaps this one: read again
                    return known
                self._cache.pop(key_id, None)

    def _keep(self, key_id: str, record: KeyRecord | None, read_at: float) -> _Cached:
        if record is None:
            self._cache.pop(key_id, None)
            return _Cached(None, read_at, None)
        known = _Cached(record, read_at, Identity(record.id, record.tenant, record.tier))
        self._cache[key_id] = known
        self._cache.move_to_end(key_id)
        while len(self._cache) > self.settings.cache_size:
            self._cache.popitem(last=False)
        return known

    def _stale(self, key_id: str) -> _Cached:
        known = self._cache.get(key_id)
        if known is None or self._monotonic() - known.read_at > self.settings.stale_seconds:
            self.refused["database"] += 1
            raise AuthDownError
        return known

    def _note_use(self, key_id: str) -> None:
        if key_id in self._used or len(self._used) < self.settings.cache_size:
            self._used[key_id] = now_ms()
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self.settings.used_seconds, self._start_writing)

    def _start_writing(self) -> None:
        self._writing = asyncio.get_running_loop().create_task(self._write_used())
        self._timer = None

    async def _write_used(self) -> None:
        """Write the times of last use; if the database is down, they are lost: no key stops working for that."""
        used, self._used = self._used, {}
        if used:
            try:
                await asyncio.to_thread(self._store.mark_used, used.items())
            except DatabaseError:
                self.refused["used times not written"] += 1
