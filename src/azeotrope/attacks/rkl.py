"""Distillation by the reverse KL."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from azeotrope.attacks.distill import Distillation
from azeotrope.core.types import Paper
from azeotrope.maths import divergences


class ReverseKL(Distillation):
    """D = the reverse KL (arXiv 2306.08543): avoid what the teacher would not say."""

    kind: ClassVar[str] = "rkl"
    summary: ClassVar[str] = "distill logits by reverse KL: avoid what the teacher would not say"
    paper: ClassVar[Paper | None] = Paper(id="2306.08543", title="MiniLLM", equations=("KL(q ‖ p), single step",))

    def divergence(self, logp: Tensor, logq: Tensor, progress: float) -> Tensor:
        """See `Distillation.divergence`."""
        return divergences.reverse_kl(logp, logq)
