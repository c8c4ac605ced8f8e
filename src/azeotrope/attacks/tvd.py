"""Distillation by the total variation distance."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from azeotrope.attacks.distill import Distillation
from azeotrope.core.types import Paper
from azeotrope.maths import divergences


class TotalVariation(Distillation):
    """D = ½ Σ |p − q| (arXiv 2307.15190, token by token): neither tail can dominate it.

    Its gradient is bounded by the student's own probabilities, so a student that finds the right words very
    unlikely learns slowly from it; the cross-entropy beside it (1 − α) is what starts such a student.
    """

    kind: ClassVar[str] = "tvd"
    summary: ClassVar[str] = "distill logits by total variation: a bounded loss that no single token dominates"
    paper: ClassVar[Paper | None] = Paper(
        id="2307.15190",
        title="f-Divergence Minimization for Sequence-Level Knowledge Distillation",
        equations=("TVD",),
    )

    def divergence(self, logp: Tensor, logq: Tensor, progress: float) -> Tensor:
        """See `Distillation.divergence`."""
        return divergences.total_variation(logp, logq)
