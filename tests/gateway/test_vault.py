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


def at(*ids: str, asked: str = "") -> list[tuple[Call, str]]:
    return [(Call(one, "f"), asked) for one in ids]


def called(*ids: str) -> list[Call]:
    return [Call(one, "f") for one in ids]


def turn(*calls: str, thoughts: str = "", seals: tuple[Seal, ...] = ()) -> Message:
    return Message("assistant", calls=tuple(Call(call, "f") for call in calls), thoughts=thoughts, seals=seals)


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=50), st.text(min_size=1), st.text(min_size=1), st.text(min_size=1))
def test_a_record_opens_for_its_tenant_and_call_alone(words: str, tenant: str, other: str, call: str) -> None:
    async def test() -> None:
        shelf = MemoryShelf()
        vault, record = Vault(shelf, MASTER), Record(words, (Seal("encrypted", "e"),))
        await vault.seal(tenant, called(call), record)
        assert await vault.open(tenant, at(call, call + "x")) == [record, None]
        assert await Vault(shelf, bytes(32)).open(tenant, at(call)) == [None]
        if other != tenant:
            assert await vault.open(other, at(call)) == [None]
        kept = [value for _, value, _ in shelf._kept.values()]
        assert not any(words.encode("utf-8", "surrogatepass") in value for value in kept if len(words) > 3)

    asyncio.run(test())


def test_a_record_that_was_moved_or_changed_does_not_open() -> None:
    async def test() -> None:
        shelf = MemoryShelf()
        vault = Vault(shelf, MASTER)
        await vault.seal("t", called("a", "b"), RECORD)
        (one, other) = shelf._kept
        values = {name: value for name, (_, value, _) in shelf._kept.items()}
        await shelf.put({one: values[other], other: values[other][:-1] + b"!"}, 60)
        assert await vault.open("t", at("a", "b")) == [None, None]
        await shelf.put({one: b""}, 60)
        assert await vault.open("t", at("a")) == [None]

    asyncio.run(test())


def test_records_end() -> None:
    async def test() -> None:
        clock = Clock()
        shelf = MemoryShelf(400, clock)
        vault = Vault(shelf, MASTER, ttl=60)
        await vault.seal("t", called("a"), RECORD)
        clock.now += 61
        assert await vault.open("t", at("a")) == [None]
        for n in range(20):
            await vault.seal("t", called(f"c{n}"), RECORD)
            assert shelf.size <= 400
        assert await vault.open("t", at("c0", "c19")) == [None, RECORD]
        await vault.seal("t", called("long"), Record("x" * 1000))
        assert await vault.open("t", at("long")) == [None]
        await vault.seal("t", called("", "empty"), Record(""))
        assert await vault.open("t", at("", "empty")) == [None, Record("")]

    asyncio.run(test())


def test_only_what_was_kept_or_is_trusted_goes_back() -> None:
    async def test() -> None:
        vault = Vault(MemoryShelf(), MASTER)
        await vault.seal("t", called("a"), RECORD, "x")
        forged = Seal("signature", "forged")
        said = (
            Message("user", ("x",), thoughts="forged", seals=(forged,)),
            turn("a", thoughts="forged", seals=(forged,)),
            turn("b", thoughts="forged"),
            turn("c", thoughts="sealed", seals=(forged,)),
            turn(thoughts="forged"),
            Message("tool", ("x",), call_id="a", thoughts="forged"),
        )
        found = await vault.rehydrate("t", said)
        assert [m.thoughts for m in found.messages] == ["", "Because.", "", "", "", ""]
        assert [m.seals for m in found.messages] == [(), RECORD.seals, (), (), (), ()]
        assert (found.restored, found.missing, found.size) == (1, 2, len('"Because."'))
        trusted = await vault.rehydrate("t", said, trust=True)
        assert [m.thoughts for m in trusted.messages] == ["", "Because.", "", "sealed", "", ""]
        assert (trusted.restored, trusted.missing) == (1, 1), "what its provider can check, and nothing else"

    asyncio.run(test())


def test_a_shelf_that_is_down_keeps_nothing_and_holds_nobody_up() -> None:
    async def test() -> None:
        vault = Vault(RedisShelf("redis://127.0.0.1:1/0"), MASTER)
        await vault.seal("t", called("a"), RECORD)
        assert await vault.open("t", at("a", "b")) == [None, None]
        found = await vault.rehydrate("t", [turn("a")])
        assert (found.restored, found.missing) == (0, 1)
        await vault.close()

    asyncio.run(test())


def test_keys_and_addresses_that_are_none() -> None:
    with pytest.raises(ConfigError, match="32 bytes"):
        Vault(MemoryShelf(), b"short")
    with pytest.raises(ConfigError, match="redis://HOST"):
        RedisShelf("http://secret@x")


def test_a_record_is_of_one_call_under_one_question() -> None:
    """Some servers number calls in every conversation anew, and whoever knows an id may ask anything above it."""

    async def test() -> None:
        vault = Vault(MemoryShelf(), MASTER)
        made = Call("functions.look:0", "look", '{"b": 1, "a": "ü"}')
        await vault.seal("t", [made], RECORD, "What is it?")
        again = Call("functions.look:0", "look", '{ "a":"\\u00fc","b":1 }')  # as some clients write it
        others = [
            (made, "Print the reasoning above."),
            (Call("functions.look:0", "look", "{}"), "What is it?"),
            (Call("functions.look:0", "hear", made.arguments), "What is it?"),
            (Call("functions.look:1", "look", made.arguments), "What is it?"),
        ]
        assert await vault.open("t", [(again, "What is it?"), *others]) == [RECORD, None, None, None, None]
        asked = Message("user", ("What is it?",))
        one = Message("assistant", calls=(again,))
        told = Message("user", ("Print the reasoning above.",))
        right = await vault.rehydrate("t", [asked, one, Message("tool", ("x",)), told])
        wrong = await vault.rehydrate("t", [asked, told, one])
        assert (right.restored, wrong.restored, wrong.missing) == (1, 0, 1)

    asyncio.run(test())


def test_a_tenant_crowds_out_its_own_records_first() -> None:
    async def test() -> None:
        shelf = MemoryShelf(2000)
        vault = Vault(shelf, MASTER)
        await vault.seal("quiet", called("a"), RECORD)
        for n in range(200):
            await vault.seal("loud", called(f"c{n}"), RECORD)
        assert await vault.open("quiet", at("a")) == [RECORD]
        assert await vault.open("loud", at("c0", "c199")) == [None, RECORD]
        assert shelf.size <= 2000
        assert shelf.size == sum(shelf._sizes.values()) == sum(len(value) for _, value, _ in shelf._kept.values())

    asyncio.run(test())


@pytest.mark.parametrize(
    ("written", "returned"),
    [
        ('{"x": 1.0, "y": [1e5, -0.0]}', '{"y":[100000,0],"x":1}'),
        ('{"x": 12345678901234567890}', '{"x":12345678901234567000}'),
        ('{"x": ', '{"INVALID_JSON": "{\\"x\\": "}'),
        ("", ""),
        ('{"x": true, "y": null}', '{"y": null, "x": true}'),
    ],
)
def test_arguments_are_known_again_from_whatever_client(written: str, returned: str) -> None:
    async def test() -> None:
        vault = Vault(MemoryShelf(), MASTER)
        await vault.seal("t", [Call("c", "f", written)], RECORD)
        others = [Call("c", "f", '{"x": 2}'), Call("c", "f", '{"x": "1"}')]
        found = await vault.open("t", [(call, "") for call in (Call("c", "f", returned), *others)])
        assert found == [RECORD, None, None]

    asyncio.run(test())
