"""`azeotrope serve` as a process: it serves, drains when it is told to stop, and says what is wrong beforehand."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import time
from pathlib import Path

import aiohttp
import pytest
from gateway_drive import Mock, delta, frames, free_port, lines, message, upstream
from serve_drive import COMMAND, server

ASK = {"model": "any", "messages": [{"role": "user", "content": "hi"}]}


async def ask(url: str, stream: bool = False) -> str:
    body = {**ASK, "stream": stream}
    async with aiohttp.ClientSession() as session, session.post(url + "/v1/chat/completions", json=body) as reply:
        assert reply.status == 200
        return await reply.text()


def test_it_serves_reloads_its_policy_and_ends_what_it_has_begun(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    text = "azeotrope_gateway: 1\nstances: {one: {disclose: %s}}\ncontexts: [{name: all, stance: one}]\n"
    policy.write_text(text % "none", encoding="utf-8")
    slow = [delta(content="a"), *[delta(content="b")] * 20, delta(reason="stop")]
    mock = Mock(body=message("I think.", "Yes."), frames=frames(*slow), pause=0.05)
    with (
        upstream(mock, free_port()) as address,
        server("--upstream", address, "--policy", str(policy)) as (process, url),
    ):
        assert "I think." not in asyncio.run(ask(url))
        policy.write_text(text % "full", encoding="utf-8")
        until = time.monotonic() + 10
        while "I think." not in asyncio.run(ask(url)):
            assert time.monotonic() < until, "the new policy is not in force"
            time.sleep(0.1)

        async def stop_in_the_middle() -> str:
            task = asyncio.ensure_future(ask(url, stream=True))
            while not mock.sent:
                await asyncio.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            return await task

        chunks = lines(asyncio.run(stop_in_the_middle()))
        assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == "a" + "b" * 20
        assert process.wait(15) == 0


def test_with_nothing_configured_it_serves_the_embedded_teacher() -> None:
    with server() as (_, url):
        told = json.loads(asyncio.run(ask(url)))
        assert told["choices"][0]["message"]["content"]


def test_without_the_parent_its_processes_end_what_they_have_begun_and_leave_the_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where the processes share a key
    slow = [delta(content="a"), *[delta(content="b")] * 60, delta(reason="stop")]
    mock = Mock(frames=frames(*slow), pause=0.05)
    with (
        upstream(mock, free_port()) as address,
        server("--upstream", address, "--workers", "2") as (process, url),
    ):

        async def kill_in_the_middle() -> str:
            task = asyncio.ensure_future(ask(url, stream=True))
            while not mock.sent:
                await asyncio.sleep(0.01)
            process.kill()
            return await task

        assert lines(asyncio.run(kill_in_the_middle()))[-1]["choices"][0]["finish_reason"] == "stop"
        until = time.monotonic() + 20
        while listens(url):
            assert time.monotonic() < until, "a process lives on without its parent"
            time.sleep(0.1)


def listens(url: str) -> bool:
    host, port = url.removeprefix("http://").split(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--upstream", "http://x/v1", "--teacher", "embedded/teacher"], "Give one of"),
        (["--teacher", "embedded/techer"], "Did you mean 'embedded/teacher'?"),
        (["--upstream", "ftp://x"], "http://127.0.0.1:8000/v1"),
        (["--upstream", "http://user:secret@x/v1"], "must not hold a password"),
        (["--upstream", "http://x/v1", "--policy", "absent.yaml"], "no policy file"),
        (["--config", "absent.yaml"], "no server file"),
    ],
)
def test_mistakes_end_it_before_anybody_listens(words: list[str], message: str) -> None:
    done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (2, 3)
    assert message in done.stderr
    assert "secret" not in done.stderr
    assert done.stderr.count("\n") == 1
