"""TAID: a target that moves from the student to the teacher."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from azeotrope.attacks.distill import Distillation
from azeotrope.core.types import Paper
from azeotrope.maths import divergences


class TAID(Distillation):
    """D = KL(p_t ‖ q), p_t = softmax((1 − t)·z_q + t·z_p) without gradient into z_q (arXiv 2501.16937, eqs. 2-3).

    t rises linearly from `start` to 1 with training; the paper adds a step that adapts to the loss, bounded
    below by this line.
    """

    kind: ClassVar[str] = "taid"
    summary: ClassVar[str] = "distil logits towards a target that moves from student to teacher"
    paper: ClassVar[Paper | None] = Paper(id="2501.16937", title="TAID", equations=("2", "3"))

    start: float = Field(default=0.4, ge=0, le=1, description="t at the beginning")

    def divergence(self, logp: Tensor, logq: Tensor, progress: float) -> Tensor:
        """See `Distillation.divergence`."""
        t = self.start + (1.0 - self.start) * progress
        return divergences.forward_kl(divergences.interpolated(logp, logq, t), logq)
