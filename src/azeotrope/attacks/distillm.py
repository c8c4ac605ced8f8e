"""DistiLLM: skewed divergences, whose gradients stay bounded, partly on the student's own text."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from azeotrope.attacks.distill import Distillation
from azeotrope.core.types import Paper
from azeotrope.maths import divergences


class DistiLLM(Distillation):
    """D = KL(p ‖ αp + (1 − α)q) or KL(q ‖ (1 − α)p + αq) (arXiv 2402.03898, eqs. 3-4); the paper's α is `skew`.

    The paper raises the share of the student's own text as validation loss grows and replays old samples; here
    `on_policy` is constant and texts are renewed every epoch.
    """

    kind: ClassVar[str] = "distillm"
    summary: ClassVar[str] = "distill logits by a skewed KL, partly on own text"
    paper: ClassVar[Paper | None] = Paper(id="2402.03898", title="DistiLLM", equations=("3", "4"))

    on_policy: float = Field(default=0.5, ge=0, le=1, description="share of texts that the student writes itself")
    warmup: int = Field(default=2, ge=0, description="epochs on the teacher's text alone, before its own")
    side: Literal["forward", "reverse"] = Field(default="reverse", description="skewed forward or reverse KL")
    skew: float = Field(default=0.1, ge=0, le=1, description="share of the other distribution in the mixture")

    def divergence(self, logp: Tensor, logq: Tensor, progress: float) -> Tensor:
        """See `Distillation.divergence`."""
        skewed = divergences.skew_kl if self.side == "forward" else divergences.skew_reverse_kl
        return skewed(logp, logq, self.skew)
