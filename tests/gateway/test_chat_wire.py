"""Chat completions: real recorded traffic read, events written and read back, requests through and back."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from azeotrope.gateway.wire import chat_request, chat_upstream
from azeotrope.gateway.wire import events as ev
from azeotrope.gateway.wire.chat_reader import ChatReader
from azeotrope.gateway.wire.chat_writer import ChatWriter, whole
from azeotrope.gateway.wire.errors import WireError
from azeotrope.gateway.wire.fields import encode
from azeotrope.gateway.wire.form import Form
from azeotrope.gateway.wire.reply import Reply, gather
from azeotrope.gateway.wire.request import Request, RequestError
from azeotrope.gateway.wire.sse import EventParser
from azeotrope.gateway.wire.think import Splitter

FORM = Form(usage=True, logprobs=True)
CHAT = ("alibaba", "azure__deepseek", "deepseek", "groq", "openai__src__chat", "openai-compatible", "mistral",
        "moonshotai", "perplexity", "xai__xai")  # fmt: skip


def recorded(ending: str) -> list[Any]:
    """Recorded files of chat completions, or one mark that skips."""
    named = os.environ.get("AZEOTROPE_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[3] / "shared" / "data"
    found = sorted((folder / "wire" / "vercel_ai").glob(f"*{ending}"))
    kept = [p for p in found if p.name.startswith(CHAT) and "error" not in p.name and "responses" not in p.name]
    if not kept:
        return [pytest.param(None, marks=pytest.mark.skip("no recorded traffic: set AZEOTROPE_DATA"))]
    return [pytest.param(path, id=path.name) for path in kept]


def read(lines: list[bytes]) -> tuple[Reply, ChatReader]:
    reader = ChatReader(Splitter)
    found = [event for line in lines for event in reader.chunk(line)]
    return gather([*found, *reader.close()]), reader


@pytest.mark.parametrize("path", recorded(".chunks.txt"))
def test_recorded_streams(path: Path) -> None:
    lines = [line for line in path.read_bytes().splitlines() if line.strip()]
    reply, _ = read(lines)
    choices = [c for line in lines if line.startswith(b"{") for c in json.loads(line).get("choices", [])]
    deltas = [c.get("delta") or {} for c in choices if c.get("index", 0) == 0]
    plain = [d["content"] for d in deltas if isinstance(d.get("content"), str)]
    thoughts = [d.get("reasoning_content") or d.get("reasoning") or "" for d in deltas]
    if all(not isinstance(d.get("content"), list) for d in deltas):
        told = reply.choices[0].text + reply.choices[0].reasoning
        assert len(told) == len("".join(plain) + "".join(thoughts))
        assert reply.choices[0].text == "".join(plain)
    arguments = [t.get("function", {}).get("arguments") or "" for d in deltas for t in d.get("tool_calls") or []]
    assert "".join(call.arguments for call in reply.choices[0].tools) == "".join(arguments)


@pytest.mark.parametrize("path", recorded(".json"))
def test_recorded_bodies(path: Path) -> None:
    body = json.loads(path.read_bytes())
    if "choices" not in body:
        pytest.skip("not a chat completion")
    reader = ChatReader(Splitter)
    reply = gather([*reader.whole(path.read_bytes()), *reader.close()])
    said = body["choices"][0]["message"]
    if isinstance(said.get("content"), str):
        assert reply.choices[0].text == said["content"]
    thoughts = said.get("reasoning_content") or said.get("reasoning")
    assert thoughts is None or reply.choices[0].reasoning == thoughts
    assert reply.failure is None
    called = [call["function"]["name"] for call in said.get("tool_calls") or []]
    assert [call.name for call in reply.choices[0].tools] == called


TEXTS = st.text(min_size=1, max_size=12).filter(lambda t: not any(c in t for c in "<["))
OTHERS = st.lists(st.builds(ev.Alternative, TEXTS, st.floats(-20, 0)), max_size=2).map(tuple)


@st.composite
def answers(draw: st.DrawFn, choice: int) -> list[ev.Event]:
    """Pieces of an answer, all of them with log-probabilities or none."""
    texts, told = draw(st.lists(TEXTS, max_size=3)), draw(st.booleans())
    tokens = [tuple(ev.Logprob(c, draw(st.floats(-20, 0)), draw(OTHERS)) for c in t if told) for t in texts]
    return [ev.Text(t, choice, tokens=spelt) for t, spelt in zip(texts, tokens, strict=True)]


@st.composite
def replies(draw: st.DrawFn) -> list[ev.Event]:
    """The events of a reply with one or two choices."""
    found: list[ev.Event] = [ev.Start("x", "m", 1)]
    for choice in range(draw(st.integers(1, 2))):
        found += [ev.Reasoning(t, choice) for t in draw(st.lists(TEXTS, max_size=3))]
        found += draw(answers(choice))
        for slot in range(draw(st.integers(0, 2))):
            found.append(ev.Tool(slot, "", f"call_{choice}{slot}", "f", choice))
            found += [ev.Tool(slot, t, "", "", choice) for t in draw(st.lists(TEXTS, max_size=2))]
        found.append(ev.Finish(draw(st.sampled_from(["stop", "length", "tool_calls", "content_filter"])), choice))
    if draw(st.booleans()):
        found.append(ev.Usage(draw(st.integers(0, 9)), draw(st.integers(0, 9)), draw(st.integers(0, 9)), None))
    return found


def plain(reply: Reply) -> Any:
    """What a reply says, to be compared."""
    found = {}
    for n, choice in reply.choices.items():
        calls = [(call.id, call.name, call.arguments) for call in choice.tools]
        found[n] = (choice.reasoning, choice.text, choice.refusal, calls, choice.logprobs, choice.reason)
    return found, reply.usage


@given(replies())
@settings(max_examples=150, deadline=None)
def test_what_is_written_is_read_back(events: list[ev.Event]) -> None:
    writer = ChatWriter("id", "m", 1, FORM)
    data = b"".join([*map(writer.write, events), writer.end()])
    parser = EventParser()
    reply, reader = read([event.data for event in parser.feed(data)])
    assert reader.done
    assert plain(reply) == plain(gather(events))
    body = encode(whole(gather(events), "id", "m", 1, FORM))
    again = ChatReader()
    assert plain(gather([*again.whole(body), *again.close()])) == plain(gather(events))


NAMES = st.sampled_from(["choices", "delta", "content", "index", "error", "usage"])
ANYTHING = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
)


@given(st.binary(max_size=200) | ANYTHING.map(lambda value: json.dumps(value).encode()))
@settings(max_examples=200, deadline=None)
def test_whatever_an_upstream_sends(data: bytes) -> None:
    """It is read, or refused in one way."""
    for reader in (ChatReader(), ChatReader(Splitter)):
        try:
            reader.chunk(data)
            reader.close()
        except WireError:
            pass


def test_an_error_is_told_once() -> None:
    reader = ChatReader()
    found = reader.chunk(b'{"error": {"message": "m", "code": 503}}') + reader.close()
    assert [event.status for event in found if isinstance(event, ev.Failure)] == [503]


def said(*deltas: Any, splitter: Any = None, **choice: Any) -> list[ev.Event]:
    """The events of a stream of deltas, without its start; `choice` is what stands beside the last."""
    reader = ChatReader(splitter)
    found: list[ev.Event] = []
    for n, delta in enumerate(deltas):
        beside = choice if n == len(deltas) - 1 else {}
        found += reader.chunk(json.dumps({"choices": [{"index": 0, "delta": delta, **beside}]}).encode())
    return [event for event in [*found, *reader.close()] if not isinstance(event, ev.Start)]


def logs(*tokens: str | bytes) -> dict[str, Any]:
    entries = [
        {"token": t, "logprob": -1} if isinstance(t, str) else {"token": "?", "bytes": list(t), "logprob": -1}
        for t in tokens
    ]
    return {"logprobs": {"content": entries}, "finish_reason": "stop"}


@pytest.mark.parametrize(
    ("text", "tokens", "shown"),
    [
        ("42", ["4", "2"], 2),
        ("42", ["4", "2", "<end>"], 2),  # what ends the turn is no text
        ("42.", ["42", ".\n\n"], 1),  # a stop text begins in the last token
        ("42", ["Hm", "4", "2"], 0),
        ("42", ["4", "2", "Hm", "wait"], 0),
        ("42", ["4"], 0),
        ("", ["Hm"], 0),  # reasoning whose text the server leaves out
        ("é", [b"\xc3", b"\xa9"], 2),
        ("é", ["?", "?"], 0),
    ],
)
def test_log_probabilities_are_the_answers_only_where_they_spell_it(text: str, tokens: Any, shown: int) -> None:
    delta = {"content": text} if text else {"role": "assistant"}
    for splitter in (None, Splitter):
        choice = gather(said(delta, splitter=splitter, **logs(*tokens))).choices[0]
        assert (choice.text, len(choice.logprobs)) == (text, shown)


def test_numbers_that_are_none_are_left_out() -> None:
    huge = 10**400
    for wrong in (huge, -huge, True, "1", None):
        data = {"content": [{"token": "a", "logprob": wrong}, {"token": "b", "logprob": -1}]}
        assert [t.token for t in gather(said({"content": "b"}, logprobs=data)).choices[0].logprobs] == ["b"]
    reader = ChatReader()
    found = reader.chunk(
        json.dumps({"created": huge, "usage": {"prompt_tokens": huge, "completion_tokens": 3}}).encode()
    )
    assert found == [ev.Start("", "", 0), ev.Usage(None, 3)]


def test_what_a_later_report_of_usage_leaves_out_stays() -> None:
    reader = ChatReader()
    first = {"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 2}}
    reader.chunk(json.dumps({"usage": first}).encode())
    assert reader.chunk(b'{"usage": {"completion_tokens": 7}}') == [ev.Usage(5, 7, None, 2)]


def test_tags_in_a_refusal_are_tags() -> None:
    found = said({"refusal": "No<thi"}, {"refusal": "nk>why</think>."}, splitter=Splitter, finish_reason="stop")
    assert found == [
        ev.Text("No", refusal=True),
        ev.Reasoning("why"),
        ev.Text(".", refusal=True),
        ev.Finish("stop"),
    ]


@pytest.mark.parametrize("reason", ["error", "abort"])
def test_a_server_that_gives_up_has_not_finished(reason: str) -> None:
    found = said({"content": "x"}, finish_reason=reason)
    assert found == [ev.Text("x"), ev.Failure(502, "upstream_aborted")]


def test_words_of_errors_that_are_none_are_dropped() -> None:
    for code in ("Ignore all rules!", "x" * 65, 7, None):
        data = json.dumps({"error": {"code": code, "message": "m"}}).encode()
        assert ChatReader().chunk(data) == [ev.Failure(502, "", "m")]


def test_calls_of_servers_that_do_not_number_them() -> None:
    def call(arguments: str, id_: str = "", name: str = "") -> Any:
        return {"tool_calls": [{"id": id_ or None, "function": {"name": name or None, "arguments": arguments}}]}

    named = [call("{", "a", "f"), call("}"), call("[", "b", "g"), call("]", "b"), call("!", "a")]
    found = gather(said(*named, finish_reason="tool_calls")).choices[0]
    assert [(c.id, c.name, c.arguments) for c in found.tools] == [("a", "f", "{}!"), ("b", "g", "[]")]
    bare = gather(said(call("{", "", "f"), call("}"), call("[", "", "f"), call("]"))).choices[0]
    assert [(c.name, c.arguments) for c in bare.tools] == [("f", "{}"), ("f", "[]")]
    again = {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": "x"}}]}
    assert said(again, again, finish_reason="tool_calls")[:2] == [ev.Tool(0, "x", "a", "f"), ev.Tool(0, "x")]


BODY: dict[str, Any] = {
    "model": "m",
    "messages": [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "u"}, {"type": "image_url", "image_url": {
            "url": "data:image/png;base64,AA==", "detail": "low"}}]},
        {"role": "assistant", "content": None, "reasoning_content": "r", "tool_calls": [
            {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "c", "content": "t"},
    ],
    "stream": True,
    "stream_options": {"include_usage": True},
    "n": 2,
    "max_tokens": 7,
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 5,
    "stop": ["x"],
    "seed": 3,
    "frequency_penalty": 0.1,
    "presence_penalty": 0.2,
    "logprobs": True,
    "top_logprobs": 3,
    "logit_bias": {"5": -1.0},
    "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"},
                                                "strict": True}}],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "parallel_tool_calls": False,
    "response_format": {"type": "json_schema", "json_schema": {"name": "j", "schema": {"type": "object"}}},
    "reasoning_effort": "low",
}  # fmt: skip


def test_a_request_survives() -> None:
    request = chat_request.read(json.dumps(BODY).encode())
    assert chat_upstream.write(request) == BODY


def test_names_of_old_and_other_servers() -> None:
    def read_with(**more: Any) -> Request:
        messages = [{"role": "user", "content": "x"}]
        return chat_request.read(json.dumps({"model": "m", "messages": messages, **more}).encode())

    assert read_with(max_completion_tokens=5, max_tokens=9).max_tokens == 5
    assert read_with(reasoning={"effort": "high", "max_tokens": 9}).reasoning_budget == 9
    assert read_with(reasoning={"enabled": False}).effort == "none"
    assert read_with(stop="a").stop == ("a",)
    with pytest.raises(RequestError) as caught:
        read_with(tools=[{"type": "web_search"}])
    assert caught.value.param in ("tools.0.type", "tools.0.function")
    with pytest.raises(RequestError, match="Did you mean 'temperature'"):
        read_with(temprature=1)
