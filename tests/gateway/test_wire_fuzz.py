"""Recorded traffic, mutated: readers say what it holds or raise the one error that they declare, however it is
cut, in work that is linear in it."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from gateway_drive import delta, frames, usage
from test_leaks import GUARD, HIDE, Exchange, job

from azeotrope.gateway.dialects import NAMES, dialect
from azeotrope.gateway.relay import Relay
from azeotrope.gateway.settings import UpstreamSettings
from azeotrope.gateway.vault import MemoryShelf, Vault
from azeotrope.gateway.wire import events as ev
from azeotrope.gateway.wire.errors import WireError
from azeotrope.gateway.wire.form import Form
from azeotrope.gateway.wire.request import RequestError
from azeotrope.gateway.wire.sse import EventParser, ServerEvent
from azeotrope.gateway.wire.think import Splitter

ROUNDS = 400  # mutations of each kind, by seeds that are their numbers
ENDS = (b"\n", b"\r\n", b"\r")
JUNK = (
    b"",
    b"\0",
    b"\xff",
    b"\xed\xa0\x80",
    b"\\ud800",
    b'"',
    b"\\",
    b"{",
    b"}",
    b"[" * 600,
    b'{"a":' * 600,
    b"null",
    b"-1",
    b"1e999",
    b"9" * 400,
    b"true",
    b"[]",
    b"{}",
    b"<think>",
    b"</think>",
    b"data: ",
    b"\n\n",
    b"\r",
    b": x\n",
    b"event: error\n",
    b"[DONE]",
    b"\xe2\x80\xa8",
    b"0.1",
)


def made() -> dict[str, list[bytes]]:
    """Streams of our own for machines without recordings: data of their events, by the dialect."""
    said: list[ev.Event] = [
        ev.Start("i", "m", 1),
        ev.Reasoning("Hm, <think>. "),
        ev.Sealed("signature", "s"),
        ev.Text("It is "),
        ev.Text("rock."),
        ev.Tool(0, "call_1", "look", '{"at":'),
        ev.Tool(0, "", "", '"moon"}'),
        ev.Finish("tool_calls"),
        ev.Usage(1, 9, 4),
    ]
    found = {}
    for name in ("responses", "messages"):
        writer = dialect(name).writer("id", "m", 1, Form(usage=True, logprobs=True))
        stream = b"".join([*map(writer.write, said), writer.end()])
        found[name] = [event.data for event in EventParser().feed(stream)]
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at":1}'}}
    chunks = frames(
        delta(role="assistant"),
        delta(reasoning_content="Hm."),
        delta(content="It <think>x</think>"),
        delta(tool_calls=[call]),
        delta(reason="tool_calls"),
        usage(),
    )
    return found | {"chat": [event.data for event in EventParser().feed(b"".join(chunks))]}


def recorded() -> dict[str, list[list[bytes]]]:
    """Streams by dialect: the data of their events."""
    found: dict[str, list[list[bytes]]] = {name: [lines] for name, lines in made().items()}
    data = os.environ.get("AZEOTROPE_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = Path(data) / "wire" / "vercel_ai"
    for path in sorted(folder.glob("*.chunks.txt")):
        lines = [line for line in path.read_bytes().splitlines() if line.strip()][:60]
        first = json.loads(lines[0]) if lines and lines[0].startswith(b"{") else {}
        kind = str(first.get("type", ""))
        name = "responses" if kind.startswith("response.") else "messages" if kind else "chat"
        if name != "chat" or "choices" in first:
            found[name].append(lines)
    return found


STREAMS = recorded()


def mutated(chance: random.Random, data: bytes) -> bytes:
    """The same with something broken: bytes changed, cut out, doubled, put in, or values swapped."""
    for _ in range(chance.randint(1, 3)):
        at, size = chance.randrange(len(data) + 1), chance.choice((1, 1, 4, 40))
        way = chance.randrange(5)
        if way == 0:
            data = data[:at] + bytes(chance.randrange(256) for _ in range(size)) + data[at + size :]
        elif way == 1:
            data = data[:at] + data[at + size :]
        elif way == 2:
            data = data[:at] + data[at : at + size] * 3 + data[at + size :]
        elif way == 3:
            data = data[:at] + chance.choice(JUNK) + data[at:]
        elif values := list(re.finditer(rb'(?<=:)("(?:[^"\\]|\\.)*"|-?\d+|true|false|null)', data)):
            place = chance.choice(values)
            data = data[: place.start()] + chance.choice(JUNK[5:22]) + data[place.end() :]
    return data


def framed(chance: random.Random, lines: list[bytes]) -> bytes:
    """Events on the wire, with any line ends, names and comments."""
    found = []
    for line in lines:
        end = chance.choice(ENDS)
        head = chance.choice((b"", b"", b"event: x" + end, b": c" + end, b"id: 1" + end))
        found.append(head + chance.choice((b"data: ", b"data:")) + line + end + end)
    return b"".join(found)


def cuts(chance: random.Random, data: bytes) -> list[bytes]:
    ends = sorted({0, len(data), *(chance.randrange(len(data) + 1) for _ in range(chance.choice((1, 3, 30))))})
    return [data[a:b] for a, b in pairwise(ends)]


def parsed(parts: list[bytes], limit: int) -> tuple[list[ServerEvent], bool]:
    """The events, and whether they ended with the declared error."""
    parser, found = EventParser(limit), []
    try:
        for part in parts:
            found += parser.feed(part)
        last = parser.close()
    except WireError:
        return found, True
    return found + ([last] if last else []), False


@pytest.mark.parametrize("name", STREAMS)
def test_mutated_streams_are_cut_into_the_same_events_wherever_they_are_cut(name: str) -> None:
    for seed in range(ROUNDS):
        chance = random.Random(f"{name} {seed}")
        lines = chance.choice(STREAMS[name])
        stream = mutated(chance, framed(chance, lines[: chance.randint(1, len(lines))]))
        whole, failed = parsed([stream], 1 << 24)
        assert not failed
        assert parsed(cuts(chance, stream), 1 << 24) == (whole, False), seed
        assert parsed([stream[i : i + 1] for i in range(len(stream))], 1 << 24) == (whole, False), seed
        _, failed = parsed(cuts(chance, stream), 64)
        assert failed or all(len(event.data) <= 64 for event in whole), seed


@pytest.mark.parametrize("name", NAMES)
def test_readers_of_mutated_events_raise_the_declared_error_alone(name: str) -> None:
    lists = STREAMS["chat" if name == "completions" else name]
    told = []
    for seed in range(ROUNDS):
        chance = random.Random(f"{name} {seed}")
        lines = [mutated(chance, line) if chance.random() < 0.2 else line for line in chance.choice(lists)]
        if chance.random() < 0.2:
            chance.shuffle(lines)
        reader = dialect(name).reader(Splitter)
        try:
            for line in lines:
                reader.chunk(line)
            reader.close()
        except WireError as error:
            told.append(str(error))
    assert 0 < len(told) < ROUNDS
    assert all(sentence.endswith(".") for sentence in told)


@pytest.mark.parametrize("name", NAMES)
def test_readers_of_mutated_replies_raise_the_declared_error_alone(name: str) -> None:
    from azeotrope.gateway.wire.reply import gather

    said = [
        ev.Reasoning("Hm. "),
        ev.Text("Rock."),
        ev.Tool(0, "c", "f", '{"a":1}'),
        ev.Finish("stop"),
        ev.Usage(1, 2, 1),
    ]
    body = json.dumps(
        dialect(name).whole(gather(said), "i", "m", 1, Form(usage=True, tell_reasoning=True))
    ).encode()
    told = []
    for seed in range(2 * ROUNDS):
        reader = dialect(name).reader(Splitter)
        try:
            reader.whole(mutated(random.Random(f"{name} {seed}"), body))
            reader.close()
        except WireError as error:
            told.append(str(error))
    assert "Rock" not in str(told)


REQUESTS = {
    "chat": {
        "model": "m",
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": [{"type": "text", "text": "x"}]},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
            {"role": "tool", "tool_call_id": "c", "content": "y"},
        ],
        "stream": True,
        "stop": ["a"],
        "temperature": 0.5,
        "n": 1,
        "tools": [
            {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}}
        ],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "logit_bias": {"3": 1.5},
        "metadata": {"a": "b"},
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}},
        "reasoning_effort": "low",
    },
    "completions": {
        "model": "m",
        "prompt": "x",
        "stream": False,
        "stop": "a",
        "logprobs": 2,
        "seed": 7,
        "user": "u",
    },
    "responses": {
        "model": "m",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "x"}]},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "t"}], "encrypted_content": "e"},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "y"},
        ],
        "include": ["reasoning.encrypted_content"],
        "tools": [{"type": "function", "name": "f", "parameters": {}}],
        "reasoning": {"effort": "low", "summary": "auto"},
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {}}},
        "metadata": {"a": "b"},
    },
    "messages": {
        "model": "m",
        "max_tokens": 9,
        "system": [{"type": "text", "text": "s"}],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "x"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "t", "signature": "s"},
                    {"type": "tool_use", "id": "c", "name": "f", "input": {}},
                ],
            },
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": "y"}]},
        ],
        "stop_sequences": ["a"],
        "tools": [{"name": "f", "input_schema": {}}],
        "tool_choice": {"type": "tool", "name": "f"},
        "thinking": {"type": "enabled", "budget_tokens": 2000},
        "metadata": {"user_id": "u"},
    },
}


@pytest.mark.parametrize("name", NAMES)
def test_mutated_requests_are_read_or_refused_in_one_sentence(name: str) -> None:
    body = json.dumps(REQUESTS[name]).encode()
    dialect(name).read(body)
    read, refused = 0, []
    for seed in range(4 * ROUNDS):
        try:
            request = dialect(name).read(mutated(random.Random(f"{name} {seed}"), body))
        except RequestError as error:
            refused.append(error)
            continue
        read += 1
        for upstream in ("chat", "responses", "messages"):  # what was read can be written, or is refused
            if name != "completions":
                try:
                    json.dumps(dialect(upstream).write(request))
                except RequestError:
                    continue
    assert 0 < read < 4 * ROUNDS
    assert all(400 <= error.status < 500 and len(error.param) < 400 for error in refused)


def through(upstream: str, client: str, treatment: Any, pieces: list[bytes]) -> bytes:
    """What a client is sent of a stream, with what differs from reply to reply left out."""
    sent: list[bytes] = []

    async def send(piece: bytes) -> None:
        sent.append(piece)

    relay = Relay(Vault(MemoryShelf()), b"m" * 32)
    plan = UpstreamSettings.model_validate({"url": "http://x/v1", "dialect": upstream})
    asyncio.run(relay.stream(job(client, treatment, True), Exchange(pieces), plan, send))  # type: ignore[arg-type]
    return re.sub(rb'"(id|item_id|call_id|created|created_at|completed_at)":("[^"]*"|\d+)', b"", b"".join(sent))


@pytest.mark.parametrize("name", STREAMS)
def test_mutated_streams_leave_the_same_wherever_they_are_cut(name: str) -> None:
    for seed in range(ROUNDS // 8):
        chance = random.Random(f"{name} {seed}")
        lines = [mutated(chance, line) if chance.random() < 0.1 else line for line in chance.choice(STREAMS[name])]
        stream, client = framed(chance, lines), chance.choice(("chat", "responses", "messages"))
        treatment = chance.choice((HIDE, GUARD))
        whole = through(name, client, treatment, [stream])
        assert through(name, client, treatment, cuts(chance, stream)) == whole, seed
        assert b"Traceback" not in whole


def work(function: Callable[[], object]) -> int:
    """How many functions are called, in Python and in C."""
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(None)
    return calls


def bytewise(data: bytes) -> None:
    parser = EventParser()
    for place in range(len(data)):
        parser.feed(data[place : place + 1])
    parser.close()


def split(pieces: list[str]) -> None:
    splitter = Splitter()
    for piece in pieces:
        splitter.feed(piece)
    splitter.close()


def relayed(data: list[bytes], client: str = "messages") -> None:
    through("chat", client, GUARD, [b"".join(data)])


def tool(text: str) -> dict[str, Any]:
    return delta(tool_calls=[{"index": 0, "id": "c", "function": {"name": "f", "arguments": text}}])


HARD: dict[str, Callable[[int], object]] = {
    "bytes of a line": lambda n: bytewise(b"data: " + b"x" * n),
    "lines of an event": lambda n: bytewise(b"data:\n" * n),
    "lone CRs": lambda n: bytewise(b"\r" * n),
    "empty fields": lambda n: bytewise(b":\n" * n + b"\n"),
    "halves of tags": lambda n: split(["<thi"] * n),
    "tags in a piece": lambda n: split(["<think></think>" * n]),
    "tags in each other": lambda n: split(["<think>" * n, "</think>" * n]),
    "letters of tags": lambda n: split(list("<think>a</think>" * n)),
    "reasoning in letters": lambda n: relayed(frames(*[delta(reasoning_content="Wait. ")] * n)),
    "a text in letters": lambda n: relayed(frames(*[delta(content="<")] * n)),
    "an input of braces": lambda n: relayed(frames(*[tool('{"a":{')] * n)),
    "an input of quotes": lambda n: relayed(frames(*[tool('\\"')] * n)),
    "many choices": lambda n: relayed(frames(*[delta(place, content="x") for place in range(n)]), "chat"),
    "an input in letters": lambda n: relayed(frames(*[tool("x")] * n), "responses"),
}


@pytest.mark.parametrize("name", HARD)
def test_work_is_linear_in_what_comes(name: str) -> None:
    HARD[name](10)  # what is done once
    small, large = work(lambda: HARD[name](200)), work(lambda: HARD[name](1600))
    assert large < 8.5 * small, (small, large)
