"""Bytes over a socket, as no well-behaved client sends them, and what comes back, taken apart."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

ASK = {"model": "any", "messages": [{"role": "user", "content": "What is the moon?"}]}
BODY = json.dumps(ASK).encode()
CHAT = b"POST /v1/chat/completions HTTP/1.1\r\nHost: gateway\r\n"
CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
LONGEST = 20.0  # seconds that a test waits for what must come


@dataclass(frozen=True)
class Answer:
    """One response."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key == name), "")

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@contextmanager
def connection(url: str, timeout: float = LONGEST) -> Iterator[socket.socket]:
    """A connection to the gateway."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=timeout) as wire:
        yield wire


def post(body: bytes, path: str = "/v1/chat/completions", head: bytes = b"") -> bytes:
    """The bytes of a POST after which the connection is closed."""
    line = b"POST " + path.encode() + b" HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n"
    return line + head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def send(url: str, data: bytes) -> bytes:
    """Send bytes; all that comes back until the gateway closes the connection."""
    with connection(url) as wire:
        with suppress(ConnectionError):  # refused before it was read to its end
            wire.sendall(data)
        return rest(wire)


def rest(wire: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    found = b""
    try:
        while piece := wire.recv(1 << 16):
            found += piece
    except ConnectionResetError:
        pass
    return found


def answers(data: bytes) -> list[Answer]:
    """The responses in bytes, each taken to its end as a strict client would."""
    found = []
    while data:
        head, split, data = data.partition(b"\r\n\r\n")
        assert split, head
        first, *lines = head.split(b"\r\n")
        version, status, _ = first.split(b" ", 2)
        assert version == b"HTTP/1.1"
        headers = [(k.decode().lower(), v.decode().strip()) for k, v in (line.split(b":", 1) for line in lines)]
        if status == b"100":
            continue
        told = dict(headers)
        if told.get("transfer-encoding") == "chunked":
            body, data = unchunk(data)
        else:
            length = int(told.get("content-length", "0"))
            body, data = data[:length], data[length:]
        found.append(Answer(int(status), headers, body))
    return found


def unchunk(data: bytes) -> tuple[bytes, bytes]:
    """A chunked body and what follows it; a body that is cut is what came of it."""
    body = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            return body, data.removeprefix(b"\r\n")
        body, data = body + data[:length], data[length + 2 :]
    return body, b""


def ask_raw(url: str, data: bytes) -> list[Answer]:
    """Send bytes; the responses."""
    return answers(send(url, data))


def until(condition: Callable[[], bool], what: str = "it did not happen") -> None:
    """Wait for something that must happen."""
    end = time.monotonic() + LONGEST
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.005)
