"""The Responses dialect as upstreams write it (OpenAI, Azure, xAI, vLLM, LM Studio, ...), as events.

A stream says everything up to five times: in deltas, twice when a part is done, when its item is done, and in the
whole reply at the end. Each copy is read for what it adds to what was read before: nothing where all went well,
everything where a server left out the others. Parts are not told apart by their numbers, which some servers get
wrong: a copy that begins with what was read adds the rest of itself, and any other adds nothing.

Items of built-in tools (web search, code interpreter, MCP, shells, ...), annotations and everything else that has
no event are dropped: their text never passes. Sealed reasoning is read when its item is done: it may be incomplete
when the item is added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal
from zlib import crc32

import msgspec

from azeotrope.gateway.wire import events as ev
from azeotrope.gateway.wire import logprobs
from azeotrope.gateway.wire.chat_reader import DONE, failure, pieces
from azeotrope.gateway.wire.fields import Json, decode, encode, mapping, number, objects, string, text
from azeotrope.gateway.wire.think import Splitter

WHAT = "The upstream's response"
Family = Literal["reasoning", "message", "function_call"]
Kind = Literal["summary", "reasoning", "text", "refusal", "arguments"]
FAMILIES: tuple[Family, ...] = ("reasoning", "message", "function_call")
FAMILY: dict[Kind, Family] = {
    "summary": "reasoning",
    "reasoning": "reasoning",
    "text": "message",
    "refusal": "message",
    "arguments": "function_call",
}
SAID: dict[str, tuple[Kind, str]] = {  # the event, without its end; what it is about; its field when it is done
    "response.reasoning_summary_text": ("summary", "text"),
    "response.reasoning_text": ("reasoning", "text"),
    "response.output_text": ("text", "text"),
    "response.refusal": ("refusal", "refusal"),
    "response.function_call_arguments": ("arguments", "arguments"),
}
PARTS: dict[str, tuple[Kind, str]] = {
    "summary_text": ("summary", "text"),
    "reasoning_text": ("reasoning", "text"),
    "output_text": ("text", "text"),
    "refusal": ("refusal", "refusal"),
}
PART_DONE = ("response.content_part", "response.reasoning_part", "response.reasoning_summary_part")
ENDS = ("response.completed", "response.incomplete", "response.failed", "response.cancelled")
LIMITED = ("rate_limit_exceeded", "insufficient_quota")
BREAK = "\n\n"  # between parts of a summary, each of which is a paragraph


@dataclass(slots=True)
class _Run:
    """How much text there was, and its checksum: enough to know how a copy of it goes on."""

    length: int = 0
    sum: int = 0

    def add(self, words: str) -> None:
        self.length += len(words)
        self.sum = crc32(words.encode(), self.sum)

    def beyond(self, read: _Run, words: str) -> str:
        """What of `words`, which follow what this run holds, goes beyond what was `read`."""
        known = read.length - self.length
        new = ""
        if 0 <= known < len(words) and crc32(words[:known].encode(), self.sum) == read.sum:
            new = words[known:]
        self.add(words)
        return new


@dataclass(slots=True)
class _Copy:
    """How far one level of copies of an item has come."""

    runs: dict[Kind, _Run] = field(default_factory=dict)
    tokens: int = 0  # that have a log-probability


@dataclass(slots=True)
class _Item:
    """What was read of an item. `held` are arguments of a call whose name is not known yet."""

    family: Family
    names: set[str]
    slot: int = 0
    read: _Copy = field(default_factory=_Copy)
    copies: dict[str, _Copy] = field(default_factory=dict)
    paragraph: int | None = None
    sealed: bool = False
    named: bool = False
    call_id: str = ""
    name: str = ""
    held: list[str] = field(default_factory=list)


class ResponsesReader:
    """Reads one reply: `chunk` by `chunk`, or `whole`; then `close`. This dialect has one choice, number 0.

    `splitter` makes what tells reasoning from text; None if the upstream does so itself.
    """

    def __init__(self, splitter: Callable[[], Splitter] | None = None) -> None:
        self._splitter = splitter() if splitter else None
        self._refusal = Splitter() if splitter else None
        self._tagged = False  # reasoning between tags was read
        self._started = self._failed = False
        self._items: list[_Item] = []
        self._named: dict[tuple[Family, str], _Item] = {}
        self._placed: dict[tuple[Family, int | None], _Item] = {}  # items that are not done
        self._slots = 0
        self.done = False  # the upstream said that it was the end
        self.complete = False  # and that the reply is whole, or why it is not

    @property
    def stray(self) -> bool:
        """Whether a closing tag came where no reasoning was (see `Splitter.stray`)."""
        return self._splitter is not None and self._splitter.stray

    def chunk(self, data: bytes) -> list[ev.Event]:
        """The events of one `data` of the stream. Raises WireError. What follows the end is not read."""
        if data == DONE:
            self.done = True
        return [] if self.done else list(self._read(decode(data, WHAT)))

    def whole(self, body: bytes) -> list[ev.Event]:
        """The events of a reply that is not streamed. Raises WireError."""
        given = decode(body, WHAT)
        self.done = True
        if isinstance(given.get("output"), list):
            return list(self._end(given))
        return list(self._fail(given["error"])) if given.get("error") else []

    def close(self) -> list[ev.Event]:
        """What was held back. A stream that stops in the middle ends in a Failure."""
        found = list(self._flush())
        if not (self.complete or self._failed):
            found.append(ev.Failure(502, "upstream_closed"))
        return found

    def _read(self, event: Json) -> Iterator[ev.Event]:
        name = string(event.get("type"))
        if name == "error" or (not name and event.get("error")):
            yield from self._fail(event.get("error") or {k: event.get(k) for k in ("code", "message")})
            return
        if name in ENDS:
            yield from self._end(mapping(event.get("response")), name)
            return
        yield from self._start(mapping(event.get("response")))
        subject, _, step = name.rpartition(".")
        if step == "delta" and subject in SAID:
            yield from self._delta(event, SAID[subject][0])
        elif step == "done" and subject in SAID:
            kind, key = SAID[subject]
            yield from self._copy(event, kind, event.get(key), event.get("logprobs"), "text")
        elif step == "done" and subject in PART_DONE:
            part = mapping(event.get("part"))
            if found := PARTS.get(string(part.get("type"))):
                yield from self._copy(event, found[0], part.get(found[1]), part.get("logprobs"), "part")
        elif subject == "response.output_item":
            yield from self._whole_item(event, done=step == "done")

    def _start(self, response: Json) -> Iterator[ev.Event]:
        if not self._started:
            self._started = True
            created = response.get("created_at")
            when = int(created) if isinstance(created, int | float) and 0 <= created < 2**53 else 0
            yield ev.Start(string(response.get("id")), string(response.get("model")), when)

    def _delta(self, event: Json, kind: Kind) -> Iterator[ev.Event]:
        words = text(event.get("delta"), f"A delta of {WHAT.lower()}")
        item = self._find(event, kind)
        starts = kind == "summary" and _turn_paragraph(item, event)
        tokens = logprobs.read(event.get("logprobs"))
        item.read.tokens += len(tokens)
        yield from self._tell(item, kind, words, starts=starts, tokens=tokens, whole=words)

    def _copy(self, event: Json, kind: Kind, words: Any, entries: Any, level: str) -> Iterator[ev.Event]:
        """A part that is done, as one of the levels of copies says it."""
        item = self._find(event, kind)
        copy = item.copies.setdefault(level, _Copy())
        if kind == "summary":
            _turn_paragraph(item, event)
        yield from self._add(item, copy, kind, words, entries)
        if kind == "arguments":
            yield from self._name(item, "", string(event.get("name")))

    def _whole_item(self, event: Json, *, done: bool) -> Iterator[ev.Event]:
        """An item that begins, or is done."""
        given = mapping(event.get("item"))
        family = _family(given)
        if family is None:
            return
        names, place = _names(given), number(event.get("output_index"))
        if not done and not any((family, name) in self._named for name in names):
            self._placed.pop((family, place), None)  # another item, whatever its number
        if done or family == "function_call":
            item = self._seek(family, names, place)
            yield from self._settle(item, given) if done else self._introduce(item, given)
        if done:
            self._placed.pop((family, place), None)

    def _end(self, response: Json, name: str = "") -> Iterator[ev.Event]:
        """The whole reply: what was not read of it, and how it ended."""
        yield from self._start(response)
        for item, given in self._match(objects(response.get("output"))):
            yield from self._settle(item, given)
        yield from self._flush()
        status = string(response.get("status")) or "completed"
        if name and not (name == ENDS[0] and f"response.{status}" in ENDS):  # vLLM calls a cut reply completed
            status = name.removeprefix("response.")
        usage = _usage(response.get("usage"))
        if status in ("completed", "incomplete"):
            self.done = self.complete = True
            yield ev.Finish(self._reason(status, mapping(response.get("incomplete_details"))))
        if usage is not None:
            yield usage
        if status in ("failed", "cancelled"):
            yield from self._fail(response.get("error") or {"code": status})

    def _reason(self, status: str, details: Json) -> ev.Reason:
        """This dialect has no word for tool calls; all that is incomplete without being filtered is cut off."""
        if status == "incomplete":
            return "content_filter" if details.get("reason") == "content_filter" else "length"
        return "tool_calls" if self._slots else "stop"

    def _fail(self, error: Any) -> Iterator[ev.Event]:
        self.done = self._failed = True
        yield from self._flush()
        told = failure(error)
        yield msgspec.structs.replace(told, status=429) if told.code in LIMITED else told

    def _find(self, event: Json, kind: Kind) -> _Item:
        return self._seek(FAMILY[kind], {string(event.get("item_id"))}, number(event.get("output_index")))

    def _seek(self, family: Family, names: set[str], place: int | None) -> _Item:
        """The item by its id, or by its place in the output, or a new one: some servers get the one wrong."""
        item = next((self._named[family, n] for n in names if (family, n) in self._named), None)
        item = item or self._placed.get((family, place)) or self._new(family, names)
        self._placed[family, place] = item
        return item

    def _new(self, family: Family, names: set[str]) -> _Item:
        item = _Item(family, names - {""}, slot=self._slots)
        self._slots += family == "function_call"
        self._items.append(item)
        self._named.update({(family, name): item for name in item.names})
        return item

    def _match(self, output: list[Json]) -> Iterator[tuple[_Item, Json]]:
        """The items of the whole reply and what was read of them: by id, and in order where the ids are new."""
        known = [(given, family) for given in output if (family := _family(given)) is not None]
        hits = [
            next((self._named[family, n] for n in _names(given) if (family, n) in self._named), None)
            for given, family in known
        ]
        taken = {id(item) for item in hits if item}
        left = {f: iter([i for i in self._items if i.family == f and id(i) not in taken]) for f in FAMILIES}
        for (given, family), hit in zip(known, hits, strict=True):
            yield hit or next(left[family], None) or self._new(family, _names(given)), given

    def _settle(self, item: _Item, given: Json) -> Iterator[ev.Event]:
        """A whole item: what of it was not read."""
        copy = _Copy()
        for kind, words, entries in _parts(given):
            yield from self._add(item, copy, kind, words, entries)
        if item.family == "function_call":
            yield from self._introduce(item, given)
        sealed = string(given.get("encrypted_content"))
        if sealed and item.family == "reasoning" and not item.sealed:
            item.sealed = True
            yield ev.Sealed("encrypted", sealed)

    def _add(self, item: _Item, copy: _Copy, kind: Kind, words: Any, entries: Any) -> Iterator[ev.Event]:
        """One part of a copy: what it adds to what was read."""
        if kind == "arguments" and isinstance(words, dict):  # some servers write what they should quote
            words = encode(words).decode()
        whole = text(words, f"A part of {WHAT.lower()}")
        read = item.read.runs.setdefault(kind, _Run())
        new = copy.runs.setdefault(kind, _Run()).beyond(read, whole)
        tokens = logprobs.read(entries)
        known = min(len(tokens), max(item.read.tokens - copy.tokens, 0))
        copy.tokens += len(tokens)
        item.read.tokens += len(tokens) - known
        starts = len(new) == len(whole)
        yield from self._tell(item, kind, new, starts=starts, tokens=tokens, whole=whole, known=known, copied=True)

    def _tell(self, item: _Item, kind: Kind, words: str, *, starts: bool, **beside: Any) -> Iterator[ev.Event]:
        """New words of an item. `starts`: they begin a part. `beside`: what `_spelt` takes."""
        run = item.read.runs.setdefault(kind, _Run())
        later = run.length > 0
        run.add(words)
        if kind == "text":
            yield from self._speak(words, **beside)
        elif not words:
            return
        elif kind == "summary":
            yield ev.Reasoning(BREAK + words if starts and later else words, summary=True)
        elif kind == "reasoning":
            yield ev.Reasoning(words)
        elif kind == "refusal" and self._refusal:
            yield from pieces(self._refusal.feed(words), refusal=True)
        elif kind == "refusal":
            yield ev.Text(words, refusal=True)
        elif item.named:
            yield ev.Tool(item.slot, words)
        else:
            item.held.append(words)

    def _speak(self, words: str, **beside: Any) -> Iterator[ev.Event]:
        """Text, which may hold reasoning between tags."""
        found: list[ev.Event] = [ev.Text(words)] if words and not self._splitter else []
        hidden = False
        if self._splitter:
            hidden = self._splitter.pending or self._splitter.inside
            found = pieces(self._splitter.feed(words))
            thought = any(isinstance(event, ev.Reasoning) for event in found)
            self._tagged |= thought
            hidden |= thought or self._splitter.pending or self._splitter.inside
        if hidden or not (tokens := self._spelt(**beside)):
            yield from found
        else:  # nothing is held back, so this is all
            yield ev.Text(words, tokens=tokens)

    def _spelt(
        self, tokens: tuple[ev.Logprob, ...], whole: str, known: int = 0, copied: bool = False
    ) -> tuple[ev.Logprob, ...]:
        """The tokens that spell a part of which new words are told, less the first that were `known`."""
        return () if copied and self._tagged else logprobs.spelling(tokens, whole)[known:]

    def _introduce(self, item: _Item, given: Json) -> Iterator[ev.Event]:
        yield from self._name(item, string(given.get("call_id")), string(given.get("name")))

    def _name(self, item: _Item, call_id: str, name: str) -> Iterator[ev.Event]:
        """A call begins once its id and its name are known: with what was held of its arguments."""
        item.call_id, item.name = item.call_id or call_id, item.name or name
        if not item.named and item.call_id and item.name:
            yield from _begin(item)

    def _flush(self) -> Iterator[ev.Event]:
        """What is still held back: the beginning of a tag, calls without a name or an id."""
        if self._splitter:
            yield from pieces(self._splitter.close())
        if self._refusal:
            yield from pieces(self._refusal.close(), refusal=True)
        for item in self._items:
            if item.family == "function_call" and not item.named:
                item.call_id = item.call_id or min(item.names, default="")
                yield from _begin(item)


def _begin(item: _Item) -> Iterator[ev.Event]:
    item.named = True
    yield ev.Tool(item.slot, "".join(item.held), item.call_id, item.name)
    item.held.clear()


def _turn_paragraph(item: _Item, event: Json) -> bool:
    """Whether an event is about another part of the summary than the last one."""
    place, before = number(event.get("summary_index")), item.paragraph
    item.paragraph = place
    return place != before


def _family(given: Json) -> Family | None:
    kind = given.get("type")
    return next((family for family in FAMILIES if family == kind), None)


def _names(given: Json) -> set[str]:
    """What an item is known by. An empty name is no name."""
    return {name for name in (string(given.get("id")), string(given.get("call_id"))) if name}


def _parts(given: Json) -> Iterator[tuple[Kind, Any, Any]]:
    """The parts of an item: what they are, their words, their log-probabilities."""
    family = _family(given)
    if family == "function_call":
        yield "arguments", given.get("arguments"), None
    if family == "message" and isinstance(given.get("content"), str):
        yield "text", given["content"], None
    for part in [*objects(given.get("summary")), *objects(given.get("content"))]:
        found = PARTS.get(string(part.get("type")))
        if found and FAMILY[found[0]] == family:
            yield found[0], part.get(found[1]), part.get("logprobs")


def _usage(value: Any) -> ev.Usage | None:
    told = mapping(value)
    if not told:
        return None
    return ev.Usage(
        number(told.get("input_tokens")),
        number(told.get("output_tokens")),
        number(mapping(told.get("output_tokens_details")).get("reasoning_tokens")),
        number(mapping(told.get("input_tokens_details")).get("cached_tokens")),
    )
