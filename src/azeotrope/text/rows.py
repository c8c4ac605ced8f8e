"""Text defenses on rows of existing data: chat messages, or a column of text.

A text is a trace: what precedes its last ``</think>`` is reasoning, and all of it if there is no such tag. Where
a reasoning field stands beside a text (`reasoning_content` as DeepSeek and vLLM write it, `reasoning` as
OpenRouter does), that field is the reasoning and the text is the answer.

A row that cannot be understood is refused, never passed on undefended.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from azeotrope.core.errors import ConfigError, nearest
from azeotrope.core.methods import TraceDefense
from azeotrope.core.seeds import derive
from azeotrope.core.types import THINK_CLOSE, THINK_OPEN, Trace, split_answer

CHAT: Final = ("messages", "choices")  # a request or data row, and a reply of the API
COLUMNS: Final = ("completion", "response", "output", "text", "trace")
REASONING: Final = ("reasoning_content", "reasoning")
TYPED: Final = ("thinking", "reasoning")  # parts of a message that hold reasoning, by their type

Row = Mapping[str, Any]


class UnreadableRowError(ValueError):
    """A row that cannot be understood; the text says why, for a list of such rows."""


@dataclass(slots=True)
class Tally:
    """Counts over rows or texts. `words` are separated by white space; think tags are none."""

    texts: int = 0
    with_reasoning: int = 0
    untagged: int = 0  # texts without </think>: all of it counts as reasoning
    words_before: int = 0
    words_after: int = 0

    def add(self, other: Tally) -> None:
        """Add the counts of `other`."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


def find_column(names: Iterable[str], field: str | None, where: str) -> str:
    """Return the column to defend: `field`, or chat messages, or the first of `COLUMNS` that is there.

    Raises ConfigError, with the nearest name.
    """
    known = list(names)
    if field is not None:
        if field not in known:
            raise ConfigError(f"{where} has no column '{field}'.{nearest(field, known)}")
        return field
    for name in ("messages", *COLUMNS, "choices"):  # in other data, choices are options
        if name in known:
            return name
    has = ", ".join(sorted(known)[:12]) or "none"
    raise ConfigError(
        f"{where} has neither chat messages nor a column named {', '.join(COLUMNS[:-1])} or {COLUMNS[-1]}; "
        f"name one with --field (columns: {has})."
    )


def apply(trace: Trace, defenses: Sequence[TraceDefense], seed: int) -> Trace:
    """Return `trace` under a composition. Each defense gets a fresh random state from `seed`.

    What follows a defense that removes the think block would take the answer for reasoning, and is left out.
    """
    for defense in defenses:
        if defense.strength == 0:
            continue
        declared = THINK_CLOSE in trace.text
        trace = defense.rewrite(trace, Random(seed))
        if declared and THINK_CLOSE not in trace.text:
            break
    return trace


class RowDefender:
    """Applies a composition to rows of one layout: the column `column`, which may hold chat messages.

    Random numbers depend on `seed` and the row's `problem_id`, or its number if it has none: what
    `azeotrope traces` writes is then defended as `azeotrope traces --defense` would have done.
    """

    def __init__(self, defenses: Sequence[TraceDefense], column: str, *, chosen: bool = False, seed: int = 0):
        self._defenses = tuple(defenses)
        self.column = column
        self._alone = chosen  # a column named by the user is defended alone, without its neighbors
        self._seed = derive(seed, 0)
        self._tally = Tally()

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns that `defend` may read or change; a row may hold more."""
        names = (self.column, "problem_id", "n_tokens", *(() if self._alone else REASONING))
        return tuple(dict.fromkeys(names))

    def defend(self, row: Row, number: int) -> tuple[dict[str, Any], Tally]:
        """Return a defended copy of `row`, and what was in it. Raises UnreadableRowError."""
        self._tally = Tally()
        problem = row.get("problem_id")
        key = str(problem) if isinstance(problem, str | int) else str(number)
        if self.column not in row:
            raise UnreadableRowError(f"it has no '{self.column}'")
        if self._alone or self.column not in CHAT:
            return self._plain(row, key), self._tally
        items = row[self.column]
        if not isinstance(items, list):
            raise UnreadableRowError(f"'{self.column}' is not a list")
        change = self._message if self.column == "messages" else self._choice
        return {**row, self.column: [change(item, key, i) for i, item in enumerate(items)]}, self._tally

    def _plain(self, row: Row, key: str) -> dict[str, Any]:
        out = dict(row)
        seed = derive(self._seed, "rewrite", key)
        declared = not self._alone and self._fields(out, seed)
        out[self.column] = self._text(row[self.column], seed, declared, f"'{self.column}'")
        if "problem_id" in row and row.get("n_tokens") and out != row:
            out["n_tokens"] = 0  # a trace file: the number of tokens is not known any more
        return out

    def _choice(self, choice: Any, key: str, place: int) -> Any:
        if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict):
            raise UnreadableRowError("a choice has no message")
        message = {"role": "assistant", **choice["message"]}
        if message["role"] != "assistant":
            raise UnreadableRowError("a choice's message is not the assistant's")
        new = self._message(message, key, place)
        return {**choice, "message": {name: new[name] for name in choice["message"]}}

    def _message(self, message: Any, key: str, place: int) -> Any:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise UnreadableRowError("a message has no role")
        if message["role"] != "assistant":
            return message
        if message.get("reasoning_details"):
            raise UnreadableRowError("a message has 'reasoning_details', which cannot be defended")
        out, seed = dict(message), derive(self._seed, "rewrite", key, place)
        declared = self._fields(out, seed)
        content = message.get("content")
        if isinstance(content, list):
            out["content"] = self._parts(content, seed, declared)
        elif content is not None:
            out["content"] = self._text(content, seed, declared, "'content'")
        return out

    def _fields(self, out: dict[str, Any], seed: int) -> bool:
        """Defend the reasoning fields of `out` in place; whether there were any."""
        declared = False
        for name in REASONING:
            value = out.get(name)
            if value is None or value == "" or name == self.column:
                continue
            if not isinstance(value, str):
                raise UnreadableRowError(f"'{name}' is not text")
            out[name] = self._reasoning(value, seed)
            declared = True
        return declared

    def _parts(self, parts: list[Any], seed: int, declared: bool) -> list[Any]:
        """Defend a message's content that is a list of typed parts."""
        if not all(isinstance(part, dict) for part in parts):
            raise UnreadableRowError("a part of 'content' is not an object")
        out = [dict(part) for part in parts]
        for part in out:
            if (kind := part.get("type")) in TYPED:
                name = kind if isinstance(part.get(kind), str) else "text"
                if not isinstance(part.get(name), str):
                    raise UnreadableRowError(f"a part of type '{kind}' has no text")
                part[name] = self._reasoning(part[name], seed) or ""
                declared = True
        texts = [part for part in out if part.get("type") in ("text", "output_text")]
        if len(texts) > 1 and not declared:
            raise UnreadableRowError("'content' has several parts of text")
        for part in texts:
            part["text"] = self._text(part.get("text"), seed, declared, "a part of 'content'")
        return out

    def _reasoning(self, text: str, seed: int) -> str | None:
        """Defend a reasoning without tags; None if not even an empty block is left of it."""
        old = Trace(problem_id="", prompt="", text=THINK_OPEN + text + THINK_CLOSE)
        new = apply(old, self._defenses, seed).text
        self._count(old.text, new)
        inner = new.removeprefix(THINK_OPEN).removesuffix(THINK_CLOSE)
        return inner if new else None

    def _text(self, text: Any, seed: int, declared: bool, what: str) -> str | None:
        if text is None:
            return None
        if not isinstance(text, str):
            raise UnreadableRowError(f"{what} is not text")
        if declared and THINK_OPEN not in text and THINK_CLOSE not in text:
            self._count(THINK_CLOSE + text, THINK_CLOSE + text)
            return text
        new = apply(Trace(problem_id="", prompt="", text=text), self._defenses, seed).text
        self._count(text, new)
        return new

    def _count(self, old: str, new: str) -> None:
        reasoning, _ = split_answer(old)
        self._tally.add(
            Tally(
                texts=1,
                with_reasoning=int(_words(reasoning) > 0),
                untagged=int(THINK_CLOSE not in old and not old.isspace() and old != ""),
                words_before=_words(old),
                words_after=_words(new),
            )
        )


def _words(text: str) -> int:
    return len(text.replace(THINK_OPEN, " ").replace(THINK_CLOSE, " ").split())
