"""Distillation by the forward KL."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from azeotrope.attacks.distill import Distillation
from azeotrope.core.types import Paper
from azeotrope.maths import divergences


class ForwardKL(Distillation):
    """D = the forward KL (arXiv 1503.02531): cover all that the teacher would say."""

    kind: ClassVar[str] = "fkl"
    summary: ClassVar[str] = "distill logits by forward KL: cover all that the teacher would say"
    paper: ClassVar[Paper | None] = Paper(
        id="1503.02531",
        title="Distilling the Knowledge in a Neural Network",
        equations=("L = (1 − α)CE + ατ²KL(p ‖ q)",),
    )
    may_ignore: ClassVar[bool] = True

    def divergence(self, logp: Tensor, logq: Tensor, progress: float) -> Tensor:
        """See `Distillation.divergence`."""
        return divergences.forward_kl(logp, logq)
