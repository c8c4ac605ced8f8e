"""Chat completions as upstreams write them (OpenAI, vLLM, llama.cpp, DeepSeek, OpenRouter, Mistral, ...), as
events.

Reasoning comes as `reasoning_content`, `reasoning`, `reasoning_details`, parts of type "thinking", or between
tags in the text. Several of them in one delta are copies of each other: the first is read. Log-probabilities of a
delta that holds any reasoning, or text that may still turn out to be a tag, count as the reasoning's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

from azeotrope.gateway.wire import events as ev
from azeotrope.gateway.wire.errors import WireError
from azeotrope.gateway.wire.fields import Json, decode, encode, mapping, number, objects, string, text
from azeotrope.gateway.wire.think import Piece, Splitter

WHAT = "The upstream's chat completion"
REASONS: dict[str, ev.Reason] = {
    "stop": "stop",
    "length": "length",
    "model_length": "length",
    "max_tokens": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}
DONE = b"[DONE]"


class ChatReader:
    """Reads one reply: `chunk` by `chunk`, or `whole`; then `close`.

    `splitter` makes what tells reasoning from text, one for each choice; None if the upstream does so itself.
    """

    what: ClassVar[str] = WHAT

    def __init__(self, splitter: Callable[[], Splitter] | None = None) -> None:
        self._new = splitter
        self._splitters: dict[int, Splitter] = {}
        self._started = self._failed = False
        self._ended: set[int] = set()
        self._seen: set[int] = set()
        self.done = False  # the upstream said that it was the end

    @property
    def stray(self) -> bool:
        """Whether a closing tag came where no reasoning was (see `Splitter.stray`)."""
        return any(splitter.stray for splitter in self._splitters.values())

    @property
    def complete(self) -> bool:
        """Whether every choice that began has ended."""
        return bool(self._seen) and self._seen == self._ended

    def chunk(self, data: bytes) -> list[ev.Event]:
        """The events of one `data` of the stream. Raises WireError."""
        if data == DONE:
            self.done = True
            return []
        return list(self._read(decode(data, self.what), "delta"))

    def whole(self, body: bytes) -> list[ev.Event]:
        """The events of a reply that is not streamed. Raises WireError."""
        found = list(self._read(decode(body, self.what), "message"))
        self.done = True
        return found

    def close(self) -> list[ev.Event]:
        """What was held back. A stream that stops in the middle of a choice ends in a Failure."""
        found: list[ev.Event] = []
        for choice, splitter in self._splitters.items():
            found += pieces(splitter.close(), choice)
        if not (self.complete or self._failed):
            found.append(ev.Failure(502, "upstream_closed"))
        return found

    def _read(self, body: Json, part: str) -> Iterator[ev.Event]:
        error = body.get("error")
        if error:
            self._failed = True
            yield failure(error)
            return
        if not self._started:
            self._started = True
            yield ev.Start(string(body.get("id")), string(body.get("model")), number(body.get("created")) or 0)
        for place, choice in enumerate(objects(body.get("choices"))):
            index = number(choice.get("index"))
            yield from self._choice(place if index is None else index, choice, part)
        if (usage := read_usage(body.get("usage"))) is not None:
            yield usage

    def _choice(self, index: int, choice: Json, part: str) -> Iterator[ev.Event]:
        said = mapping(choice.get(part))
        self._seen.add(index)
        thoughts = list(_reasoning(said, index))
        yield from thoughts
        spoken, unsure = self._content(said, index)
        yield from spoken
        if words := string(said.get("refusal")):
            yield ev.Text(words, index, refusal=True)
        if logprobs := read_logprobs(choice.get("logprobs")):
            yield ev.Logprobs(logprobs, index, reasoning=unsure or bool(thoughts))
        yield from _tools(said, index)
        yield from self._end(index, choice)

    def _end(self, index: int, choice: Json) -> Iterator[ev.Event]:
        """The end of a choice, if this is it."""
        reason = string(choice.get("finish_reason"))
        if reason and index not in self._ended:
            self._ended.add(index)
            if index in self._splitters:
                yield from pieces(self._splitters[index].close(), index)
            yield ev.Finish(REASONS.get(reason, "stop"), index)

    def _content(self, said: Json, index: int) -> tuple[list[ev.Event], bool]:
        """Text and reasoning of `content`, and whether some of it is reasoning or not decided."""
        found: list[ev.Event] = []
        content = said.get("content")
        unsure = False
        for kind, words in content_parts(content):
            if kind == "reasoning":
                found.append(ev.Reasoning(words, index))
                unsure = True
            elif self._new is None:
                found.append(ev.Text(words, index))
            else:
                split, open_ = self._split(words, index)
                found += split
                unsure |= open_
        return found, unsure

    def _split(self, words: str, index: int) -> tuple[list[ev.Event], bool]:
        """Text and reasoning told apart by tags, and whether some of it is reasoning or not decided."""
        if (splitter := self._splitters.get(index)) is None:
            splitter = self._splitters[index] = (self._new or Splitter)()
        unsure = splitter.pending or splitter.inside
        found = pieces(splitter.feed(words), index)
        unsure |= splitter.pending or splitter.inside or any(isinstance(e, ev.Reasoning) for e in found)
        return found, unsure


def failure(error: Any) -> ev.Failure:
    """An error object of an OpenAI-compatible upstream, in a reply or in the middle of a stream."""
    told = mapping(error)
    code = told.get("code")
    status = number(code) if number(code) is not None else number(told.get("status"))
    valid = status if status is not None and 400 <= status <= 599 else 502
    message = told.get("message") if told else error
    return ev.Failure(valid, str(code or told.get("type") or ""), string(message))


def content_parts(content: Any) -> Iterator[tuple[str, str]]:
    """("text" or "reasoning", words) of a `content`: a text, null, or parts. Raises WireError for others."""
    if content is None or content == "":
        return
    if isinstance(content, str):
        yield "text", content
        return
    if not isinstance(content, list):
        raise WireError(f"{WHAT} has a `content` that is neither a text nor a list of parts.")
    for part in objects(content):
        if part.get("type") in ("thinking", "reasoning"):
            yield from (("reasoning", words) for words in _thinking(part.get(part["type"]) or part.get("text")))
        elif part.get("type") == "text" and (words := text(part.get("text"), f"A part of {WHAT.lower()}")):
            yield "text", words


def _thinking(inner: Any) -> Iterator[str]:
    """Words of a part of type "thinking": a text, or parts of their own."""
    if isinstance(inner, str) and inner:
        yield inner
    for part in objects(inner):
        if words := string(part.get("text")):
            yield words


def _reasoning(said: Json, index: int) -> Iterator[ev.Event]:
    plain = string(said.get("reasoning_content")) or string(said.get("reasoning"))
    if plain:
        yield ev.Reasoning(plain, index)
    for detail in objects(said.get("reasoning_details")):
        words, summary = string(detail.get("text")), string(detail.get("summary"))
        if not plain and (words or summary):
            yield ev.Reasoning(words or summary, index, summary=not words)
        if detail.get("data") or detail.get("signature"):
            yield ev.Sealed("detail", encode(detail).decode(), index)


def _tools(said: Json, index: int) -> Iterator[ev.Event]:
    for place, call in enumerate(objects(said.get("tool_calls"))):
        slot = number(call.get("index"))
        function = mapping(call.get("function"))
        arguments = function.get("arguments")
        if isinstance(arguments, dict):  # some servers write what they should quote
            arguments = encode(arguments).decode()
        yield ev.Tool(
            place if slot is None else slot,
            text(arguments, "The arguments of a tool call"),
            string(call.get("id")),
            string(function.get("name")),
            index,
        )
    if old := mapping(said.get("function_call")):
        yield ev.Tool(0, text(old.get("arguments"), "The arguments of a call"), "", string(old.get("name")), index)


def pieces(found: Iterable[Piece], index: int) -> list[ev.Event]:
    """What a splitter told apart, as events."""
    return [ev.Reasoning(p.text, index) if p.reasoning else ev.Text(p.text, index) for p in found]


def read_logprobs(value: Any) -> tuple[ev.Logprob, ...]:
    """The tokens of a `logprobs` object of chat completions; entries that are not numbers are left out."""
    found = []
    for entry in objects(mapping(value).get("content")):
        if not isinstance(entry.get("logprob"), int | float):
            continue
        top = tuple(
            ev.Alternative(string(other.get("token")), float(other["logprob"]))
            for other in objects(entry.get("top_logprobs"))
            if isinstance(other.get("logprob"), int | float)
        )
        found.append(ev.Logprob(string(entry.get("token")), float(entry["logprob"]), top))
    return tuple(found)


def read_usage(value: Any) -> ev.Usage | None:
    """The `usage` of chat completions and of completions; None if there is none."""
    told = mapping(value)
    if not told:
        return None
    return ev.Usage(
        number(told.get("prompt_tokens")),
        number(told.get("completion_tokens")),
        number(mapping(told.get("completion_tokens_details")).get("reasoning_tokens")),
        number(mapping(told.get("prompt_tokens_details")).get("cached_tokens")),
    )
