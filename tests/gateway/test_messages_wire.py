"""Anthropic's dialect: recorded replies, round trips, and what a stream and a request must never be."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from azeotrope.gateway.wire import events as ev
from azeotrope.gateway.wire import messages_request as requests
from azeotrope.gateway.wire import messages_upstream as upstream
from azeotrope.gateway.wire.errors import Problem, WireError
from azeotrope.gateway.wire.fields import encode
from azeotrope.gateway.wire.form import Form
from azeotrope.gateway.wire.messages_reader import MessagesReader
from azeotrope.gateway.wire.messages_writer import (
    DEPTH,
    TYPES,
    Extent,
    MessagesWriter,
    error_body,
    tool_input,
    whole,
)
from azeotrope.gateway.wire.reply import Reply, gather
from azeotrope.gateway.wire.request import Call, Format, Image, Message, Request, RequestError, Seal, Tool
from azeotrope.gateway.wire.sse import EventParser
from azeotrope.gateway.wire.think import Splitter

Json = dict[str, Any]
HEAD = ("msg_1", "model-1", 7)


def read_stream(*bodies: Json, splitter: Any = None) -> list[ev.Event]:
    reader = MessagesReader(splitter)
    events = [event for body in bodies for event in reader.chunk(json.dumps(body).encode())]
    return events + reader.close()


def read_whole(body: Json, splitter: Any = None) -> list[ev.Event]:
    reader = MessagesReader(splitter)
    return reader.whole(json.dumps(body).encode()) + reader.close()


def write_stream(events: list[ev.Event], form: Form | None = None) -> bytes:
    writer = MessagesWriter(*HEAD, form)
    return b"".join(writer.write(event) for event in events) + writer.end()


def parse(stream: bytes) -> list[Json]:
    """The events of a stream, whose names must be their types."""
    found = []
    for event in EventParser().feed(stream):
        found.append(json.loads(event.data))
        assert found[-1]["type"] == event.name
    return found


def start(index: int, **block: Any) -> Json:
    return {"type": "content_block_start", "index": index, "content_block": block}


def delta(index: int, kind: str, **rest: Any) -> Json:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **rest}}


def stop(index: int) -> Json:
    return {"type": "content_block_stop", "index": index}


def begin(name: str = "msg_up", **rest: Any) -> Json:
    return {"type": "message_start", "message": {"id": name, "model": "up", "content": [], **rest}}


def end(reason: str = "end_turn", **usage: int) -> Json:
    return {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": usage}


STOP: Json = {"type": "message_stop"}


# Reading


@pytest.fixture(scope="session")
def recorded(data_dir: Path) -> Path:
    folder = data_dir / "wire" / "vercel_ai"
    if not folder.is_dir():
        pytest.skip("no recorded replies: AZEOTROPE_DATA has no wire/vercel_ai/")
    return folder


def reading(path: Path) -> Reply:
    """A recorded reply; asserts that it is read to its end."""
    reader = MessagesReader()
    if path.suffix == ".json":
        events = reader.whole(path.read_bytes())
    else:
        events = [e for line in path.read_bytes().splitlines() if line for e in reader.chunk(line)]
    assert (reader.done, reader.complete, reader.close()) == (True, True, []), path.name
    finish = [event for event in events if isinstance(event, ev.Finish)]
    assert len(finish) == 1, path.name
    assert isinstance(events[0], ev.Start), path.name
    return gather(events)


def recordings(folder: Path) -> list[Path]:
    """Not the one in which a second message begins within the first: it is refused (see below)."""
    return [path for path in sorted(folder.glob("anthropic__*")) if "spliced" not in path.name]


def test_every_recorded_reply_is_read(recorded: Path) -> None:
    found = {path.name: reading(path) for path in recordings(recorded)}
    assert len(found) > 20
    for name, reply in found.items():
        choice = reply.choices[0]
        assert reply.usage is not None, name
        assert min(reply.usage.prompt or 0, reply.usage.completion or 0) > 0, name
        assert choice.text or choice.tools or choice.reason == "refusal", name
        for call in choice.tools:
            assert all((call.id, call.name)), name
            assert isinstance(json.loads(call.arguments), dict), name


def test_recorded_streams_and_bodies_of_one_kind_agree(recorded: Path) -> None:
    pairs = [
        (path, twin)
        for path in recordings(recorded)
        if path.suffix == ".json" and (twin := path.with_suffix(".chunks.txt")).exists()
    ]
    assert len(pairs) > 5
    for path, twin in pairs:
        body, stream = reading(path).choices[0], reading(twin).choices[0]
        assert body.reason == stream.reason, path.name
        assert [call.name for call in body.tools] == [call.name for call in stream.tools], path.name
        assert bool(body.reasoning) == bool(stream.reasoning), path.name
        assert [sealed.kind for sealed in body.sealed] == [sealed.kind for sealed in stream.sealed], path.name


def test_recorded_text_is_kept_and_that_of_other_blocks_is_not(recorded: Path) -> None:
    for path in recordings(recorded):
        if path.suffix != ".json":
            continue
        content = json.loads(path.read_bytes())["content"]
        choice = reading(path).choices[0]
        assert choice.text == "".join(block["text"] for block in content if block["type"] == "text")
        assert choice.reasoning == "".join(b["thinking"] for b in content if b["type"] == "thinking")
        mine = ("text", "thinking", "redacted_thinking", "tool_use")
        said = choice.text + choice.reasoning + "".join(call.arguments for call in choice.tools)
        for block in content:
            if block["type"] not in mine:
                assert not [words for words in strings(block) if len(words) > 60 and words in said], path.name


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from strings(inner)


def test_all_kinds_of_blocks_in_a_stream() -> None:
    events = read_stream(
        begin(usage={"input_tokens": 10, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 2}),
        {"type": "ping"},
        start(0, type="thinking", thinking="", signature=""),
        delta(0, "thinking_delta", thinking="hm"),
        delta(0, "signature_delta", signature="sig"),
        stop(0),
        start(1, type="redacted_thinking", data="zzz"),
        stop(1),
        start(2, type="server_tool_use", id="s", name="web_search", input={}),
        delta(2, "input_json_delta", partial_json='{"query": "secret"}'),
        stop(2),
        start(3, type="web_search_tool_result", tool_use_id="s", content=[{"title": "secret"}]),
        stop(3),
        start(4, type="text", text="So", citations=[]),
        delta(4, "citations_delta", citation={"cited_text": "secret"}),
        delta(4, "text_delta", text=" it is"),
        stop(4),
        start(5, type="tool_use", id="t0", name="f", input={}),
        delta(5, "input_json_delta", partial_json=""),
        delta(5, "input_json_delta", partial_json='{"a":'),
        delta(5, "input_json_delta", partial_json="1}"),
        stop(5),
        start(6, type="tool_use", id="t1", name="g", input={}),
        stop(6),
        start(7, type="tool_use", id="t2", name="h", input={"b": 2}),
        {"type": "content_block_unheard_of", "text": "secret"},
        end("tool_use", output_tokens=9, output_tokens_details=None),  # type: ignore[arg-type]
        STOP,
    )
    assert events == [
        ev.Start("msg_up", "up", 0),
        ev.Usage(16, None, None, 4),
        ev.Reasoning("hm"),
        ev.Sealed("signature", "sig"),
        ev.Sealed("redacted", "zzz"),
        ev.Text("So"),
        ev.Text(" it is"),
        ev.Tool(0, "", "t0", "f"),
        ev.Tool(0, '{"a":'),
        ev.Tool(0, "1}"),
        ev.Tool(1, "", "t1", "g"),
        ev.Tool(1, "{}"),
        ev.Tool(2, "", "t2", "h"),
        ev.Tool(2, '{"b":2}'),
        ev.Finish("tool_calls"),
        ev.Usage(16, 9, None, 4),
    ]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("pause_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "refusal"),
        ("not yet invented", "stop"),
    ],
)
def test_reasons(said: str, reason: ev.Reason) -> None:
    body = {"id": "m", "model": "up", "content": [], "stop_reason": said}
    assert ev.Finish(reason) in read_whole(body)
    assert ev.Finish(reason) in read_stream(begin(), end(said), STOP)


def test_counts_are_cumulative() -> None:
    events = read_stream(
        begin(usage={"input_tokens": 43, "output_tokens": 1}),
        end(input_tokens=61, output_tokens=2),
        {"type": "message_delta", "delta": {}, "usage": {"output_tokens_details": {"thinking_tokens": 1}}},
        end(input_tokens=0, output_tokens=0),
    )
    assert [e for e in events if isinstance(e, ev.Usage)][1:] == [
        ev.Usage(61, 2),
        ev.Usage(61, 2, 1),
        ev.Usage(61, 2, 1),
    ]


def test_the_same_start_again_says_nothing_and_another_is_a_failure() -> None:
    text = [start(0, type="text", text="a"), stop(0)]
    assert gather(read_stream(begin(), begin(), *text, end(), STOP)) == gather(
        read_stream(begin(), *text, end(), STOP)
    )
    events = read_stream(begin(), *text, begin("msg_other"), *text, end(), STOP)
    assert events[-1] == ev.Failure(502, "upstream_restarted")
    assert events.count(ev.Text("a")) == 1


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("overloaded_error", 529),
        ("rate_limit_error", 429),
        ("api_error", 500),
        ("timeout_error", 504),
        ("request_too_large", 413),
        ("not_yet_invented", 502),
    ],
)
def test_errors(kind: str, status: int) -> None:
    error = {"type": "error", "error": {"type": kind, "message": "Sorry"}}
    failure = ev.Failure(status, kind, "Sorry")
    assert read_whole(error) == [failure]
    assert read_stream(error) == [failure]
    cut = read_stream(begin(), start(0, type="text", text="a"), error, delta(0, "text_delta", text="b"), STOP)
    assert cut == [ev.Start("msg_up", "up", 0), ev.Text("a"), failure]


def test_a_stream_that_stops_in_the_middle_fails() -> None:
    bodies = [begin(), start(0, type="text", text="a"), stop(0), end(), STOP]
    for cut in range(4):
        assert read_stream(*bodies[:cut])[-1] == ev.Failure(502, "upstream_closed")
    assert not any(isinstance(event, ev.Failure) for event in read_stream(*bodies))
    reader = MessagesReader()
    assert reader.chunk(b"[DONE]") == []
    assert reader.done
    assert not reader.complete


@pytest.mark.parametrize(
    "bodies",
    [
        [delta(0, "text_delta", text="a")],
        [{"type": "content_block_start", "content_block": {"type": "text", "text": "a"}}],
        [start(0, type="text", text=["a"])],
        [start(0, type="thinking", thinking=1)],
        [start(0, type="tool_use", id="t", name="f", input=["a"])],
        [start(0, type="tool_use", id="t", name="f", input={}), delta(0, "text_delta", text="a")],
        [start(0, type="text", text=""), delta(0, "thinking_delta", thinking="a")],
        [start(0, type="thinking", thinking=""), delta(0, "text_delta", text="a")],
        [{"type": "message_start", "message": {"id": "m", "content": "a"}}],
    ],
)
def test_what_would_be_lost_is_refused(bodies: list[Json]) -> None:
    with pytest.raises(WireError):
        read_stream(*bodies)


def test_bytes_that_are_no_message() -> None:
    for data in (b"", b"[]", b"{", b"\xff", b"[" * 100_000):
        with pytest.raises(WireError):
            MessagesReader().chunk(data)
        with pytest.raises(WireError):
            MessagesReader().whole(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
WORDS = st.sampled_from(
    "type index message content content_block delta text thinking signature data id name input partial_json usage "
    "stop_reason error message_start message_delta message_stop content_block_start content_block_delta "
    "content_block_stop text_delta thinking_delta tool_use input_json_delta redacted_thinking".split()
)
PROTOCOL = st.recursive(
    WORDS | st.integers(0, 2) | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.lists(st.dictionaries(WORDS, PROTOCOL, max_size=5), max_size=6))
def test_nothing_but_wire_errors_is_raised(bodies: list[Json]) -> None:
    reader = MessagesReader(Splitter)
    for body in bodies:
        try:
            reader.chunk(encode(body))
            MessagesReader().whole(encode(body))
        except WireError:
            pass
    reader.close()


def test_reasoning_between_tags() -> None:
    text = ["<thi", "nk>a</thi", "nk>b <thi"]
    pieces = [delta(0, "text_delta", text=part) for part in text]
    bodies = [begin(), start(0, type="text", text=""), *pieces, stop(0)]
    call = [start(1, type="tool_use", id="t", name="f", input={}), stop(1)]
    events = read_stream(*bodies, *call, end("tool_use"), STOP, splitter=Splitter)
    assert events[1:-1] == [
        ev.Reasoning("a"),
        ev.Text("b "),
        ev.Tool(0, "", "t", "f"),  # what may be a tag waits for the next text, so that no block can split one
        ev.Tool(0, "{}"),
        ev.Text("<thi"),
    ]
    split = [
        begin(),
        start(0, type="text", text="<thi"),
        stop(0),
        *call,
        start(2, type="text", text="nk>a"),
        stop(2),
    ]
    assert gather(read_stream(*split, end(), STOP, splitter=Splitter)).choices[0].reasoning == "a"
    body = {"id": "m", "content": [{"type": "text", "text": "".join(text)}], "stop_reason": "end_turn"}
    reply = gather(read_whole(body, Splitter)).choices[0]
    assert (reply.reasoning, reply.text) == ("a", "b <thi")
    reader = MessagesReader(Splitter)
    reader.whole(b'{"id":"m","content":[{"type":"text","text":"a</think>b"}],"stop_reason":"end_turn"}')
    assert reader.stray


# Writing


@pytest.fixture(scope="session")
def official() -> Any:
    """The provider's own package; its types are strict."""
    return pytest.importorskip("anthropic")


def check(stream: bytes) -> list[Json]:
    """Assert that a stream is well-formed; return its blocks, each with the deltas joined under "said"."""
    told = parse(stream)
    kinds = [body["type"] for body in told]
    failed = "error" in kinds
    assert kinds.count("error") <= 1
    assert not failed or kinds[-1] == "error"
    if not failed:
        assert kinds[-2:] == ["message_delta", "message_stop"]
    assert failed or kinds[0] == "message_start"
    fits = {"text": {"text_delta"}, "thinking": {"thinking_delta", "signature_delta"}}
    fits |= {"tool_use": {"input_json_delta"}, "redacted_thinking": set()}
    blocks: list[Json] = []
    is_open = signed = False
    for place, body in enumerate(told):
        match body["type"]:
            case "message_start":
                assert place == 0
            case "content_block_start":
                assert not is_open
                assert body["index"] == len(blocks)
                is_open, signed = True, False
                blocks.append({**body["content_block"], "said": ""})
            case "content_block_delta":
                assert is_open
                assert not signed
                assert body["index"] == len(blocks) - 1
                piece = body["delta"]
                assert piece["type"] in fits[blocks[-1]["type"]]
                signed = piece["type"] == "signature_delta"
                if signed:
                    blocks[-1]["signature"] = piece["signature"]
                else:
                    (words,) = (value for key, value in piece.items() if key != "type")
                    assert words
                    blocks[-1]["said"] += words
            case "content_block_stop":
                assert is_open
                assert body["index"] == len(blocks) - 1
                is_open = False
            case "message_delta" | "message_stop":
                assert not is_open
                assert place >= len(told) - 2
            case kind:
                assert kind == "error"
    return blocks


def joined(blocks: list[Json], kind: str) -> str:
    return "".join(block["said"] for block in blocks if block["type"] == kind)


TEXT = st.text(max_size=4)
SLOT = st.integers(0, 3)
ANY = st.one_of(
    st.builds(ev.Start, TEXT, TEXT, st.integers(0, 9)),
    st.builds(ev.Reasoning, TEXT, summary=st.booleans()),
    st.builds(ev.Sealed, st.sampled_from(["signature", "redacted"]), TEXT),
    st.builds(ev.Text, TEXT, refusal=st.booleans()),
    st.builds(ev.Text, TEXT, st.just(1)),
    st.builds(
        ev.Tool, SLOT, st.sampled_from(["", "{", "}", '{"a":', '"}', "\\", "1}", "{}", "[", " "]), TEXT, TEXT
    ),
    st.builds(ev.Finish, st.sampled_from(["stop", "length", "tool_calls", "content_filter", "refusal"])),
    st.builds(ev.Usage, st.none() | st.integers(0, 9), st.integers(0, 9)),
)


@settings(deadline=None)
@given(st.lists(ANY, max_size=20), st.booleans())
def test_streams_are_well_formed_and_lose_nothing(events: list[ev.Event], fail: bool) -> None:
    blocks = check(write_stream([*events, ev.Failure(529)] if fail else events))
    if fail:
        return
    texts = [e.text for e in events if isinstance(e, ev.Text) and e.choice == 0]
    thoughts = [e.text for e in events if isinstance(e, ev.Reasoning)]
    sealed = [e.data for e in events if isinstance(e, ev.Sealed) and e.data]
    assert joined(blocks, "text") == "".join(texts)
    assert joined(blocks, "thinking") == "".join(thoughts)
    assert [b.get("data") or b.get("signature") for b in blocks if b.get("data") or b.get("signature")] == sealed
    slots = {e.slot for e in events if isinstance(e, ev.Tool)}
    assert sum(block["type"] == "tool_use" for block in blocks) == len(slots)


@st.composite
def replies(draw: st.DrawFn) -> list[ev.Event]:
    """Events as upstreams send them: pieces of calls may be interleaved with each other and with all else."""
    said = st.one_of(
        st.builds(ev.Reasoning, TEXT),
        st.builds(ev.Text, TEXT),
        st.builds(ev.Sealed, st.sampled_from(["signature", "redacted"]), st.text(min_size=1, max_size=4)),
    )
    runs: list[list[Any]] = [draw(st.lists(said, max_size=6))]
    for number in range(draw(st.integers(0, 3))):
        value = draw(st.dictionaries(st.text(max_size=3), JSON, max_size=3))
        arguments = json.dumps(value, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 1])))
        cuts = sorted(draw(st.lists(st.integers(0, len(arguments)), max_size=4)))
        pieces = [arguments[a:b] for a, b in zip([0, *cuts], [*cuts, len(arguments)], strict=True)]
        names = (f"id{number}", f"f{number}")
        runs.append([("", *names), *((piece, "", "") for piece in pieces)])
    order = draw(st.permutations([place for place, run in enumerate(runs) for _ in run]))
    slots: dict[int, int] = {}
    events: list[ev.Event] = [ev.Start("msg_up", "up", 0)]
    for place in order:
        item = runs[place].pop(0)
        events.append(ev.Tool(slots.setdefault(place, len(slots)), *item) if place else item)
    events.append(ev.Finish(draw(st.sampled_from(["stop", "length", "tool_calls", "refusal"]))))
    cached = draw(st.none() | st.integers(0, 9))
    told = ev.Usage(draw(st.integers(9, 99)), draw(st.integers(0, 9)), draw(st.none() | st.integers(0, 9)), cached)
    return [*events, told]


def facts(reply: Reply, *, exact: bool) -> Json:
    """What a reply says. Calls by their text, or (not `exact`) by what it means."""
    choice = reply.choices[0]
    return {
        "reasoning": choice.reasoning + choice.summary,
        "text": choice.text + choice.refusal,
        "sealed": choice.sealed,
        "tools": [(c.id, c.name, c.arguments if exact else json.loads(c.arguments)) for c in choice.tools],
        "reason": choice.reason,
        "usage": reply.usage,
    }


@settings(max_examples=200, deadline=None)
@given(replies())
def test_round_trips(events: list[ev.Event]) -> None:
    reply = gather(events)
    stream = write_stream(events)
    check(stream)
    again = gather(read_stream(*parse(stream)))
    assert (again.id, again.model, again.failure) == ("msg_1", "model-1", None)
    assert facts(again, exact=True) == facts(reply, exact=True)
    body = whole(reply, *HEAD)
    told = gather(read_whole(body))
    assert facts(told, exact=False) == facts(reply, exact=False)


def test_calls_that_come_in_turns_are_put_in_order() -> None:
    writer = MessagesWriter(*HEAD)
    first = writer.write(ev.Tool(0, '{"a":', "t0", "f"))
    assert b"partial_json" in first  # at once
    assert writer.write(ev.Tool(1, '{"b":', "t1", "g")) == b""
    assert writer.write(ev.Text("then")) == b""
    rest = writer.write(ev.Tool(0, '"}"}'))  # the first ends: the second is open, and the text still waits
    assert b'"id":"t1"' in rest
    assert b"then" not in rest
    last = writer.write(ev.Tool(1, "2}"))
    assert b"then" in last
    assert writer.write(ev.Tool(0, "late")) == b""
    blocks = check(first + rest + last + writer.end())
    assert [block["said"] for block in blocks] == ['{"a":"}"}', '{"b":2}', "then"]


def test_calls_one_after_the_other_are_not_held_back() -> None:
    writer = MessagesWriter(*HEAD)
    for slot in range(3):
        assert writer.write(ev.Tool(slot, '{"a"', f"t{slot}", "f"))
        assert writer.write(ev.Tool(slot, ":[{}]}"))


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=3), JSON, max_size=3), st.booleans(), st.lists(st.integers(0, 99)))
def test_the_end_of_an_object_is_seen_at_its_last_character(value: Json, plain: bool, cuts: list[int]) -> None:
    text = json.dumps(value, ensure_ascii=plain)
    at = sorted({0, len(text) - 1, *(cut for cut in cuts if cut < len(text))})
    extent = Extent()
    for a, b in itertools.pairwise(at):
        extent.feed(text[a:b])
    assert not extent.ended
    extent.feed(text[-1])
    assert extent.ended


def test_a_thinking_block_ends_with_its_signature() -> None:
    sign = ev.Sealed("signature", "s")
    blocks = check(write_stream([ev.Reasoning("a"), sign, ev.Reasoning("b"), ev.Text("c"), sign]))
    assert [(b["type"], b["said"], b.get("signature")) for b in blocks] == [
        ("thinking", "a", "s"),
        ("thinking", "b", ""),
        ("text", "c", None),
        ("thinking", "", "s"),
    ]


def test_only_what_may_be_told_is_written() -> None:
    hidden = [ev.Sealed("encrypted", "secret"), ev.Text("secret", 1)]
    hidden += [ev.Text("", tokens=(ev.Logprob("secret", -1.0),)), ev.Failure(500, "secret", "secret")]
    stream = write_stream([ev.Text("a"), *hidden, ev.Text("secret")])
    check(stream)
    assert b"secret" not in stream
    assert b"secret" not in encode(whole(gather([ev.Text("a"), *hidden]), *HEAD))
    used = [ev.Text("a"), ev.Usage(5, 7, 6)]
    assert b"thinking_tokens" in write_stream(used)
    assert b"thinking_tokens" not in write_stream(used, Form(tell_reasoning=False))
    assert b"thinking_tokens" not in encode(whole(gather(used), *HEAD, Form(tell_reasoning=False)))


def test_the_words_of_a_refusal() -> None:
    events = [ev.Text("No", refusal=True), ev.Finish("stop")]
    body = whole(gather(events), *HEAD)
    assert (body["content"], body["stop_reason"]) == ([{"type": "text", "text": "No"}], "refusal")
    again = gather(read_stream(*parse(write_stream(events)))).choices[0]
    assert (again.text, again.reason) == ("No", "refusal")


@pytest.mark.parametrize("arguments", ["{", "[1]", "5", "null", "nope", '{"a":1}x', '{"a":' * 5000, "[" * 10**5])
def test_inputs_that_are_no_objects(arguments: str) -> None:
    assert tool_input(arguments) == {"INVALID_JSON": arguments}
    events = [ev.Tool(0, arguments, "t", "f"), ev.Finish("tool_calls")]
    encode(whole(gather(events), *HEAD))
    (block,) = check(write_stream(events))
    assert block["said"] == arguments


def test_inputs_that_are_objects() -> None:
    deeper = '{"a":' * (DEPTH + 1) + "1" + "}" * (DEPTH + 1)
    assert tool_input(deeper) == {"INVALID_JSON": deeper}
    deep = '{"a":' * DEPTH + "1" + "}" * DEPTH
    assert json.dumps(tool_input(deep), separators=(",", ":")) == deep
    assert tool_input("") == tool_input(" \n") == {}


@pytest.mark.parametrize("kind", list(TYPES))
def test_error_bodies(official: Any, kind: Any) -> None:
    body = error_body(Problem(400, kind, "It is wrong.", "", "max_tokens"))
    assert body["error"]["message"] == "max_tokens: It is wrong."
    if kind != "too_large":  # documented, but the package has no type for it
        official.types.shared.ErrorResponse.model_validate(body, strict=True)
    named = error_body(Problem(400, kind, "`max_tokens` is required.", "", "max_tokens"))
    assert named["error"]["message"] == "`max_tokens` is required."


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (529, "overloaded_error"),
        (503, "overloaded_error"),
        (429, "rate_limit_error"),
        (504, "timeout_error"),
        (401, "api_error"),
        (502, "api_error"),
    ],
)
def test_failures_of_the_upstream(status: int, kind: str) -> None:
    last = parse(write_stream([ev.Text("a"), ev.Failure(status)]))[-1]
    assert (last["type"], last["error"]["type"]) == ("error", kind)


@pytest.fixture(scope="session")
def adapters(official: Any) -> Any:
    return TypeAdapter(official.types.RawMessageStreamEvent), TypeAdapter(official.types.Message)


@settings(max_examples=50, deadline=None)
@given(events=replies())
def test_the_official_types_take_what_is_written(adapters: Any, events: list[ev.Event]) -> None:
    stream, message = adapters
    for body in parse(write_stream(events)):
        stream.validate_python(body, strict=True)
    message.validate_python(whole(gather(events), *HEAD), strict=True)


@settings(max_examples=20, deadline=None)
@given(events=replies())
def test_the_official_client_reads_what_is_written(official: Any, events: list[ev.Event]) -> None:
    httpx2 = pytest.importorskip("httpx2")
    reply = gather(events)

    def answer(request: Any) -> Any:
        asked = requests.read(request.read())
        if not asked.stream:
            return httpx2.Response(200, json=whole(reply, *HEAD))
        return httpx2.Response(200, content=write_stream(events), headers={"content-type": "text/event-stream"})

    http = httpx2.Client(transport=httpx2.MockTransport(answer))
    client = official.Anthropic(api_key="none", http_client=http, base_url="http://gateway.invalid")
    asked = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
    with client.messages.stream(**asked) as stream:
        streamed = stream.get_final_message()
    for message in (streamed, client.messages.create(**asked)):
        told = gather(read_whole(json.loads(message.model_dump_json(warnings=False))))
        assert facts(told, exact=False) == facts(reply, exact=False)


# Requests


def asking(**fields: Any) -> Json:
    return {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]} | fields


def read(**fields: Any) -> Request:
    return requests.read(json.dumps(asking(**fields)).encode())


def test_a_request_is_read() -> None:
    png = {"type": "base64", "media_type": "image/png", "data": "aGk="}
    cached = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    request = read(
        **cached,
        system=[{"type": "text", "text": "Be", **cached}, {"type": "text", "text": "brief."}],
        messages=[
            {
                "role": "user",
                "content": [{"type": "text", "text": "Look", **cached}, {"type": "image", "source": png}],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "sig"},
                    {"type": "redacted_thinking", "data": "zzz"},
                    {"type": "text", "text": "I call."},
                    {"type": "tool_use", "id": "t0", "name": "f", "input": {"a": [1, None]}},
                    {"type": "tool_use", "id": "t1", "name": "g", "input": {}, **cached},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t0", "content": "one"},
                    {
                        "type": "tool_result",
                        "tool_use_id": "t1",
                        "is_error": True,
                        "content": [{"type": "text", "text": "no"}, {"type": "image", "source": png}],
                    },
                    {"type": "text", "text": "Go on"},
                ],
            },
            {"role": "system", "content": "Hurry."},
        ],
        tools=[
            {"name": "f", "description": "It calls.", "input_schema": {"type": "object"}, **cached},
            {"type": "custom", "name": "g", "input_schema": {}, "strict": True},
        ],
        tool_choice={"type": "tool", "name": "f", "disable_parallel_tool_use": True},
        thinking={"type": "enabled", "budget_tokens": 2048, "display": "summarized"},
        output_config={"effort": "max", "format": {"type": "json_schema", "schema": {"type": "object"}}},
        stop_sequences=["END"],
        temperature=1,
        top_p=0.5,
        top_k=5,
        metadata={"user_id": "u"},
        stream=True,
    )
    image = Image("data:image/png;base64,aGk=")
    calls = (Call("t0", "f", '{"a":[1,null]}'), Call("t1", "g", "{}"))
    assert request == Request(
        "m",
        (
            Message("system", ("Be", "brief.")),
            Message("user", ("Look", image)),
            Message(
                "assistant",
                ("I call.",),
                calls=calls,
                thoughts="hm",
                seals=(Seal("signature", "sig"), Seal("redacted", "zzz")),
            ),
            Message("tool", ("one",), call_id="t0"),
            Message("tool", ("no", image), call_id="t1", failed=True),
            Message("user", ("Go on",)),
            Message("system", ("Hurry.",)),
        ),
        dialect="messages",
        stream=True,
        usage=True,
        max_tokens=9,
        temperature=1.0,
        top_p=0.5,
        top_k=5,
        stop=("END",),
        tools=(Tool("f", "It calls.", {"type": "object"}), Tool("g", "", {}, True)),
        choice="function:f",
        parallel=False,
        format=Format("json_schema", "answer", {"type": "object"}),
        effort="xhigh",
        reasoning_budget=2048,
        summary="auto",
        user="u",
    )


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "high"}}, ("none", None, "", None)),
        ({"thinking": {"type": "adaptive"}}, ("high", None, "", None)),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}, ("low", None, "", None)),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, (None, 1024, "", None)),
        ({"output_config": {"effort": "medium"}}, ("medium", None, "", None)),
        ({"tool_choice": {"type": "auto"}}, (None, None, "auto", None)),
        ({"tool_choice": {"type": "any", "disable_parallel_tool_use": False}}, (None, None, "required", True)),
        ({"tool_choice": {"type": "none"}}, (None, None, "none", None)),
        ({"thinking": None, "tools": None, "system": None, "stream": None}, (None, None, "", None)),
    ],
)
def test_effort_and_choice(fields: Json, expected: tuple[Any, ...]) -> None:
    request = read(**fields)
    assert (request.effort, request.reasoning_budget, request.choice, request.parallel) == expected


def block(role: str, **block: Any) -> Json:
    """A request with one block of content, and one before so that places count."""
    said = {"role": role, "content": [{"type": "text", "text": "a"}, block]}
    return {"messages": [{"role": "user", "content": "Hi"}, said, {"role": "user", "content": "Go on"}]}


PLACE = "messages.1.content.1"
URL = {"type": "url", "url": "http://169.254.169.254/"}


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"max_tokens": None}, "max_tokens", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": True}, "max_tokens", "invalid_value"),
        ({"max_tokens": "9"}, "max_tokens", "invalid_value"),
        ({"model": ""}, "model", "invalid_value"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": {}}, "messages", "invalid_value"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages.0.role", "invalid_value"),
        ({"messages": [{"content": "a"}]}, "messages.0.role", "missing_parameter"),
        ({"messages": [{"role": "user"}]}, "messages.0.content", "missing_parameter"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages.0.content", "invalid_value"),
        (
            {"messages": [{"role": "user", "content": "a", "name": "b"}]},
            "messages.0.name",
            "unsupported_parameter",
        ),
        ({"container": "c"}, "container", "unsupported_parameter"),
        ({"mcp_servers": []}, "mcp_servers", "unsupported_parameter"),
        ({"context_management": {}}, "context_management", "unsupported_parameter"),
        ({"service_tier": "auto"}, "service_tier", "unsupported_parameter"),
        ({"output_format": {}}, "output_format", "unsupported_parameter"),
        ({"logit_bias": {}}, "logit_bias", "unsupported_parameter"),
        ({"n": 1}, "n", "unsupported_parameter"),
        ({"x" * 500: 1}, "x" * 64, "unsupported_parameter"),
        ({"temperature": 1.5}, "temperature", "invalid_value"),
        ({"temperature": True}, "temperature", "invalid_value"),
        ({"top_p": -1}, "top_p", "invalid_value"),
        ({"top_k": -1}, "top_k", "invalid_value"),
        ({"stream": "yes"}, "stream", "invalid_value"),
        ({"stop_sequences": ["a"] * 17}, "stop_sequences", "invalid_value"),
        ({"stop_sequences": [""]}, "stop_sequences.0", "invalid_value"),
        ({"metadata": {"name": "a"}}, "metadata.name", "unsupported_parameter"),
        ({"cache_control": "ephemeral"}, "cache_control", "invalid_value"),
        ({"system": [{"type": "image"}]}, "system.0.type", "invalid_value"),
        ({"system": [{"text": "a"}]}, "system.0.type", "missing_parameter"),
        ({"thinking": {"type": "between_tools"}}, "thinking.type", "invalid_value"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens", "missing_parameter"),
        ({"thinking": {"type": "enabled", "budget_tokens": 9}}, "thinking.budget_tokens", "invalid_value"),
        ({"thinking": {"type": "adaptive", "display": "omitted"}}, "thinking.display", "invalid_value"),
        ({"output_config": {"effort": "utmost"}}, "output_config.effort", "invalid_value"),
        ({"output_config": {"task_budget": {}}}, "output_config.task_budget", "unsupported_parameter"),
        ({"output_config": {"format": {"type": "json"}}}, "output_config.format.type", "invalid_value"),
        ({"tool_choice": {"type": "some"}}, "tool_choice.type", "invalid_value"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name", "missing_parameter"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0.type", "invalid_value"),
        ({"tools": [{"name": "a b", "input_schema": {}}]}, "tools.0.name", "invalid_value"),
        ({"tools": [{"name": "f"}]}, "tools.0.input_schema", "missing_parameter"),
        ({"tools": [{"name": "f", "defer_loading": True}]}, "tools.0.defer_loading", "unsupported_parameter"),
        (block("user", type="document", source=URL), f"{PLACE}.type", "invalid_value"),
        (block("user", type="search_result"), f"{PLACE}.type", "invalid_value"),
        (block("user", type="tool_use", id="t", name="f", input={}), f"{PLACE}.type", "invalid_value"),
        (block("user", type="thinking", thinking="a", signature="b"), f"{PLACE}.type", "invalid_value"),
        (block("user", text="a"), f"{PLACE}.type", "missing_parameter"),
        (block("user", type="text", text="a", citations=[{}]), f"{PLACE}.citations", "invalid_value"),
        (block("user", type="image", source=URL), f"{PLACE}.source.type", "invalid_value"),
        (
            block("user", type="image", source={"type": "file", "file_id": "f"}),
            f"{PLACE}.source.type",
            "invalid_value",
        ),
        (
            block("user", type="image", source={"type": "base64", "media_type": "image/svg+xml", "data": "aGk="}),
            f"{PLACE}.source.media_type",
            "invalid_value",
        ),
        (
            block("user", type="image", source={"type": "base64", "media_type": "image/png", "data": "a,b"}),
            f"{PLACE}.source.data",
            "invalid_value",
        ),
        (block("user", type="tool_result", tool_use_id="t"), PLACE, "invalid_value"),
        (block("assistant", type="server_tool_use"), f"{PLACE}.type", "invalid_value"),
        (block("assistant", type="tool_result", tool_use_id="t"), f"{PLACE}.type", "invalid_value"),
        (block("assistant", type="tool_use", id="t", name="f", input="{}"), f"{PLACE}.input", "invalid_value"),
        (block("assistant", type="thinking", thinking="a"), f"{PLACE}.signature", "missing_parameter"),
    ],
)
def test_bad_requests_are_refused_and_the_field_is_named(fields: Json, param: str, code: str) -> None:
    with pytest.raises(RequestError) as caught:
        read(**fields)
    assert (caught.value.param, caught.value.code, caught.value.status) == (param, code, 400)
    message = error_body(Problem(400, "invalid_request", str(caught.value), param=param))["error"]["message"]
    assert param in message
    assert "169.254" not in message
    assert "matching" not in message
    assert len(message) < 300


def test_refusals_name_kinds_of_blocks_and_no_values() -> None:
    for kind, named in (("document", True), ("mcp_tool_use", True), ("my secret", False)):
        with pytest.raises(RequestError) as caught:
            read(**block("user", type=kind))
        assert (kind in str(caught.value)) is named


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"\xff", b'{"model":"\\ud800"}', b'{"messages":' + b"[" * 10**5]
)
def test_bodies_that_are_no_request(body: bytes) -> None:
    with pytest.raises(RequestError):
        requests.read(body)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from([*asking(), "system", "tools", "thinking", "` - at `$.a`"]), JSON))
def test_nothing_but_refusals_is_raised(fields: Json) -> None:
    with contextlib.suppress(RequestError):
        requests.read(encode(asking(**fields)))


PARTS = st.lists(
    st.text(min_size=1, max_size=4) | st.just(Image("data:image/gif;base64,aGk=")), min_size=1, max_size=3
)
TEXTS = st.lists(st.text(min_size=1, max_size=4), max_size=2).map(tuple)
NAME = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)
ASSISTANT = st.builds(
    Message,
    st.just("assistant"),
    TEXTS,
    calls=st.lists(st.builds(Call, NAME, NAME, st.just('{"a":1}')), min_size=1, max_size=2).map(tuple),
    thoughts=st.text(min_size=1, max_size=4),
    seals=st.tuples(
        st.lists(st.builds(Seal, st.just("signature"), st.text(min_size=1, max_size=4)), min_size=1, max_size=2),
        st.lists(st.builds(Seal, st.just("redacted"), st.text(min_size=1, max_size=4)), max_size=2),
    ).map(lambda kinds: (*kinds[0], *kinds[1])),
)
TURN = st.one_of(
    st.builds(Message, st.just("user"), PARTS.map(tuple)),
    ASSISTANT,
    st.builds(Message, st.just("tool"), PARTS.map(tuple), call_id=NAME, failed=st.booleans()),
)
SCHEMAS = st.dictionaries(NAME, JSON, max_size=2)
REQUESTS = st.builds(
    Request,
    NAME,
    st.lists(TURN, max_size=5).map(lambda turns: (*turns, Message("user", ("Hi",)))),
    dialect=st.just("messages"),
    stream=st.booleans(),
    max_tokens=st.integers(1, 99),
    temperature=st.none() | st.floats(0, 1),
    top_p=st.none() | st.floats(0, 1),
    top_k=st.none() | st.integers(0, 9),
    stop=st.lists(NAME, max_size=3).map(tuple),
    tools=st.lists(st.builds(Tool, NAME, st.text(), SCHEMAS, st.none() | st.booleans()), max_size=2).map(tuple),
    choice=st.sampled_from(["", "auto", "required", "none", "function:f"]),
    format=st.none() | st.builds(Format, st.just("json_schema"), st.just("answer"), SCHEMAS),
    effort=st.sampled_from([None, "none", "low", "medium", "high", "xhigh"]),
    user=st.text(max_size=4),
)


@settings(deadline=None)
@given(REQUESTS, st.lists(st.text(min_size=1, max_size=4), max_size=2).map(tuple), st.booleans())
def test_requests_round_trip(request: Request, system: tuple[str, ...], parallel: bool) -> None:
    first = (Message("system", system),) if system else ()
    alone = None if request.choice in ("", "none") else parallel
    changes: Json = {"messages": (*first, *request.messages), "usage": request.stream, "parallel": alone}
    request = Request(**{name: getattr(request, name) for name in request.__struct_fields__} | changes)
    written = upstream.write(request)
    assert requests.read(encode(written)) == request


HELLO = (Message("user", ("Hi",)),)


def written(*messages: Message, **fields: Any) -> Json:
    return json.loads(encode(upstream.write(Request("m", messages or HELLO, **fields))))


def test_a_conversation_is_written() -> None:
    body = written(
        Message("developer", ("Be brief.",)),
        Message("user", ("Hi",)),
        Message(
            "assistant",
            (),
            calls=(Call("t0", "f", "nope"), Call("t1", "g", "")),
            refusal="No",
            seals=(Seal("signature", "s"),),
        ),
        Message("tool", ("one",), call_id="t0", name="f"),
        Message("system", ("Hurry.",)),
        Message("tool", (), call_id="t1"),
        Message("user", ("", "Go on")),
        Message("user", ("",)),
        Message("user", ("And",)),
        Message("assistant", ("I call.",), calls=(Call("t2", "f"),)),
        Message("tool", ("two",), call_id="t2"),
        Message("assistant", ("Done.",)),
        Message("user", ("Bye",)),
    )
    assert body["max_tokens"] == upstream.DEFAULT_MAX_TOKENS
    assert body["system"] == [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Hurry."}]
    assert body["messages"] == [
        {"role": "user", "content": "Hi"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "", "signature": "s"},
                {"type": "text", "text": "No"},
                {"type": "tool_use", "id": "t0", "name": "f", "input": {"INVALID_JSON": "nope"}},
                {"type": "tool_use", "id": "t1", "name": "g", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t0", "content": "one"},
                {"type": "tool_result", "tool_use_id": "t1"},
                {"type": "text", "text": "Go on"},
            ],
        },
        {"role": "user", "content": "And"},
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "I call."},
                {"type": "tool_use", "id": "t2", "name": "f", "input": {}},
            ],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t2", "content": "two"}]},
        {"role": "assistant", "content": "Done."},
        {"role": "user", "content": "Bye"},
    ]


def test_reasoning_is_written_with_what_seals_it() -> None:
    def blocks(thoughts: str, *seals: Seal) -> list[tuple[str, ...]]:
        body = written(*HELLO, Message("assistant", ("a",), thoughts=thoughts, seals=seals), *HELLO)
        return [tuple(block.values()) for block in body["messages"][1]["content"][:-1]]

    assert blocks("hm") == [("thinking", "hm", "")]
    signed, redacted, other = Seal("signature", "s"), Seal("redacted", "r"), Seal("encrypted", "e")
    assert blocks("hm", signed, redacted, other) == [("thinking", "hm", "s"), ("redacted_thinking", "r")]
    assert blocks("", signed, Seal("signature", "t")) == [("thinking", "", "s"), ("thinking", "", "t")]
    assert blocks("", redacted) == [("redacted_thinking", "r")]


def test_effort_budget_and_choice_are_written() -> None:
    schema = {"type": "object", "properties": {}}
    body = written(reasoning_budget=2000, effort="minimal", parallel=False, tools=(Tool("f"),), summary="concise")
    assert body["max_tokens"] == upstream.DEFAULT_MAX_TOKENS + 2000
    assert body["thinking"] == {"type": "enabled", "budget_tokens": 2000, "display": "summarized"}
    assert body["output_config"] == {"effort": "low"}
    assert body["tools"] == [{"name": "f", "input_schema": schema}]
    assert body["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}
    assert written(effort="high")["thinking"] == {"type": "adaptive"}
    assert written(reasoning_budget=0)["thinking"] == {"type": "disabled"}
    assert set(written(parallel=True, frequency_penalty=0.0)) == {"model", "messages", "max_tokens"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": "a"}, "prompt"),
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"bias": {"1": 1.0}}, "logit_bias"),
        ({"seed": 0}, "seed"),
        ({"frequency_penalty": 0.1}, "frequency_penalty"),
        ({"presence_penalty": -0.1}, "presence_penalty"),
        ({"metadata": {"a": "b"}}, "metadata"),
        ({"temperature": 1.1}, "temperature"),
        ({"format": Format("json_object")}, "response_format"),
        ({"format": Format("json_object"), "dialect": "responses"}, "text.format"),
        ({"messages": ()}, "messages"),
        ({"messages": (Message("user", ("",)),)}, "messages"),
        ({"messages": (Message("system", ("a",)),)}, "messages"),
        ({"messages": (Message("user", ("a",), name="b"),)}, "messages.0.name"),
        ({"messages": (*HELLO, Message("assistant", ("<think>",)))}, "messages"),
        ({"messages": (*HELLO, Message("assistant", ("<think>",)), Message("user", ("",)))}, "messages"),
        ({"messages": (*HELLO, Message("assistant", ("<think>",)), Message("system", ("a",)))}, "messages"),
        ({"messages": (Message("user", (Image("http://169.254.169.254/"),)),)}, "messages"),
        ({"messages": (Message("user", (Image("data:image/svg+xml;base64,aGk="),)),)}, "messages"),
        ({"messages": (Message("system", (Image("data:image/png;base64,aGk="),)), *HELLO)}, "messages"),
    ],
)
def test_what_an_upstream_cannot_be_told_is_refused(fields: Json, param: str) -> None:
    with pytest.raises(RequestError) as caught:
        upstream.write(Request(**{"model": "m", "messages": HELLO} | fields))
    assert caught.value.param == param
