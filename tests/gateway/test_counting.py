"""Counting tokens: asked of upstreams that speak Messages, refused for others, telling nothing that is hidden."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from gateway_drive import Mock, Running, message, serving
from raw_drive import Answer, ask_raw, post
from test_gateway_desk import key, rows

from azeotrope.gateway.desk import open_desk
from azeotrope.gateway.policy import Failing
from azeotrope.gateway.settings import LedgerSettings, LimitSettings

PATH = "/v1/messages/count_tokens"
ASK = {"model": "any", "system": "s", "messages": [{"role": "user", "content": "hi"}]}
CALL = {"type": "tool_use", "id": "call_1", "name": "look", "input": {}}
RESULT = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "call_1", "content": "rock"}]}
THOUGHT = {"type": "thinking", "thinking": "a secret thought", "signature": "sealed"}


@pytest.fixture
def running() -> Iterator[Running]:
    with serving(Mock(body={"input_tokens": 7}), dialect="messages", retries=0) as found:
        yield found


def count(running: Running, asked: object, head: bytes = b"") -> Answer:
    (answer,) = ask_raw(running.url, post(json.dumps(asked).encode(), PATH, head))
    return answer


def test_it_is_asked_of_the_upstream(running: Running) -> None:
    answer = count(running, {**ASK, "tools": [{"name": "look", "input_schema": {"type": "object"}}]})
    assert (answer.status, answer.json) == (200, {"input_tokens": 7})
    assert running.mock.seen[-1]["path"] == PATH
    tools = [{"name": "look", "input_schema": {"type": "object"}}]
    assert running.mock.asked == [{**ASK, "tools": tools}]


def test_what_is_hidden_is_not_counted(running: Running) -> None:
    """Else the count would tell how long the reasoning is that the vault keeps, or that the client made up."""
    running.mock.body = {
        "id": "m", "type": "message", "role": "assistant", "model": "m", "content": [THOUGHT, CALL],
        "stop_reason": "tool_use", "usage": {"input_tokens": 1, "output_tokens": 2},
    }  # fmt: skip
    tools = [{"name": "look", "input_schema": {"type": "object"}}]
    first = ask_raw(
        running.url, post(json.dumps({**ASK, "max_tokens": 9, "tools": tools}).encode(), "/v1/messages")
    )
    assert [answer.status for answer in first] == [200]
    running.mock.body = {"input_tokens": 7}
    for said in ([CALL], [{**THOUGHT, "thinking": "made up"}, CALL]):
        turns = [*ASK["messages"], {"role": "assistant", "content": said}, RESULT]
        assert count(running, {**ASK, "messages": turns}).status == 200
        sent = json.dumps(running.mock.asked[-1])
        assert "thinking" not in sent
        assert "call_1" in sent


@pytest.mark.parametrize(
    "change", [{"max_tokens": 9}, {"stream": True}, {"x": 1}, {"messages": []}, {"model": None}]
)
def test_other_fields_are_refused(running: Running, change: dict[str, object]) -> None:
    answer = count(running, {**ASK, **change})
    assert (answer.status, answer.json["error"]["type"]) == (400, "invalid_request_error")
    assert running.mock.asked == []


@pytest.mark.parametrize("body", [{}, [], {"input_tokens": "7"}, {"input_tokens": -1}, {"input_tokens": 7.5}, "x"])
def test_counts_that_are_none(running: Running, body: object) -> None:
    running.mock.body = body
    answer = count(running, ASK)
    assert (answer.status, answer.json["type"]) == (502, "error")


@pytest.mark.parametrize(
    ("status", "ours"), [(400, 400), (401, 502), (404, 404), (429, 429), (500, 502), (529, 503)]
)
def test_errors_are_told_in_our_words(running: Running, status: int, ours: int) -> None:
    running.mock.fail = [status]
    answer = count(running, ASK)
    assert (answer.status, answer.json["type"]) == (ours, "error")
    assert b"SECRET" not in answer.body


def test_other_upstreams_are_not_guessed_for() -> None:
    with serving(Mock(body=message("", "ok"))) as running:
        answer = count(running, ASK)
        assert (answer.status, answer.json["error"]["type"]) == (404, "not_found_error")
        assert "does not count tokens" in answer.json["error"]["message"]
        assert running.mock.asked == []


def test_keys_limits_and_records_hold_for_it(tmp_path: Path) -> None:
    folder = tmp_path / "ledger"
    limits = LimitSettings.model_validate({"key": {"requests_per_minute": 2, "tokens_per_minute": 10}})
    desk = open_desk(LedgerSettings(folder=folder, keys="required", audit=True), limits, Failing())
    with serving(Mock(body={"input_tokens": 10**6}), dialect="messages", desk=desk) as running:
        assert count(running, ASK).status == 401
        head = f"x-api-key: {key(folder, 'one')}\r\n".encode()
        assert [count(running, ASK, head).status for _ in range(3)] == [200, 200, 429]
        assert [(one["tenant"], one["status"], one["dialect"]) for one in rows(folder)] == [
            ("one", 200, "messages"), ("one", 200, "messages"), ("one", 429, "messages"),
        ]  # fmt: skip


def test_the_official_client_counts(running: Running) -> None:
    anthropic = pytest.importorskip("anthropic")
    client = anthropic.Anthropic(base_url=running.url, api_key="x", max_retries=0)
    counted = client.messages.count_tokens(model="any", messages=[{"role": "user", "content": "hi"}])
    assert counted.input_tokens == 7
