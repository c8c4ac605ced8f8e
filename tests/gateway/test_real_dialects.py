"""Four dialects before a real server with a real model (scripts/upstream.sh), by way of the official SDKs.

Nothing of what the model writes is known beforehand: what clients get is held against what the server said.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from upstream_served import DIALECTS, RAIN, SAME, Served, chat, counts, parts, real


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with real(tmp_path_factory.mktemp("gateway")) as found:
        yield found


# Chat completions


@pytest.mark.parametrize("stream", [False, True])
def test_chat(served: Served, stream: bool) -> None:
    text, thoughts, reason, usage = chat(served, "chat-exact", stream)
    assert text == served.last.told("content")
    assert thoughts == served.last.told("reasoning_content")
    assert thoughts
    assert reason in ("stop", "length")
    assert [usage.completion_tokens] == counts(served.last.chunks)
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


@pytest.mark.parametrize("stream", [False, True])
def test_nothing_of_the_server_s_own_passes(served: Served, stream: bool) -> None:
    _, text = served.raw(
        "/v1/chat/completions", {"model": "chat-exact", "messages": RAIN, **SAME, "stream": stream}
    )
    said = served.last.chunks[0]
    assert said["system_fingerprint"] not in text
    assert said["id"] not in text
    assert "timings" not in text
    assert "smollm2" not in text


@pytest.mark.parametrize("stream", [False, True])
def test_several_choices(served: Served, stream: bool) -> None:
    """llama.cpp counts the tokens of one choice only; streams say so of each."""
    more: Any = {"n": 2, "max_tokens": 12, "temperature": 1.0, "seed": 3, "reasoning_effort": "none"}
    found: dict[int, str] = {}
    if stream:
        create = served.openai.chat.completions.create
        chunks = list(
            create(model="chat-exact", messages=RAIN, **more, stream=True, stream_options={"include_usage": True})
        )
        for chunk in chunks:
            for choice in chunk.choices:
                found[choice.index] = found.get(choice.index, "") + (choice.delta.content or "")
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == sum(counts(served.last.chunks))
    else:
        reply = served.openai.chat.completions.create(model="chat-exact", messages=RAIN, **more)
        found = {choice.index: choice.message.content or "" for choice in reply.choices}
    assert found == {index: served.last.told("content", index) for index in (0, 1)}
    assert all(found.values())


def test_log_probabilities_of_the_answer_and_of_nothing_else(served: Served) -> None:
    """The server lists those of the reasoning, too: of a whole reply in one list with the answer's."""
    create: Any = served.openai.chat.completions.create
    given = {"model": "chat-exact", "messages": RAIN, **SAME, "logprobs": True, "top_logprobs": 2}
    chunks = [c.choices[0] for c in create(**given, stream=True) if c.choices]
    tokens = [token for c in chunks if c.logprobs for token in c.logprobs.content or ()]
    assert 0 < len(tokens) < told(served)
    assert served.last.told("content").endswith("".join(token.token for token in tokens))  # less what may be a tag
    assert {len(token.top_logprobs) for token in tokens} == {2}
    whole = create(**given).choices[0]
    assert told(served) > 0
    assert whole.logprobs is None
    bare = create(**given, reasoning_effort="none").choices[0]
    assert "".join(token.token for token in bare.logprobs.content) == bare.message.content
    entries = served.last.chunks[0]["choices"][0]["logprobs"]["content"]
    assert [token.logprob for token in bare.logprobs.content] == [
        entry["logprob"] for entry in entries[: len(bare.logprobs.content)]
    ]


# Plain completions


@pytest.mark.parametrize("stream", [False, True])
def test_plain_completions(served: Served, stream: bool) -> None:
    create: Any = served.openai.completions.create
    given = {"model": "chat-exact", "prompt": "The moon is", "max_tokens": 8, "temperature": 0.0, "logprobs": 2}
    if stream:
        chunks = list(create(**given, stream=True, stream_options={"include_usage": True}))
        choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
        usage = chunks[-1].usage
    else:
        reply = create(**given)
        choices, usage = reply.choices, reply.usage
    text = served.last.told("text")
    assert text
    assert "".join(choice.text for choice in choices) == text
    tokens = [token for choice in choices if choice.logprobs for token in choice.logprobs.tokens]
    assert "".join(tokens) == text
    assert [usage.completion_tokens] == counts(served.last.chunks)
    assert choices[-1].finish_reason == "length"


# Responses and Messages, before servers that speak any of the three


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("stream", [False, True])
def test_responses(served: Served, dialect: str, stream: bool) -> None:
    given: Any = {"model": f"{dialect}-exact", "input": "Explain step by step how rain forms."}
    given |= {"temperature": 0.0, "max_output_tokens": 70}
    if stream:
        events: list[Any] = list(served.openai.responses.create(**given, stream=True))
        reply = events[-1].response
        pieces = [event.delta for event in events if event.type == "response.output_text.delta"]
        assert "".join(pieces) == reply.output_text
    else:
        reply = served.openai.responses.create(**given)
    said = parts(served.last)
    assert reply.output_text == said["text"]
    thoughts = [item for item in reply.output if item.type == "reasoning"]
    assert "".join(part.text for item in thoughts for part in item.content or ()) == said["thoughts"]
    assert said["thoughts"]
    assert reply.usage.output_tokens == said["tokens"]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("stream", [False, True])
def test_messages(served: Served, dialect: str, stream: bool) -> None:
    given: Any = {"model": f"{dialect}-exact", "messages": RAIN, "max_tokens": 70}
    given["extra_body"] = {"temperature": 0.0}  # this SDK has no word for it any more
    if stream:
        with served.anthropic.messages.stream(**given) as events:
            reply: Any = events.get_final_message()
    else:
        reply = served.anthropic.messages.create(**given)
    said = parts(served.last)
    assert "".join(block.text for block in reply.content if block.type == "text") == said["text"]
    assert "".join(block.thinking for block in reply.content if block.type == "thinking") == said["thoughts"]
    assert said["thoughts"]
    assert reply.usage.output_tokens == said["tokens"]
    assert reply.stop_reason in ("end_turn", "max_tokens")


def told(served: Served) -> int:
    """How many log-probabilities the server told."""
    choices = [choice for chunk in served.last.chunks for choice in chunk["choices"]]
    return sum(len(choice["logprobs"]["content"]) for choice in choices if choice.get("logprobs"))
