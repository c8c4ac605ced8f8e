"""Replies as upstreams write them that speak Anthropic's Messages, as events.

A reply is a list of blocks. Text, thinking, redacted thinking and calls of the client's own tools become events.
Blocks of what the provider ran itself (server_tool_use, web_search_tool_result, mcp_tool_use, code execution,
container uploads, compaction, fallback, and every kind yet unknown) hold no event: they are dropped with all
their text. So are citations (the text that they support is kept), `stop_details` and the matched stop sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from azeotrope.gateway.wire import events as ev
from azeotrope.gateway.wire.chat_reader import pieces
from azeotrope.gateway.wire.errors import WireError
from azeotrope.gateway.wire.fields import Json, decode, encode, mapping, number, objects, string, text, word
from azeotrope.gateway.wire.think import Splitter

WHAT = "The upstream's message"
REASONS: dict[str, ev.Reason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "refusal",
}
STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
DONE = b"[DONE]"  # not of this dialect, but some servers end with it
WHOLE = -1  # the place of a block that comes whole; a stream numbers its own from 0
KINDS = ("text", "thinking", "redacted_thinking", "tool_use")
COUNTS = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens")


@dataclass(slots=True)
class _Block:
    """A block that is open. `held` is said when it ends, unless a piece of it came: an input, or a signature."""

    kind: str
    slot: int = 0
    held: str = ""


class MessagesReader:
    """Reads one reply: `chunk` by `chunk`, or `whole`; then `close`.

    `splitter` makes what tells reasoning from text within text blocks; None if the upstream does so itself.
    """

    def __init__(self, splitter: Callable[[], Splitter] | None = None) -> None:
        self._splitter = splitter() if splitter else None
        self._id: str | None = None  # None until the message starts
        self._blocks: dict[int, _Block] = {}
        self._calls = 0
        self._counts: dict[str, int] = {}
        self._finished = False
        self._failed = False
        self.done = False  # the upstream said that it was the end

    @property
    def stray(self) -> bool:
        """Whether a closing tag came where no reasoning was (see `Splitter.stray`)."""
        return self._splitter is not None and self._splitter.stray

    @property
    def complete(self) -> bool:
        """Whether the message began, and ended with a reason."""
        return self._id is not None and self._finished

    def chunk(self, data: bytes) -> list[ev.Event]:
        """The events of one `data` of the stream. Raises WireError. After a Failure, nothing is read."""
        if data == DONE:
            self.done = True
            return []
        return list(self._event(decode(data, WHAT)))

    def whole(self, body: bytes) -> list[ev.Event]:
        """The events of a reply that is not streamed. Raises WireError."""
        found = list(self._message(decode(body, WHAT)))
        self.done = True
        return found

    def close(self) -> list[ev.Event]:
        """What was held back. A stream that stops in the middle of the message ends in a Failure."""
        found = list(self._flush())
        if not self.complete and not self._failed:
            found.append(self._fail(502, "upstream_closed"))
        return found

    def _event(self, body: Json) -> Iterator[ev.Event]:
        if self._failed:
            return
        match body.get("type"):
            case "message_start":
                yield from self._start(mapping(body.get("message")))
            case "content_block_start":
                yield from self._open(_index(body), mapping(body.get("content_block")))
            case "content_block_delta":
                yield from self._piece(_index(body), mapping(body.get("delta")))
            case "content_block_stop":
                yield from self._shut(_index(body))
            case "message_delta":
                yield from self._end(mapping(body.get("delta")))
                yield from self._usage(body)
            case "message_stop":
                self.done = True
            case kind if kind == "error" or body.get("error"):
                yield self._error(body)

    def _message(self, body: Json) -> Iterator[ev.Event]:
        """A whole message, or an error in its place."""
        if body.get("type") == "error" or body.get("error"):
            yield self._error(body)
            return
        yield from self._start(body)
        yield from self._end(body)

    def _start(self, message: Json) -> Iterator[ev.Event]:
        """The head, and blocks that are in it: all of them in a whole message, as a rule none in a stream's.

        The same head once more says nothing new. The head of another message in the middle of this one means that
        the upstream began again, and what was said so far cannot be taken back.
        """
        name = string(message.get("id"))
        if self._id is None:
            self._id = name
            yield ev.Start(name, string(message.get("model")), 0)
            content = message.get("content")
            if content is not None and not isinstance(content, list):
                raise WireError(f"{WHAT} has a `content` that is not a list of blocks.")
            for block in objects(content):
                yield from self._open(WHOLE, block)
                yield from self._shut(WHOLE)
        elif name != self._id:
            yield self._fail(502, "upstream_restarted")
            return
        yield from self._usage(message)

    def _open(self, index: int, block: Json) -> Iterator[ev.Event]:
        yield from self._shut(index)
        kind = string(block.get("type"))
        opened = self._blocks[index] = _Block(kind)
        if kind == "text":
            yield from self._text(text(block.get("text"), f"A text of {WHAT.lower()}"))
        elif kind == "thinking":
            yield from _reasoning(block.get("thinking"))
            opened.held = string(block.get("signature"))
        elif kind == "redacted_thinking" and (data := string(block.get("data"))):
            yield ev.Sealed("redacted", data)
        elif kind == "tool_use":
            opened.slot, self._calls = self._calls, self._calls + 1
            opened.held = _input(block.get("input"))
            yield ev.Tool(opened.slot, "", string(block.get("id")), string(block.get("name")))

    def _piece(self, index: int, delta: Json) -> Iterator[ev.Event]:
        block = self._blocks.get(index)
        if block is None:
            raise WireError(f"{WHAT} has a piece of a block that was never opened.")
        match block.kind, delta.get("type"):
            case "text", "text_delta":
                yield from self._text(text(delta.get("text"), f"A text of {WHAT.lower()}"))
            case "thinking", "thinking_delta":
                yield from _reasoning(delta.get("thinking"))
            case "thinking", "signature_delta":
                if signature := string(delta.get("signature")):
                    block.held = ""
                    yield ev.Sealed("signature", signature)
            case "tool_use", "input_json_delta":
                if words := text(delta.get("partial_json"), "The input of a tool call"):
                    block.held = ""
                    yield ev.Tool(block.slot, words)
            case kind, "text_delta" | "thinking_delta" | "input_json_delta" if kind in KINDS:
                raise WireError(f"{WHAT} has a piece in a block of another kind.")

    def _shut(self, index: int) -> Iterator[ev.Event]:
        block = self._blocks.pop(index, None)
        if block is None or not block.held:
            return
        yield ev.Sealed("signature", block.held) if block.kind == "thinking" else ev.Tool(block.slot, block.held)

    def _end(self, said: Json) -> Iterator[ev.Event]:
        """The reason to stop, once."""
        reason = string(said.get("stop_reason"))
        if not reason or self._finished:
            return
        for index in list(self._blocks):
            yield from self._shut(index)
        yield from self._flush()
        self._finished = True
        yield ev.Finish(REASONS.get(reason, "stop"))

    def _usage(self, body: Json) -> Iterator[ev.Event]:
        """Counts are cumulative, so the largest is the last; what one event leaves out, another has said."""
        told = mapping(body.get("usage"))
        counts = {name: number(told.get(name)) for name in COUNTS}
        counts["thinking_tokens"] = number(mapping(told.get("output_tokens_details")).get("thinking_tokens"))
        known = {name: count for name, count in counts.items() if count is not None}
        for name, count in known.items():
            self._counts[name] = max(count, self._counts.get(name, 0))
        if known:
            had = self._counts.get
            parts = [had(name) for name in COUNTS[:3]]
            prompt = None if parts == [None] * 3 else sum(part or 0 for part in parts)
            yield ev.Usage(prompt, had("output_tokens"), had("thinking_tokens"), had("cache_read_input_tokens"))

    def _error(self, body: Json) -> ev.Failure:
        told = mapping(body.get("error"))
        kind = word(told.get("type"))
        return self._fail(STATUS.get(kind, 502), kind, string(told.get("message")))

    def _fail(self, status: int, code: str, message: str = "") -> ev.Failure:
        self._failed = True
        return ev.Failure(status, code, message)

    def _text(self, words: str) -> Iterator[ev.Event]:
        if self._splitter is not None:
            yield from pieces(self._splitter.feed(words))
        elif words:
            yield ev.Text(words)

    def _flush(self) -> Iterator[ev.Event]:
        """What may have been the beginning of a tag, and is not."""
        if self._splitter is not None:
            yield from pieces(self._splitter.close())


def _index(body: Json) -> int:
    index = number(body.get("index"))
    if index is None:
        raise WireError(f"{WHAT} has a block without a number.")
    return index


def _input(value: object) -> str:
    """The input of a call as JSON text. Some servers quote it."""
    if value is None or isinstance(value, dict):
        return encode(value or {}).decode()
    return text(value, "The input of a tool call")


def _reasoning(value: object) -> Iterator[ev.Event]:
    if words := text(value, f"The thinking of {WHAT.lower()}"):
        yield ev.Reasoning(words)
