"""The reasoning vault: reasoning that a client may not see, kept for the turn on which the upstream wants it back.

Some upstreams refuse a tool's result unless the reasoning that led to the call comes with it, word for word. What
a stance hides or rewrites is therefore sealed here under the ids of the calls, and put back when the client
returns their results. A record can be opened for the tenant that it was made for, for a limited time, and only
here; reasoning that a client writes itself never takes its place.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Protocol

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from azeotrope.core.errors import ConfigError
from azeotrope.gateway.wire.request import Message, Seal

HOUR = 3600.0
NONCE = 12


class Record(msgspec.Struct, frozen=True):
    """What an upstream said before a call: its reasoning, and opaque pieces (signatures, encrypted content)."""

    thoughts: str
    seals: tuple[Seal, ...] = ()


class Shelf(Protocol):
    """Where sealed records lie: bytes by name, forgotten after `ttl` seconds or earlier if space is short."""

    async def put(self, records: Mapping[bytes, bytes], ttl: float) -> None:
        """Keep some values."""
        ...

    async def get(self, names: Sequence[bytes]) -> list[bytes | None]:
        """The values that are still there."""
        ...

    async def close(self) -> None:
        """Give back what is held."""
        ...


class MemoryShelf:
    """A shelf in this process. The oldest records go when there are more than `most` bytes."""

    def __init__(self, most: int = 64 << 20, clock: Callable[[], float] = monotonic) -> None:
        self._most, self._clock = most, clock
        self._kept: OrderedDict[bytes, tuple[float, bytes]] = OrderedDict()
        self.size = 0

    async def put(self, records: Mapping[bytes, bytes], ttl: float) -> None:
        """See `Shelf.put`."""
        for name, value in records.items():
            self._drop(name)
            if len(value) > self._most:
                continue
            self._kept[name] = (self._clock() + ttl, value)
            self.size += len(value)
            while self.size > self._most:
                self._drop(next(iter(self._kept)))

    async def get(self, names: Sequence[bytes]) -> list[bytes | None]:
        """See `Shelf.get`."""
        return [self._get(name) for name in names]

    async def close(self) -> None:
        """See `Shelf.close`."""

    def _get(self, name: bytes) -> bytes | None:
        found = self._kept.get(name)
        if found is None:
            return None
        if found[0] < self._clock():
            self._drop(name)
            return None
        return found[1]

    def _drop(self, name: bytes) -> None:
        if (old := self._kept.pop(name, None)) is not None:
            self.size -= len(old[1])


@dataclass(frozen=True, slots=True)
class Rehydrated:
    """Messages with reasoning put back, how many had some, and how many calls nothing was found for."""

    messages: tuple[Message, ...]
    restored: int = 0
    missing: int = 0


class Vault:
    """Seals and opens records. `master` is 32 random bytes that all gateway processes share."""

    def __init__(self, shelf: Shelf, master: bytes | None = None, *, ttl: float = 6 * HOUR) -> None:
        if master is not None and len(master) < 32:
            raise ConfigError("The vault's key must have at least 32 bytes; make one with `openssl rand`.")
        self._shelf, self._ttl = shelf, ttl
        self._master = master or os.urandom(32)
        self._keys: OrderedDict[str, tuple[AESGCM, bytes]] = OrderedDict()

    async def seal(self, tenant: str, calls: Iterable[str], record: Record) -> None:
        """Keep `record` under each of the ids. An empty record is not kept."""
        ids = [call for call in calls if call]
        if not ids or not (record.thoughts or record.seals):
            return
        cipher, _ = self._tenant(tenant)
        plain = msgspec.json.encode(record)
        sealed = {}
        for name in (self._name(tenant, call) for call in ids):
            nonce = os.urandom(NONCE)
            sealed[name] = nonce + cipher.encrypt(nonce, plain, name)
        await self._shelf.put(sealed, self._ttl)

    async def open(self, tenant: str, calls: Sequence[str]) -> dict[str, Record]:
        """The records of calls: of those that there are, and that this tenant's key opens."""
        if not calls:
            return {}
        names = [self._name(tenant, call) for call in calls]
        found = {}
        for call, name, sealed in zip(calls, names, await self._shelf.get(names), strict=True):
            with suppress(InvalidTag, ValueError, msgspec.DecodeError):
                if sealed is not None:
                    plain = self._tenant(tenant)[0].decrypt(sealed[:NONCE], sealed[NONCE:], name)
                    found[call] = msgspec.json.decode(plain, type=Record)
        return found

    async def close(self) -> None:
        """Give back what the shelf holds."""
        await self._shelf.close()

    async def rehydrate(self, tenant: str, messages: Sequence[Message], *, trust: bool = False) -> Rehydrated:
        """Put back what was kept before the calls of assistants' messages.

        What clients wrote as reasoning is dropped, unless `trust` (stances under which reasoning leaves unchanged:
        then clients return what they were given, and it is used where nothing is kept).
        """
        found, restored, missing = [], 0, 0
        records = await self.open(tenant, [call.id for message in messages for call in message.calls])
        for message in messages:
            if message.role != "assistant":
                found.append(replace_thoughts(message, "", ()))
                continue
            record = next((records[call.id] for call in message.calls if call.id in records), None)
            if record is not None:
                restored += 1
                message = replace_thoughts(message, record.thoughts, record.seals)
            elif message.calls:
                missing += not (trust and (message.thoughts or message.seals))
            if record is None and not trust:
                message = replace_thoughts(message, "", ())
            found.append(message)
        return Rehydrated(tuple(found), restored, missing)

    def _name(self, tenant: str, call: str) -> bytes:
        return hmac.new(self._tenant(tenant)[1], call.encode("utf-8", "surrogatepass"), hashlib.sha256).digest()

    def _tenant(self, tenant: str) -> tuple[AESGCM, bytes]:
        """The cipher and the naming key of a tenant."""
        if (found := self._keys.get(tenant)) is None:
            info = b"azeotrope vault\0" + tenant.encode("utf-8", "surrogatepass")
            material = HKDF(algorithm=SHA256(), length=64, salt=None, info=info).derive(self._master)
            found = self._keys[tenant] = (AESGCM(material[:32]), material[32:])
            while len(self._keys) > 4096:
                self._keys.popitem(last=False)
        return found


def replace_thoughts(message: Message, thoughts: str, seals: tuple[Seal, ...]) -> Message:
    """The message with other reasoning."""
    return msgspec.structs.replace(message, thoughts=thoughts, seals=seals)
