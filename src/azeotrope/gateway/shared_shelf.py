"""The vault's shelf in Redis, for several processes. While Redis is down nothing is kept and nothing found.

A reply is not held up for it: the turn that would need the record is then answered as `missing_reasoning` says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from redis.exceptions import RedisError

from azeotrope.gateway.ledger.redis_link import connect
from azeotrope.gateway.logs import log

TIMEOUT = 1.0  # seconds
CONNECTIONS = 16


class RedisShelf:
    """Records by name (see `Shelf`); names and values mean nothing without the vault's key. Raises ConfigError."""

    def __init__(
        self, url: str, *, prefix: str = "azeotrope", most: int = 1 << 20, timeout: float = TIMEOUT
    ) -> None:
        self._redis = connect(url, timeout=timeout, connections=CONNECTIONS)
        self._prefix, self._most = f"{prefix}:vault:".encode(), most

    async def put(self, records: Mapping[bytes, bytes], ttl: float, owner: str = "") -> None:
        """Keep some values; one of more than `most` bytes is not kept."""
        try:
            async with self._redis.pipeline(transaction=False) as pipe:
                for name, value in records.items():
                    if len(value) <= self._most:
                        pipe.set(self._prefix + name, value, px=max(1, int(ttl * 1000)))
                await pipe.execute()
        except (RedisError, OSError, TimeoutError):
            log.error("Reasoning could not be kept for the next turn: Redis does not answer.")

    async def get(self, names: Sequence[bytes]) -> list[bytes | None]:
        """The values that are there."""
        try:
            found = await self._redis.mget([self._prefix + name for name in names])
        except (RedisError, OSError, TimeoutError):
            log.error("Reasoning of an earlier turn could not be read: Redis does not answer.")
            return [None] * len(names)
        return [value if isinstance(value, bytes) else None for value in found]

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()
