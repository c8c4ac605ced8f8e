"""Reasoning between tags in the text itself, told apart while the text arrives in pieces.

Linear in the text; what is held back at any time is shorter than the longest tag. Tags are exact: lower case, as
models are trained to write them. A template that opens the tag itself leaves only the closing one in the text:
`opened` begins inside. A closing tag outside of any reasoning means that it should have been set: `stray` says so,
and what came before it was taken for an answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from azeotrope.core.errors import ConfigError

TAGS = (("<think>", "</think>"), ("<thinking>", "</thinking>"), ("[THINK]", "[/THINK]"))
LONGEST_TAG = max(len(tag) for pair in TAGS for tag in pair)


def inside(prompt: str) -> bool:
    """Whether a prompt ends within reasoning, so that the reply begins there."""
    opened = max(prompt.rfind(opening) for opening, _ in TAGS)
    return opened > max(prompt.rfind(closing) for _, closing in TAGS)


@dataclass(frozen=True, slots=True)
class Piece:
    """Some text, and whether it is reasoning."""

    text: str
    reasoning: bool


@cache
def _pattern(tags: tuple[str, ...]) -> re.Pattern[str]:
    """What finds the first of some tags, and the longest of several in one place, in time linear in the text."""
    return re.compile("|".join(map(re.escape, sorted(tags, key=len, reverse=True))))


@cache
def _beginnings(tags: tuple[str, ...]) -> frozenset[str]:
    """What a text may end with that could yet become one of some tags."""
    return frozenset(tag[:size] for tag in tags for size in range(1, len(tag)))


@cache
def _plan(tags: tuple[tuple[str, str], ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """All tags, and the characters that one can begin with. Raises ConfigError for empty tags."""
    if not tags or not all(a and b for a, b in tags):
        raise ConfigError("Reasoning needs an opening and a closing tag, and both must hold characters.")
    every = tuple(tag for pair in tags for tag in pair)
    return every, tuple({tag[0] for tag in every})


class Splitter:
    """Feed it text, get pieces without their tags. Raises ConfigError for empty tags.

    `before` is the end of the prompt: a tag may begin there and end in the text. It is no part of the pieces.
    """

    def __init__(self, tags: Sequence[tuple[str, str]] = TAGS, *, opened: bool = False, before: str = "") -> None:
        self._tags = tuple(tags)
        self._any, self._firsts = _plan(self._tags)
        self._held = ""
        self._closing: tuple[str, ...] = tuple(close for _, close in tags) if opened else ()
        self.stray = False
        self._held = before[self._keep(before, 0) :]
        self._foreign = len(self._held)  # characters at the front of what is held that were not fed

    @property
    def inside(self) -> bool:
        """Whether what comes next is reasoning."""
        return bool(self._closing)

    @property
    def pending(self) -> bool:
        """Whether text is held back that may turn out to be a tag."""
        return bool(self._held)

    def feed(self, text: str) -> list[Piece]:
        """Return what `text` decides."""
        text = self._held + text
        found: list[Piece] = []
        for first in self._firsts:
            if first in text:
                break
        else:  # most pieces: no tag can begin here
            self._held = ""
            self._add(found, text)
            return found
        at = 0
        while hit := _pattern(self._watched()).search(text, at):
            self._add(found, text[at : hit.start()])
            at = hit.end()
            self._turn(hit[0])
        kept = self._keep(text, at)
        self._add(found, text[at:kept])
        self._held = text[kept:]
        return found

    def close(self) -> list[Piece]:
        """What is left at the end: the beginning of a tag that never came."""
        found: list[Piece] = []
        self._add(found, self._held)
        self._held = ""
        return found

    def _watched(self) -> tuple[str, ...]:
        """Tags that mean something here. Outside, closing ones are watched for so that none passes as text."""
        return self._closing or self._any

    def _turn(self, tag: str) -> None:
        self._foreign = 0
        if self._closing:
            self._closing = ()
            return
        for opening, closing in self._tags:
            if tag == opening:
                self._closing = (closing,)
                return
        self.stray = True

    def _keep(self, text: str, start: int) -> int:
        """Where the longest end of `text` begins that is the beginning of a tag."""
        beginnings = _beginnings(self._watched())
        for place in range(max(start, len(text) - max(map(len, beginnings), default=0)), len(text)):
            if text[place:] in beginnings:
                return place
        return len(text)

    def _add(self, found: list[Piece], text: str) -> None:
        if self._foreign:
            text, self._foreign = text[self._foreign :], max(0, self._foreign - len(text))
        if text:
            found.append(Piece(text, self.inside))


class Tagless(Splitter):
    """Feed it text of which all is reasoning; get it back without any tag, so that none can end it early."""

    def strip(self, text: str) -> str:
        """What of `text` is decided, without tags."""
        return "".join(piece.text for piece in self.feed(text))

    def rest(self) -> str:
        """What is left at the end."""
        return "".join(piece.text for piece in self.close())

    def _turn(self, tag: str) -> None:
        pass
