"""A text from which spans are cut, one after another, and what each cut changes.

Whoever decides cut by cut wants to know what the text would be like after the next one. Counting its words or
segmenting it again each time costs the whole length; what a cut changes is near the cut. `CutText` shows the kept
text around a place, `CutSentences` keeps the sentences: exactly those that `segment` finds in what is left, where
only the neighborhood of a cut is segmented again (until the old sentences are met again, which an odd number of
code fences can delay to the end of the text).

All offsets are characters of the original text. Spans do not overlap.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Final

from azeotrope.text.segment import MAX_SEGMENT, Segmenter

_PIECE: Final = 128  # characters that are segmented at a time: less text is read again, more calls are made


class CutText:
    """A text with spans left out."""

    def __init__(self, text: str) -> None:
        self.original = text
        self._starts: list[int] = []  # of the spans cut so far: ascending, and no two of them touch
        self._ends: list[int] = []

    def cut(self, start: int, end: int) -> None:
        """Leave out ``original[start:end]``."""
        first, last = bisect_left(self._ends, start), bisect_right(self._starts, end)
        if first < last:  # it touches what is gone already
            start, end = min(start, self._starts[first]), max(end, self._ends[last - 1])
        self._starts[first:last], self._ends[first:last] = [start], [end]

    def before(self, offset: int, length: int) -> str:
        """Return the last `length` kept characters before `offset` (fewer if there are no more)."""
        parts, span = [], bisect_left(self._starts, offset)
        while length > 0 and offset > 0:
            span -= 1
            low = self._ends[span] if span >= 0 else 0
            parts.append(self.original[max(low, offset - length) : offset])
            length -= len(parts[-1])
            offset = self._starts[span] if span >= 0 else 0
        return "".join(reversed(parts))

    def after(self, offset: int, length: int) -> str:
        """Return the first `length` kept characters from `offset` on (fewer if there are no more)."""
        parts = []
        for at, end in self._kept(offset, len(self.original)):
            parts.append(self.original[at : min(end, at + length)])
            length -= len(parts[-1])
            if length <= 0:
                break
        return "".join(parts)

    def pieces(self, start: int, end: int) -> Iterator[tuple[int, str]]:
        """Yield what is kept of ``original[start:end]``, a little at a time, each with its offset."""
        for low, high in self._kept(start, end):
            for at in range(low, high, _PIECE):
                yield at, self.original[at : min(at + _PIECE, high)]

    def _kept(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The kept stretches of ``original[start:end]``."""
        span = bisect_right(self._ends, start)
        while start < end:
            gap = span < len(self._starts)
            low = min(self._starts[span], end) if gap else end
            if start < low:
                yield start, low
            start = self._ends[span] if gap else end
            span += 1


@dataclass(frozen=True, slots=True)
class Change:
    """What cutting `span` does: the sentences `gone` are replaced with those that `come`.

    The other fields are for `CutSentences.apply`: which sentences (`first` to `last`) they are, and for each that
    comes where it starts and up to where the text decides its end.
    """

    span: tuple[int, int]
    gone: tuple[str, ...]
    come: tuple[str, ...]
    first: int
    last: int
    starts: tuple[int, ...]
    decided: tuple[int, ...]


class CutSentences:
    """The sentences of a text from which spans are cut; always equal to `segment` of what is left."""

    def __init__(self, text: str) -> None:
        self._text = CutText(text)
        self._sentences: list[str] = []
        self._starts: list[int] = []
        # Up to where the text had been read when the sentence's end was certain; ascending. A cut from there on
        # cannot move that end.
        self._decided: list[int] = []
        for sentence, start, _, decided in self._scan(self._text.pieces(0, len(text))):
            self._sentences.append(sentence)
            self._starts.append(start)
            self._decided.append(decided)

    @property
    def sentences(self) -> tuple[str, ...]:
        """The sentences of what is left."""
        return tuple(self._sentences)

    def change(self, start: int, end: int) -> Change:
        """Return what cutting ``original[start:end]`` would change."""
        first = bisect_right(self._decided, start)
        while not self._restarts(first):
            first -= 1
        last = len(self._starts)
        origin = self._starts[first] if first < last else end
        come, starts, decided = [], [], []
        size = len(self._text.original)
        around = chain(self._text.pieces(origin, start), self._text.pieces(end, size))
        for sentence, at, following, known in self._scan(around):
            come.append(sentence)
            starts.append(at)
            decided.append(known)
            if following >= end and len(sentence) < MAX_SEGMENT:
                old = bisect_left(self._starts, following)
                if old < last and self._starts[old] == following and self._restarts(old):
                    last = old
                    break
        gone = tuple(self._sentences[first:last])
        return Change((start, end), gone, tuple(come), first, last, tuple(starts), tuple(decided))

    def apply(self, change: Change) -> None:
        """Make a cut that `change` has just described."""
        self._text.cut(*change.span)
        self._sentences[change.first : change.last] = change.come
        self._starts[change.first : change.last] = change.starts
        self._decided[change.first : change.last] = change.decided
        # What follows is only certain where the sentences before it are.
        at = change.first + len(change.come)
        while at in range(1, len(self._decided)) and self._decided[at] < self._decided[at - 1]:
            self._decided[at] = self._decided[at - 1]
            at += 1

    def _restarts(self, index: int) -> bool:
        """Whether segmenting may begin at a sentence: not where the one before it was cut for its length."""
        return index == 0 or len(self._sentences[index - 1]) < MAX_SEGMENT

    def _scan(self, pieces: Iterable[tuple[int, str]]) -> Iterator[tuple[str, int, int, int]]:
        """Segment `pieces`; yield each sentence, its start, the next one's, and where its end was decided."""
        segmenter, waiting, size = Segmenter(), "", len(self._text.original)
        fed: deque[tuple[int, int]] = deque()  # offset and length of what is not yet in a sentence
        for at, piece in pieces:
            fed.append((at, len(piece)))
            waiting += piece
            if len(waiting) >= _PIECE:
                for sentence in segmenter.feed(waiting):
                    start = _take(fed, len(sentence))
                    yield sentence, start, fed[0][0], at + len(piece)
                waiting = ""
        for sentence in [*segmenter.feed(waiting), *segmenter.close()]:
            start = _take(fed, len(sentence))
            yield sentence, start, fed[0][0] if fed else size, size


def _take(fed: deque[tuple[int, int]], length: int) -> int:
    """Take `length` characters from the front of `fed`; return the offset of the first."""
    start = fed[0][0]
    while length:
        at, size = fed.popleft()
        if size > length:
            fed.appendleft((at + length, size - length))
        length -= min(size, length)
    return start
