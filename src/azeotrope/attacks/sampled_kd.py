"""Distillation from the log-probability of the words that were said, and of no others."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from azeotrope.attacks.distill import Distillation, TokenByToken, known_of, own_logprob
from azeotrope.attacks.following import Following, Source
from azeotrope.attacks.guide import Target
from azeotrope.core.access import Access
from azeotrope.core.types import Paper
from azeotrope.maths import divergences
from azeotrope.models.lm import LM


class SampledKD(Distillation):
    """D = e^d − 1 − d with d = log q(y) − log p(y) of the token y that was said (0 where p(y) is not shown).

    Its mean over y ~ p is KL(p ‖ q) (Σ_y p (q/p − 1) = 0), so one number a token estimates without bias what a
    whole distribution tells exactly; texts that were sampled at another temperature than 1 bias it. d is cut at
    `cap` from above, where a single token would carry the batch.
    """

    kind: ClassVar[str] = "sampled_kd"
    summary: ClassVar[str] = "distill the log-probability of the words said"
    paper: ClassVar[Paper | None] = None
    needs: ClassVar[Access] = Access.TOPK_LOGPROBS
    softens: ClassVar[bool] = False

    cap: float = Field(default=3.0, gt=0, description="nats, the most by which the student may exceed the teacher")

    @model_validator(mode="after")
    def _nothing_is_missing(self) -> Self:
        if self.missing != "rest":
            raise ValueError("sampled_kd reads one token at a time and takes no `missing`; leave it out")
        return self

    def divergence(self, logp: Tensor, logq: Tensor, progress: float) -> Tensor:
        """What is estimated; see `Distillation.divergence`."""
        return divergences.forward_kl(logp, logq)

    def follow(self, lm: LM, source: Source) -> Following:
        """See `Distilling.follow`."""
        super().follow(lm, source)  # checks
        return _Said(self, source)


class _Said(TokenByToken):
    def __init__(self, attack: SampledKD, source: Source) -> None:
        super().__init__(attack, source)
        self.cap = attack.cap

    def compare(self, logits_NV: Tensor, labels_N: Tensor, target: Target) -> Tensor:
        shown_N = known_of(labels_N, target)
        there_N = shown_N.isfinite()
        gap_N = own_logprob(logits_NV, labels_N) - torch.where(there_N, shown_N, 0.0)
        gap_N = gap_N.clamp(max=self.cap)
        return torch.where(there_N, gap_N.exp() - 1.0 - gap_N, 0.0)
