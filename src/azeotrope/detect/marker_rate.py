"""Marker rate: how often a sentence of the reasoning opens with a branching marker (Wait, Alternatively, ...).

The plainest trace that a defense such as TraceGuard leaves: whoever knows the clean rate needs to count, not to
learn. Sentences and markers are those of `azeotrope.text`; the answer and the think tags are not counted.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from azeotrope.core.types import THINK_CLOSE, THINK_OPEN, split_answer
from azeotrope.detect.base import Measurement, Texts, Unit, count_texts, measurement
from azeotrope.detect.paired import Paired, mean_over_samples
from azeotrope.maths.detection import interval, ratio
from azeotrope.text.markers import DEFAULT_MARKERS, marker_set
from azeotrope.text.segment import segment


class MarkerRate(Paired):
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
        find = marker_set(self.markers).find
        reasoning, _ = split_answer(text)
        sentences = [s for s in segment(reasoning) if not s.lstrip().startswith((THINK_OPEN, THINK_CLOSE))]
        kept = [sentence for sentence in sentences if not sentence.isspace()]
        return sum(find(sentence) is not None for sentence in kept), len(kept)
