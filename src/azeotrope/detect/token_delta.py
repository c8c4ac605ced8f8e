"""Token delta: by how much the defended traces are longer or shorter than the clean ones.

Source: the token-count metric of arXiv 2604.23238, with its exact form left open there. Here it is the relative
change of the mean, (mean defended - mean clean) / mean clean, with one weight per problem. (The mean of the
problems' own ratios would be positive for two samples of the *same* model, since E[d/c] ≥ E[d]/E[c] when d and c
are independent; this form is zero there up to noise.) A token is a white-space separated word.
"""

from __future__ import annotations

from typing import ClassVar

from azeotrope.core.types import Paper
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
from azeotrope.text.cuts import CutText


class TokenDelta(Paired, TraceScorer):
    """Relative change of the number of words; 0 is no change, -.1 is a tenth shorter."""

    kind: ClassVar[str] = "token_delta"
    summary: ClassVar[str] = "relative change in the number of words"
    paper: ClassVar[Paper | None] = Paper(
        id="2604.23238",
        title="Hiding in Plain Sight: Detectability-Aware Antidistillation of Reasoning Models",
    )

    def measure(self, defended: Texts, clean: Texts, seed: int = 0) -> list[Measurement]:
        """Return `token_delta`."""
        ids = self.problems(defended, clean)
        after, before = (mean_over_samples(ids, side, words) for side in (defended, clean))
        found = interval(
            ratio(after - before, before, self.weights(len(ids), seed)), count_texts(ids, defended, clean)
        )
        return [measurement("token_delta", Unit.PROBLEM, found, len(ids))]

    def score(self, edited: str, original: str) -> float:
        """Return the relative change in words, without its sign: 0.1 is a tenth shorter or longer."""
        return _change(words(edited), words(original))

    def running(self, original: str) -> RunningScore:
        """Return the score of `original` while it is cut, in time linear in what is cut."""
        return _Running(original)


class _Running(RunningScore):
    def __init__(self, original: str) -> None:
        self._text = CutText(original)
        self._before = self._now = words(original)

    def try_cut(self, start: int, end: int, most: float) -> bool:
        left, right = self._text.before(start, 1), self._text.after(end, 1)  # words may join
        lost = words(left + self._text.original[start:end] + right) - words(left + right)
        if _change(self._now - lost, self._before) > most:
            return False
        self._text.cut(start, end)
        self._now -= lost
        return True


def _change(now: float, before: float) -> float:
    if now == before:
        return 0.0
    return abs(now - before) / before if before else float("inf")


def words(text: str) -> float:
    """Count white-space separated words."""
    return float(len(text.split()))
