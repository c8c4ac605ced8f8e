"""Logs hold facts: no prompt, no reply, no key, whatever goes wrong."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gateway_drive import Mock, frames, message, serving
from test_gateway_serving import ASK, HIDE, STREAM, THOUGHTS, post

from azeotrope.gateway import logs

CANARY = "canary-4711"


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    before = (list(logs.log.handlers), logs.log.level, logs.log.propagate)
    logs.set_up(requests=True, stream=stream)
    yield stream
    logs.log.handlers[:], logs.log.level, logs.log.propagate = before
    logs.log.setLevel(before[1])


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_for_every_request(tmp_path: Path, written: io.StringIO, monkeypatch: Any) -> None:
    monkeypatch.setenv("UPSTREAM_KEY", f"key-{CANARY}")
    mock = Mock(frames=frames(*STREAM), body=message(THOUGHTS, f"It is {CANARY}."))
    with serving(mock, policy=HIDE, tmp=tmp_path, key_env="UPSTREAM_KEY", retries=0) as running:
        asked = {**ASK, "messages": [{"role": "user", "content": CANARY}], "user": CANARY}
        post(running, asked, Authorization=f"Bearer {CANARY}")
        post(running, {**asked, "stream": True})
        post(running, {**asked, "temperature": CANARY})
        post(running, {**asked, CANARY: 1})
        mock.fail = [500]
        post(running, asked)
        mock.body = {"choices": [{"message": {"content": 7}}], "error": None, "id": CANARY}
        post(running, asked)
        assert mock.seen[0]["authorization"] == f"Bearer key-{CANARY}"
    found = lines(written)
    assert [line["status"] for line in found] == [200, 200, 400, 400, 502, 502]
    assert found[1]["stance"] == "guard"
    assert found[1]["altered"] is True
    assert CANARY not in written.getvalue()
    assert "moon" not in written.getvalue()


def test_a_bug_is_told_by_its_place(tmp_path: Path, written: io.StringIO, monkeypatch: Any) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError(CANARY)

    with serving(Mock(body=message("", "x")), policy=HIDE, tmp=tmp_path) as running:
        monkeypatch.setattr(running.gateway.relay, "start", fail)
        status, _, text = post(running, ASK)
    assert (status, json.loads(text)["error"]["type"]) == (500, "server_error")
    told = next(line for line in lines(written) if line["level"] == "error")
    assert told["error"] == "ZeroDivisionError"
    assert "test_gateway_logs.py" in told["at"]
    assert CANARY not in written.getvalue() + text


def test_without_requests_only_what_is_wrong(written: io.StringIO) -> None:
    logs.set_up(requests=False, stream=written)
    logs.log.info("request")
    logs.log.warning("trouble")
    assert [line["message"] for line in lines(written)] == ["trouble"]
    assert logging.getLogger(logs.NAME).propagate is False
