"""Filtering the release before training: defended traces that stand out can be left out.

Source: arXiv 2606.25059 (removing repetitive traces recovers much of what antidistillation sampling costs).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from azeotrope.attacks.adaptive import AdaptiveSFT, Lessons
from azeotrope.attacks.base import AttackRun
from azeotrope.core.errors import RunError
from azeotrope.core.types import Paper, Trace
from azeotrope.models.lm import LM
from azeotrope.models.scoring import trace_nll


class FilteredSFT(AdaptiveSFT):
    """Drop unfinished and repetitive traces and the least likely ones, then fine-tune.

    The judge of likelihood is the thief's own: with `judge: cross`, two copies of the base, each trained for
    an epoch on one half of the release, score the half they have not seen; with `judge: base` the base as it
    is. No query; the price is a smaller training set.
    """

    kind: ClassVar[str] = "filtered_sft"
    summary: ClassVar[str] = "drop unfinished, repetitive and unlikely traces, then fine-tune"
    paper: ClassVar[Paper | None] = Paper(
        id="2606.25059", title="What Does It Mean to Break a Distillation Defense?", equations=()
    )

    outliers: float = Field(default=0.15, ge=0, lt=1, description="share of the least likely traces dropped")
    repetition: float = Field(
        default=0.3, gt=0, le=1, description="traces are dropped above this share of repeated word 4-grams"
    )
    unfinished: bool = Field(default=True, description="drop traces that did not end by themselves")
    judge: Literal["cross", "base"] = Field(default="cross", description="who scores likelihood")

    def prepare(self, lm: LM, traces: Sequence[Trace], run: AttackRun) -> Lessons:
        """Filter the release. Raises RunError if nothing is left."""
        kept = [t for t in traces if t.text and (t.finished or not self.unfinished)]
        whole = len(kept)
        kept = [t for t in kept if repeated(t.text) <= self.repetition]
        calm = len(kept)
        if self.outliers and len(kept) > 1:
            scores = self._judge(lm, kept, run)
            limit = sorted(scores)[max(0, math.ceil((1.0 - self.outliers) * len(scores)) - 1)]
            kept = [t for t, score in zip(kept, scores, strict=True) if score <= limit]
        if not kept:
            raise RunError("The filter of 'filtered_sft' left no trace; raise `repetition` or lower `outliers`.")
        notes = {"unfinished": len(traces) - whole, "repetitive": whole - calm, "unlikely": calm - len(kept)}
        return Lessons(kept, notes=notes)

    def _judge(self, lm: LM, traces: Sequence[Trace], run: AttackRun) -> list[float]:
        if self.judge == "base":
            return trace_nll(lm, traces)
        scores = [0.0] * len(traces)
        for part in (0, 1):
            judge = self.pupil(lm, traces[1 - part :: 2], run, epochs=1)
            scores[part::2] = trace_nll(judge, traces[part::2])
        return scores


def repeated(text: str, n: int = 4) -> float:
    """Share of word n-grams that occurred before in the same text; 0 for short texts."""
    words = text.split()
    grams = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    total = sum(grams.values())
    return (total - len(grams)) / total if total else 0.0
