"""What llama.cpp writes in its own way, from recorded replies (build of October 2026, SmolLM2-135M-Instruct)."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from azeotrope.gateway.case import Case
from azeotrope.gateway.dialects import dialect
from azeotrope.gateway.policy import DEFAULT
from azeotrope.gateway.relay import Job
from azeotrope.gateway.shield import Shield, Treatment
from azeotrope.gateway.table import Facts, PolicyBox
from azeotrope.gateway.wire import events as ev
from azeotrope.gateway.wire.chat_reader import ChatReader
from azeotrope.gateway.wire.completions import CompletionsReader
from azeotrope.gateway.wire.fields import encode
from azeotrope.gateway.wire.reply import Reply, gather
from azeotrope.gateway.wire.request import Request
from azeotrope.gateway.wire.sse import EventParser
from azeotrope.gateway.wire.think import Splitter

FOLDER = Path(__file__).parent.parent / "data" / "llama_cpp"


def events(reader: ChatReader, name: str) -> list[ev.Event]:
    """What a recorded reply says."""
    data = (FOLDER / name).read_bytes()
    if name.endswith(".json"):
        return [*reader.whole(data), *reader.close()]
    found = [event for one in EventParser().feed(data) for event in reader.chunk(one.data)]
    assert reader.done
    return [*found, *reader.close()]


def read(reader: ChatReader, name: str) -> Reply:
    return gather(events(reader, name))


def test_a_stream_of_several_choices_reports_the_tokens_of_each() -> None:
    reply = read(ChatReader(Splitter), "choices.sse")
    assert {index: choice.text for index, choice in reply.choices.items()} == {0: "\nThe", 1: "\nThe"}
    assert reply.usage == ev.Usage(prompt=23, completion=4, cached=19)
    assert reply.failure is None


def chunk(count: int | None = None, **ends: str) -> bytes:
    """A chunk with the ends of choices, and maybe a report of usage."""
    choices = [
        {"index": int(k[1:]), "delta": {"content": "x"}, "finish_reason": v or None} for k, v in ends.items()
    ]
    usage = {} if count is None else {"usage": {"prompt_tokens": 9, "completion_tokens": count}}
    return encode({"choices": choices, **usage})


@pytest.mark.parametrize(
    "stream",
    [
        [chunk(c0=""), chunk(c1="stop"), chunk(c0="stop"), chunk(7)],  # once, of all
        [chunk(c1="stop"), chunk(c0="stop"), chunk(7), chunk(7)],  # twice
        [chunk(1, c0=""), chunk(3, c0="stop"), chunk(5, c1=""), chunk(7, c1="stop")],  # all along
        [
            chunk(1, c0=""),
            chunk(3, c0="stop"),
            chunk(2, c1=""),
            chunk(4, c1="stop"),
            chunk(7),
        ],  # and of all at last
        [chunk(3, c0="stop"), chunk(4, c1="stop"), chunk(7)],
    ],
)
def test_reports_of_others_are_not_added(stream: list[bytes]) -> None:
    reader = ChatReader(None)
    reply = gather([event for data in stream for event in reader.chunk(data)])
    assert reply.usage == ev.Usage(prompt=9, completion=7)


def test_a_whole_reply_of_several_choices_reports_the_tokens_of_one() -> None:
    """So what a request counts for is not less than what its characters suggest."""
    said = events(ChatReader(Splitter), "choices.json")
    long = [ev.Text("word " * 400, choice) for choice in (0, 1)]
    request = Request(model="m", dialect="chat", n=2)
    decision = PolicyBox(DEFAULT).current.decide(facts())
    job = Job(request, "tenant", decision, "m", shield=Shield(Treatment(), b"dice"))
    job.watch(said)
    assert job.usage is not None
    assert job.usage.completion == 2
    case = Case("id", dialect("chat"), 0.0, request=request, job=job)
    assert case.used == 23 + 2
    assert job.shield is not None
    job.shield.take(long)
    assert case.used == 23 + 4000 // 4
    job.request = msgspec.structs.replace(request, n=1)
    assert case.used == 23 + 2


def facts() -> Facts:
    return Facts(
        tenant="t", tier="", model="m", dialect="chat", level=0, stream=False, tools=False, logprobs=False,
        reasoning=False, most_tokens=None,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["completion.json", "completion.sse"])
def test_plain_completions_have_log_probabilities_in_the_form_of_chat(name: str) -> None:
    reply = read(CompletionsReader(Splitter), name)
    assert reply.choices[0].text == " a celestial"
    assert [token.token for token in reply.choices[0].logprobs] == [" a", " celestial"]
    assert [token.logprob < 0 and len(token.top) for token in reply.choices[0].logprobs] == [1, 1]
    assert reply.usage is not None
    assert reply.usage.completion == 2


def test_log_probabilities_of_a_whole_reply_with_reasoning_are_not_shown() -> None:
    """Those of the reasoning come first, in the same list, which does not say where the answer begins."""
    reply = read(ChatReader(Splitter), "logprobs.json")
    assert reply.choices[0].reasoning == "\nThe moon is"
    assert reply.choices[0].text == "The moon"
    assert reply.choices[0].logprobs == []


def test_hidden_reasoning_that_no_count_tells_apart_is_not_billed_by_its_length() -> None:
    said = events(ChatReader(Splitter), "logprobs.json")
    hidden = Treatment(disclose="none", tell_reasoning=False, bill_reasoning=False)
    shield = Shield(hidden, b"dice")
    reply = gather([*shield.take(said), *shield.close()])
    assert reply.usage == ev.Usage(prompt=18, completion=4)  # 11 tokens, 12 and 8 characters
    longer = [ev.Reasoning("\nThe moon is" * 50), ev.Text("The moon"), ev.Finish("stop"), ev.Usage(18, 550)]
    reply = gather(Shield(hidden, b"dice").take(longer))
    assert reply.usage is not None
    assert reply.usage.completion is not None
    assert 2 <= reply.usage.completion <= 8
