"""Branching and hesitation markers: the phrases with which a reasoning model opens a change of direction.

A marker counts only at the start of a sentence, which is where it marks a branch ("Wait, that is wrong.");
inside one it is ordinary language ("I can't wait"). Published lists are incomplete: "Wait", "Alright", "Hmm"
(TraceGuard, arXiv 2604.23238, Fig. 2), "alternatively", "wait", "actually" (the tagging rules of Thought
Anchors, arXiv 2506.19143). `DEFAULT_MARKERS` completes them by reading traces, and is a parameter wherever it
is used.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

DEFAULT_MARKERS: Final[tuple[str, ...]] = (
    *("wait", "but wait", "oh wait", "no wait", "no, wait", "hmm, wait", "hold on", "but hold on"),
    *("hmm", "hm", "huh", "oh", "oops", "alright"),
    *("alternatively", "actually", "but actually", "on second thought", "on the other hand", "or maybe"),
    *("maybe", "but maybe", "perhaps", "but perhaps", "or perhaps", "what if", "but what if"),
    *("another approach", "another way", "another idea", "another thought", "another method"),
    *("let me check", "let me double-check", "let me double check", "let me just double-check"),
    *("let me verify", "let me see", "let me think", "let me reconsider", "let me re-read", "let me recall"),
    *("let me try", "let me go back", "let me recheck", "let me just check", "let me make sure"),
    *("let's check", "let's double-check", "let's verify", "let's see", "to be sure", "just to be sure"),
    *("no,", "no.", "but no,", "i'm not sure", "i am not sure", "i'm confused", "i made a mistake"),
)

_SPACE_MAX: Final = 8
_LEAD_MAX: Final = 12
# Quotes, list dashes and emphasis that may stand before a sentence.
_LEAD: Final = rf"[\s\"'“‘*_(\[>#-]{{0,{_LEAD_MAX}}}"
_LEAD_SIGNS: Final = frozenset(" \t\n\"'“‘*_([>#-")


class MarkerSet:
    """A compiled list of markers. Build it with `marker_set`, which caches.

    Phrases match without regard to case, any run of white space for a space, either apostrophe, the longest
    first. A phrase that ends in a letter must be followed by a non-letter ("wait" is not found in "Waiter");
    one that ends in punctuation ("no,") matches as it stands.
    """

    def __init__(self, markers: tuple[str, ...]) -> None:
        self.markers = tuple(sorted({" ".join(m.lower().split()) for m in markers} - {""}, key=_longest_first))
        body = "|".join(map(_phrase, self.markers)) or r"(?!)"
        self._match = re.compile(f"{_LEAD}({body})", re.IGNORECASE).match
        longest = max((len(m) + (_SPACE_MAX - 1) * m.count(" ") for m in self.markers), default=0)
        self.reach = _LEAD_MAX + longest + 1  # characters of a sentence that decide whether one opens it
        self._openings = frozenset(opening for m in self.markers for opening in _openings(m))
        self._signs = _LEAD_SIGNS.union(*({m[0], m[0].upper()} for m in self.markers if not m[1:2].strip()))

    def could_open(self, text: str, start: int) -> bool:
        """Whether a sentence at `start` may open with a marker, by two characters (never misses one)."""
        return text[start : start + 2] in self._openings or text[start : start + 1] in self._signs

    def find(self, text: str, start: int = 0, end: int | None = None) -> str | None:
        """Return the marker with which the sentence ``text[start:end]`` opens, in lower case, or None."""
        if not self.could_open(text, start):
            return None
        found = self._match(text, start, len(text) if end is None else end)
        return " ".join(found.group(1).lower().replace("’", "'").split()) if found else None


@lru_cache(maxsize=64)
def marker_set(markers: tuple[str, ...] = DEFAULT_MARKERS) -> MarkerSet:
    """Return the compiled form of `markers` (cached)."""
    return MarkerSet(markers)


def _openings(marker: str) -> set[str]:
    """The first two characters of `marker` in every spelling that the expression accepts."""
    pairs = {a + b for a in (marker[0], marker[0].upper()) for b in (marker[1:2], marker[1:2].upper())}
    return pairs | {pair.replace("'", "’") for pair in pairs}


def _longest_first(marker: str) -> tuple[int, str]:
    return -len(marker), marker


def _phrase(marker: str) -> str:
    body = rf"\s{{1,{_SPACE_MAX}}}".join(re.escape(word).replace("'", "['’]") for word in marker.split())
    return body + r"(?!\w)" if marker[-1].isalnum() else body
