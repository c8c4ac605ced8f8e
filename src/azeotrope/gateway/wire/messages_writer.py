"""Events as messages of Anthropic's dialect: a stream, or one body. Nothing is written that is not in an event.

A stream has one open block at a time. Pieces of two calls that come interleaved are put in order: while the JSON
of the open call has not ended, everything else waits. What comes for a call whose block is closed is dropped; its
JSON had ended.

Input of a call that is not a JSON object, or is nested deeper than `DEPTH`: a body must hold an object, so it
becomes {"INVALID_JSON": "the text"}, the form in which the provider's documentation hands such text back. A stream
passes it on piece by piece as it came, as the provider's own fine-grained streaming does. No input at all is {}.

Sealed reasoning of another dialect ("encrypted") is not written. There is one choice in this dialect; events of
others are not written.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field

from azeotrope.gateway.wire import events as ev
from azeotrope.gateway.wire.errors import Kind, Problem, WireError
from azeotrope.gateway.wire.fields import Json, decode, encode, without_none
from azeotrope.gateway.wire.form import Form
from azeotrope.gateway.wire.reply import Choice, Reply
from azeotrope.gateway.wire.request import INVALID
from azeotrope.gateway.wire.sse import write

DEPTH = 128  # far above what a tool takes, far below what stops an encoder
REASONS: dict[ev.Reason, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
    "refusal": "refusal",
}
TYPES: dict[Kind, str] = {
    "invalid_request": "invalid_request_error",
    "authentication": "authentication_error",
    "permission": "permission_error",
    "not_found": "not_found_error",
    "too_large": "request_too_large",
    "rate_limit": "rate_limit_error",
    "upstream": "api_error",
    "overloaded": "overloaded_error",
    "timeout": "timeout_error",
    "internal": "api_error",
}
FAILURES: dict[int, tuple[Kind, str]] = {
    408: ("timeout", "The upstream took too long."),
    429: ("rate_limit", "The upstream limits its rate."),
    503: ("overloaded", "The upstream is overloaded."),
    504: ("timeout", "The upstream took too long."),
    529: ("overloaded", "The upstream is overloaded."),
}
_MARKS = re.compile(r'\\(?s:.)?|["{}\[\]]')


class Extent:
    """Where the JSON object ends that comes in pieces, and how deep it goes. Time is linear in the text."""

    def __init__(self) -> None:
        self.ended = False
        self.deepest = 0
        self._depth = 0
        self._quoted = False
        self._escaped = False  # the piece ended with a backslash

    def feed(self, piece: str) -> None:
        """Take in the next piece."""
        if self._escaped and piece:
            piece, self._escaped = piece[1:], False
        for mark in _MARKS.findall(piece):
            if mark[0] == "\\":
                self._escaped = len(mark) == 1
            elif mark == '"':
                self._quoted = not self._quoted
            elif not self._quoted:
                self._depth += 1 if mark in "{[" else -1
                self.deepest = max(self.deepest, self._depth)
                self.ended |= self._depth <= 0


@dataclass(slots=True, eq=False)
class _Call:
    """A call: `pieces` of its input that wait for its block to open, None once it has."""

    id: str
    name: str
    extent: Extent = field(default_factory=Extent)
    pieces: list[str] | None = field(default_factory=list)


class MessagesWriter:
    """Writes one stream. `id` and `model` are the gateway's; `created` has no place in this dialect."""

    def __init__(self, id: str, model: str, created: int, form: Form | None = None) -> None:
        self._head: Json = {"id": id, "type": "message", "role": "assistant", "model": model}
        self._form = form or Form()
        self._out: list[bytes] = []
        self._begun = False
        self._failed = False
        self._index = 0  # of the open block, or of the next one
        self._open = ""  # its type
        self._live: _Call | None = None  # its call
        self._calls: dict[int, _Call] = {}
        self._waiting: deque[_Call | ev.Event] = deque()  # holds something only while `_blocked`
        self._usage: ev.Usage | None = None
        self._reason: ev.Reason | None = None
        self._refused = False

    def write(self, event: ev.Event) -> bytes:
        """What to send for an event, maybe nothing. After a Failure nothing more is said."""
        if self._failed:
            return b""
        match event:
            case ev.Start():
                self._begin()
            case ev.Usage():
                self._usage = event
            case ev.Failure(status=status):
                self._failed = True
                kind, message = FAILURES.get(status, ("upstream", "The upstream failed."))
                self._send("error", error_body(Problem(status, kind, message)))
            case ev.Tool(choice=0):
                self._call(event)
            case ev.Reasoning(choice=0) | ev.Sealed(choice=0) | ev.Text(choice=0):
                if self._blocked:
                    self._waiting.append(event)
                else:
                    self._say(event)
            case ev.Finish(choice=0, reason=reason):
                self._reason = reason
                self._settle()
        return self._sent()

    def end(self) -> bytes:
        """The reason to stop, the usage and the end mark; nothing after a Failure."""
        if self._failed:
            return b""
        self._begin()
        self._settle()
        delta = {"stop_reason": stop_reason(self._reason, self._refused), "stop_sequence": None}
        self._send("message_delta", {"delta": delta, "usage": usage(self._usage, self._form)})
        self._send("message_stop", {})
        return self._sent()

    @property
    def _blocked(self) -> bool:
        """Whether a call is open whose input has not ended."""
        return self._live is not None and not self._live.extent.ended

    def _call(self, event: ev.Tool) -> None:
        call = self._calls.get(event.slot)
        if call is None:
            call = self._calls[event.slot] = _Call(event.id, event.name)
            if self._blocked:
                self._waiting.append(call)
            else:
                self._open_call(call)
        if not event.arguments:
            return
        call.extent.feed(event.arguments)
        if call is self._live:
            self._delta({"type": "input_json_delta", "partial_json": event.arguments})
            self._advance()
        elif call.pieces is not None:
            call.pieces.append(event.arguments)

    def _advance(self, final: bool = False) -> None:
        """Say what waits, until a call is open again whose input has not ended; all of it if `final`."""
        while self._waiting and (final or not self._blocked):
            item = self._waiting.popleft()
            if isinstance(item, _Call):
                self._open_call(item)
            else:
                self._say(item)

    def _settle(self) -> None:
        self._advance(final=True)
        self._close()

    def _open_call(self, call: _Call) -> None:
        self._start({"type": "tool_use", "id": call.id, "name": call.name, "input": {}})
        self._live = call
        pieces, call.pieces = call.pieces, None
        if pieces:
            self._delta({"type": "input_json_delta", "partial_json": "".join(pieces)})

    def _say(self, event: ev.Event) -> None:
        match event:
            case ev.Reasoning(text=words) if words:
                self._think()
                self._delta({"type": "thinking_delta", "thinking": words})
            case ev.Sealed(kind="signature", data=data) if data:
                self._think()
                self._delta({"type": "signature_delta", "signature": data})
                self._close()  # a signature is of all that the block holds
            case ev.Sealed(kind="redacted", data=data) if data:
                self._start({"type": "redacted_thinking", "data": data})
                self._close()
            case ev.Text(text=words, refusal=refusal) if words:
                self._refused |= refusal
                if self._open != "text":
                    self._start({"type": "text", "text": ""})
                self._delta({"type": "text_delta", "text": words})

    def _think(self) -> None:
        if self._open != "thinking":
            self._start({"type": "thinking", "thinking": "", "signature": ""})

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            told = usage(self._usage, self._form)
            empty: Json = {"content": [], "stop_reason": None, "stop_sequence": None, "usage": told}
            self._send("message_start", {"message": {**self._head, **empty}})

    def _start(self, block: Json) -> None:
        self._begin()
        self._close()
        self._open = block["type"]
        self._send("content_block_start", {"index": self._index, "content_block": block})

    def _delta(self, delta: Json) -> None:
        self._send("content_block_delta", {"index": self._index, "delta": delta})

    def _close(self) -> None:
        if self._open:
            self._send("content_block_stop", {"index": self._index})
            self._index, self._open, self._live = self._index + 1, "", None

    def _send(self, name: str, body: Json) -> None:
        self._out.append(write(encode({"type": name, **body}), name))

    def _sent(self) -> bytes:
        sent = b"".join(self._out)
        self._out.clear()
        return sent


def whole(reply: Reply, id: str, model: str, created: int, form: Form | None = None) -> Json:
    """The body of a reply that is not streamed. `created` has no place in it."""
    choice = reply.choices.get(0) or Choice()
    return {
        "id": id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content(choice),
        "stop_reason": stop_reason(choice.reason, bool(choice.refusal)),
        "stop_sequence": None,
        "usage": usage(reply.usage, form or Form()),
    }


def content(choice: Choice) -> list[Json]:
    """The blocks of a choice: thinking, text, calls. The first signature is taken to be of all the reasoning."""
    thoughts = choice.reasoning + choice.summary
    blocks: list[Json] = []
    for sealed in choice.sealed:
        if sealed.kind == "signature" and sealed.data:
            blocks.append({"type": "thinking", "thinking": thoughts, "signature": sealed.data})
            thoughts = ""
        elif sealed.kind == "redacted" and sealed.data:
            blocks.append({"type": "redacted_thinking", "data": sealed.data})
    if thoughts:
        blocks.insert(0, {"type": "thinking", "thinking": thoughts, "signature": ""})
    if words := choice.text + choice.refusal:
        blocks.append({"type": "text", "text": words})
    for call in choice.tools:
        blocks.append({"type": "tool_use", "id": call.id, "name": call.name, "input": tool_input(call.arguments)})
    return blocks


def tool_input(arguments: str) -> Json:
    """The input of a call as the object that this dialect wants.

    >>> tool_input('{"a": 1}'), tool_input(""), tool_input("{")
    ({'a': 1}, {}, {'INVALID_JSON': '{'})
    """
    if not arguments.strip():
        return {}
    extent = Extent()
    extent.feed(arguments)
    if extent.deepest <= DEPTH:
        try:
            return decode(arguments, "The input of a tool call")
        except WireError:
            pass
    return {INVALID: arguments}


def stop_reason(reason: ev.Reason | None, refused: bool) -> str:
    """Why the reply stopped. The words of a refusal are text here, so the reason tells that they were one."""
    return "refusal" if refused and reason in (None, "stop") else REASONS[reason or "stop"]


def usage(told: ev.Usage | None, form: Form) -> Json:
    """The `usage` object: zeros for what is not known. Without `tell_reasoning`, reasoning is not told apart."""
    told = told or ev.Usage()
    told_apart = form.tell_reasoning and told.reasoning is not None
    return without_none(
        {
            "input_tokens": max((told.prompt or 0) - (told.cached or 0), 0),
            "cache_read_input_tokens": told.cached,
            "output_tokens": told.completion or 0,
            "output_tokens_details": {"thinking_tokens": told.reasoning} if told_apart else None,
        }
    )


def error_body(problem: Problem) -> Json:
    """An error in this dialect's shape, which names the field in the message."""
    named = problem.param and problem.param not in problem.message
    message = f"{problem.param}: {problem.message}" if named else problem.message
    return {"type": "error", "error": {"type": TYPES[problem.kind], "message": message}}
