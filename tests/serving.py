"""A real HTTP server that plays an OpenAI-compatible endpoint, for every test folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True)
class Asked:
    """One request as the server saw it; `index` counts from 0, names of headers are in lower case."""

    index: int
    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]

    @property
    def prompt(self) -> str:
        return str(self.body["prompt"]) if "prompt" in self.body else str(self.body["messages"][0]["content"])


@dataclass(frozen=True)
class Answer:
    """What the server sends back; status 0 breaks the connection without a word."""

    body: Any = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


def chat(
    content: Any, *, finish: str = "stop", tokens: tuple[int, int] | None = (10, 5), **message: Any
) -> Answer:
    """A chat completion."""
    usage = {"usage": {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}} if tokens else {}
    said = {"role": "assistant", "content": content, **message}
    return Answer({"choices": [{"message": said, "finish_reason": finish}], **usage})


def plain(text: str) -> Answer:
    """A completion of the older interface."""
    choice = {"text": text, "finish_reason": "stop"}
    return Answer({"choices": [choice], "usage": {"prompt_tokens": 10, "completion_tokens": 5}})


class Served:
    """Serves on a free port while entered; keeps what it was asked and how many requests were open at once."""

    def __init__(self, answer: Callable[[Asked], Answer]) -> None:
        self.answer = answer
        self.asked: list[Asked] = []
        self.peak = self._open = 0
        self._lock = Lock()
        served = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                served._handle(self, body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.005}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handle(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        with self._lock:
            asked = Asked(len(self.asked), handler.path, {k.lower(): v for k, v in handler.headers.items()}, body)
            self.asked.append(asked)
            self._open += 1
            self.peak = max(self.peak, self._open)
        try:
            answer = self.answer(asked)
        finally:
            with self._lock:
                self._open -= 1
        if not answer.status:
            handler.close_connection = True
            return
        raw = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        try:
            handler.send_response(answer.status)
            for name, value in {"Content-Length": str(len(raw)), **answer.headers}.items():
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(raw)
        except OSError:  # the client has gone
            handler.close_connection = True
