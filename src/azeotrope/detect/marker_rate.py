"""Marker rate: how often a sentence of the reasoning opens with a branching marker (Wait, Alternatively, ...).

The plainest trace that a defense such as TraceGuard leaves: whoever knows the clean rate needs to count, not to
learn. Sentences and markers are those of `azeotrope.text`; the answer and the think tags are not counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from pydantic import Field

from azeotrope.core.types import THINK_CLOSE, THINK_OPEN, split_answer
from azeotrope.detect.base import (
    Measurement,
    RunningScore,
    Texts,
    TraceScorer,
    Unit,
    count_texts,
    measurement,
)
from azeotrope.detect.paired import Paired, mean_over_samples
from azeotrope.maths.detection import interval, ratio
from azeotrope.text.cuts import CutSentences
from azeotrope.text.markers import DEFAULT_MARKERS, marker_set
from azeotrope.text.segment import segment


class MarkerRate(Paired, TraceScorer):
    """Markers per 100 sentences on each side, and defended minus clean."""

    kind: ClassVar[str] = "marker_rate"
    summary: ClassVar[str] = "branching markers per 100 sentences"

    markers: tuple[str, ...] = Field(default=DEFAULT_MARKERS, description="phrases that open a sentence")

    def measure(self, defended: Texts, clean: Texts, seed: int = 0) -> list[Measurement]:
        """Return `marker_rate_defended`, `marker_rate_clean` and `marker_rate_difference`."""
        ids = self.problems(defended, clean)
        weights = self.weights(len(ids), seed)
        rates = []
        for side in (defended, clean):
            markers, sentences = mean_over_samples(ids, side, self.count).T
            rates.append(100 * ratio(markers, sentences, weights))
        after, before = rates
        figures = (
            ("marker_rate_defended", after, count_texts(ids, defended)),
            ("marker_rate_clean", before, count_texts(ids, clean)),
            ("marker_rate_difference", after - before, count_texts(ids, defended, clean)),
        )
        return [measurement(name, Unit.PROBLEM, interval(draws, n), len(ids)) for name, draws, n in figures]

    def count(self, text: str) -> tuple[int, int]:
        """Return (sentences that open with a marker, sentences) of the reasoning."""
        reasoning, _ = split_answer(text)
        return self.tally(segment(reasoning))

    def tally(self, sentences: Iterable[str]) -> tuple[int, int]:
        """Return (sentences that open with a marker, sentences), without think tags and blank ones."""
        find = marker_set(self.markers).find
        proper = [s for s in sentences if not s.lstrip().startswith((THINK_OPEN, THINK_CLOSE))]
        kept = [sentence for sentence in proper if not sentence.isspace()]
        return sum(find(sentence) is not None for sentence in kept), len(kept)

    def score(self, edited: str, original: str) -> float:
        """Return by how many markers per 100 sentences `edited` falls below `original`; 0 if it does not.

        Reasoning without a sentence has the rate 0: that it was emptied is plain to see.
        """
        return _shortfall(self.count(edited), self.count(original))

    def running(self, original: str) -> RunningScore:
        """Return the score of `original` while it is cut; only the sentences around a cut are found again."""
        return _Running(self, original)


class _Running(RunningScore):
    def __init__(self, detector: MarkerRate, original: str) -> None:
        self._tally = detector.tally
        self._text = CutSentences(split_answer(original)[0])
        self._before = self._now = detector.tally(self._text.sentences)

    def try_cut(self, start: int, end: int, most: float) -> bool:
        change = self._text.change(start, end)
        gone, come = self._tally(change.gone), self._tally(change.come)
        now = (self._now[0] - gone[0] + come[0], self._now[1] - gone[1] + come[1])
        if _shortfall(now, self._before) > most:
            return False
        self._text.apply(change)
        self._now = now
        return True


def _shortfall(now: tuple[int, int], before: tuple[int, int]) -> float:
    after, reference = (100 * markers / sentences if sentences else 0.0 for markers, sentences in (now, before))
    return max(0.0, reference - after)
