"""A real server behind the gateway: where it is, a server of one's own, and a recorder of what was said to it."""

from __future__ import annotations

import json
import os
import subprocess
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

import aiohttp
import pytest
from aiohttp import web
from gateway_drive import Json, free_port, in_a_thread

UPSTREAM = "AZEOTROPE_TEST_UPSTREAM"  # its address, with /v1
SERVER = "AZEOTROPE_TEST_UPSTREAM_SERVER"  # the command that starts one: --port, --slots, --budget, --raw


def needed(variable: str) -> str:
    """What a variable says of the real upstream, or a skip that cannot be overlooked."""
    found = os.environ.get(variable, "")
    if not found:
        why = f"no real upstream: {variable} is not set; run: scripts/upstream.sh start"
        warnings.warn(pytest.PytestWarning(f"SKIPPED, {why}"), stacklevel=2)
        pytest.skip(why)
    return found


@dataclass
class Said:
    """A request that reached the upstream, and what came back."""

    path: str
    asked: Json
    status: int = 0
    body: bytes = b""

    @property
    def chunks(self) -> list[Json]:
        """The JSON of a stream's events, or of the whole reply."""
        text = self.body.decode()
        if text.startswith("{"):
            return [json.loads(text)]
        return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]

    def told(self, name: str, choice: int = 0) -> str:
        """What a chat completion said of a choice in `content`, `reasoning_content`, ..."""
        found = [c for chunk in self.chunks for c in chunk.get("choices", ()) if c["index"] == choice]
        return "".join((c.get("delta") or c.get("message") or c).get(name) or "" for c in found)


@dataclass
class Recorder:
    """Stands between the gateway and the real upstream."""

    target: str
    said: list[Said] = field(default_factory=list)

    @property
    def last(self) -> Said:
        """The last exchange."""
        return self.said[-1]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Pass a request on, and what comes back, as it comes."""
        data = await request.read()
        said = Said(request.path, json.loads(data))
        self.said.append(said)
        url = self.target.removesuffix("/v1") + request.path
        async with aiohttp.ClientSession() as session, session.post(url, data=data) as reply:
            said.status = reply.status
            response = web.StreamResponse(
                status=reply.status, headers={"content-type": reply.headers["content-type"]}
            )
            await response.prepare(request)
            async for piece in reply.content.iter_any():
                said.body += piece
                await response.write(piece)
            await response.write_eof()
            return response


@contextmanager
def recording(target: str) -> Iterator[tuple[Recorder, str]]:
    """A recorder before the server at `target`, and its own address."""
    recorder, port = Recorder(target), free_port()

    async def start() -> Callable[[], Awaitable[None]]:
        application = web.Application(client_max_size=1 << 26)
        application.router.add_post("/{tail:.*}", recorder.handle)
        runner = web.AppRunner(application, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        return runner.cleanup

    with in_a_thread(start):
        yield recorder, f"http://127.0.0.1:{port}/v1"


@dataclass
class Own:
    """A real server that a test may stop. `url` has no /v1."""

    url: str
    log: Path
    port: int
    raw: bool
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with self.log.open("ab") as log:
            command = [needed(SERVER), "--port", str(self.port), "--slots", "1", *["--raw"] * self.raw]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

        def ready() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.log.read_text(errors="replace")
            return self.answers()

        wait_until(ready, "the server does not start")

    def kill(self) -> None:
        """End it at once, as a crash does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(20)

    def get(self, path: str) -> Any:
        """The JSON at a path."""
        with build_opener(ProxyHandler({})).open(self.url + path, timeout=20) as reply:
            return json.load(reply)

    def answers(self) -> bool:
        """Whether it is there."""
        try:
            return bool(self.get("/health")["status"] == "ok")
        except OSError:
            return False

    def busy(self) -> bool:
        """Whether a reply is being written. Asked often, llama.cpp does not notice that a client went."""
        return any(slot["is_processing"] for slot in self.get("/slots"))

    def logged(self, words: str) -> int:
        """How often its log says something."""
        return self.log.read_text(encoding="utf-8", errors="replace").count(words)


@contextmanager
def own_server(folder: Path, *, raw: bool = False) -> Iterator[Own]:
    """A server with one slot; it ends with the test. `raw`: it does not tell reasoning apart."""
    port = free_port()
    own = Own(f"http://127.0.0.1:{port}", folder / "server.log", port, raw)
    try:
        own.start()
        yield own
    finally:
        if own.process is not None:
            own.kill()


def wait_until(holds: Callable[[], bool], otherwise: str, seconds: float = 120.0) -> None:
    """Look until something holds. The limit is there so that a broken test ends."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, otherwise
        time.sleep(0.02)
