"""Distillation by the adaptive KL."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from azeotrope.attacks.distill import Distillation
from azeotrope.core.types import Paper
from azeotrope.maths import divergences


class AdaptiveKL(Distillation):
    """D = w·KL(p ‖ q) + (1 − w)·KL(q ‖ p), w by where p and q differ (arXiv 2404.02657).

    w is the share of Σ|p − q| that lies in the head: the fewest tokens that hold `head` of the teacher's mass.
    """

    kind: ClassVar[str] = "akl"
    summary: ClassVar[str] = "distill logits by forward KL (heads that differ) and reverse KL (tails)"
    paper: ClassVar[Paper | None] = Paper(
        id="2404.02657",
        title="Rethinking Kullback-Leibler Divergence in Knowledge Distillation for Large Language Models",
        equations=("AKL",),
    )

    head: float = Field(default=0.5, gt=0, le=1, description="μ, the teacher's mass that makes the head")

    def divergence(self, logp: Tensor, logq: Tensor, progress: float) -> Tensor:
        """See `Distillation.divergence`."""
        return divergences.adaptive_kl(logp, logq, self.head)
