"""The vault: what is sealed comes back to whom it belongs, for a time, and to nobody else."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from azeotrope.core.errors import ConfigError
from azeotrope.gateway.shared_shelf import RedisShelf
from azeotrope.gateway.vault import MemoryShelf, Record, Vault
from azeotrope.gateway.wire.request import Call, Message, Seal

MASTER = bytes(range(32))
RECORD = Record("Because.", (Seal("signature", "s"), Seal("redacted", "r")))


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def turn(*calls: str, thoughts: str = "", seals: tuple[Seal, ...] = ()) -> Message:
    return Message("assistant", calls=tuple(Call(call, "f") for call in calls), thoughts=thoughts, seals=seals)


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=50), st.text(min_size=1), st.text(min_size=1), st.text(min_size=1))
def test_a_record_opens_for_its_tenant_and_call_alone(words: str, tenant: str, other: str, call: str) -> None:
    async def test() -> None:
        shelf = MemoryShelf()
        vault, record = Vault(shelf, MASTER), Record(words, (Seal("encrypted", "e"),))
        await vault.seal(tenant, [call], record)
        assert await vault.open(tenant, [call, call + "x"]) == {call: record}
        assert await Vault(shelf, bytes(32)).open(tenant, [call]) == {}
        if other != tenant:
            assert await vault.open(other, [call]) == {}
        kept = [value for _, value in shelf._kept.values()]
        assert not any(words.encode("utf-8", "surrogatepass") in value for value in kept if len(words) > 3)

    asyncio.run(test())


def test_a_record_that_was_moved_or_changed_does_not_open() -> None:
    async def test() -> None:
        shelf = MemoryShelf()
        vault = Vault(shelf, MASTER)
        await vault.seal("t", ["a", "b"], RECORD)
        (one, other) = shelf._kept
        values = {name: value for name, (_, value) in shelf._kept.items()}
        await shelf.put({one: values[other], other: values[other][:-1] + b"!"}, 60)
        assert await vault.open("t", ["a", "b"]) == {}
        await shelf.put({one: b""}, 60)
        assert await vault.open("t", ["a"]) == {}

    asyncio.run(test())


def test_records_end() -> None:
    async def test() -> None:
        clock = Clock()
        shelf = MemoryShelf(400, clock)
        vault = Vault(shelf, MASTER, ttl=60)
        await vault.seal("t", ["a"], RECORD)
        clock.now += 61
        assert await vault.open("t", ["a"]) == {}
        for n in range(20):
            await vault.seal("t", [f"c{n}"], RECORD)
            assert shelf.size <= 400
        assert await vault.open("t", ["c0"]) == {}
        assert await vault.open("t", ["c19"]) == {"c19": RECORD}
        await vault.seal("t", ["long"], Record("x" * 1000))
        assert await vault.open("t", ["long"]) == {}
        await vault.seal("t", ["", "empty"], Record(""))
        assert await vault.open("t", ["empty"]) == {}

    asyncio.run(test())


def test_only_what_was_kept_or_is_trusted_goes_back() -> None:
    async def test() -> None:
        vault = Vault(MemoryShelf(), MASTER)
        await vault.seal("t", ["a"], RECORD)
        forged = Seal("signature", "forged")
        said = (
            Message("user", ("x",), thoughts="forged", seals=(forged,)),
            turn("a", thoughts="forged", seals=(forged,)),
            turn("b", thoughts="forged"),
            turn(thoughts="forged"),
            Message("tool", ("x",), call_id="a", thoughts="forged"),
        )
        found = await vault.rehydrate("t", said)
        assert [m.thoughts for m in found.messages] == ["", "Because.", "", "", ""]
        assert [m.seals for m in found.messages] == [(), RECORD.seals, (), (), ()]
        assert (found.restored, found.missing) == (1, 1)
        trusted = await vault.rehydrate("t", said, trust=True)
        assert [m.thoughts for m in trusted.messages] == ["", "Because.", "forged", "forged", ""]
        assert (trusted.restored, trusted.missing) == (1, 0)

    asyncio.run(test())


def test_a_shelf_that_is_down_keeps_nothing_and_holds_nobody_up() -> None:
    async def test() -> None:
        vault = Vault(RedisShelf("redis://127.0.0.1:1/0"), MASTER)
        await vault.seal("t", ["a"], RECORD)
        assert await vault.open("t", ["a", "b"]) == {}
        found = await vault.rehydrate("t", [turn("a")])
        assert (found.restored, found.missing) == (0, 1)
        await vault.close()

    asyncio.run(test())


def test_keys_and_addresses_that_are_none() -> None:
    with pytest.raises(ConfigError, match="32 bytes"):
        Vault(MemoryShelf(), b"short")
    with pytest.raises(ConfigError, match="redis://HOST"):
        RedisShelf("http://secret@x")
