"""What a policy takes from the words of a real model, the tools it calls, and a real server's errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import anthropic
import openai
import pytest
from gateway_drive import lines
from upstream_drive import own_server
from upstream_served import DIALECTS, GUARD, RAIN, SAME, Served, chat, parts, real

from azeotrope.core.types import Trace
from azeotrope.defenses.traceguard import TraceGuard

TOOL = {
    "name": "get_weather",
    "description": "The weather in a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
PARIS: Any = [{"role": "user", "content": "What is the weather in Paris?"}]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with real(tmp_path_factory.mktemp("gateway")) as found:
        yield found


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("stream", [False, True])
def test_traceguard_leaves_out_sentences_that_the_model_wrote(served: Served, dialect: str, stream: bool) -> None:
    text, thoughts, _, _ = chat(served, f"{dialect}-guard", stream)
    said = parts(served.last)
    guarded = (
        TraceGuard(**GUARD)
        .rewrite(Trace(problem_id="rain", prompt="", text=f"<think>{said['thoughts']}</think>"), Random(0))
        .text
    )
    assert thoughts == guarded.removeprefix("<think>").removesuffix("</think>")
    assert len(thoughts) < len(said["thoughts"])
    assert text == said["text"]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("stream", [False, True])
def test_hidden_reasoning_leaves_no_trace(served: Served, dialect: str, stream: bool) -> None:
    """llama.cpp does not say how many tokens were reasoning: their number is not told with those of the answer."""
    body = {"model": f"{dialect}-hide", "messages": RAIN, **SAME, "stream": stream}
    _, text = served.raw("/v1/chat/completions", {**body, "stream_options": {"include_usage": True}})
    said = parts(served.last)
    words = said["thoughts"].split()
    assert len(words) > 8
    assert not any(" ".join(words[i : i + 6]) in text for i in range(len(words) - 5))
    assert "reasoning" not in text
    last = json.loads(text) if not stream else json.loads(text.split("data: ")[-2])
    assert 0 < last["usage"]["completion_tokens"] < said["tokens"]


def test_reasoning_that_the_server_leaves_in_the_text(tmp_path: Path) -> None:
    """Told to, llama.cpp writes the tags: the opening one, too, which is in the template."""
    with own_server(tmp_path, raw=True) as own, real(tmp_path, own.url + "/v1") as served:
        for stream in (False, True):
            text, thoughts, _, _ = chat(served, "chat-exact", stream)
            before, tag, after = served.last.told("content").removeprefix("<think>").partition("</think>")
            assert tag
            assert (thoughts, text) == (before, after)
            body = {"model": "chat-hide", "messages": RAIN, **SAME, "stream": stream}
            _, raw = served.raw("/v1/chat/completions", body)
            assert "think" not in raw
            assert not any(sentence in raw for sentence in before.strip().split(". ")[:-1])


# Tools


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_called_and_its_result_goes_back(served: Served, dialect: str, stream: bool) -> None:
    create: Any = served.openai.chat.completions.create
    given: Any = {"model": f"{dialect}-guard", "tools": [{"type": "function", "function": TOOL}], **SAME}
    asked = {**given, "messages": PARIS, "tool_choice": "required"}
    calls: dict[int, dict[str, str]] = {}
    if stream:
        chunks = [choice for chunk in create(**asked, stream=True) for choice in chunk.choices]
        pieces = [call for choice in chunks for call in choice.delta.tool_calls or ()]
        for piece in pieces:
            call = calls.setdefault(piece.index, {"id": piece.id, "name": piece.function.name, "arguments": ""})
            call["arguments"] += piece.function.arguments or ""
        assert len(pieces) > len(calls)  # as they come
    else:
        for index, whole in enumerate(create(**asked).choices[0].message.tool_calls):
            calls[index] = {"id": whole.id, **whole.function.model_dump()}
    assert calls
    assert calls[0]["name"] == TOOL["name"]
    assert set(json.loads(calls[0]["arguments"])) == {"city"}
    assert calls[0]["id"].encode() in served.last.body
    function = {"name": calls[0]["name"], "arguments": calls[0]["arguments"]}
    said = {"id": calls[0]["id"], "type": "function", "function": function}
    turn = [*PARIS, {"role": "assistant", "content": None, "tool_calls": [said]}]
    turn.append({"role": "tool", "tool_call_id": said["id"], "content": "It rains."})
    given |= {"messages": turn, "tool_choice": "none"}
    text, _, reason, _ = chat(served, given.pop("model"), stream, **given)
    assert text == parts(served.last)["text"]
    assert reason in ("stop", "length")
    assert "It rains." in json.dumps(served.last.asked)


@pytest.mark.parametrize("stream", [False, True])
def test_tools_of_the_other_dialects(served: Served, stream: bool) -> None:
    given: Any = {"model": "chat-exact", "messages": PARIS, "max_tokens": 70}
    given["tools"] = [
        {"name": TOOL["name"], "description": TOOL["description"], "input_schema": TOOL["parameters"]}
    ]
    given |= {"tool_choice": {"type": "any"}, "extra_body": {"temperature": 0.0}}
    if stream:
        with served.anthropic.messages.stream(**given) as events:
            message: Any = events.get_final_message()
    else:
        message = served.anthropic.messages.create(**given)
    blocks = [block for block in message.content if block.type == "tool_use"]
    assert set(blocks[0].input) == {"city"}
    assert message.stop_reason in ("tool_use", "max_tokens")
    asked: Any = {"model": "chat-exact", "input": PARIS, "max_output_tokens": 70, "temperature": 0.0}
    asked |= {"tools": [{"type": "function", "strict": False, **TOOL}], "tool_choice": "required"}
    if stream:
        response = list(served.openai.responses.create(**asked, stream=True))[-1].response
    else:
        response = served.openai.responses.create(**asked)
    items = [item for item in response.output if item.type == "function_call"]
    assert set(json.loads(items[0].arguments)) == {"city"}


# Errors


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_is_too_long(served: Served, dialect: str, stream: bool) -> None:
    long: Any = [{"role": "user", "content": "rain " * 4000}]
    with pytest.raises(openai.BadRequestError) as told:
        served.openai.chat.completions.create(model=f"{dialect}-exact", messages=long, stream=stream)
    assert told.value.code == "exceed_context_size_error"
    with pytest.raises(anthropic.BadRequestError) as other:
        served.anthropic.messages.create(model=f"{dialect}-exact", messages=long, max_tokens=9, stream=stream)
    assert served.last.status == 400
    theirs = served.last.chunks[0]["error"]["message"]
    assert theirs not in str(told.value) + str(other.value)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_image_that_the_server_cannot_see(served: Served, dialect: str) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    look: Any = [{"role": "user", "content": [image]}]
    with pytest.raises(openai.InternalServerError) as told:
        served.openai.chat.completions.create(model=f"{dialect}-exact", messages=look, max_tokens=9)
    assert told.value.status_code == 502
    assert served.last.status == 500
    assert served.last.chunks[0]["error"]["message"] not in str(told.value)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("stream", [False, True])
def test_a_server_that_cannot_read_its_own_model(served: Served, dialect: str, stream: bool) -> None:
    """The template opens a call, and the model may go on with anything: what is no call is the server's error."""
    given: Any = {"model": f"{dialect}-exact", "messages": PARIS, "tool_choice": "auto", "stream": stream}
    given |= {"tools": [{"type": "function", "function": TOOL}], "temperature": 1.0, "max_tokens": 40}
    status, text = served.raw("/v1/chat/completions", given)
    theirs = [chunk["error"] for chunk in served.last.chunks if "error" in chunk]
    if not theirs:
        pytest.skip("the model went on with a call")
    assert status == (200 if stream else 502)
    assert theirs[0]["message"] not in text
    (told,) = [chunk for chunk in lines(text) if "error" in chunk] if stream else [json.loads(text)]
    assert told["error"]["type"] == "upstream_error"
