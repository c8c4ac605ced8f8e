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
    """The client closed the connection, or takes nothing of its reply."""


class CutError(GoneError):
    """The body ended too early: the client went, or its chunks cannot be read, which a server tells alike."""


def headers(scope: Scope, name: bytes) -> list[str]:
    """All headers of the request with a name."""
    return [bytes(value).decode("latin-1") for key, value in scope["headers"] if key.lower() == name]


def header(scope: Scope, name: bytes) -> str:
    """A header of the request, "" if it is not there; of several with one name the first."""
    for key, value in scope["headers"]:
        if key.lower() == name:
            return str(bytes(value).decode("latin-1"))
    return ""


def sole(scope: Scope, *names: bytes) -> str:
    """The first of some headers that is there, "" if it is there twice: who reads which is not for us to guess."""
    given = next((found for name in names if (found := headers(scope, name))), [])
    return given[0] if len(given) == 1 else ""


async def body(scope: Scope, receive: Receive, most: int, seconds: float) -> bytes:
    """The request's body. Raises BodyError (too long, too slow, ambiguous) and CutError.

    A request that has both a length and a transfer encoding is refused: two servers may disagree on where it ends.
    So is one with another encoding than "chunked".
    """
    length, encodings = header(scope, b"content-length"), headers(scope, b"transfer-encoding")
    if length and encodings:
        raise BodyError(Problem(400, "invalid_request", "The request has a length and a transfer encoding."))
    if encodings and [one.strip().lower() for one in encodings] != ["chunked"]:
        raise BodyError(Problem(400, "invalid_request", "The transfer encoding can be 'chunked' only, once."))
    if length and (not length.isascii() or not length.isdigit() or len(length) > 15):
        raise BodyError(Problem(400, "invalid_request", "The request's length is not a number."))
    if length and int(length) > most:
        raise BodyError(_long(most))
    if set(headers(scope, b"content-encoding")) - {"", "identity"}:
        raise BodyError(Problem(415, "invalid_request", "Compressed request bodies are not accepted."))
    pieces: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise CutError
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
    """A reply that is sent in pieces. The first piece sends the head.

    `headers` can be changed until then.

    `patience` and `gone`: what is called where a client takes nothing of a piece for so many seconds. There is one
    timer for a stream, not one for a piece, so that it can take twice as long.
    """

    def __init__(self, send: Send, headers: Headers, patience: float = 0.0) -> None:
        self._send, self.headers, self._patience = send, headers, patience
        self.begun = False
        self.sent = 0
        self.gone: Callable[[], object] | None = None
        self._pieces = 0
        self._waits = 0  # the number of the piece that is being sent, 0 between pieces
        self._timer: asyncio.TimerHandle | None = None

    async def write(self, piece: bytes) -> None:
        """Send a piece."""
        if not self.begun:
            self.begun = True
            if self._patience and self.gone is not None:
                self._watch(0)
            await self._send({"type": "http.response.start", "status": 200, "headers": [*STREAM, *self.headers]})
        self.sent += len(piece)
        self._pieces = self._waits = self._pieces + 1
        await self._send({"type": "http.response.body", "body": piece, "more_body": True})
        self._waits = 0

    async def end(self) -> None:
        """Nothing more comes."""
        if not self.begun:
            await self.write(b"")
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    def rest(self) -> None:
        """Nobody is to be called any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _watch(self, piece: int) -> None:
        if piece and piece == self._waits and self.gone is not None:
            self.gone()
        else:
            self._timer = asyncio.get_running_loop().call_later(self._patience, self._watch, self._waits)
