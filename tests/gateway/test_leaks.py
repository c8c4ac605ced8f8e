"""The property that all else serves: protected reasoning does not reach the client, in any dialect or piece."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise, product
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from azeotrope.defenses.hide_reasoning import HideReasoning
from azeotrope.defenses.traceguard import TraceGuard
from azeotrope.gateway.dialects import NAMES, dialect
from azeotrope.gateway.policy import Resolved, Stance
from azeotrope.gateway.refusal import RefusedError
from azeotrope.gateway.relay import Job, Relay
from azeotrope.gateway.settings import UpstreamSettings
from azeotrope.gateway.shield import Treatment
from azeotrope.gateway.table import Decision
from azeotrope.gateway.upstream import UpstreamError
from azeotrope.gateway.vault import MemoryShelf, Vault
from azeotrope.gateway.wire import events as ev
from azeotrope.gateway.wire.form import Form
from azeotrope.gateway.wire.reply import gather
from azeotrope.gateway.wire.request import Message, Request
from azeotrope.gateway.wire.sse import write as frame

WORDS = 6
SECRETS = (
    "the old lighthouse keeper counted seven grey herons before dawn",
    "élan vital über naïve çedilla ñandú œuvre straße größe señor",
    "深 海 の 青 い 光 が 静 か に 揺 れ る 夜",
    "\U0001f600 \U0001f680 one two three four five six seven \U0001f419 eight",
    'quotes " and \\ slashes \\n and </b> tags & entities all in one',
)
HIDE = Treatment(disclose="none", tell_reasoning=False, bill_reasoning=False)
GUARD = Treatment(texts=(TraceGuard(unit="count", budget=99),))
SHARE = Treatment(texts=(HideReasoning(share=1.0),))


class Exchange:
    """An upstream's answer that is already here, cut into pieces."""

    before = ""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = list(pieces)
        self._all = b"".join(pieces)

    async def read(self) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""

    async def body(self, most: int) -> bytes:
        return self._all

    async def finish(self) -> None:
        return None

    def close(self) -> None:
        return None


def job(client: str, treatment: Treatment, stream: bool, n: int = 1) -> Job:
    request = Request(
        model="m",
        messages=() if client == "completions" else (Message("user", ("hi",)),),
        prompt="hi",
        dialect=client,  # type: ignore[arg-type]
        stream=stream,
        usage=True,
        n=n,
        logprobs=client != "messages",
        top_logprobs=2,
    )
    decision = Decision("c", Resolved("s", Stance()), treatment, 0, "hash")
    return Job(request, "tenant", decision, "served")


def spoken(secret: str, form: str, index: int) -> list[dict[str, Any]]:
    """Deltas of a chat completion that say `secret` as reasoning, in one of the ways that there are."""
    words = [word + " " for word in secret.split(" ")]
    match form:
        case "reasoning_content" | "reasoning":
            return [{form: word} for word in words]
        case "both":
            return [{"reasoning": word, "reasoning_content": word} for word in words]
        case "details":
            return [
                {"reasoning_details": [{"type": "reasoning.text", "text": word, "signature": word}]}
                for word in words
            ]
        case "summary":
            return [{"reasoning_details": [{"type": "reasoning.summary", "summary": word}]} for word in words]
        case "parts":
            return [
                {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": word}]}]} for word in words
            ]
        case "tags":
            return [{"content": piece} for piece in ["<thi", "nk>", *words, "</th", "ink>"]]
        case "brackets":
            return [{"content": piece} for piece in ["[THINK]", *words, "[/THI", "NK]"]]
        case "mixed":
            return [{"reasoning": words[0] + secret, "content": "An answer. "}]
    raise AssertionError(form)


def logprobs(delta: dict[str, Any]) -> dict[str, Any] | None:
    """Log-probabilities as servers send them: of reasoning, too."""
    text = "".join(v for v in delta.values() if isinstance(v, str))
    entry = {"token": text, "logprob": -1.0, "top_logprobs": [{"token": text, "logprob": -1.0}]}
    return {"content": [entry]} if text else None


def chat_stream(secret: str, form: str, extra: bytes, n: int = 1, tool: bool = False) -> bytes:
    """A chat completion's stream; with `tool` every choice calls one after its answer."""
    deltas = [{"role": "assistant"}, *spoken(secret, form, 0), {"content": "An answer."}]
    call = {"index": 0, "id": "call", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    deltas += [{"tool_calls": [call]}] if tool else []
    head = {"id": secret, "model": secret, "created": 1, "system_fingerprint": secret, "prompt_token_ids": [1]}
    found = []
    for delta, index in product(deltas, range(n)):
        choice = {"index": index, "delta": delta, "logprobs": logprobs(delta), "token_ids": [3]}
        choice["stop_reason"] = secret
        found.append(frame(json.dumps({**head, "choices": [choice]}, ensure_ascii=False).encode()))
        found.append(extra)
    for index in range(n):
        end = {"index": index, "delta": {}, "finish_reason": "tool_calls" if tool else "stop"}
        found.append(frame(json.dumps({**head, "choices": [end], "reasoning": secret}).encode()))
    told = {
        "prompt_tokens": 1,
        "completion_tokens": 9,
        "completion_tokens_details": {"reasoning_tokens": 4, "t": secret},
    }
    found.append(frame(json.dumps({**head, "choices": [], "usage": told}).encode()))
    return b"".join([*found, b"data: [DONE]\n\n"])


def other_stream(secret: str, upstream: str) -> bytes:
    """A stream of another dialect, by our own writer."""
    writer = dialect(upstream).writer("id", "m", 1, Form(usage=True, logprobs=True))
    events: list[ev.Event] = [ev.Reasoning(word + " ") for word in secret.split(" ")]
    events += [ev.Sealed("signature", secret), ev.Text("An answer."), ev.Finish("stop"), ev.Usage(1, 9, 4)]
    return b"".join([*map(writer.write, events), writer.end()])


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """The same bytes in pieces."""
    ends = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(ends)]


def leaked(secret: str, sent: bytes) -> list[str]:
    """The runs of words of `secret` that are in what was sent: as it is, or put together from any field."""
    words = secret.split(" ")
    runs = [" ".join(words[i : i + WORDS]) for i in range(len(words) - WORDS + 1)]
    text = sent.decode("utf-8", "replace")
    found: dict[str, str] = {"": text}
    bodies = [line[6:] for line in text.splitlines() if line.startswith("data: {")] or [text]
    for body in bodies:
        gather_texts(json.loads(body) if body.startswith("{") else body, "/", found)
    return [run for run in runs if any(run in whole or json.dumps(run)[1:-1] in whole for whole in found.values())]


def gather_texts(value: Any, path: str, found: dict[str, str]) -> None:
    """The texts of each field, joined over the stream; names of fields count as text, too."""
    if isinstance(value, str):
        found[path] = found.get(path, "") + value
    for key, item in value.items() if isinstance(value, dict) else ():
        gather_texts(key, path + "?", found)
        gather_texts(item, path + key + "/", found)
    for item in value if isinstance(value, list) else ():
        gather_texts(item, path, found)


def stream_through(
    client: str, upstream: str, treatment: Treatment, pieces: list[bytes], tags: str = "auto", n: int = 1
) -> bytes:
    """What a client is sent."""
    sent: list[bytes] = []

    async def send(piece: bytes) -> None:
        sent.append(piece)

    relay = Relay(Vault(MemoryShelf()))
    plan = UpstreamSettings.model_validate({"url": "http://x/v1", "dialect": upstream, "tags": tags})
    asyncio.run(relay.stream(job(client, treatment, True, n), Exchange(pieces), plan, send))  # type: ignore[arg-type]
    return b"".join(sent)


FORMS = ("reasoning_content", "reasoning", "both", "details", "summary", "parts", "tags", "brackets", "mixed")
EXTRA = (b"", b": a comment\n\n", b"event: x\nid: 3\n\n", b'data: {"choices":[]}\r\n\r\n')


@given(
    secret=st.sampled_from(SECRETS),
    form=st.sampled_from(FORMS),
    client=st.sampled_from([name for name in NAMES if name != "completions"]),
    treatment=st.sampled_from([HIDE, GUARD, SHARE]),
    places=st.lists(st.integers(0, 20_000), max_size=40),
    extra=st.sampled_from(EXTRA),
    n=st.integers(1, 3),
    tool=st.booleans(),
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_streams_of_chat_completions(
    secret: str, form: str, client: str, treatment: Treatment, places: list[int], extra: bytes, n: int, tool: bool
) -> None:
    said, n = f"Wait, {secret}" if treatment is GUARD else secret, n if client == "chat" else 1
    sent = stream_through(client, "chat", treatment, cut(chat_stream(said, form, extra, n, tool), places), n=n)
    assert b"An answer." in sent.replace(b'"}}', b"")
    assert not leaked(secret, sent)


@given(
    secret=st.sampled_from(SECRETS),
    upstream=st.sampled_from(["responses", "messages"]),
    client=st.sampled_from([name for name in NAMES if name != "completions"]),
    treatment=st.sampled_from([HIDE, GUARD, SHARE]),
    places=st.lists(st.integers(0, 20_000), max_size=40),
)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_streams_of_other_dialects(
    secret: str, upstream: str, client: str, treatment: Treatment, places: list[int]
) -> None:
    said = f"Wait, {secret}" if treatment is GUARD else secret
    sent = stream_through(client, upstream, treatment, cut(other_stream(said, upstream), places))
    assert b"An answer." in sent
    assert not leaked(secret, sent)


@given(secret=st.sampled_from(SECRETS), places=st.lists(st.integers(0, 20_000), max_size=40))
@settings(max_examples=50, deadline=None)
def test_streams_of_plain_completions(secret: str, places: list[int]) -> None:
    texts = ["<thi", "nk>", *(word + " " for word in secret.split(" ")), "</think>", "An answer."]
    chunks = [{"choices": [{"index": 0, "text": text, "logprobs": {"tokens": [text], "token_logprobs": [-1.0]}}]}
              for text in texts]  # fmt: skip
    chunks.append({"choices": [{"index": 0, "text": "", "finish_reason": "stop"}]})
    data = b"".join(frame(json.dumps(chunk).encode()) for chunk in chunks)
    sent = stream_through("completions", "chat", HIDE, cut(data, places))
    assert b"An answer." in sent
    assert not leaked(secret, sent)


@given(
    secret=st.sampled_from(SECRETS),
    form=st.sampled_from(["reasoning_content", "reasoning", "tags", "parts", "details"]),
    client=st.sampled_from([name for name in NAMES if name != "completions"]),
)
@settings(max_examples=60, deadline=None)
def test_replies_that_are_not_streamed(secret: str, form: str, client: str) -> None:
    said: dict[str, Any] = {"role": "assistant", "content": ""}
    for piece in spoken(secret, form, 0):
        for key, value in piece.items():
            said[key] = (
                value
                if isinstance(value, list) and not said.get(key)
                else (said.get(key) or type(value)()) + value
            )
    if isinstance(said["content"], list):
        said["content"].append({"type": "text", "text": "An answer."})
    else:
        said["content"] += "An answer."
    choice = {"index": 0, "message": said, "finish_reason": "stop", "logprobs": logprobs({"a": secret})}
    body = {
        "id": secret,
        "model": secret,
        "choices": [choice],
        "prompt_text": secret,
        "usage": {"prompt_tokens": 1},
    }
    relay = Relay(Vault(MemoryShelf()))
    plan = UpstreamSettings(url="http://x/v1")
    one = job(client, HIDE, False)
    sent = asyncio.run(relay.whole(one, Exchange([json.dumps(body).encode()]), plan))  # type: ignore[arg-type]
    assert b"An answer." in sent
    assert not leaked(secret, sent)


@pytest.mark.parametrize("client", NAMES)
def test_errors_that_quote_the_reasoning(client: str) -> None:
    secret = SECRETS[0]
    error = {"error": {"message": secret, "code": secret, "type": secret, "param": secret}}
    text = [{"choices": [{"index": 0, "text": "x"}]}] if client == "completions" else []
    data = b"".join(frame(json.dumps(one).encode()) for one in [*text, error])
    sent = stream_through(client, "chat", HIDE, [data])
    assert not leaked(secret, sent)
    relay = Relay(Vault(MemoryShelf()))
    plan = UpstreamSettings(url="http://x/v1")
    work = relay.whole(job(client, HIDE, False), Exchange([json.dumps(error).encode()]), plan)  # type: ignore[arg-type]
    with pytest.raises((RefusedError, UpstreamError)) as caught:
        asyncio.run(work)
    assert not leaked(secret, json.dumps(dialect(client).error(caught.value.problem)).encode())


def test_a_template_that_opens_the_reasoning_is_noticed() -> None:
    """A whole reply is read again; a stream needs the setting."""
    secret = SECRETS[0]
    relay, plan = Relay(Vault(MemoryShelf())), UpstreamSettings(url="http://x/v1")
    said = {"role": "assistant", "content": f"{secret}</think>An answer."}
    body = json.dumps({"choices": [{"index": 0, "message": said, "finish_reason": "stop"}]}).encode()
    sent = asyncio.run(relay.whole(job("chat", HIDE, False), Exchange([body]), plan))  # type: ignore[arg-type]
    assert b"An answer." in sent
    assert not leaked(secret, sent)
    pieces = [secret, "</thi", "nk>", "An answer."]
    chunks = [{"choices": [{"index": 0, "delta": {"content": piece}}]} for piece in pieces]
    data = b"".join(frame(json.dumps(chunk).encode()) for chunk in chunks)
    sent = stream_through("chat", "chat", HIDE, [data], tags="opened")
    assert b"An answer." in sent
    assert not leaked(secret, sent)


def test_a_closing_tag_that_one_client_asks_for_does_not_change_others_replies() -> None:
    relay, plan = Relay(Vault(MemoryShelf())), UpstreamSettings(url="http://x/v1")

    def reply(content: str) -> bytes:
        choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
        exchange = Exchange([json.dumps({"choices": [choice]}).encode()])
        return asyncio.run(relay.whole(job("chat", HIDE, False), exchange, plan))  # type: ignore[arg-type]

    assert b"</think>" not in reply("As you wish: </think>")
    assert b"An answer." in reply("An answer.")


def test_a_prompt_that_opens_the_reasoning() -> None:
    secret, relay = SECRETS[0], Relay(Vault(MemoryShelf()))
    body = json.dumps({"choices": [{"index": 0, "text": f"{secret}</think>An answer.", "finish_reason": "stop"}]})
    one = job("completions", HIDE, False)
    one.request = msgspec.structs.replace(one.request, prompt="Question <think> well")
    plan = UpstreamSettings(url="http://x/v1")
    sent = asyncio.run(relay.whole(one, Exchange([body.encode()]), plan))  # type: ignore[arg-type]
    assert b"An answer." in sent
    assert not leaked(secret, sent)
    for size in range(1, len("<think>")):  # the prompt begins the tag, the model ends it
        one.request = msgspec.structs.replace(one.request, prompt="Question <think>"[: 9 + size])
        text = f"{'<think>'[size:]}{secret}</think>An answer."
        body = json.dumps({"choices": [{"index": 0, "text": text, "finish_reason": "stop"}]})
        sent = asyncio.run(relay.whole(one, Exchange([body.encode()]), plan))  # type: ignore[arg-type]
        assert b"An answer." in sent
        assert not leaked(secret, sent)


def test_a_prompt_that_an_upstream_tells_of_counts_as_one() -> None:
    class Told(Exchange):
        before = "<|assistant|><think>\n"

    secret, sent = SECRETS[0], list[bytes]()
    chunk = {"choices": [{"index": 0, "delta": {"content": secret}, "finish_reason": "length"}]}

    async def send(piece: bytes) -> None:
        sent.append(piece)

    relay, exchange = Relay(Vault(MemoryShelf())), Told([frame(json.dumps(chunk).encode())])
    plan = UpstreamSettings(url="http://x/v1")
    asyncio.run(relay.stream(job("chat", HIDE, True), exchange, plan, send))  # type: ignore[arg-type]
    assert not leaked(secret, b"".join(sent)), "also where the reply is cut before its reasoning ends"


def test_a_leak_would_be_seen() -> None:
    """The test itself: without a treatment every dialect's stream holds the reasoning."""
    for client in ("chat", "responses", "messages"):
        sent = stream_through(client, "chat", Treatment(), [chat_stream(SECRETS[0], "reasoning", b"")])
        assert leaked(SECRETS[0], sent)
    assert gather([ev.Reasoning("x")]).choices[0].reasoning == "x"
