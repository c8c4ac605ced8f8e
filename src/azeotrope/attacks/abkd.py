"""ABKD: the α-β divergence between forward and reverse KL; AlphaNet is another point of the family."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from azeotrope.attacks.distill import Distillation
from azeotrope.core.types import Paper
from azeotrope.maths import divergences


class ABKD(Distillation):
    """D = D_AB^(a, b)(p, q) (arXiv 2505.04560), with a → `a`, b → `b`; (1, 0) is forward and (0, 1) reverse KL.

    Defaults are those with which arXiv 2602.03396 attacked its own defense; (.1, .9) is its AlphaNet.
    """

    kind: ClassVar[str] = "abkd"
    summary: ClassVar[str] = "distill logits by an α-β divergence"
    paper: ClassVar[Paper | None] = Paper(id="2505.04560", title="ABKD", equations=("D_AB",))

    a: float = Field(default=0.1, ge=0, le=2, description="exponent of the teacher's probabilities")
    b: float = Field(default=0.8, ge=0, le=2, description="exponent of the student's")

    def divergence(self, logp: Tensor, logq: Tensor, progress: float) -> Tensor:
        """See `Distillation.divergence`."""
        return divergences.alpha_beta(logp, logq, self.a, self.b)
