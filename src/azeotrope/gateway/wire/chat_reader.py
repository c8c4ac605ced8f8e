"""Chat completions as upstreams write them (OpenAI, vLLM, llama.cpp, DeepSeek, OpenRouter, Mistral, ...), as
events.

Reasoning comes as `reasoning_content`, `reasoning`, `reasoning_details`, parts of type "thinking", or between
tags in the text. Several of them in one delta are copies of each other: the first is read. Log-probabilities of a
delta with text that may still turn out to be a tag, or whose tokens do not spell its text, are dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar

from azeotrope.gateway.wire import events as ev
from azeotrope.gateway.wire import logprobs
from azeotrope.gateway.wire.errors import WireError
from azeotrope.gateway.wire.fields import Json, decode, encode, mapping, number, objects, string, text, word
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
BROKEN = ("error", "abort", "cancelled")  # reasons of servers that gave up
DONE = b"[DONE]"


class ChatReader:
    """Reads one reply: `chunk` by `chunk`, or `whole`; then `close`.

    `splitter` makes what tells reasoning from text, one for each choice; None if the upstream does so itself.
    """

    what: ClassVar[str] = WHAT

    def __init__(self, splitter: Callable[[], Splitter] | None = None) -> None:
        self._new = splitter
        self._splitters: dict[tuple[int, bool], Splitter] = {}  # of a choice, and of its refusal
        self._calls: dict[int, dict[int, str]] = {}  # ids by slot, in the order in which they began
        self._used = ev.Usage()
        self._billed, self._each = 0, True  # choices that had ended at the last report of usage; see `_total`
        self._started = self._failed = False
        self._ended: set[int] = set()
        self._seen: set[int] = set()
        self.done = False  # the upstream said that it was the end

    @property
    def stray(self) -> bool:
        """Whether a closing tag came where no reasoning was (see `Splitter.stray`)."""
        return any(splitter.stray for (_, refusal), splitter in self._splitters.items() if not refusal)

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
        for (choice, refusal), splitter in self._splitters.items():
            found += pieces(splitter.close(), choice, refusal=refusal)
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
            self._used = self._total(usage)
            yield self._used

    def _total(self, usage: ev.Usage) -> ev.Usage:
        """This report and those before it. llama.cpp sends one as each choice ends, of that choice alone."""
        before, ended = self._used, len(self._ended)
        total = ev.together(before, usage)
        self._each = self._each and ended > self._billed
        if self._each and self._billed:
            completion = _sum(before.completion, usage.completion)
            total = ev.Usage(total.prompt, completion, _sum(before.reasoning, usage.reasoning), total.cached)
        self._billed = ended
        return total

    def _choice(self, index: int, choice: Json, part: str) -> Iterator[ev.Event]:
        said = mapping(choice.get(part))
        self._seen.add(index)
        thoughts = list(_reasoning(said, index))
        yield from thoughts
        spoken, unsure = self._content(said, index)
        told = None if unsure else choice.get("logprobs")
        yield from beside(spoken, logprobs.read(mapping(told).get("content"))) if told else spoken
        if words := string(said.get("refusal")):
            yield from self._split(words, index, refusal=True)[0]
        yield from self._tools(said, index, part)
        yield from self._end(index, choice)

    def _end(self, index: int, choice: Json) -> Iterator[ev.Event]:
        """The end of a choice, if this is it."""
        reason = string(choice.get("finish_reason"))
        if reason and index not in self._ended:
            self._ended.add(index)
            for refusal in (False, True):
                if (index, refusal) in self._splitters:
                    yield from pieces(self._splitters[index, refusal].close(), index, refusal=refusal)
            if reason in BROKEN:
                self._failed = True
                yield ev.Failure(502, "upstream_aborted")
            else:
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
            else:
                split, open_ = self._split(words, index)
                found += split
                unsure |= open_
        return found, unsure

    def _tools(self, said: Json, index: int, part: str) -> Iterator[ev.Event]:
        """Pieces of tool calls. The id and the name of a call are told once: some servers repeat them."""
        for place, call in enumerate(objects(said.get("tool_calls"))):
            function, name_id = mapping(call.get("function")), string(call.get("id"))
            arguments, name = function.get("arguments"), string(function.get("name"))
            if isinstance(arguments, dict):  # some servers write what they should quote
                arguments = encode(arguments).decode()
            slot = place if part == "message" else number(call.get("index"))
            slot, new = self._slot(index, slot, name_id, name)
            words = text(arguments, "The arguments of a tool call")
            yield ev.Tool(slot, words, name_id if new else "", name if new else "", index)
        if old := mapping(said.get("function_call")):
            name, words = string(old.get("name")), text(old.get("arguments"), "The arguments of a call")
            yield ev.Tool(0, words, "", name if self._slot(index, 0, "", name)[1] else "", index)

    def _slot(self, index: int, slot: int | None, id_: str, name: str) -> tuple[int, bool]:
        """Which call of a choice a piece belongs to, and whether the call begins with it.

        Servers that do not number calls begin one with an id that is new or, without ids, with a name.
        """
        calls = self._calls.setdefault(index, {})
        if slot is None:
            known = next((n for n, old in calls.items() if id_ and old == id_), None)
            begins = not calls or (known is None and bool(id_ or name))
            slot = max(calls, default=-1) + 1 if begins else next(reversed(calls)) if known is None else known
        new = slot not in calls
        calls.setdefault(slot, id_)
        return slot, new

    def _split(self, words: str, index: int, *, refusal: bool = False) -> tuple[list[ev.Event], bool]:
        """Text and reasoning told apart by tags, and whether some of it is reasoning or not decided."""
        if self._new is None:
            return [ev.Text(words, index, refusal)], False
        if (splitter := self._splitters.get((index, refusal))) is None:
            splitter = self._splitters[index, refusal] = Splitter() if refusal else self._new()
        unsure = splitter.pending or splitter.inside
        found = pieces(splitter.feed(words), index, refusal=refusal)
        unsure |= splitter.pending or splitter.inside or any(isinstance(e, ev.Reasoning) for e in found)
        return found, unsure


def _sum(first: int | None, second: int | None) -> int | None:
    """The sum of two counts, of which either may be unsaid."""
    return None if first is None and second is None else (first or 0) + (second or 0)


def failure(error: Any) -> ev.Failure:
    """An error object of an OpenAI-compatible upstream, in a reply or in the middle of a stream."""
    told = mapping(error)
    code = told.get("code")
    status = number(code) if number(code) is not None else number(told.get("status"))
    valid = status if status is not None and 400 <= status <= 599 else 502
    message = told.get("message") if told else error
    return ev.Failure(valid, word(code) or word(told.get("type")), string(message))


def beside(spoken: list[ev.Event], tokens: Sequence[ev.Logprob]) -> list[ev.Event]:
    """Pieces of an answer with the tokens that spell them; without, if they do not."""
    if len(spoken) != 1 or not isinstance(said := spoken[0], ev.Text):
        return spoken
    found = logprobs.spelling(tokens, said.text)
    return [ev.Text(said.text, said.choice, said.refusal, found)] if found else spoken


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


def pieces(found: Iterable[Piece], index: int = 0, *, refusal: bool = False) -> list[ev.Event]:
    """What a splitter told apart, as events."""
    return [ev.Reasoning(p.text, index) if p.reasoning else ev.Text(p.text, index, refusal) for p in found]


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
