"""A gateway on a real port before an upstream on another, both in a thread of their own."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web
from granian.constants import Interfaces
from granian.server.embed import Server

from azeotrope.gateway.app import Gateway
from azeotrope.gateway.desk import Desk
from azeotrope.gateway.listening import options
from azeotrope.gateway.policy import DEFAULT
from azeotrope.gateway.settings import ServerFile
from azeotrope.gateway.table import PolicyBox

Json = dict[str, Any]
OF_SERVER = ("listen", "models", "vault", "status", "telemetry")


@dataclass
class Mock:
    """An upstream that answers as it is told, and remembers what it was asked."""

    frames: list[bytes] = field(default_factory=list)  # of a stream, sent one by one
    body: Any = None  # of a reply that is not streamed
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    pause: float = 0.0  # between frames
    fail: list[int] = field(default_factory=list)  # statuses of the first requests
    cut: bool = False  # drop the connection after the frames
    hang: bool = False  # send nothing after the frames
    asked: list[Json] = field(default_factory=list)
    seen: list[dict[str, str]] = field(default_factory=list)
    sent: int = 0
    gone: threading.Event = field(default_factory=threading.Event)
    answer: Callable[[Json], Any] | None = None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Any POST."""
        given = json.loads(await request.read())
        self.asked.append(given)
        self.seen.append({key.lower(): value for key, value in request.headers.items()} | {"path": request.path})
        if self.fail:
            return web.json_response({"error": {"message": "SECRET upstream text"}}, status=self.fail.pop(0))
        if self.answer is not None:
            return web.json_response(self.answer(given))
        if self.status != 200 or not given.get("stream"):
            return web.json_response(self.body, status=self.status, headers=self.headers)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        try:
            for frame in self.frames:
                await response.write(frame)
                self.sent += 1
                await asyncio.sleep(self.pause)
            if self.hang:
                await asyncio.sleep(60)
            if self.cut and request.transport is not None:
                request.transport.abort()
                return response
            await response.write_eof()
        except (ConnectionError, asyncio.CancelledError):
            self.gone.set()
            raise
        return response


def frames(*data: Any, done: bool = True) -> list[bytes]:
    """Chat completion chunks as frames of a stream."""
    found = [b"data: " + json.dumps(one).encode() + b"\n\n" for one in data]
    return found + ([b"data: [DONE]\n\n"] if done else [])


def delta(index: int = 0, reason: str | None = None, **said: Any) -> Json:
    """One chunk of a chat completion."""
    choice = {"index": index, "delta": said, "finish_reason": reason}
    return {"id": "up-1", "object": "chat.completion.chunk", "created": 1, "model": "served", "choices": [choice]}


def usage(prompt: int = 5, completion: int = 9, reasoning: int = 4) -> Json:
    """The last chunk of a stream."""
    told = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }
    return {
        "id": "up-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [],
        "usage": told,
    }


def message(reasoning: str = "", content: str = "", **more: Any) -> Json:
    """A whole chat completion."""
    said = {
        "role": "assistant",
        "content": content,
        **({"reasoning_content": reasoning} if reasoning else {}),
        **more,
    }
    choice = {"index": 0, "message": said, "finish_reason": "tool_calls" if "tool_calls" in more else "stop"}
    return {
        "id": "up-1", "object": "chat.completion", "created": 1, "model": "served", "choices": [choice],
        "usage": usage()["usage"],
    }  # fmt: skip


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Running:
    """A gateway that runs: its address, its upstream, itself."""

    url: str
    mock: Mock
    gateway: Gateway


@contextmanager
def serving(
    mock: Mock | None = None,
    *,
    policy: str | None = None,
    desk: Desk | None = None,
    tmp: Any = None,
    tracing: Any = None,
    **settings: Any,
) -> Iterator[Running]:
    """Run a gateway before `mock`. `settings` are those of the upstream, or some of the server (`OF_SERVER`)."""
    mock = mock or Mock()
    port, upstream_port = free_port(), free_port()
    server_keys = {k: settings.pop(k) for k in OF_SERVER if k in settings}
    main = {"url": f"http://127.0.0.1:{upstream_port}/v1", **settings}
    file = ServerFile.model_validate({"upstreams": {"main": main}, **server_keys})
    if policy is None:
        box = PolicyBox(DEFAULT)
    else:
        path = tmp / "policy.yaml"
        path.write_text(policy, encoding="utf-8")
        box = PolicyBox(path)
    gateway = Gateway(file, box, desk, tracing=tracing)
    with upstream(mock, upstream_port), serving_app(gateway, port) as address:
        yield Running(address, mock, gateway)


@contextmanager
def upstream(mock: Mock, port: int) -> Iterator[str]:
    """Run the mock; yields its address."""

    async def start() -> Callable[[], Awaitable[None]]:
        application = web.Application(client_max_size=1 << 30)
        application.router.add_post("/{tail:.*}", mock.handle)
        runner = web.AppRunner(application, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        return runner.cleanup

    with in_a_thread(start):
        yield f"http://127.0.0.1:{port}/v1"


@contextmanager
def serving_app(gateway: Gateway, port: int | None = None) -> Iterator[str]:
    """Run a gateway on a port of its own; yields its address."""
    port = port or free_port()
    url = f"http://127.0.0.1:{port}"

    async def start() -> Callable[[], Awaitable[None]]:
        server = Server(
            gateway, address="127.0.0.1", port=port, interface=Interfaces.ASGI, log_enabled=False,
            **options(gateway.settings.listen),
        )  # fmt: skip
        task = asyncio.ensure_future(server.serve())
        await answers(f"{url}/healthz")

        async def stop() -> None:
            await gateway.stop()
            server.stop()
            await task

        return stop

    with in_a_thread(start):
        yield url


@contextmanager
def in_a_thread(start: Callable[[], Awaitable[Callable[[], Awaitable[None]]]]) -> Iterator[None]:
    """Run what `start` starts on a loop in a thread of its own, and stop it by what `start` returns."""
    ready, loop, over = threading.Event(), asyncio.new_event_loop(), asyncio.Event()

    async def main() -> None:
        stop = await start()
        ready.set()
        await over.wait()
        await stop()

    thread = threading.Thread(target=lambda: loop.run_until_complete(main()), daemon=True)
    thread.start()
    assert ready.wait(20), "it did not start"
    try:
        yield
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(20)


def lines(text: str) -> list[Json]:
    """The JSON of a stream's frames."""
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


async def answers(url: str) -> None:
    """Wait until there is an answer."""
    async with aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(url):
                    return
            except aiohttp.ClientError:
                await asyncio.sleep(0.01)
