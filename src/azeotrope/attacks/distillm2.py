"""DistiLLM-2: another skewed divergence on teacher's and on own text, with a skew that follows the gap."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from azeotrope.attacks.distill import Distillation, TokenByToken, known_of, own_logprob
from azeotrope.attacks.following import Following, Source
from azeotrope.attacks.guide import Target
from azeotrope.core.types import Paper
from azeotrope.maths import divergences
from azeotrope.models.lm import LM


class DistiLLM2(Distillation):
    """D = (2 − β)·KL(p ‖ ap + (1 − a)q) on teacher's and β·KL(q ‖ (1 − a)p + aq) on own text (arXiv 2503.07067).

    β rises linearly from 1 to `beta`. a = clip(1 − (1 − a₀)·g₀/g, .01, a₀) for each kind of text, g being the gap
    between exp(mean log p) and exp(mean log q) of the words in a batch and g₀ the first one (the released code has
    a fixed anchor). a₀ → `skew`. On own text the mixture carries no gradient.
    """

    kind: ClassVar[str] = "distillm2"
    version: ClassVar[int] = 2  # 1: with a gradient into the mixture on own text
    summary: ClassVar[str] = "distill logits by a skewed KL on the teacher's and its reverse on own text"
    paper: ClassVar[Paper | None] = Paper(id="2503.07067", title="DistiLLM-2", equations=("CALD",))

    alpha: float = Field(default=1.0, ge=0, le=1, description="α, the divergence's share of the loss")
    on_policy: float = Field(default=0.5, ge=0, le=1, description="share of texts that the student writes itself")
    warmup: int = Field(default=2, ge=0, description="epochs on the teacher's text alone, before its own")
    beta: float = Field(default=1.5, ge=1, le=2, description="β at the end, the weight of own text")
    skew: float = Field(default=0.1, ge=0.01, le=1, description="a₀, the largest skew")

    def divergence(self, logp: Tensor, logq: Tensor, progress: float) -> Tensor:
        """That of teacher's text; see `Distillation.divergence`."""
        return divergences.skew_kl(logp, logq, self.skew)

    def follow(self, lm: LM, source: Source) -> Following:
        """See `Distilling.follow`."""
        super().follow(lm, source)  # checks
        return _Contrast(self, source)


class _Contrast(TokenByToken):
    """Two divergences, and the gap each kind of text began with."""

    def __init__(self, attack: DistiLLM2, source: Source) -> None:
        super().__init__(attack, source)
        self.beta, self.skew = attack.beta, attack.skew
        self.first: dict[bool, float] = {}

    def compare(self, logits_NV: Tensor, labels_N: Tensor, target: Target) -> Tensor:
        logp, logq = self.attack.pair(logits_NV, target)
        beta = 1.0 + (self.beta - 1.0) * self.progress
        own_N = target.own_B[target.rows_N]
        found_N = torch.zeros_like(logq[:, 0])
        for own, weight, skewed in (
            (False, 2.0 - beta, divergences.skew_kl),
            (True, beta, partial(divergences.skew_reverse_kl, fixed=True)),
        ):
            here_N = own_N if own else ~own_N
            if here_N.any():
                a = self._skew(own, logits_NV[here_N], labels_N[here_N], known_of(labels_N, target)[here_N])
                found_N[here_N] = weight * skewed(logp[here_N], logq[here_N], a)
        return found_N

    def _skew(self, own: bool, logits_NV: Tensor, labels_N: Tensor, shown_N: Tensor) -> float:
        """A small skew where teacher and student agree already, the largest where the gap is as it began."""
        there_N = shown_N.isfinite()
        if not there_N.any():
            return self.skew
        ours_N = own_logprob(logits_NV.detach(), labels_N)
        gap = abs(float(shown_N[there_N].mean().exp() - ours_N[there_N].mean().exp()))
        first = self.first.setdefault(own, gap)
        return min(max(1.0 - (1.0 - self.skew) * first / max(gap, 1e-6), 0.01), self.skew)
