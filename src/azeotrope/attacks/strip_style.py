"""Removing what looks like style: markers of doubt, checks and restatements, before training."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from pydantic import Field

from azeotrope.attacks.adaptive import AdaptiveSFT, Lessons
from azeotrope.attacks.base import AttackRun
from azeotrope.core.types import THINK_CLOSE, THINK_OPEN, Trace, split_answer
from azeotrope.models.lm import LM
from azeotrope.text.markers import DEFAULT_MARKERS, marker_set
from azeotrope.text.segment import segment

_WORDS = re.compile(r"\w+")


class StripStyle(AdaptiveSFT):
    """Drop sentences that open with a marker and sentences that say again what an earlier one said.

    A defense that floods traces with hesitation, or hides in it, loses that cover. No query. The answer and
    the think tags stay. A restatement has the same words in the same order as an earlier sentence.
    """

    kind: ClassVar[str] = "strip_style"
    summary: ClassVar[str] = "drop marker sentences and restatements from the traces, then fine-tune"

    markers: tuple[str, ...] = Field(default=DEFAULT_MARKERS, description="openings of sentences to drop")
    restatements: bool = Field(default=True, description="drop repeated sentences too")

    def prepare(self, lm: LM, traces: Sequence[Trace], run: AttackRun) -> Lessons:
        """Strip every trace."""
        stripped = [self.strip(trace) for trace in traces]
        changed = sum(a.text != b.text for a, b in zip(traces, stripped, strict=True))
        return Lessons(stripped, notes={"changed": changed})

    def strip(self, trace: Trace) -> Trace:
        """One trace without style."""
        pieces = segment(split_answer(trace.text)[0])
        return without(trace, pieces, self.style(pieces))

    def style(self, pieces: Sequence[str]) -> list[bool]:
        """Which sentences of a reasoning are style."""
        opens, seen, found = marker_set(self.markers).find, set(), []
        for piece in pieces:
            words = tuple(_WORDS.findall(piece.lower()))
            tagged = THINK_OPEN in piece or THINK_CLOSE in piece
            again = self.restatements and words in seen
            found.append(not tagged and bool(words) and (opens(piece) is not None or again))
            if not found[-1]:
                seen.add(words)
        return found


def without(trace: Trace, pieces: Sequence[str], dropped: Sequence[bool]) -> Trace:
    """`trace`, whose reasoning consists of `pieces`, without the ones that are `dropped`."""
    if not any(dropped):
        return trace
    kept = "".join(piece for piece, drop in zip(pieces, dropped, strict=True) if not drop)
    text = kept + split_answer(trace.text)[1]
    return replace(trace, text=text, n_tokens=0, token_ids=None, moved=None)
