"""The reasoning vault: reasoning that a client may not see, kept for the turn on which the upstream wants it back.

Some upstreams refuse a tool's result unless the reasoning that led to the call comes with it, word for word. What
a stance hides or rewrites is therefore sealed here, and put back when the client returns the calls' results. A
record can be opened for the tenant that it was made for, for a limited time, only here, and only for the same call
(its id, function and arguments) after the same words of the user: ids alone are not unique on every server, and a
call could be put under another question. What is asked after it is not bound: no vault can tell whether a later
turn asks the model to repeat what it has before it. Reasoning that a client writes never takes its place.
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
from typing import Any, Protocol

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from azeotrope.core.errors import ConfigError
from azeotrope.gateway.wire.request import INVALID, Call, Message, Seal

HOUR = 3600.0
NONCE = 12


class Record(msgspec.Struct, frozen=True):
    """What an upstream said before a call: its reasoning, and opaque pieces (signatures, encrypted content)."""

    thoughts: str
    seals: tuple[Seal, ...] = ()


class Shelf(Protocol):
    """Where sealed records lie: bytes by name, forgotten after `ttl` seconds or earlier if space is short."""

    async def put(self, records: Mapping[bytes, bytes], ttl: float, owner: str = "") -> None:
        """Keep some values of a tenant."""
        ...

    async def get(self, names: Sequence[bytes]) -> list[bytes | None]:
        """The values that are still there."""
        ...

    async def close(self) -> None:
        """Give back what is held."""
        ...


class MemoryShelf:
    """A shelf in this process. Of more than `most` bytes, the oldest records go of the tenant that has most."""

    def __init__(self, most: int = 64 << 20, clock: Callable[[], float] = monotonic) -> None:
        self._most, self._clock = most, clock
        self._kept: dict[bytes, tuple[float, bytes, str]] = {}
        self._owned: dict[str, OrderedDict[bytes, None]] = {}
        self._sizes: dict[str, int] = {}
        self.size = 0

    async def put(self, records: Mapping[bytes, bytes], ttl: float, owner: str = "") -> None:
        """See `Shelf.put`."""
        for name, value in records.items():
            self._drop(name)
            if len(value) > self._most:
                continue
            self._kept[name] = (self._clock() + ttl, value, owner)
            self._owned.setdefault(owner, OrderedDict())[name] = None
            self._sizes[owner] = self._sizes.get(owner, 0) + len(value)
            self.size += len(value)
            while self.size > self._most:
                largest = max(self._sizes, key=self._sizes.__getitem__)
                self._drop(next(iter(self._owned[largest])))

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
        if (old := self._kept.pop(name, None)) is None:
            return
        _, value, owner = old
        self.size -= len(value)
        self._sizes[owner] -= len(value)
        del self._owned[owner][name]
        if not self._owned[owner]:
            del self._owned[owner], self._sizes[owner]


@dataclass(frozen=True, slots=True)
class Rehydrated:
    """Messages with reasoning put back: how many got some, of what size as JSON, and how many got none."""

    messages: tuple[Message, ...]
    restored: int = 0
    missing: int = 0
    size: int = 0


class Vault:
    """Seals and opens records. `master` is 32 random bytes that all gateway processes share."""

    def __init__(self, shelf: Shelf, master: bytes | None = None, *, ttl: float = 6 * HOUR) -> None:
        if master is not None and len(master) < 32:
            raise ConfigError("The vault's key must have at least 32 bytes; make one with `openssl rand`.")
        self._shelf, self._ttl = shelf, ttl
        self._master = master or os.urandom(32)
        self._keys: OrderedDict[str, tuple[AESGCM, bytes]] = OrderedDict()

    async def seal(self, tenant: str, calls: Iterable[Call], record: Record, asked: str = "") -> None:
        """Keep `record` for each of the calls, which were made when the user had `asked` something last."""
        names = [self._name(tenant, call, asked) for call in calls if call.id]
        if not names:
            return
        cipher, _ = self._tenant(tenant)
        plain = msgspec.json.encode(record)
        sealed = {}
        for name in names:
            nonce = os.urandom(NONCE)
            sealed[name] = nonce + cipher.encrypt(nonce, plain, name)
        await self._shelf.put(sealed, self._ttl, tenant)

    async def open(self, tenant: str, calls: Sequence[tuple[Call, str]]) -> list[Record | None]:
        """The records of calls, each with what the user had asked last, where there is one that opens."""
        if not calls:
            return []
        names = [self._name(tenant, call, asked) for call, asked in calls]
        found: list[Record | None] = []
        for name, sealed in zip(names, await self._shelf.get(names), strict=True):
            found.append(None)
            with suppress(InvalidTag, ValueError, msgspec.DecodeError):
                if sealed is not None:
                    plain = self._tenant(tenant)[0].decrypt(sealed[:NONCE], sealed[NONCE:], name)
                    found[-1] = msgspec.json.decode(plain, type=Record)
        return found

    async def close(self) -> None:
        """Give back what the shelf holds."""
        await self._shelf.close()

    async def rehydrate(self, tenant: str, messages: Sequence[Message], *, trust: bool = False) -> Rehydrated:
        """Put back what was kept before the calls of assistants' messages.

        What clients wrote as reasoning is dropped. With `trust` (stances under which reasoning leaves unchanged,
        so that clients return what they were given) it stays where nothing is kept and its provider's seal is with
        it, by which the provider will know it.
        """
        asked, calls = "", []
        for message in messages:
            asked = words(message) if message.role == "user" else asked
            calls += [(call, asked) for call in message.calls]
        records = iter(await self.open(tenant, calls))
        found, restored, missing, size = [], 0, 0, 0
        for message in messages:
            mine = [next(records) for _ in message.calls]
            record = next((one for one in mine if one is not None), None)
            if record is not None:
                restored += 1
                size += len(msgspec.json.encode(record.thoughts))
                message = replace_thoughts(message, record.thoughts, record.seals)
            elif not (trust and message.role == "assistant" and message.seals):
                missing += bool(message.calls)
                message = replace_thoughts(message, "", ())
            found.append(message)
        return Rehydrated(tuple(found), restored, missing, size)

    def _name(self, tenant: str, call: Call, asked: str) -> bytes:
        told = msgspec.json.encode((call.id, call.name, _plain(call.arguments), asked))
        return hmac.new(self._tenant(tenant)[1], told, hashlib.sha256).digest()

    def _tenant(self, tenant: str) -> tuple[AESGCM, bytes]:
        """The cipher and the naming key of a tenant."""
        if (found := self._keys.get(tenant)) is None:
            info = b"azeotrope vault\0" + tenant.encode("utf-8", "surrogatepass")
            material = HKDF(algorithm=SHA256(), length=64, salt=None, info=info).derive(self._master)
            found = self._keys[tenant] = (AESGCM(material[:32]), material[32:])
            while len(self._keys) > 4096:
                self._keys.popitem(last=False)
        return found


def words(message: Message) -> str:
    """The text of a message."""
    return "".join(part for part in message.parts if isinstance(part, str))


def _plain(arguments: str) -> str:
    """Arguments as they are whoever wrote their JSON: clients that parse them write them anew.

    Numbers are what JavaScript makes of them, where there is no other kind than float64; and arguments that cannot
    be read are the text under which Anthropic's clients return them.
    """
    try:
        found = msgspec.json.decode(arguments)
        if isinstance(found, dict) and list(found) == [INVALID]:
            return str(found[INVALID])
        return msgspec.json.encode(_numbers(found), order="sorted").decode()
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError, OverflowError):
        return arguments


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _numbers(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_numbers(one) for one in value]
    return float(value) + 0.0 if isinstance(value, int | float) and not isinstance(value, bool) else value


def replace_thoughts(message: Message, thoughts: str, seals: tuple[Seal, ...]) -> Message:
    """The message with other reasoning."""
    return msgspec.structs.replace(message, thoughts=thoughts, seals=seals)
