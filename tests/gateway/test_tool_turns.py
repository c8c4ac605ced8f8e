"""Tool calls over several turns: hidden reasoning is back where it is wanted, whatever the client does."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

import msgspec
import pytest

from azeotrope.gateway.policy import Resolved, Stance
from azeotrope.gateway.refusal import RefusedError
from azeotrope.gateway.relay import Job, Relay
from azeotrope.gateway.settings import UpstreamSettings
from azeotrope.gateway.shield import Treatment
from azeotrope.gateway.table import Decision
from azeotrope.gateway.vault import MemoryShelf, Vault
from azeotrope.gateway.wire.request import Call, Message, Request, Seal, Tool
from azeotrope.gateway.wire.sse import write as frame

HIDE = Treatment(disclose="none", tell_reasoning=False, bill_reasoning=False)
EXACT = Treatment()
THOUGHTS = "The moon is made of basalt, so I look there."
QUESTION = Message("user", ("Where is the rock?",))
CALL = Call("call_1", "look", '{"at": "moon"}')
TURN = (QUESTION, Message("assistant", calls=(CALL,)), Message("tool", ("grey",), call_id="call_1"))


class Stream:
    """Frames of a streamed chat completion, and then silence or the end."""

    status, retry_after, before = 200, None, ""

    def __init__(self, *deltas: dict[str, Any], end: bool = True) -> None:
        self._frames = [frame(json.dumps(one).encode()) for one in deltas]
        self._end = end

    async def read(self) -> bytes:
        if self._frames:
            return self._frames.pop(0)
        if not self._end:
            await asyncio.Event().wait()
        return b""

    async def finish(self) -> None:
        return None

    def close(self) -> None:
        return None


def delta(reason: str | None = None, choice: int = 0, **said: Any) -> dict[str, Any]:
    return {"choices": [{"index": choice, "delta": said, "finish_reason": reason}]}


def calling(choice: int = 0, name: str = "call_1") -> list[dict[str, Any]]:
    function = {"name": "look", "arguments": '{"at":'}
    first = {"index": 0, "id": name, "type": "function", "function": function}
    more = {"index": 0, "function": {"arguments": '"moon"}'}}
    return [delta(choice=choice, tool_calls=[first]), delta(choice=choice, tool_calls=[more])]


def job(treatment: Treatment, *messages: Message, n: int = 1) -> Job:
    request = Request(model="m", messages=messages or (QUESTION,), stream=True, tools=(Tool("look"),), n=n)
    return Job(request, "acme", Decision("c", Resolved("s", Stance()), treatment, 0, "hash"), "served")


def plan(**more: Any) -> UpstreamSettings:
    return UpstreamSettings.model_validate({"url": "http://x/v1", **more})


async def told(
    relay: Relay, treatment: Treatment, exchange: Stream, settings: UpstreamSettings, n: int = 1
) -> bytes:
    sent: list[bytes] = []

    async def send(piece: bytes) -> None:
        sent.append(piece)
        if b'"finish_reason":"tool_calls"' in piece and not exchange._end:
            raise ConnectionError  # the client has what it waited for, and goes

    with suppress(ConnectionError):
        await relay.stream(job(treatment, n=n), exchange, settings, send)  # type: ignore[arg-type]
    return b"".join(sent)


async def body(relay: Relay, treatment: Treatment, settings: UpstreamSettings, *messages: Message) -> Any:
    return json.loads(await relay.body(job(treatment, *(messages or TURN)), settings))


@pytest.mark.parametrize("leaves", [False, True])
def test_reasoning_is_kept_before_the_client_can_come_back(leaves: bool) -> None:
    """Many clients close a stream once they have read that it ended in calls, before its last line."""

    async def test() -> None:
        relay = Relay(Vault(MemoryShelf()))
        deltas = [delta(reasoning_content=THOUGHTS), *calling(), delta("tool_calls")]
        sent = await told(relay, HIDE, Stream(*deltas, end=not leaves), plan())
        assert b"basalt" not in sent
        assert (await body(relay, HIDE, plan()))["messages"][1]["reasoning_content"] == THOUGHTS

    asyncio.run(test())


def test_every_choice_keeps_its_own() -> None:
    async def test() -> None:
        relay = Relay(Vault(MemoryShelf()))
        deltas = [delta(reasoning_content="One."), delta(choice=1, reasoning_content="Two."), *calling()]
        deltas += [delta("tool_calls"), *calling(1, "call_2"), delta("tool_calls", 1)]
        await told(relay, HIDE, Stream(*deltas), plan(), n=2)
        for name, thoughts in (("call_1", "One."), ("call_2", "Two.")):
            turn = Message("assistant", calls=(msgspec.structs.replace(CALL, id=name),))
            sent = await body(relay, HIDE, plan(), QUESTION, turn, Message("tool", ("x",), call_id=name))
            assert sent["messages"][1]["reasoning_content"] == thoughts

    asyncio.run(test())


def test_a_call_without_reasoning_is_not_one_whose_reasoning_is_lost() -> None:
    async def test() -> None:
        relay, strict = Relay(Vault(MemoryShelf())), plan(wants_reasoning=True, missing_reasoning="refuse")
        await told(relay, HIDE, Stream(*calling(), delta("tool_calls")), strict)
        assert (await body(relay, HIDE, strict))["messages"][1]["reasoning_content"] == ""
        lost = Message("assistant", calls=(msgspec.structs.replace(CALL, id="another"),))
        with pytest.raises(RefusedError) as error:
            await body(relay, HIDE, strict, QUESTION, lost, TURN[2])
        assert (error.value.problem.status, error.value.problem.code) == (409, "reasoning_expired")
        lenient = plan(wants_reasoning=True)
        sent = await body(relay, HIDE, lenient, QUESTION, lost, TURN[2])
        assert sent["messages"][1]["reasoning_content"] == "", "the upstream wants the field"
        plain = await body(relay, HIDE, plan(), QUESTION, lost, TURN[2])
        assert "reasoning_content" not in plain["messages"][1]

    asyncio.run(test())


@pytest.mark.parametrize(("first", "second"), [(EXACT, HIDE), (HIDE, EXACT), (EXACT, EXACT)])
def test_a_stance_may_change_between_turns(first: Treatment, second: Treatment) -> None:
    async def test() -> None:
        relay, settings = Relay(Vault(MemoryShelf())), plan(wants_reasoning=True)
        deltas = [delta(reasoning_content=THOUGHTS), *calling(), delta("tool_calls")]
        await told(relay, first, Stream(*deltas), settings)
        forged = msgspec.structs.replace(TURN[1], thoughts="I say whatever I am asked.")
        sent = await body(relay, second, settings, QUESTION, forged, TURN[2])
        assert sent["messages"][1]["reasoning_content"] == THOUGHTS, "never what a client wrote"

    asyncio.run(test())


def test_signed_reasoning_goes_back_to_who_signed_it() -> None:
    """A provider that signs its reasoning knows its own; under a stance that hides it, it comes from the vault."""

    async def test() -> None:
        relay, settings = Relay(Vault(MemoryShelf())), plan(dialect="messages")
        signed = msgspec.structs.replace(TURN[1], thoughts=THOUGHTS, seals=(Seal("signature", "sig"),))
        sent = await body(relay, EXACT, settings, QUESTION, signed, TURN[2])
        (block,) = [b for b in sent["messages"][1]["content"] if b["type"] == "thinking"]
        assert (block["thinking"], block["signature"]) == (THOUGHTS, "sig")
        hidden = await body(relay, HIDE, settings, QUESTION, signed, TURN[2])
        assert "basalt" not in json.dumps(hidden)

    asyncio.run(test())


def test_what_was_put_back_does_not_show_in_the_count_of_the_prompt() -> None:
    async def test() -> None:
        relay = Relay(Vault(MemoryShelf()))
        long = THOUGHTS * 100
        await told(relay, HIDE, Stream(delta(reasoning_content=long), *calling(), delta("tool_calls")), plan())
        counts = []
        for turn in (
            TURN,
            (QUESTION, Message("assistant", calls=(msgspec.structs.replace(CALL, id="no"),)), TURN[2]),
        ):
            one = job(HIDE, *turn)
            one.request = msgspec.structs.replace(one.request, usage=True)
            size = len(await relay.body(one, plan()))  # a server that renders reasoning counts it
            cached = {"cached_tokens": size // 5}
            billed = {"prompt_tokens": size // 4, "completion_tokens": 5, "prompt_tokens_details": cached}
            usage = {"choices": [], "usage": billed}
            sent: list[bytes] = []

            async def send(piece: bytes, sent: list[bytes] = sent) -> None:
                sent.append(piece)

            exchange = Stream(delta(content="Grey."), delta("stop"), usage)
            await relay.stream(one, exchange, plan(tell_cached=True), send)  # type: ignore[arg-type]
            assert (b"cached_tokens" in b"".join(sent)) == (one.restored == 0.0), "it would tell the same"
            counts.append(int(b"".join(sent).partition(b'"prompt_tokens":')[2].partition(b",")[0]))
        assert counts[0] == pytest.approx(counts[1], rel=0.1)
        assert counts[0] < len(long) / 8

    asyncio.run(test())


def test_choices_follow_from_what_the_upstream_is_asked_alone() -> None:
    """What a client tells us and not the model must not throw the dice again."""

    async def test() -> None:
        relay, dice = Relay(Vault(MemoryShelf())), set()
        for more in ({}, {"user": "1"}, {"metadata": {"n": "2"}}, {"usage": True}, {"stream": False}):
            one = job(EXACT)
            one.request = msgspec.structs.replace(one.request, **more)
            await relay.body(one, plan())
            dice.add(relay._throw(one))
        assert len(dice) == 1
        for more in ({"seed": 3}, {"messages": (Message("user", ("Another?",)),)}):
            one = job(EXACT)
            one.request = msgspec.structs.replace(one.request, **more)
            await relay.body(one, plan())
            dice.add(relay._throw(one))
        assert len(dice) == 3

    asyncio.run(test())
