"""Token delta: by how much the defended traces are longer or shorter than the clean ones.

Source: the token-count metric of arXiv 2604.23238, with its exact form left open there. Here it is the relative
change of the mean, (mean defended - mean clean) / mean clean, with one weight per problem. (The mean of the
problems' own ratios would be positive for two samples of the *same* model, since E[d/c] ≥ E[d]/E[c] when d and c
are independent; this form is zero there up to noise.) A token is a white-space separated word.
"""

from __future__ import annotations

from typing import ClassVar

from azeotrope.core.types import Paper
from azeotrope.detect.base import Measurement, Texts, Unit, count_texts, measurement
from azeotrope.detect.paired import Paired, mean_over_samples
from azeotrope.maths.detection import interval, ratio


class TokenDelta(Paired):
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


def words(text: str) -> float:
    """Count white-space separated words."""
    return float(len(text.split()))
