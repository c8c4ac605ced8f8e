"""Generalized knowledge distillation: Jensen-Shannon divergence, partly on the student's own text."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from azeotrope.attacks.distill import Distillation
from azeotrope.core.types import Paper
from azeotrope.maths import divergences


class GKD(Distillation):
    """D = β KL(p ‖ m) + (1 − β) KL(q ‖ m) with m = βp + (1 − β)q, half on-policy (arXiv 2306.13649, eq. 1).

    β = 0 is forward and β = 1 reverse KL; the paper's λ is `on_policy`. As published there is no cross-entropy
    (α = 1).
    """

    kind: ClassVar[str] = "gkd"
    summary: ClassVar[str] = "distill logits by a generalized Jensen-Shannon divergence, partly on own text"
    paper: ClassVar[Paper | None] = Paper(
        id="2306.13649", title="On-Policy Distillation of Language Models", equations=("1", "alg. 1")
    )

    alpha: float = Field(default=1.0, ge=0, le=1, description="α, the divergence's share of the loss")
    on_policy: float = Field(default=0.5, ge=0, le=1, description="λ, share of texts that the student writes")
    warmup: int = Field(default=2, ge=0, description="epochs on the teacher's text alone, before its own")
    beta: float = Field(default=0.5, ge=0, le=1, description="β")

    def divergence(self, logp: Tensor, logq: Tensor, progress: float) -> Tensor:
        """See `Distillation.divergence`."""
        return divergences.jensen_shannon(logp, logq, self.beta)
