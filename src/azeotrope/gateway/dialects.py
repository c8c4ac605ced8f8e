"""The dialects by name: what reads and writes requests and replies in each, loaded when it is first used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, Protocol

from azeotrope.gateway.wire import events as ev
from azeotrope.gateway.wire.errors import Problem
from azeotrope.gateway.wire.fields import Json, encode
from azeotrope.gateway.wire.request import Request
from azeotrope.gateway.wire.schema import record
from azeotrope.gateway.wire.sse import write as frame
from azeotrope.gateway.wire.think import Splitter


class Reader(Protocol):
    """Reads an upstream's reply: `chunk` by `chunk`, or `whole`; then `close`."""

    done: bool

    @property
    def stray(self) -> bool:
        """Whether a closing tag came where no reasoning was (see `Splitter.stray`)."""
        ...

    def chunk(self, data: bytes) -> list[ev.Event]:
        """The events of one event of the stream."""
        ...

    def whole(self, body: bytes) -> list[ev.Event]:
        """The events of a reply that is not streamed."""
        ...

    def close(self) -> list[ev.Event]:
        """What was held back."""
        ...


class Writer(Protocol):
    """Writes a stream to a client."""

    def write(self, event: ev.Event) -> bytes:
        """What to send for an event."""
        ...

    def end(self) -> bytes:
        """What ends the stream."""
        ...


@dataclass(frozen=True, slots=True)
class Dialect:
    """`read`, `whole`, `writer`, `error` face clients; `write` and `reader` face upstreams. `path` is both's."""

    name: str
    path: str
    prefix: str  # of ids
    read: Callable[[bytes], Request]
    write: Callable[[Request], Json]
    reader: Callable[[Callable[[], Splitter] | None], Reader]
    writer: Callable[..., Writer]
    whole: Callable[..., Json]
    error: Callable[[Problem], Json]
    alive: bytes  # sent so that a connection does not look dead
    echoes: bool = False  # replies repeat settings of the request

    def broken(self, problem: Problem) -> bytes:
        """An error in the middle of a stream that cannot go on."""
        if self.name == "responses":
            told = {"type": "error", "code": problem.code or None, "message": problem.message, "param": None}
            return frame(encode({**told, "sequence_number": LAST}), "error")
        return frame(encode(self.error(problem)), "error" if self.name == "messages" else "")


# path, prefix of ids, modules of requests from clients and to upstreams, first word of the classes
_PLACES = {
    "chat": ("/chat/completions", "chatcmpl-", "chat_request", "chat_upstream", "Chat"),
    "completions": ("/completions", "cmpl-", "completions", "completions", "Completions"),
    "responses": ("/responses", "resp_", "responses_request", "responses_upstream", "Responses"),
    "messages": ("/messages", "msg_", "messages_request", "messages_upstream", "Messages"),
}
LAST = 2**31 - 1  # a sequence number after all others
ALIVE = b": keep-alive\n\n"
PING = b'event: ping\ndata: {"type":"ping"}\n\n'


@cache
def dialect(name: str) -> Dialect:
    """A dialect by its name. Raises KeyError for one that there is not."""
    path, prefix, request, upstream, stem = _PLACES[name]
    reader, writer = (name, name) if name == "completions" else (f"{name}_reader", f"{name}_writer")

    def part(module: str) -> Any:
        return import_module(f"azeotrope.gateway.wire.{module}")

    return Dialect(
        name,
        path,
        prefix,
        part(request).read,
        part(upstream).write,
        getattr(part(reader), f"{stem}Reader"),
        getattr(part(writer), f"{stem}Writer"),
        part(writer).whole,
        part(writer).error_body,
        PING if name == "messages" else ALIVE,
        echoes=name == "responses",
    )


def fields(name: str) -> Json:
    """The schema of a request in OpenAI's dialects, from the reader's own allow-list. Raises KeyError."""
    module = {"chat": "chat_fields", "completions": "completions", "responses": "responses_fields"}[name]
    found = import_module(f"azeotrope.gateway.wire.{module}")
    return record(found.FIELDS, *found.NEEDED)


NAMES = tuple(_PLACES)
PATHS = {name: place[0] for name, place in _PLACES.items()}
