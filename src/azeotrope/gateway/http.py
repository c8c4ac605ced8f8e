"""The few parts of HTTP that an ASGI application needs: a body within bounds, a reply, a stream."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from azeotrope.gateway.wire.errors import Problem

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JSON = (b"content-type", b"application/json")
PRIVATE = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]
STREAM: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"x-accel-buffering", b"no"),
    *PRIVATE,
]


class BodyError(Exception):
    """A body that cannot be taken; `problem` is what the client is told."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class GoneError(Exception):
    """The client closed the connection."""


def header(scope: Scope, name: bytes) -> str:
    """A header of the request, "" if it is not there; of several with one name the first."""
    for key, value in scope["headers"]:
        if key.lower() == name:
            return str(bytes(value).decode("latin-1"))
    return ""


async def body(scope: Scope, receive: Receive, most: int, seconds: float) -> bytes:
    """The request's body. Raises BodyError (too long, too slow, ambiguous) and GoneError.

    A request that has both a length and a transfer encoding is refused: two servers may disagree on where it ends.
    """
    length = header(scope, b"content-length")
    if length and header(scope, b"transfer-encoding"):
        raise BodyError(Problem(400, "invalid_request", "The request has a length and a transfer encoding."))
    if length and (not length.isascii() or not length.isdigit() or len(length) > 15):
        raise BodyError(Problem(400, "invalid_request", "The request's length is not a number."))
    if length and int(length) > most:
        raise BodyError(_long(most))
    if header(scope, b"content-encoding") not in ("", "identity"):
        raise BodyError(Problem(415, "invalid_request", "Compressed request bodies are not accepted."))
    pieces: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise GoneError
                piece = message.get("body", b"")
                size += len(piece)
                if size > most:
                    raise BodyError(_long(most))
                pieces.append(piece)
                if not message.get("more_body", False):
                    return b"".join(pieces)
    except TimeoutError:
        raise BodyError(
            Problem(408, "timeout", f"The request did not arrive within {seconds:g} seconds.")
        ) from None


def _long(most: int) -> Problem:
    return Problem(413, "too_large", f"The request is longer than {most} bytes.", "request_too_large")


async def reply(send: Send, status: int, content: bytes, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    """Send a whole reply; its media type is JSON unless `headers` name another."""
    given = list(headers)
    kind = [] if any(name == b"content-type" for name, _ in given) else [JSON]
    length = (b"content-length", str(len(content)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*kind, length, *PRIVATE, *given]})
    await send({"type": "http.response.body", "body": content, "more_body": False})


class Stream:
    """A reply that is sent in pieces. The first piece sends the head."""

    def __init__(self, send: Send, headers: Headers) -> None:
        self._send, self._headers = send, headers
        self.begun = False
        self.sent = 0

    async def write(self, piece: bytes) -> None:
        """Send a piece."""
        if not self.begun:
            self.begun = True
            await self._send({"type": "http.response.start", "status": 200, "headers": [*STREAM, *self._headers]})
        self.sent += len(piece)
        await self._send({"type": "http.response.body", "body": piece, "more_body": True})

    async def end(self) -> None:
        """Nothing more comes."""
        if not self.begun:
            await self.write(b"")
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})
