"""The gateway over real connections: what clients get, what upstreams are asked, and what happens on failure."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from gateway_drive import Json, Mock, Running, delta, frames, lines, message, serving, usage

from azeotrope.core.errors import ConfigError
from azeotrope.gateway.metrics import Metrics
from azeotrope.gateway.pages import Pages
from azeotrope.gateway.settings import ServerFile

SECRET = "Wait, the moon is made of basalt and old dust. "
THOUGHTS = "First we look at it. " + SECRET + "So it is rock. "
CHAT = "/v1/chat/completions"
ASK = {"model": "any", "messages": [{"role": "user", "content": "What is the moon?"}]}
STREAM = [
    delta(role="assistant", content=""),
    delta(reasoning_content=THOUGHTS[:30]),
    delta(reasoning_content=THOUGHTS[30:]),
    delta(content="It is "),
    delta(content="rock."),
    delta(reason="stop"),
    usage(),
]
PLAIN = """
azeotrope_gateway: 1
stances: {plain: {raw_prompts: true}}
contexts: [{name: all, stance: plain}]
"""
HIDE = """
azeotrope_gateway: 1
stances:
  hide: {disclose: none, reasoning_tokens: hidden}
  guard:
    fidelity: omission
    distillability: lowered
    defenses: [{kind: traceguard, unit: count, budget: 1}]
  exact: {logprobs: asked, raw_prompts: true}
  closed: {refuse: Not today.}
contexts:
  - {name: short, when: {most_tokens: 50}, stance: hide}
  - {name: clean, when: {model: clean}, stance: exact}
  - {name: closed, when: {model: closed}, stance: closed}
  - {name: all, stance: guard}
"""


async def ask(url: str, body: Any, path: str = "/v1/chat/completions", **headers: str) -> tuple[int, Any, str]:
    """Status, headers and text of a POST."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with aiohttp.ClientSession() as session, session.post(url + path, data=data, headers=headers) as reply:
        return reply.status, reply.headers, await reply.text()


def post(running: Running, body: Any, path: str = "/v1/chat/completions", **headers: str) -> tuple[int, Any, str]:
    """The same, for tests that do one thing at a time."""
    return asyncio.run(ask(running.url, body, path, **headers))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(policy=HIDE, tmp=tmp_path_factory.mktemp("policy"), shows="logprobs", retries=0) as found:
        yield found


@pytest.fixture
def mock(running: Running) -> Mock:
    """The upstream, as new."""
    running.mock.__dict__.update(Mock(frames=frames(*STREAM), body=message(THOUGHTS, "It is rock.")).__dict__)
    return running.mock


def said(chunks: list[Json], name: str) -> str:
    return "".join(c["delta"].get(name) or "" for one in chunks for c in one["choices"])


@pytest.mark.usefixtures("mock")
def test_a_stream_loses_what_the_policy_takes_and_keeps_the_rest(running: Running) -> None:
    status, headers, text = post(running, {**ASK, "stream": True, "stream_options": {"include_usage": True}})
    assert status == 200
    assert headers["content-type"].startswith("text/event-stream")
    assert headers["x-accel-buffering"] == "no"
    assert headers["x-request-id"].startswith("req_")
    chunks = lines(text)
    assert said(chunks, "reasoning_content") == THOUGHTS.replace(SECRET, "")
    assert said(chunks, "content") == "It is rock."
    assert [c["choices"][0]["finish_reason"] for c in chunks if c["choices"]].count("stop") == 1
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens_details"] == {"reasoning_tokens": 4}
    assert text.endswith("data: [DONE]\n\n")
    assert text.count("[DONE]") == 1
    assert {c["model"] for c in chunks} == {"any"}
    assert "up-1" not in text


def test_what_is_not_streamed_is_the_same(running: Running, mock: Mock) -> None:
    status, _, text = post(running, ASK)
    told = json.loads(text)
    assert status == 200
    assert told["choices"][0]["message"]["reasoning_content"] == THOUGHTS.replace(SECRET, "")
    assert told["choices"][0]["message"]["content"] == "It is rock."
    assert mock.asked == [{"model": "any", "messages": ASK["messages"]}]


@pytest.mark.usefixtures("mock")
@pytest.mark.parametrize("stream", [True, False])
def test_hidden_reasoning_leaves_no_trace(running: Running, stream: bool) -> None:
    _, headers, text = post(
        running, {**ASK, "max_tokens": 50, "stream": stream, "stream_options": {"include_usage": True}}
    )
    assert "basalt" not in text + str(headers)
    assert "reasoning" not in text
    assert '"completion_tokens":5' in text


def test_reasoning_between_tags_in_the_text(running: Running, mock: Mock) -> None:
    whole = f"<think>{THOUGHTS}</think>It is rock."
    mock.frames = frames(*[delta(content=letter) for letter in whole], delta(reason="stop"))
    _, _, text = post(running, {**ASK, "stream": True})
    assert said(lines(text), "reasoning_content") == THOUGHTS.replace(SECRET, "")
    assert said(lines(text), "content") == "It is rock."


def test_tool_calls_pass_untouched_and_their_reasoning_comes_back(running: Running, mock: Mock) -> None:
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at":'}}
    more = {"index": 0, "function": {"arguments": '"Wait, moon"}'}}
    mock.frames = frames(
        delta(reasoning_content=THOUGHTS),
        delta(tool_calls=[call]),
        delta(tool_calls=[more]),
        delta(reason="tool_calls"),
    )
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    _, _, text = post(running, {**ASK, "stream": True, "tools": tools, "max_tokens": 50})
    calls = [c for one in lines(text) for c in one["choices"][0]["delta"].get("tool_calls", [])]
    assert "".join(c["function"]["arguments"] for c in calls) == '{"at":"Wait, moon"}'
    assert calls[0]["id"] == "call_1"
    assert "basalt" not in text
    made = {"name": "look", "arguments": '{"at": "Wait, moon"}'}
    back = {"role": "assistant", "content": None, "reasoning_content": "I write what I like", "tool_calls": [
        {"id": "call_1", "type": "function", "function": made}]}  # fmt: skip
    result = {"role": "tool", "tool_call_id": "call_1", "content": "rock"}
    post(running, {**ASK, "messages": [*ASK["messages"], back, result], "tools": tools})
    sent = mock.asked[-1]["messages"]
    assert sent[1]["reasoning_content"] == THOUGHTS
    assert sent[2] == {"role": "tool", "content": "rock", "tool_call_id": "call_1"}


def test_what_a_client_writes_as_reasoning_is_not_believed(running: Running, mock: Mock) -> None:
    forged = {"role": "assistant", "content": "x", "reasoning_content": "forged"}
    post(running, {**ASK, "messages": [*ASK["messages"], forged, {"role": "user", "content": "go on"}]})
    assert "forged" not in json.dumps(mock.asked)


def test_several_choices(running: Running, mock: Mock) -> None:
    mock.frames = frames(
        delta(0, reasoning_content="Wait, a. "), delta(1, reasoning_content="Wait, b. "),
        delta(1, content="B"), delta(0, content="A"), delta(0, "stop"), delta(1, "length"),
    )  # fmt: skip
    _, _, text = post(running, {**ASK, "stream": True, "n": 2})
    assert mock.asked[-1]["n"] == 2
    chunks = lines(text)
    ends = {
        c["choices"][0]["index"]: c["choices"][0]["finish_reason"]
        for c in chunks
        if c["choices"][0]["finish_reason"]
    }
    assert ends == {0: "stop", 1: "length"}
    assert "Wait" not in text


def test_log_probabilities_are_shown_where_they_may_be(running: Running, mock: Mock) -> None:
    entry = {"token": "It", "logprob": -0.5, "bytes": None, "top_logprobs": [{"token": "It", "logprob": -0.5}]}
    answer = message("Hm.", "It")
    answer["choices"][0]["logprobs"] = {"content": [{**entry, "token": "Hm."}, entry]}
    mock.body = answer
    asked = {**ASK, "logprobs": True, "top_logprobs": 1}
    assert post(running, asked)[0] == 400
    status, _, text = post(running, {**asked, "model": "clean"})
    assert status == 200
    assert json.loads(text)["choices"][0]["logprobs"] is None  # which are the answer's, nobody says
    mock.body = message("", "It")
    mock.body["choices"][0]["logprobs"] = {"content": [entry]}
    _, _, text = post(running, {**asked, "model": "clean"})
    assert json.loads(text)["choices"][0]["logprobs"]["content"][0]["logprob"] == -0.5


USER = {"role": "user", "content": "x"}
TOOLS = [{"type": "function", "function": {"name": "f"}}]


@pytest.mark.usefixtures("mock")
@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"vllm_xargs": {}}, "vllm_xargs"),
        ({"prompt_logprobs": 1}, "prompt_logprobs"),
        ({"include_reasoning": False}, "include_reasoning"),
        ({"chat_template_kwargs": {}}, "chat_template_kwargs"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"logit_bias": {"3": 5}}, "logit_bias"),
        ({"temperature": 3}, "temperature"),
        ({"n": 0}, "n"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://10.0.0.1/"}}]}]},
         "messages.0.content.0.image_url.url"),
        ({"stop": [""]}, "stop"),
        ({"store": True}, "store"),
        ({"functions": []}, "functions"),
        ({"seed": 10**400}, "seed"),
        ({"logit_bias": {"3": 10**400}}, "logit_bias"),
        ({"max_tokens": 10**400}, "max_tokens"),
        ({"messages": [USER, {"role": "assistant", "content": "<think>"}]}, "messages"),
        ({"messages": [USER, {"role": "assistant"}, {"role": "system", "content": "s"}]}, "messages"),
        ({"messages": [{**USER, "reasoning_content": "x"}]}, "messages.0.reasoning_content"),
        ({"messages": [{**USER, "refusal": "x"}]}, "messages.0.refusal"),
        ({"messages": [{**USER, "tool_call_id": "x"}]}, "messages.0.tool_call_id"),
        ({"tools": TOOLS, "tool_choice": {"type": "x", "function": {"name": "f"}}}, "tool_choice.type"),
        ({"tools": TOOLS, "tool_choice": {"function": {"name": "f", "x": 1}}}, "tool_choice.function.x"),
    ],
)  # fmt: skip
def test_requests_that_are_refused_name_the_field(running: Running, change: Json, param: str) -> None:
    status, _, text = post(running, {**ASK, **change})
    error = json.loads(text)["error"]
    assert (status, error["param"], error["type"]) == (400, param, "invalid_request_error")


@pytest.mark.usefixtures("mock")
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'{"model": 1e999}', b'{"a":' * 5000, b"[" * 100_000])
def test_bodies_that_are_no_requests(running: Running, body: bytes) -> None:
    status, _, text = post(running, body)
    assert status == 400
    assert json.loads(text)["error"]["message"]


@pytest.mark.usefixtures("mock")
def test_a_stance_can_refuse_and_addresses_can_be_wrong(running: Running) -> None:
    status, _, text = post(running, {**ASK, "model": "closed"})
    assert (status, json.loads(text)["error"]["message"]) == (403, "Not today.")
    assert post(running, ASK, "/v1/nothing")[0] == 404
    assert post(running, {"model": "any", "prompt": "x"}, "/v1/completions")[0] == 403

    async def get() -> int:
        async with aiohttp.ClientSession() as session, session.get(running.url + "/v1/chat/completions") as reply:
            return reply.status

    assert asyncio.run(get()) == 405


def test_plain_completions(running: Running, mock: Mock) -> None:
    mock.body = {"id": "u", "choices": [{"index": 0, "text": "<think>a</think>b", "finish_reason": "stop"}]}
    status, _, text = post(running, {"model": "clean", "prompt": "x"}, "/v1/completions")
    assert (status, json.loads(text)["choices"][0]["text"]) == (200, "<think>a</think>b")
    assert mock.seen[-1]["path"] == "/v1/completions"


@pytest.mark.parametrize(
    ("status", "ours", "kind"),
    [
        (400, 400, "invalid_request_error"), (401, 502, "upstream_error"), (404, 404, "invalid_request_error"),
        (429, 429, "rate_limit_error"), (500, 502, "upstream_error"), (503, 503, "server_error"),
    ],
)  # fmt: skip
def test_errors_of_the_upstream_are_told_in_our_words(
    running: Running, mock: Mock, status: int, ours: int, kind: str
) -> None:
    mock.fail = [status]
    got, _, text = post(running, {**ASK, "stream": True})
    assert (got, json.loads(text)["error"]["type"]) == (ours, kind)
    assert "SECRET" not in text


def test_an_upstream_that_stops_in_the_middle(running: Running, mock: Mock) -> None:
    mock.frames, mock.cut = frames(*STREAM[:4], done=False), True
    _, _, text = post(running, {**ASK, "stream": True})
    last = lines(text)[-1]
    assert last["error"]["type"] == "upstream_error"
    assert "basalt" not in text
    mock.frames, mock.cut = frames({"error": {"message": "SECRET", "code": 503}}), False
    _, _, text = post(running, {**ASK, "stream": True})
    assert lines(text)[0]["error"]
    assert "SECRET" not in text


@pytest.mark.parametrize(
    "garbage", [b"data: {\n\n", b"data: [1]\n\n", b'data: {"choices":[{"delta":{"content":7}}]}\n\n']
)
def test_a_stream_that_cannot_be_read(running: Running, mock: Mock, garbage: bytes) -> None:
    mock.frames = [*frames(*STREAM[:5], done=False), garbage]
    status, _, text = post(running, {**ASK, "stream": True})
    assert status == 200
    assert lines(text)[-1]["error"]["type"] == "upstream_error"
    assert said(lines(text)[:-1], "content").startswith("It is")


def test_nothing_of_a_client_reaches_the_upstreams_headers(running: Running, mock: Mock) -> None:
    post(
        running,
        ASK,
        **{"Authorization": "Bearer client", "Cookie": "a=b", "X-Forwarded-For": "1.2.3.4", "X-Any": "c"},
    )
    assert "client" not in json.dumps(mock.seen)
    assert {"cookie", "x-forwarded-for", "x-any", "authorization"}.isdisjoint(mock.seen[-1])


def test_a_client_that_goes_ends_the_upstreams_work(running: Running, mock: Mock) -> None:
    mock.frames, mock.hang = frames(*STREAM[:4], done=False), True

    async def leave() -> None:
        asked = {**ASK, "stream": True}
        async with aiohttp.ClientSession() as session, session.post(running.url + CHAT, json=asked) as reply:
            await reply.content.readany()
            reply.close()

    asyncio.run(leave())
    assert mock.gone.wait(5)
    until = time.monotonic() + 5
    while running.gateway.active and time.monotonic() < until:
        time.sleep(0.01)
    assert running.gateway.active == 0


def test_a_request_cannot_hide_another_in_its_body(running: Running, mock: Mock) -> None:
    """With a length and a transfer encoding, the encoding says where the body ends, and nothing follows it."""
    host, port = running.url.removeprefix("http://").split(":")
    inner = json.dumps(ASK).encode()
    hidden = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(inner) + inner
    head = f"POST /v1/nothing HTTP/1.1\r\nHost: {host}\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n"
    head += "Connection: close\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=10) as wire:
        wire.sendall(head.encode() + f"{len(hidden):x}\r\n".encode() + hidden + b"\r\n0\r\n\r\n")
        answer = b""
        while piece := wire.recv(65536):
            answer += piece
    assert answer.count(b"HTTP/1.1") == 1
    assert mock.asked == []


@pytest.mark.usefixtures("mock")
def test_health_models_and_metrics(running: Running) -> None:
    async def get(path: str) -> tuple[int, str]:
        async with aiohttp.ClientSession() as session, session.get(running.url + path) as reply:
            return reply.status, await reply.text()

    post(running, {**ASK, "stream": True})
    assert asyncio.run(get("/healthz")) == (200, '{"status":"ok"}')
    assert asyncio.run(get("/readyz"))[0] == 200
    assert json.loads(asyncio.run(get("/v1/models"))[1]) == {"object": "list", "data": []}
    metrics = asyncio.run(get("/metrics"))[1]
    assert 'azeotrope_requests_total{dialect="chat",stance="guard",status="200"}' in metrics
    assert "moon" not in metrics


@pytest.mark.parametrize(
    ("given", "told"), [({}, False), ({"cache_salt": True}, True), ({"tell_cached": True}, True)]
)
def test_nobody_learns_what_others_sent_from_a_count_of_cached_tokens(
    tmp_path: Path, given: dict[str, bool], told: bool
) -> None:
    cached = {"cached_tokens": 800000003}  # longer than what may stand in an id by chance
    billed = {"prompt_tokens": 900000007, "completion_tokens": 2, "prompt_tokens_details": cached}
    stream = frames(delta(content="ok"), delta(reason="stop"), {**usage(), "usage": billed})
    mock = Mock(body=message("", "ok") | {"usage": billed}, frames=stream)
    bodies = {
        "/v1/chat/completions": ASK,
        "/v1/completions": {"model": "any", "prompt": "Go."},
        "/v1/responses": {"model": "any", "input": "Go."},
        "/v1/messages": {"model": "any", "max_tokens": 9, "messages": [{"role": "user", "content": "Go."}]},
    }
    with serving(mock, policy=PLAIN, tmp=tmp_path, **given) as running:
        for path, body in bodies.items():
            for streamed in (False, True):
                more = {"stream_options": {"include_usage": True}} if streamed and "completions" in path else {}
                status, _, text = post(running, {**body, "stream": streamed, **more}, path=path)
                assert status == 200
                assert ("800000003" in text) is told, (path, streamed)
                assert told or ("100000004" not in text and "900000007" in text)


def test_a_request_is_tried_again_before_anything_came_back(tmp_path: Path) -> None:
    mock = Mock(body=message("", "ok"), fail=[503, 502])
    with serving(mock, policy=HIDE, tmp=tmp_path, retries=2) as running:
        assert post(running, ASK)[0] == 200
        assert len(mock.asked) == 3
        mock.fail = [400]
        assert post(running, ASK)[0] == 400
        assert len(mock.asked) == 4


def test_an_upstream_that_says_nothing(tmp_path: Path) -> None:
    mock = Mock(frames=frames(*STREAM[:3], done=False), hang=True)
    with serving(mock, policy=HIDE, tmp=tmp_path, timeouts={"chunk": 0.2}) as running:
        _, _, text = post(running, {**ASK, "stream": True})
        assert lines(text)[-1]["error"]["code"] == "upstream_error"
        assert mock.gone.wait(5)


def test_limits_on_bodies(tmp_path: Path) -> None:
    with serving(policy=HIDE, tmp=tmp_path, listen={"largest_body": 2000}) as running:
        status, _, text = post(running, {**ASK, "user": "x" * 3000})
        assert (status, json.loads(text)["error"]["code"]) == (413, "request_too_large")


def test_an_upstream_that_is_not_there(tmp_path: Path) -> None:
    with serving(policy=HIDE, tmp=tmp_path, url="http://127.0.0.1:9/v1", retries=1) as running:
        status, _, text = post(running, ASK)
        assert (status, json.loads(text)["error"]["code"]) == (502, "upstream_unreachable")


def test_the_numbers_are_for_who_runs_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """They tell how long reasoning was that nobody was shown: beyond this machine they need a token."""
    monkeypatch.setenv("NUMBERS", "a token of some length")

    def got(header: str = "", **listen: Any) -> int:
        settings = ServerFile.model_validate({"upstreams": {"main": {"url": "http://x/v1"}}, "listen": listen})
        page, sent = Pages(settings, Metrics(), _nobody, lambda: False).all["/metrics"], []

        async def send(message: Any) -> None:
            sent.append(message)

        asyncio.run(page({"headers": [(b"authorization", header.encode())]}, send))
        assert (b"azeotrope_requests" in sent[1]["body"]) == (sent[0]["status"] == 200)
        return int(sent[0]["status"])

    assert [got(host=host) for host in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "10.1.2.3", "::")] == [
        *(200, 200, 200, 404, 404, 404)
    ]
    assert got(host="0.0.0.0", metrics_token_env="NUMBERS") == 401
    assert got("Bearer a token of some length", host="0.0.0.0", metrics_token_env="NUMBERS") == 200
    assert got("Bearer another token, of that length", metrics_token_env="NUMBERS") == 401
    monkeypatch.setenv("NUMBERS", "short")
    with pytest.raises(ConfigError, match="metrics page's token in NUMBERS is shorter"):
        got(metrics_token_env="NUMBERS")


async def _nobody(scope: Any) -> Any:
    raise AssertionError


@pytest.mark.parametrize("stream", [False, True])
def test_our_own_time_is_told_where_it_is_wanted(tmp_path: Path, stream: bool) -> None:
    mock = Mock(body=message("", "ok"), frames=frames(delta(content="ok"), delta(reason="stop")))
    for wanted in (False, True):
        with serving(mock, tmp=tmp_path, listen={"overhead_header": wanted}) as running:
            status, headers, _ = post(running, {**ASK, "stream": stream})
            assert status == 200
            assert ("x-azeotrope-overhead-ms" in {name.lower() for name in headers}) == wanted
