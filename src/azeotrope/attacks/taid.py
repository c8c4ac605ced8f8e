"""TAID: a target that moves from the student to the teacher."""

from __future__ import annotations

import math
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from azeotrope.attacks.distill import Distillation, TokenByToken
from azeotrope.attacks.following import Following, Source
from azeotrope.attacks.guide import Target
from azeotrope.core.types import Paper
from azeotrope.maths import divergences
from azeotrope.models.lm import LM


class TAID(Distillation):
    """D = KL(p_t ‖ q), p_t = softmax((1 − t)·z_q + t·z_p) without gradient into z_q (arXiv 2501.16937, eqs. 2-3).

    After each batch t grows by `step` · σ(m)·(1 − t), where m is a running mean (`momentum`) of the loss's
    relative decrease; it is at least the line that rises from `start` to 1 with training. (With the paper's
    `step`, in fewer than some thousand batches the line decides.)
    """

    kind: ClassVar[str] = "taid"
    version: ClassVar[int] = 2  # 1: the line alone
    summary: ClassVar[str] = "distill logits towards a target that moves from student to teacher"
    paper: ClassVar[Paper | None] = Paper(id="2501.16937", title="TAID", equations=("2", "3"))

    start: float = Field(default=0.4, ge=0, le=1, description="t at the beginning")
    step: float = Field(default=5e-4, ge=0, description="α, how fast t runs ahead of the line")
    momentum: float = Field(default=0.99, ge=0, lt=1, description="β, of the mean of the loss's decrease")

    def line(self, progress: float) -> float:
        """The least t after this share of training."""
        return self.start + (1.0 - self.start) * progress

    def divergence(self, logp: Tensor, logq: Tensor, progress: float) -> Tensor:
        """That of the line; see `Distillation.divergence`."""
        return towards(logp, logq, self.line(progress))

    def follow(self, lm: LM, source: Source) -> Following:
        """See `Distilling.follow`."""
        super().follow(lm, source)  # checks
        return Moving(self, source)


def towards(logp: Tensor, logq: Tensor, t: float) -> Tensor:
    """KL(p_t ‖ q) a token."""
    return divergences.forward_kl(divergences.interpolated(logp, logq, t), logq)


class Moving(TokenByToken):
    """One student's t, and what it follows."""

    def __init__(self, attack: TAID, source: Source) -> None:
        super().__init__(attack, source)
        self.rule = attack
        self.t = attack.line(0.0)
        self.decrease = 0.0
        self.last: float | None = None

    def compare(self, logits_NV: Tensor, labels_N: Tensor, target: Target) -> Tensor:
        """See `TokenByToken.compare`."""
        self.t = max(self.t, self.rule.line(self.progress))
        found_N = towards(*self.rule.pair(logits_NV, target), self.t)
        self.advance(float(found_N.detach().mean()))
        return found_N

    def advance(self, loss: float) -> None:
        """Move t on, given the loss of a batch."""
        if self.last is not None:
            fallen = (self.last - loss) / (self.last + 1e-15)
            self.decrease = self.rule.momentum * self.decrease + (1.0 - self.rule.momentum) * fallen
            speed = 1.0 / (1.0 + math.exp(-min(max(self.decrease, -50.0), 50.0)))
            self.t = min(1.0, self.t + self.rule.step * speed * (1.0 - self.t))
        self.last = loss
