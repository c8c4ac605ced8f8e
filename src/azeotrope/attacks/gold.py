"""GOLD-style distillation: chunks that end at the same byte, tokens of equal spelling compared as themselves."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from azeotrope.attacks.crossing import AcrossTokenizers, Compared
from azeotrope.core.types import Paper
from azeotrope.maths import divergences


class Gold(AcrossTokenizers):
    """D = w·JSD_β over tokens that both vocabularies spell alike + (1 − w)·Σ|sort(p) − sort(q)| over the others.

    At a chunk, p is the teacher's distribution at its first token times what it gives the chunk's other tokens, q
    likewise (the rule `observed` of TRL's GOLD trainer); w is the share of the student's vocabulary that is
    matched. Half on the student's own text, as there. β → `beta`.
    """

    kind: ClassVar[str] = "gold"
    summary: ClassVar[str] = "distill byte-aligned chunks of distributions; any tokenizer"
    paper: ClassVar[Paper | None] = None

    on_policy: float = Field(default=0.5, ge=0, le=1, description="share of texts that the student writes itself")
    warmup: int = Field(default=2, ge=0, description="epochs on the teacher's text alone, before its own")
    beta: float = Field(default=0.5, gt=0, lt=1, description="β of the Jensen-Shannon divergence")

    def divergence(self, found: Compared, matched: tuple[Tensor, Tensor]) -> Tensor:
        """See `AcrossTokenizers.divergence`; not told where the teacher's tokens are not shown."""
        ours, theirs = matched
        logp_MU = found.teacher_MU + found.teacher_rest_M[:, None]
        logq_MV = found.student_MV + found.student_rest_M[:, None]
        alike = divergences.jensen_shannon(logp_MU[:, theirs], logq_MV[:, ours], self.beta)
        share = len(ours) / logq_MV.shape[-1]
        if share == 1.0:
            return alike
        others = divergences.sorted_l1(_without(logp_MU, theirs), _without(logq_MV, ours))
        return share * alike + (1.0 - share) * others


def _without(logs: Tensor, ids: Tensor) -> Tensor:
    keep = torch.ones(logs.shape[-1], dtype=torch.bool)
    keep[ids] = False
    return logs[:, keep]
