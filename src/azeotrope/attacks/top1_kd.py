"""Learning the likeliest token at every position, and nothing else of the distribution.

Shapes: N labeled tokens, V vocabulary, K shown tokens.
"""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from azeotrope.attacks.distill import Distillation, TokenByToken
from azeotrope.attacks.following import Following, Source
from azeotrope.attacks.guide import Target
from azeotrope.core.access import Access
from azeotrope.core.types import Paper
from azeotrope.models.lm import LM


class Top1KD(Distillation):
    """D = −log q(argmax p): cross-entropy with the likeliest shown token in place of the one that was drawn.

    Aimed at maps of the logits that keep the argmax (arXiv 2602.03396): what they move is not read, and where the
    text took an unlikely turn the student still learns the likely one. Needs one log-probability a token.
    """

    kind: ClassVar[str] = "top1_kd"
    summary: ClassVar[str] = "learn the likeliest token that is shown, not the one that was said"
    paper: ClassVar[Paper | None] = None
    needs: ClassVar[Access] = Access.TOPK_LOGPROBS
    softens: ClassVar[bool] = False

    alpha: float = Field(default=1.0, ge=0, le=1, description="α, the divergence's share of the loss")

    @model_validator(mode="after")
    def _nothing_is_missing(self) -> Self:
        if self.missing != "rest":
            raise ValueError("top1_kd reads one token at a time and takes no `missing`; leave it out")
        return self

    def divergence(self, logp: Tensor, logq: Tensor, progress: float) -> Tensor:
        """−log q(argmax p), [N]."""
        return -logq.gather(-1, logp.argmax(-1, keepdim=True))[..., 0]

    def follow(self, lm: LM, source: Source) -> Following:
        """See `Distilling.follow`."""
        super().follow(lm, source)  # checks
        return _Likeliest(self, source)


class _Likeliest(TokenByToken):
    def compare(self, logits_NV: Tensor, labels_N: Tensor, target: Target) -> Tensor:
        best_N1 = target.known_NK.argmax(-1, keepdim=True)
        if target.ids_NK is not None:
            best_N1 = target.ids_NK.gather(-1, best_N1)
        return -torch.log_softmax(logits_NV, -1).gather(-1, best_N1)[:, 0]
