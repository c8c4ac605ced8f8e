"""The Responses dialect: recordings, servers that leave out or misnumber copies, the official SDK, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from azeotrope.gateway.wire import events as ev
from azeotrope.gateway.wire import responses_request as requests
from azeotrope.gateway.wire import responses_upstream as upstream
from azeotrope.gateway.wire.errors import Problem, WireError
from azeotrope.gateway.wire.fields import encode
from azeotrope.gateway.wire.form import Form
from azeotrope.gateway.wire.reply import Choice, Reply, gather
from azeotrope.gateway.wire.request import Call, Format, Image, Message, Request, RequestError, Seal, Tool
from azeotrope.gateway.wire.responses_reader import ResponsesReader
from azeotrope.gateway.wire.responses_writer import ResponsesWriter, error_body, whole
from azeotrope.gateway.wire.sse import EventParser
from azeotrope.gateway.wire.think import Splitter

Json = dict[str, Any]
FORM = Form(logprobs=True)
ME = ("resp_1", "m", 7)


# Reading and comparing

EVENTS = [
    ev.Start("up", "real-model", 1),
    ev.Reasoning("First."),
    ev.Reasoning("In short.", summary=True),
    ev.Sealed("encrypted", "seal"),
    ev.Text("Hi"),
    ev.Text(" you"),
    ev.Tool(0, '{"a":', "c", "f"),
    ev.Tool(1, "{}", "d", "g"),
    ev.Tool(0, "1}"),
    ev.Finish("tool_calls"),
    ev.Usage(1, 2, 1, 0),
]


def read(events: list[Json], splitter: Callable[[], Splitter] | None = None) -> list[ev.Event]:
    reader = ResponsesReader(splitter)
    found = [event for data in events for event in reader.chunk(json.dumps(data).encode())]
    found += reader.close()
    assert reader.complete == (gather(found).failure is None)
    return found


def read_whole(body: Json) -> list[ev.Event]:
    reader = ResponsesReader()
    return reader.whole(json.dumps(body).encode()) + reader.close()


def said(reply: Reply) -> Json:
    """What a reply says, whoever said it."""
    choice = reply.choices.get(0) or Choice()
    return {
        "reasoning": choice.reasoning,
        "summary": choice.summary,
        "text": choice.text,
        "refusal": choice.refusal,
        "sealed": [sealed.data for sealed in choice.sealed],
        "calls": [(call.id, call.name, call.arguments) for call in choice.tools],
        "logprobs": choice.logprobs,
        "reason": choice.reason,
        "usage": reply.usage,
        "failed": reply.failure is not None,
    }


def stream(events: list[ev.Event], form: Form = FORM, request: Request | None = None) -> list[Json]:
    """What a writer sends, each event checked against its name and number."""
    writer = ResponsesWriter(*ME, form, request)
    data = b"".join(writer.write(event) for event in events) + writer.end()
    assert writer.end() == b""
    assert b"[DONE]" not in data
    parser = EventParser()
    sent = parser.feed(data)
    assert parser.close() is None
    found = [json.loads(event.data) for event in sent]
    assert [event["type"] for event in found] == [event.name for event in sent]
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


# Recordings

CUT_SHORT = "openai__src__responses__openai-shell-container.1.chunks.txt"  # by hand: its deltas are another text


@pytest.fixture(scope="module")
def recordings(data_dir: Path) -> dict[str, Any]:
    """File name -> the events of a stream, or a body; of all recordings in this dialect."""
    folder = data_dir / "wire" / "vercel_ai"
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("*__*")):
        if path.name.endswith(".json"):
            body = json.loads(path.read_bytes())
            if body.get("object") == "response" or "__responses__" in path.name:
                found[path.name] = body
        elif path.name.endswith(".chunks.txt"):
            events = [json.loads(line) for line in path.read_bytes().splitlines() if line.strip()]
            if str(events[0].get("type", "")).startswith("response."):
                found[path.name] = events
    found.pop(CUT_SHORT, None)
    if not found:
        pytest.skip("no recordings of the Responses dialect: set AZEOTROPE_DATA to the folder that contains wire/")
    return found


def streams(recordings: dict[str, Any]) -> Iterator[tuple[str, list[Json]]]:
    for name, events in recordings.items():
        if isinstance(events, list) and events[-1]["type"] == "response.completed":
            yield name, events


def counted(reply: Reply) -> Json:
    """Seals by their number: OpenAI seals each copy anew."""
    found = said(reply)
    return found | {"sealed": len(found["sealed"])}


def test_every_recording_is_read(recordings: dict[str, Any]) -> None:
    assert len(recordings) >= 30
    for name, recorded in recordings.items():
        reply = gather(read(recorded) if isinstance(recorded, list) else read_whole(recorded))
        if "error" in name:
            assert reply.failure is not None, name
        else:
            assert reply.failure is None, name
            assert reply.usage is not None, name
            assert reply.choices[0].reason is not None, name


def test_recorded_streams_say_what_their_last_event_says(recordings: dict[str, Any]) -> None:
    checked = 0
    for name, events in streams(recordings):
        reply = gather(read(events))
        assert counted(reply) == counted(gather(read_whole(events[-1]["response"]))), name
        assert reply.id == events[-1]["response"]["id"], name
        items = [item for item in events[-1]["response"]["output"] if item["type"] in ("message", "reasoning")]
        texts = [p.get("text", "") for i in items if i["type"] == "message" for p in i["content"]]
        thoughts = [p["text"] for i in items if i["type"] == "reasoning" for p in i.get("content") or []]
        assert reply.choices[0].text == "".join(texts), name
        assert reply.choices[0].reasoning == "".join(thoughts), name
        checked += bool(texts) + bool(thoughts)
    assert checked >= 8


def test_recorded_streams_come_in_the_pieces_that_were_sent(recordings: dict[str, Any]) -> None:
    for name, events in streams(recordings):
        deltas = [e["delta"] for e in events if e["type"] == "response.output_text.delta"]
        assert [e.text for e in read(events) if isinstance(e, ev.Text)] == deltas, name


def test_recorded_streams_without_some_of_their_copies_say_the_same(recordings: dict[str, Any]) -> None:
    for name, events in streams(recordings):
        for label, change in LEAN.items():
            assert counted(gather(read(change(events)))) == counted(gather(read(events))), (name, label)


# Servers that leave out, repeat or misnumber


def without(*ends: str) -> Callable[[list[Json]], list[Json]]:
    return lambda events: [event for event in events if not event["type"].endswith(ends)]


def bare_end(events: list[Json]) -> list[Json]:
    """The last event without the output."""
    last = events[-1]
    return [*events[:-1], last | {"response": last["response"] | {"output": []}}]


LEAN: dict[str, Callable[[list[Json]], list[Json]]] = {
    "no deltas": without(".delta"),
    "no deltas, no parts": without(".delta", "text.done", "part.done", "refusal.done", "arguments.done"),
    "nothing but the end": lambda events: [events[0], events[-1]],
    "nothing before the end": lambda events: events[-1:],
    "no end of items": without("item.done"),
    "no output at the end": bare_end,
    "no deltas, no output at the end": lambda events: bare_end(without(".delta")(events)),
    "nothing begins": without(".added", ".created", ".in_progress"),
}


def renumbered(events: list[Json]) -> list[Json]:
    """Parts counted on with every event, as vLLM does."""
    return [e | ({"content_index": i} if "content_index" in e else {}) for i, e in enumerate(events)]


def renamed(events: list[Json], *, last_only: bool = False) -> list[Json]:
    """Other ids of items in each event, as proxies do, or at the end, as vLLM does."""

    def name(event: Json, place: int) -> Json:
        event = json.loads(json.dumps(event))
        if "item_id" in event:
            event["item_id"] = f"x{place}"
        for number, item in enumerate([event.get("item", {}), *event.get("response", {}).get("output", [])]):
            if "id" in item:
                item["id"] = f"x{place}_{number}"
        return event

    start = len(events) - 1 if last_only else 0
    return events[:start] + [name(event, place) for place, event in enumerate(events[start:], start)]


ODD: dict[str, Callable[[list[Json]], list[Json]]] = {
    "part numbers": renumbered,
    "ids": renamed,
    "ids at the end": lambda events: renamed(events, last_only=True),
    "no item numbers": lambda events: [{k: v for k, v in e.items() if k != "output_index"} for e in events],
    "one item number": lambda events: [e | ({"output_index": 0} if "output_index" in e else {}) for e in events],
    "said twice": lambda events: events + events[-1:],
    "an end mark of its own": lambda events: [*events, {"type": "response.done"}],
}

WORDS = st.text(max_size=6)
NUMBERS = st.sampled_from([-0.1, -2.5, -9999.0, 0.0])
ALTERNATIVES = st.lists(st.builds(ev.Alternative, WORDS, NUMBERS), max_size=2).map(tuple)
USAGES = st.integers(0, 10**6).map(lambda n: ev.Usage(n, n % 1000, n % 100, n % 10))
PIECES = st.lists(
    st.one_of(
        st.builds(ev.Reasoning, WORDS, st.just(0), st.booleans()),
        st.builds(ev.Text, WORDS, st.just(0), st.booleans()),
        st.builds(ev.Tool, st.integers(0, 3), WORDS),
        st.builds(ev.Sealed, st.just("encrypted"), st.text(min_size=1, max_size=6)),
    ),
    max_size=10,
)
FEW = settings(max_examples=60, deadline=None)


@st.composite
def replies(draw: st.DrawFn) -> list[ev.Event]:
    """Events as they may come: pieces of calls between others, calls opened in order."""
    found: list[ev.Event] = [ev.Start("up", "model", 1)]
    slots, told = 0, draw(st.booleans())
    for piece in draw(PIECES):
        if isinstance(piece, ev.Tool):
            slot = min(piece.slot, slots)
            name = f"{slot}" if slot == slots else ""
            slots += slot == slots
            found.append(ev.Tool(slot, piece.arguments, name and f"c{name}", name and f"f{name}"))
        elif isinstance(piece, ev.Text) and told and not piece.refusal:
            spelt = tuple(ev.Logprob(c, draw(NUMBERS), draw(ALTERNATIVES)) for c in piece.text)
            found.append(ev.Text(piece.text, tokens=spelt))
        else:
            found.append(piece)
    end: ev.Reason = draw(st.sampled_from(["length", "content_filter", "tool_calls" if slots else "stop"]))
    return [*found, ev.Finish(end), draw(USAGES)]


@FEW
@given(replies())
def test_what_is_written_is_read(events: list[ev.Event]) -> None:
    assert said(gather(read(stream(events)))) == said(gather(events))


@FEW
@given(replies())
def test_a_stream_and_a_whole_reply_agree(events: list[ev.Event]) -> None:
    body = whole(gather(events), *ME, FORM)
    reply = gather(read_whole(body))
    assert said(reply) == said(gather(events))
    assert (reply.id, reply.model, reply.created) == ME
    last = stream(events)[-1]["response"]
    assert {key: last[key] for key in last if key != "output"} == {
        key: body[key] for key in body if key != "output"
    }
    assert said(gather(read_whole(last))) == said(gather(events))


@FEW
@given(replies(), st.sampled_from(sorted(LEAN)), st.sampled_from(["", *sorted(ODD)]))
def test_copies_are_neither_lost_nor_doubled(events: list[ev.Event], lean: str, odd: str) -> None:
    sent = LEAN[lean](stream(events))
    found = said(gather(read(ODD[odd](sent) if odd in ("part numbers", "said twice") else sent)))
    wanted = said(gather(events))
    if lean == "nothing begins":  # then calls come in the order of their first words
        found["calls"].sort()
        wanted["calls"].sort()
    assert found == wanted


@FEW
@given(replies(), st.sampled_from(sorted(ODD)))
def test_numbers_and_names_do_not_matter(events: list[ev.Event], odd: str) -> None:
    assert said(gather(read(ODD[odd](stream(events))))) == said(gather(events))


def part(kind: str, text: str) -> Json:
    return {"type": kind, "text": text}


def test_parts_of_a_summary_are_paragraphs_however_they_come() -> None:
    item = {
        "id": "rs",
        "type": "reasoning",
        "summary": [part("summary_text", "One."), part("summary_text", "Two.")],
    }
    place = {"item_id": "rs", "output_index": 0}
    about = "response.reasoning_summary_text"
    end = {"type": "response.completed", "response": {"id": "r", "output": [item], "status": "completed"}}
    deltas = [
        {"type": f"{about}.delta", **place, "summary_index": i, "delta": words}
        for i, words in [(0, "On"), (0, "e."), (1, "Tw"), (1, "o.")]
    ]
    dones = [
        {"type": f"{about}.done", **place, "summary_index": i, "text": words}
        for i, words in enumerate(["One.", "Two."])
    ]
    done = {"type": "response.output_item.done", "output_index": 0, "item": item}
    for events in [
        [*deltas, end],
        [*deltas[:2], dones[0], *deltas[2:], dones[1], done, end],
        [*dones, done, end],
        [*deltas[:2], dones[0], dones[1], done, end],
        [deltas[0], done, end],
        [*deltas[:3], end],
        [done, end],
        [end],
    ]:
        assert gather(read(events)).choices[0].summary == "One.\n\nTwo.", events


def test_a_copy_of_another_text_adds_nothing() -> None:
    place = {"item_id": "m", "output_index": 0, "content_index": 0}
    end = {"type": "response.completed", "response": {"output": []}}
    delta = {"type": "response.output_text.delta", **place, "delta": "Hello"}
    for copy, expected in [("\nHello", "Hello"), ("Hello", "Hello"), ("Hello!", "Hello!"), ("Hell", "Hello")]:
        done = {"type": "response.output_text.done", **place, "text": copy}
        assert gather(read([delta, done, end])).choices[0].text == expected


def test_a_server_that_misnumbers_as_vllm_does() -> None:
    def about(event: str, item: str, place: int, index: int, **more: Any) -> Json:
        return {
            "type": f"response.{event}",
            "item_id": item,
            "output_index": place,
            "content_index": index,
            **more,
        }

    thought = {"id": "a", "type": "reasoning", "summary": [], "content": [part("reasoning_text", "hmm")]}
    answer = {"id": "b", "type": "message", "role": "assistant", "content": [part("output_text", "yes")]}
    call = {"type": "function_call", "call_id": "other", "name": "f", "arguments": "{}"}
    events = [
        {"type": "response.created", "response": {"id": "r", "model": "m", "created_at": 1.5}},
        {"type": "response.output_item.added", "output_index": 0, "item": thought | {"content": None}},
        about("reasoning_text.delta", "a", 0, 1, delta="h"),
        about("reasoning_text.delta", "a", 0, 2, delta="mm"),
        about("reasoning_text.done", "a", 0, 3, text="hmm"),
        about("reasoning_part.done", "a", 0, 3, part=part("reasoning_text", "hmm")),
        {"type": "response.output_item.done", "output_index": 0, "item": thought},
        {"type": "response.output_item.added", "output_index": 0, "item": answer | {"id": "a", "content": []}},
        about("output_text.delta", "b", 1, 1, delta="ye", logprobs=[]),
        about("output_text.delta", "b", 1, 2, delta="s", logprobs=[]),
        about("output_text.done", "b", 1, 3, text="yes", logprobs=[]),
        about("content_part.done", "b", 1, 4, part=part("output_text", "yes")),
        {"type": "response.output_item.done", "output_index": 1, "item": answer},
        {"type": "response.output_item.added", "output_index": 2, "item": call | {"id": "c", "call_id": "first"}},
        about("function_call_arguments.delta", "c", 2, 0, delta="{}"),
        about("function_call_arguments.done", "c", 3, 0, arguments="{}", name="f"),
        {"type": "response.output_item.done", "output_index": 3, "item": call},
        {
            "type": "response.completed",
            "response": {
                "status": "completed",
                "output": [thought | {"id": "x"}, answer | {"id": "y"}, call | {"call_id": "z"}],
            },
        },
    ]
    reply = gather(read(events))
    assert reply.created == 1
    found = said(reply)
    assert (found["reasoning"], found["text"], found["calls"]) == ("hmm", "yes", [("first", "f", "{}")])


def test_arguments_wait_for_the_name_of_their_call() -> None:
    delta = {"type": "response.function_call_arguments.delta", "item_id": "fc", "output_index": 0, "delta": "{}"}
    item = {"id": "fc", "type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    done = {"type": "response.output_item.done", "output_index": 0, "item": item}
    end = {"type": "response.completed", "response": {"output": [item]}}
    calls = [event for event in read([delta, done, end]) if isinstance(event, ev.Tool)]
    assert calls == [ev.Tool(0, "{}", "c", "f")]
    nameless = [event for event in read([delta, end | {"response": {"output": []}}]) if isinstance(event, ev.Tool)]
    assert nameless == [ev.Tool(0, "{}", "fc", "")]
    quoted = {"type": "response.completed", "response": {"output": [item | {"arguments": {"a": 1}}]}}
    assert [e for e in read([quoted]) if isinstance(e, ev.Tool)][-1].arguments == '{"a":1}'


def test_content_that_is_one_text_is_read() -> None:
    body = {"output": [{"type": "message", "role": "assistant", "content": "Hi"}]}
    assert gather(read_whole(body)).choices[0].text == "Hi"


def test_items_that_only_end_are_told_apart_whatever_their_number() -> None:
    calls = [
        {"id": f"fc{n}", "type": "function_call", "call_id": f"c{n}", "name": "f", "arguments": f"{n}"}
        for n in "12"
    ]
    done = [{"type": "response.output_item.done", "output_index": 0, "item": call} for call in calls]
    end = {"type": "response.completed", "response": {"output": []}}
    assert said(gather(read([*done, end])))["calls"] == [("c1", "f", "1"), ("c2", "f", "2")]


def test_seals_are_read_when_items_are_done_and_once() -> None:
    item = {"id": "rs", "type": "reasoning", "summary": [], "encrypted_content": "part"}
    events = [
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.output_item.done", "output_index": 0, "item": item | {"encrypted_content": "seal"}},
        {"type": "response.completed", "response": {"output": [item | {"encrypted_content": "again"}]}},
    ]
    assert said(gather(read(events)))["sealed"] == ["seal"]
    assert said(gather(read([events[0], events[2]])))["sealed"] == ["again"]


BUILT_IN = [
    {"type": "web_search_call", "action": {"query": "SECRET"}},
    {"type": "file_search_call", "queries": ["SECRET"], "results": [{"text": "SECRET"}]},
    {
        "type": "code_interpreter_call",
        "code": "SECRET",
        "arguments": "SECRET",
        "name": "SECRET",
        "call_id": "SECRET",
    },
    {"type": "mcp_call", "arguments": "SECRET", "output": "SECRET", "name": "SECRET"},
    {"type": "mcp_list_tools", "tools": [{"name": "SECRET"}]},
    {"type": "custom_tool_call", "input": "SECRET", "name": "SECRET"},
    {"type": "compaction", "encrypted_content": "SECRET"},
    {"type": "program", "code": "SECRET", "content": [part("reasoning_text", "SECRET")]},
    {"type": "message", "content": [{"type": "output_audio", "text": "SECRET"}, part("reasoning_text", "SECRET")]},
    {"type": "reasoning", "summary": [part("output_text", "SECRET")], "content": [part("refusal", "SECRET")]},
]


@pytest.mark.parametrize("item", BUILT_IN, ids=lambda item: str(item["type"]))
def test_items_and_events_without_an_event_of_ours_are_dropped(item: Json) -> None:
    name = f"response.{item['type']}"
    events = [
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": f"{name}_arguments.delta", "output_index": 0, "delta": "SECRET"},
        {"type": f"{name}.completed", "output_index": 0, "text": "SECRET", "part": part("output_text", "SECRET")},
        {"type": "response.output_text.annotation.added", "annotation": {"title": "SECRET"}},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": {"id": "r", "output": [item], "instructions": "SECRET"}},
    ]
    assert "SECRET" not in repr(read(events)) + repr(read_whole(events[-1]["response"]))


# Tags, log-probabilities


def test_reasoning_between_tags_and_its_logprobs_are_told_apart() -> None:
    def delta(words: str) -> Json:
        logprobs = [{"token": words, "logprob": -1.0, "top_logprobs": []}]
        return {"type": "response.output_text.delta", "output_index": 0, "delta": words, "logprobs": logprobs}

    pieces = ["<thi", "nk>", "hidden", "</think>", "shown"]
    end = {"type": "response.completed", "response": {"output": []}}
    found = read([*map(delta, pieces), end], Splitter)
    assert (said(gather(found))["reasoning"], said(gather(found))["text"]) == ("hidden", "shown")
    assert [token.token for token in gather(found).choices[0].logprobs] == ["shown"]
    texts = {"text": "".join(pieces), "logprobs": [lp for p in pieces for lp in delta(p)["logprobs"]]}
    copied = read([{"type": "response.output_text.done", "output_index": 0, **texts}, end], Splitter)
    assert (said(gather(copied))["reasoning"], said(gather(copied))["text"]) == ("hidden", "shown")
    assert not gather(copied).choices[0].logprobs
    late = [{**delta(piece), "logprobs": []} for piece in pieces]
    done = {"type": "response.output_text.done", "output_index": 0, **texts}
    assert not gather(read([*late, done, end], Splitter)).choices[0].logprobs
    plain = ["a", "b"]
    texts = {"text": "ab", "logprobs": [lp for p in plain for lp in delta(p)["logprobs"]]}
    done = {"type": "response.output_text.done", "output_index": 0, **texts}
    for deltas in (
        [{**delta(p), "logprobs": []} for p in plain],
        [delta("a"), {**delta("b"), "logprobs": []}],
        [],
    ):
        found = read([*deltas, done, end], Splitter)
        assert [t.token for t in gather(found).choices[0].logprobs] == plain
        assert gather(found).choices[0].text == "ab"
    held = read([delta("x<thi"), end], Splitter)
    assert said(gather(held))["text"] == "x<thi"
    reader = ResponsesReader(Splitter)
    reader.chunk(json.dumps(delta("a</think>b")).encode())
    assert reader.stray
    assert not ResponsesReader().stray


# Ends


def ended(status: str, **more: Any) -> Json:
    return {"type": f"response.{status}", "response": {"id": "r", "status": status, "output": [], **more}}


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (ended("completed"), "stop"),
        (ended("incomplete", incomplete_details={"reason": "max_output_tokens"}), "length"),
        (ended("incomplete", incomplete_details={"reason": "content_filter"}), "content_filter"),
        (ended("incomplete", incomplete_details=None), "length"),
        (ended("incomplete") | {"type": "response.completed"}, "length"),
    ],
)
def test_reasons(end: Json, reason: str) -> None:
    assert gather(read([end])).choices[0].reason == gather(read_whole(end["response"])).choices[0].reason == reason


@pytest.mark.parametrize(
    ("events", "failure"),
    [
        ([], ev.Failure(502, "upstream_closed")),
        ([ended("created")], ev.Failure(502, "upstream_closed")),
        ([ended("failed", error={"code": "server_error", "message": "m"})], ev.Failure(502, "server_error", "m")),
        ([ended("failed", error={"code": "rate_limit_exceeded"})], ev.Failure(429, "rate_limit_exceeded")),
        ([ended("failed", error=None)], ev.Failure(502, "failed")),
        ([ended("cancelled")], ev.Failure(502, "cancelled")),
        ([ended("failed") | {"type": "response.completed"}], ev.Failure(502, "failed")),
        ([{"type": "response.failed", "response": {"status": "completed"}}], ev.Failure(502, "failed")),
        ([{"type": "error", "code": "c", "message": "m", "param": None}], ev.Failure(502, "c", "m")),
        ([{"type": "error", "error": {"code": "insufficient_quota"}}], ev.Failure(429, "insufficient_quota")),
        ([{"error": {"code": 503, "message": "m"}}], ev.Failure(503, "", "m")),
        ([{"type": "error", "code": "c"}, ended("failed", error={"code": "d"})], ev.Failure(502, "c")),
    ],
)
def test_failures_come_once_and_last(events: list[Json], failure: ev.Failure) -> None:
    found = read(events)
    assert [event for event in found if isinstance(event, ev.Failure)] == [found[-1]] == [failure]


@pytest.mark.parametrize(
    "body",
    [{}, {"output": None}, {"error": {"message": "m"}}, {"status": "queued", "output": []}, {"status": "x"}],
)
def test_bodies_that_are_no_reply_fail(body: Json) -> None:
    assert gather(read_whole(body)).failure is not None


def test_a_stream_that_stops_gives_what_was_held_back_and_fails() -> None:
    delta = {"type": "response.output_text.delta", "output_index": 0, "delta": "x<thi"}
    found = read([delta], Splitter)
    assert said(gather(found))["text"] == "x<thi"
    assert found[-1] == ev.Failure(502, "upstream_closed")
    reader = ResponsesReader()
    assert reader.chunk(b"[DONE]") == []
    assert reader.done
    assert not reader.complete


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff", b'{"a":' * 10**5, b'"\\ud800"'])
def test_bytes_that_are_no_event_are_refused(data: bytes) -> None:
    for use in (ResponsesReader().chunk, ResponsesReader().whole):
        with pytest.raises(WireError, match=r"^The upstream's response is"):
            use(data)


@pytest.mark.parametrize(
    "event",
    [
        {"type": "response.output_text.delta", "delta": 1},
        {"type": "response.reasoning_text.done", "text": ["a"]},
        {"type": "response.completed", "response": {"output": [{"type": "function_call", "arguments": 1}]}},
    ],
)
def test_text_of_another_type_is_refused(event: Json) -> None:
    with pytest.raises(WireError, match="neither a text nor null"):
        read([event])


LEAVES = [
    None,
    True,
    0,
    -1,
    1.5,
    10**30,
    "",
    "a",
    "function_call",
    "response.failed",
    [],
    {},
    [[]],
    [{}],
    {"a": []},
]


def spoiled(whole: Json, rng: Random) -> Json:
    """With some of its values in other places, or others in their place."""
    whole = json.loads(json.dumps(whole))
    nodes: list[Any] = []
    todo: list[Any] = [whole]
    while todo:
        node = todo.pop()
        if isinstance(node, dict | list):
            nodes.append(node)
            todo += node.values() if isinstance(node, dict) else node
    for _ in range(rng.randint(1, 3)):
        node, other = (rng.choice([node for node in nodes if node]) for _ in range(2))
        value = rng.choice(LEAVES) if rng.random() < 0.7 else rng.choice(list(_values(other)))
        node[rng.choice(list(node) if isinstance(node, dict) else range(len(node)))] = json.loads(
            json.dumps(value)
        )
    return whole


def _values(node: Any) -> Any:
    return node.values() if isinstance(node, dict) else node


def test_any_events_are_read_or_refused() -> None:
    events = stream(EVENTS)
    for seed in range(400):
        rng = Random(seed)
        sent = [spoiled(event, rng) if rng.random() < 0.3 else event for event in events]
        with suppress(WireError):
            read(sent)
        with suppress(WireError):
            read_whole(spoiled(events[-1]["response"], rng))


# Writing


def test_a_stream_in_full() -> None:
    events = [
        ev.Start("up", "real-model", 1),
        ev.Reasoning("so", summary=True),
        ev.Sealed("encrypted", "seal"),
        ev.Text("Hi"),
        ev.Text(" you"),
        ev.Tool(0, "", "c", "f"),
        ev.Tool(0, "{}"),
        ev.Finish("tool_calls"),
        ev.Usage(1, 2, 1, 0),
    ]
    found = stream(events)
    assert [event["type"].removeprefix("response.") for event in found] == [
        "created",
        "in_progress",
        "output_item.added",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    assert found[-1]["response"]["output"] == [
        {
            "id": "rs_1_0",
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": "so"}],
            "encrypted_content": "seal",
        },
        {
            "id": "msg_1_1",
            "type": "message",
            "status": "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Hi you", "annotations": [], "logprobs": []}],
        },
        {
            "id": "fc_1_2",
            "type": "function_call",
            "status": "completed",
            "call_id": "c",
            "name": "f",
            "arguments": "{}",
        },
    ]
    assert {event["response"]["model"] for event in found if "response" in event} == {"m"}


@FEW
@given(replies())
def test_items_are_opened_filled_and_closed_in_order(events: list[ev.Event]) -> None:
    opened: dict[int, str] = {}
    closed: dict[int, Json] = {}
    for event in stream(events):
        place, item = event.get("output_index"), event.get("item", {})
        if event["type"].endswith("item.added"):
            assert place == len(opened)
            opened[place] = item["id"]
        elif event["type"].endswith("item.done"):
            assert opened[place] == item["id"]
            assert place not in closed
            closed[place] = item
        elif place is not None:
            assert opened[place] == event["item_id"]
            assert place not in closed
        elif "response" in event:
            assert event["response"]["output"] == [closed[i] for i in sorted(opened)]
    assert len(set(opened.values())) == len(opened) == len(closed)


@pytest.mark.parametrize(("status", "code"), [(429, "rate_limit_exceeded"), (500, "server_error")])
def test_a_failure_ends_the_stream_and_quotes_nothing(status: int, code: str) -> None:
    events = [ev.Text("some"), ev.Tool(0, "{", "c", "f"), ev.Failure(status, "SECRET", "SECRET"), ev.Text("more")]
    found = stream(events)
    assert found[-1]["type"] == "response.failed"
    assert found[-1]["response"]["error"] == {"code": code, "message": "The upstream failed."}
    assert [item["status"] for item in found[-1]["response"]["output"]] == ["completed", "incomplete"]
    assert "SECRET" not in json.dumps(found)
    assert "more" not in json.dumps(found)
    body = whole(gather(events[:-1]), *ME)
    assert body["status"] == "failed"
    assert "SECRET" not in json.dumps(body)


def test_a_cut_reply_says_which_item_was_cut() -> None:
    events = [ev.Tool(0, "{}", "c", "f"), ev.Tool(1, "{", "d", "g"), ev.Finish("length")]
    for body in (stream(events)[-1]["response"], whole(gather(events), *ME)):
        assert body["status"] == "incomplete"
        assert body["incomplete_details"] == {"reason": "max_output_tokens"}
        assert [item["status"] for item in body["output"]] == ["completed", "incomplete"]


def test_nothing_is_said_after_the_end() -> None:
    found = stream([ev.Text("a"), ev.Finish("stop"), ev.Text("b"), ev.Tool(0, "{}", "c", "f"), ev.Usage(1, 1)])
    assert [item["type"] for item in found[-1]["response"]["output"]] == ["message"]
    assert found[-1]["response"]["usage"]["total_tokens"] == 2
    assert found[-1]["response"]["output"][0]["content"][0]["text"] == "a"


def test_a_refusal_without_words_is_an_incomplete_reply() -> None:
    assert stream([ev.Finish("refusal")])[-1]["response"]["incomplete_details"] == {"reason": "content_filter"}


def test_a_call_without_an_id_is_given_one() -> None:
    (item,) = stream([ev.Tool(0, "{}"), ev.Tool(0, name="f"), ev.Finish("tool_calls")])[-1]["response"]["output"]
    assert item["call_id"] == "call_1_0"
    assert item["name"] == "f"


def test_counts_of_reasoning_are_told_only_if_they_may_be() -> None:
    events = [ev.Finish("stop"), ev.Usage(5, 9, 4, 3)]
    for tell, expected in ((True, 4), (False, 0)):
        form = Form(tell_reasoning=tell)
        for body in (stream(events, form)[-1]["response"], whole(gather(events), *ME, form)):
            assert body["usage"]["output_tokens_details"]["reasoning_tokens"] == expected
            assert (body["usage"]["input_tokens"], body["usage"]["total_tokens"]) == (5, 14)


@FEW
@given(replies(), st.booleans())
def test_nothing_leaves_that_was_not_to(events: list[ev.Event], logprobs: bool) -> None:
    kept: list[ev.Event] = []
    hidden = "the quick brown SECRET jumps over"
    for event in events:
        kept += [
            ev.Sealed("signature", hidden),
            ev.Sealed("redacted", hidden),
            ev.Reasoning(hidden, choice=1),
            ev.Text(hidden, choice=2),
            ev.Tool(0, hidden, hidden, hidden, choice=1),
        ]
        kept += [event] if not isinstance(event, ev.Reasoning | ev.Sealed) else []
    form = Form(logprobs=logprobs)
    written = json.dumps(stream(kept, form)) + json.dumps(whole(gather(kept), *ME, form))
    assert "SECRET" not in written
    for name in ("reasoning_text", "summary_text", "encrypted_content", "rs_1"):
        assert name not in written
    assert logprobs or '"logprob"' not in written


def test_errors_have_the_shape_of_openai() -> None:
    body = error_body(Problem(400, "invalid_request", "No.", "invalid_value", "input"))
    assert body == {
        "error": {"message": "No.", "type": "invalid_request_error", "param": "input", "code": "invalid_value"}
    }


ASKED = Request(
    "m",
    dialect="responses",
    max_tokens=5,
    temperature=0.5,
    top_p=0.25,
    top_logprobs=2,
    tools=(Tool("f", "does", {"type": "object"}, True), Tool("g")),
    choice="function:f",
    parallel=False,
    format=Format("json_schema", "n", {"type": "object"}, True, "d"),
    effort="low",
    summary="auto",
    user="u",
    metadata={"k": "v"},
)


def test_replies_repeat_what_was_asked() -> None:
    body = whole(Reply(), *ME, request=ASKED)
    assert body["max_output_tokens"] == 5
    assert body["temperature"] == 0.5
    assert body["top_p"] == 0.25
    assert body["tool_choice"] == {"type": "function", "name": "f"}
    assert body["parallel_tool_calls"] is False
    assert [tool["name"] for tool in body["tools"]] == ["f", "g"]
    assert body["text"]["format"]["schema"] == {"type": "object"}
    assert body["reasoning"] == {"effort": "low", "summary": "auto"}
    assert body["metadata"] == {"k": "v"}
    assert body["store"] is False


# The official SDK


@cache
def models() -> dict[str, Any]:
    """The SDK's model of each event, by its type."""
    responses = pytest.importorskip("openai.types.responses")
    found = {}
    for name in dir(responses):
        model = getattr(responses, name)
        annotation = getattr(model, "model_fields", {}).get("type")
        if name.endswith("Event") and annotation is not None:
            found |= dict.fromkeys(annotation.annotation.__args__, model)
    return found


@FEW
@given(replies())
def test_the_sdk_knows_every_event_and_body(events: list[ev.Event]) -> None:
    known = models()
    from openai.types import responses

    items = {
        "reasoning": responses.ResponseReasoningItem,
        "message": responses.ResponseOutputMessage,
        "function_call": responses.ResponseFunctionToolCall,
    }
    for event in stream(events, request=ASKED):
        known[event["type"]].model_validate(event)
        if "item" in event:
            items[event["item"]["type"]].model_validate(event["item"])
    for failed in stream([*events[:-2], ev.Failure(502)]):
        known[failed["type"]].model_validate(failed)
    body = responses.Response.model_validate(whole(gather(events), *ME, FORM, ASKED))
    assert body.output_text == said(gather(events))["text"]


def client(answer: bytes, kind: str, sent: list[bytes]) -> Any:
    """The SDK's client, connected to one answer."""
    openai, http = pytest.importorskip("openai"), pytest.importorskip("httpx2")

    def handle(request: Any) -> Any:
        sent.append(request.content)
        return http.Response(200, headers={"content-type": kind}, content=answer)

    transport = http.Client(transport=http.MockTransport(handle))
    return openai.OpenAI(api_key="none", base_url="http://gateway/v1", http_client=transport, max_retries=0)


def test_the_sdk_reads_a_stream_and_its_next_request_is_read() -> None:
    writer = ResponsesWriter(*ME)
    data = b"".join(writer.write(event) for event in EVENTS) + writer.end()
    sent: list[bytes] = []
    sdk = client(data, "text/event-stream", sent)
    with sdk.responses.stream(model="m", input="Hello?") as events:
        final = events.get_final_response()
    assert final.output_text == "Hi you"
    assert [item.arguments for item in final.output if item.type == "function_call"] == ['{"a":1}', "{}"]
    assert final.usage.total_tokens == 3
    history: list[Any] = [{"role": "user", "content": "Hello?"}, *final.output]
    dumped = [history[0], *(item.model_dump() for item in final.output)]
    outputs = [{"type": "function_call_output", "call_id": call_id, "output": "ok"} for call_id in "cd"]
    for items in (history, dumped):
        sdk.responses.create(model="m", input=[*items, *outputs], stream=True).close()
    first, second, third = map(requests.read, sent)
    assert first.messages == (Message("user", ("Hello?",)),)
    assert first.stream
    assert (
        second.messages
        == third.messages
        == (
            Message("user", ("Hello?",)),
            Message(
                "assistant",
                ("Hi you",),
                calls=(Call("c", "f", '{"a":1}'), Call("d", "g")),
                thoughts="First.",
                seals=(Seal("encrypted", "seal"),),
            ),
            Message("tool", ("ok",), call_id="c"),
            Message("tool", ("ok",), call_id="d"),
        )
    )


def test_the_sdk_reads_a_whole_reply_and_an_error() -> None:
    sent: list[bytes] = []
    body = encode(whole(gather(EVENTS), *ME))
    final = client(body, "application/json", sent).responses.create(model="m", input="Hello?")
    assert final.output_text == "Hi you"
    assert final.output[0].type == "reasoning"
    writer = ResponsesWriter(*ME)
    data = writer.write(ev.Text("Hi")) + writer.write(ev.Failure(502))
    with client(data, "text/event-stream", sent).responses.stream(model="m", input="") as events:
        assert [event.type for event in events][-1] == "response.failed"


# Requests

PNG = "data:image/png;base64,AAAA"


def ask(**more: Any) -> Request:
    return requests.read(encode({"model": "m", "input": "Hi", **more}))


FULL: Json = {
    "model": "m",
    "instructions": "Be brief.",
    "input": [
        {"role": "developer", "content": "D"},
        {
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_text", "text": "See"},
                {"type": "input_image", "image_url": PNG, "detail": "low"},
            ],
        },
        {"type": "reasoning", "id": "rs", "summary": [part("summary_text", "a"), part("summary_text", "b")]},
        {"role": "assistant", "content": [part("output_text", "x"), {"type": "refusal", "refusal": "no"}]},
        {"type": "reasoning", "id": "rs", "summary": [part("summary_text", "a")], "encrypted_content": "seal"}
        | {"content": [part("reasoning_text", "why")]},
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": '{"a":1}', "id": "fc"},
        {"type": "function_call", "call_id": "2", "name": "g", "arguments": ""},
        {"type": "function_call_output", "call_id": "1", "output": "one"},
        {
            "type": "function_call_output",
            "call_id": "2",
            "output": [{"type": "input_image", "image_url": PNG}],
        },
    ],
    "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}],
    "tool_choice": {"type": "function", "name": "f"},
    "parallel_tool_calls": False,
    "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}, "verbosity": None},
    "reasoning": {"effort": "high", "summary": "auto"},
    "include": ["reasoning.encrypted_content", "message.output_text.logprobs"],
    "max_output_tokens": 9,
    "temperature": 1,
    "top_p": 0.5,
    "top_logprobs": 3,
    "stream": True,
    "truncation": "disabled",
    "background": False,
    "conversation": None,
    "store": False,
    "service_tier": "auto",
    "prompt_cache_key": "k",
    "stream_options": {"include_obfuscation": False},
    "safety_identifier": "s",
    "user": "u",
    "metadata": {"k": "v"},
}


def test_a_request_in_full() -> None:
    found = requests.read(encode(FULL))
    assert found == Request(
        "m",
        (
            Message("system", ("Be brief.",)),
            Message("developer", ("D",)),
            Message("user", ("See", Image(PNG, "low"))),
            Message("assistant", ("x",), refusal="no", thoughts="a\n\nb"),
            Message(
                "assistant",
                calls=(Call("1", "f", '{"a":1}'), Call("2", "g")),
                thoughts="why",
                seals=(Seal("encrypted", "seal"),),
            ),
            Message("tool", ("one",), call_id="1"),
            Message("tool", (Image(PNG),), call_id="2"),
        ),
        dialect="responses",
        stream=True,
        usage=True,
        max_tokens=9,
        temperature=1.0,
        top_p=0.5,
        logprobs=True,
        top_logprobs=3,
        tools=(Tool("f", "", {"type": "object"}, True),),
        choice="function:f",
        parallel=False,
        format=Format("json_schema", "n", {"type": "object"}),
        effort="high",
        summary="auto",
        user="s",
        metadata={"k": "v"},
    )


def call(number: str) -> Json:
    return {"type": "function_call", "call_id": number, "name": "f", "arguments": "{}"}


def test_what_the_assistant_says_while_calls_wait_is_one_message() -> None:
    thought = {"type": "reasoning", "summary": [], "encrypted_content": "s"}
    text = {"role": "assistant", "content": "t"}
    output = {"type": "function_call_output", "call_id": "1", "output": ""}
    (found, _) = ask(input=[thought, call("1"), thought, text, call("2"), output]).messages
    assert [seal.data for seal in found.seals] == ["s", "s"]
    assert [c.id for c in found.calls] == ["1", "2"]
    assert found.parts == ("t",)
    assert [m.parts for m in ask(input=[text, text]).messages] == [("t",), ("t",)]
    first, second = ask(input=[text, thought, text, call("1")]).messages
    assert (first.seals, second.seals, len(second.calls)) == ((), (Seal("encrypted", "s"),), 1)


BAD: list[tuple[str, str, Json]] = [
    ("previous_response_id", "unsupported_parameter", {"previous_response_id": "resp_1"}),
    ("background", "unsupported_parameter", {"background": True}),
    ("conversation", "unsupported_parameter", {"conversation": "conv_1"}),
    ("prompt", "unsupported_parameter", {"prompt": {"id": "p"}}),
    ("max_tool_calls", "unsupported_parameter", {"max_tool_calls": 0}),
    ("store", "unsupported_value", {"store": True}),
    ("truncation", "invalid_value", {"truncation": "auto"}),
    ("service_tier", "invalid_value", {"service_tier": "flex"}),
    ("n", "unsupported_parameter", {"n": 2}),
    ("stop", "unsupported_parameter", {"stop": "x"}),
    ("seed", "unsupported_parameter", {"seed": 1}),
    ("logit_bias", "unsupported_parameter", {"logit_bias": {}}),
    ("messages", "unsupported_parameter", {"messages": []}),
    ("vllm_xargs", "unsupported_parameter", {"vllm_xargs": None}),
    ("model", "missing_parameter", {"model": None}),
    ("input", "missing_parameter", {"input": None}),
    ("input", "invalid_value", {"input": []}),
    ("input", "invalid_value", {"input": {}}),
    ("input.0", "invalid_value", {"input": ["a"]}),
    ("instructions", "invalid_value", {"instructions": ["a"]}),
    ("include", "invalid_value", {"include": ["file_search_call.results"]}),
    ("reasoning.effort", "invalid_value", {"reasoning": {"effort": "max"}}),
    ("reasoning.summary", "invalid_value", {"reasoning": {"summary": "all"}}),
    ("reasoning.context", "unsupported_parameter", {"reasoning": {"context": "all_turns"}}),
    ("text.verbosity", "invalid_value", {"text": {"verbosity": "low"}}),
    ("text.format.type", "invalid_value", {"text": {"format": {"type": "grammar"}}}),
    ("text.format.name", "invalid_value", {"text": {"format": {"type": "json_schema", "schema": {}}}}),
    ("stream_options.x", "unsupported_parameter", {"stream_options": {"x": 1}}),
    ("max_output_tokens", "invalid_value", {"max_output_tokens": 0}),
    ("temperature", "invalid_value", {"temperature": 2.5}),
    ("top_p", "invalid_value", {"top_p": "1"}),
    ("top_logprobs", "invalid_value", {"top_logprobs": 21}),
    ("metadata", "invalid_value", {"metadata": {"k": 1}}),
    ("tools.0.type", "unsupported_value", {"tools": [{"type": "web_search"}]}),
    ("tools.0.type", "unsupported_value", {"tools": [{"type": "mcp", "server_url": "http://x"}]}),
    ("tools.0.name", "invalid_value", {"tools": [{"type": "function"}]}),
    ("tools.0.async", "unsupported_parameter", {"tools": [{"type": "function", "name": "f", "async": True}]}),
    ("tool_choice", "invalid_value", {"tool_choice": "any"}),
    ("tool_choice.type", "unsupported_value", {"tool_choice": {"type": "allowed_tools"}}),
    ("input.0.type", "unsupported_value", {"input": [{"type": "item_reference", "id": "msg_1"}]}),
    ("input.0.type", "unsupported_value", {"input": [{"type": "web_search_call"}]}),
    ("input.0.role", "missing_parameter", {"input": [{"content": "a"}]}),
    ("input.0.role", "invalid_value", {"input": [{"role": "tool", "content": "a"}]}),
    ("input.0.content", "missing_parameter", {"input": [{"role": "user"}]}),
    ("input.0.phase", "unsupported_parameter", {"input": [{"role": "user", "content": "", "phase": "x"}]}),
    ("input.0.call_id", "missing_parameter", {"input": [call("")]}),
    ("input.0.name", "invalid_value", {"input": [call("1") | {"name": "a b"}]}),
    ("input.0.arguments", "invalid_value", {"input": [call("1") | {"arguments": {}}]}),
    ("input.0.output", "missing_parameter", {"input": [{"type": "function_call_output", "call_id": "1"}]}),
    ("input.0", "invalid_value", {"input": [{"type": "reasoning", "summary": []}]}),
    ("input.1", "invalid_value", {"input": [call("1"), {"type": "reasoning"}, {"role": "user", "content": ""}]}),
]
BAD_PARTS: list[tuple[str, str, str, Json]] = [
    ("user", "type", "unsupported_value", {"type": "input_file", "file_id": "f"}),
    ("user", "type", "unsupported_value", {"type": "output_text", "text": "a"}),
    ("user", "type", "unsupported_value", {}),
    ("user", "image_url", "invalid_value", {"type": "input_image", "image_url": "http://169.254.169.254/"}),
    ("user", "image_url", "invalid_value", {"type": "input_image"}),
    ("user", "file_id", "unsupported_parameter", {"type": "input_image", "image_url": PNG, "file_id": "f"}),
    ("user", "text", "invalid_value", {"type": "input_text", "text": 1}),
    ("assistant", "type", "unsupported_value", {"type": "reasoning_text", "text": "a"}),
]


@pytest.mark.parametrize(("param", "code", "fields"), BAD, ids=[f"{p}-{i}" for i, (p, _, _) in enumerate(BAD)])
def test_requests_are_refused_by_name(param: str, code: str, fields: Json) -> None:
    with pytest.raises(RequestError) as caught:
        ask(**fields)
    assert (caught.value.param, caught.value.code, caught.value.status) == (param, code, 400)
    assert f"'{param}'" in str(caught.value)


@pytest.mark.parametrize(("role", "param", "code", "given"), BAD_PARTS)
def test_parts_are_refused_by_name(role: str, param: str, code: str, given: Json) -> None:
    with pytest.raises(RequestError) as caught:
        ask(input=[{"role": "user", "content": "a"}, {"role": role, "content": [given]}])
    assert (caught.value.param, caught.value.code) == (f"input.1.content.0.{param}", code)
    assert "169.254" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff", b'{"a":' * 10**5])
def test_bodies_that_are_no_request_are_refused(data: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        requests.read(data)
    assert caught.value.code == "invalid_json"


def test_any_request_is_read_or_refused() -> None:
    read = 0
    for seed in range(400):
        with suppress(RequestError):
            upstream.write(requests.read(encode(spoiled(FULL, Random(seed)))))
            read += 1
    assert read > 10


TEXTS = st.text(min_size=1, max_size=8)
NAMES = st.text("abc_-.9", min_size=1, max_size=8)
IMAGES = st.sampled_from([Image(PNG), Image(PNG, "high")])
SCHEMAS = st.sampled_from([None, {"type": "object"}, {"type": "object", "properties": {"a": {}}}])
CALLS = st.builds(Call, TEXTS, NAMES, st.sampled_from(["{}", '{"a": 1}', "not JSON"]))


@st.composite
def turns(draw: st.DrawFn) -> list[Message]:
    """A message of someone, or of the assistant with what follows it."""
    if draw(st.booleans()):
        parts = draw(st.lists(TEXTS | IMAGES, max_size=3))
        return [Message(draw(st.sampled_from(["user", "system", "developer"])), tuple(parts))]
    calls = tuple(draw(st.lists(CALLS, max_size=2)))
    answer = Message(
        "assistant",
        tuple(draw(st.lists(TEXTS, max_size=2))),
        calls=calls,
        refusal=draw(st.text(max_size=3)),
        thoughts=draw(st.text(max_size=8)),
        seals=tuple(Seal("encrypted", data) for data in draw(st.lists(TEXTS, max_size=2))),
    )
    outputs = [Message("tool", tuple(draw(st.lists(TEXTS | IMAGES, max_size=2))), call_id=c.id) for c in calls]
    return [answer, *(outputs or [Message("user", ("next",))])]


@st.composite
def canonical(draw: st.DrawFn) -> Request:
    tools = draw(
        st.lists(st.builds(Tool, NAMES, st.text(max_size=5), SCHEMAS, st.sampled_from([None, True, False])))
    )
    logprobs = draw(st.booleans())
    formats = st.builds(
        Format, st.just("json_schema"), NAMES, SCHEMAS.map(lambda s: s or {}), st.none(), st.text()
    )
    maybe = st.none()
    return Request(
        draw(TEXTS),
        tuple(message for turn in draw(st.lists(turns(), min_size=1, max_size=4)) for message in turn),
        dialect="responses",
        stream=draw(st.booleans()),
        usage=True,
        max_tokens=draw(maybe | st.integers(1, 10**6)),
        temperature=draw(maybe | st.floats(0, 2)),
        top_p=draw(maybe | st.floats(0, 1)),
        logprobs=logprobs,
        top_logprobs=draw(st.integers(0, 20)) if logprobs else 0,
        tools=tuple(tools),
        choice=draw(st.sampled_from(["", "auto", "none", "required", "function:f"])),
        parallel=draw(maybe | st.booleans()) if tools else None,
        format=draw(maybe | st.just(Format("json_object")) | formats),
        effort=draw(st.sampled_from([None, "none", "low", "xhigh"])),
        summary=draw(st.sampled_from(["", "auto", "detailed"])),
    )


@FEW
@given(canonical())
def test_requests_that_are_written_are_read(request: Request) -> None:
    body = upstream.write(request)
    assert body["store"] is False
    sealed = bool(request.tools) or any(message.seals for message in request.messages)
    assert ("reasoning.encrypted_content" in body.get("include", [])) == sealed
    assert requests.read(encode(body)) == request


def test_sealed_reasoning_is_sent_without_an_id_and_other_with_one() -> None:
    messages = (
        Message("assistant", ("x",), thoughts="w", seals=(Seal("encrypted", "s"), Seal("encrypted", "t"))),
        Message("assistant", ("y",), thoughts="v"),
    )
    items = upstream.write(Request("m", messages))["input"]
    assert [item for item in items if item["type"] == "reasoning"] == [
        {"type": "reasoning", "summary": [part("summary_text", "w")], "encrypted_content": "s"},
        {"type": "reasoning", "summary": [], "encrypted_content": "t"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [part("reasoning_text", "v")]},
    ]
    assert upstream.write(Request("m", tools=(Tool("f"),)))["include"] == ["reasoning.encrypted_content"]
    assert "include" not in upstream.write(Request("m"))


def test_strict_is_said_for_clients_whose_dialect_has_another_default() -> None:
    tools = (Tool("f"), Tool("g", strict=True))
    for dialect, expected in (("chat", [False, True]), ("messages", [False, True]), ("responses", [None, True])):
        request = Request("m", dialect=dialect, tools=tools)  # type: ignore[arg-type]
        assert [tool.get("strict") for tool in upstream.write(request)["tools"]] == expected


@pytest.mark.parametrize(
    ("fields", "chat", "messages"),
    [
        ({"n": 2}, "n", "n"),
        ({"stop": ("x",)}, "stop", "stop_sequences"),
        ({"seed": 1}, "seed", "seed"),
        ({"bias": {"1": 2.0}}, "logit_bias", "logit_bias"),
        ({"top_k": 5}, "top_k", "top_k"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "frequency_penalty"),
        ({"presence_penalty": -0.5}, "presence_penalty", "presence_penalty"),
        ({"reasoning_budget": 0}, "reasoning.max_tokens", "thinking.budget_tokens"),
        ({"prompt": "x"}, "prompt", "prompt"),
        ({"messages": (Message("user", ("a",), name="n"),)}, "messages.0.name", "messages.0.name"),
        ({"messages": (Message("assistant", (Image(PNG),)),)}, "messages.0.content", "messages.0.content"),
    ],
)
def test_what_the_dialect_cannot_carry_is_refused(fields: Json, chat: str, messages: str) -> None:
    for dialect, param in (("chat", chat), ("messages", messages)):
        with pytest.raises(RequestError) as caught:
            upstream.write(msgspec.structs.replace(Request("m", dialect=dialect), **fields))  # type: ignore[arg-type]
        assert caught.value.param == param
        assert f"'{param}'" in str(caught.value)


def test_values_that_say_nothing_are_carried() -> None:
    request = Request("m", (Message("tool", ("a",), name="f", call_id="c"),), frequency_penalty=0.0, top_k=-1)
    (item,) = upstream.write(request)["input"]
    assert item == {"type": "function_call_output", "call_id": "c", "output": "a"}
