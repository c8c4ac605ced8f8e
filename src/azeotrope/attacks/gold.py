"""GOLD-style distillation: chunks that end at the same byte, tokens of equal spelling compared as themselves."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from azeotrope.attacks.crossing import AcrossTokenizers, Compared
from azeotrope.core.types import Paper
from azeotrope.maths import divergences, truncated


class Gold(AcrossTokenizers):
    """D = w·JSD_β over tokens that both vocabularies spell alike + (1 − w)·Σ|sort(p) − sort(q)| over the others.

    At a chunk, p is the teacher's distribution at its first token times what it gives the chunk's other tokens, q
    likewise (the rule `observed` of TRL's GOLD trainer); w is the share of the student's vocabulary that is
    matched. Half on the student's own text, as there. β → `beta`. Where not all tokens are shown, all others are
    one more token of the first divergence, and the second takes as many of the student's largest as are shown.
    """

    kind: ClassVar[str] = "gold"
    summary: ClassVar[str] = "distill byte-aligned chunks of distributions; any tokenizer"
    version: ClassVar[int] = 2
    paper: ClassVar[Paper | None] = None

    on_policy: float = Field(default=0.5, ge=0, le=1, description="share of texts that the student writes itself")
    warmup: int = Field(default=2, ge=0, description="epochs on the teacher's text alone, before its own")
    beta: float = Field(default=0.5, gt=0, lt=1, description="β of the Jensen-Shannon divergence")

    def divergence(self, found: Compared, matched: tuple[Tensor, Tensor]) -> Tensor:
        """See `AcrossTokenizers.divergence`; not told where the teacher's tokens are not shown."""
        ours, theirs = matched
        rests = found.teacher_rest_M[:, None], found.student_rest_M[:, None]
        logp, logq = found.teacher_MU[:, theirs], found.student_MV[:, ours]
        if not found.whole:
            logp, logq = (
                truncated.with_rest(logp),
                truncated.with_rest(logq.masked_fill(logp.isneginf(), -math.inf)),
            )
        alike = divergences.jensen_shannon(logp + rests[0], logq + rests[1], self.beta)
        share = len(ours) / found.student_MV.shape[-1]
        if share == 1.0:
            return alike
        logp, logq = _without(found.teacher_MU, theirs), _without(found.student_MV, ours)
        if not found.whole:
            logp, logq = truncated.largest(logp, logq)
        return share * alike + (1.0 - share) * divergences.sorted_l1(logp + rests[0], logq + rests[1])


def _without(logs: Tensor, ids: Tensor) -> Tensor:
    keep = torch.ones(logs.shape[-1], dtype=torch.bool)
    keep[ids] = False
    return logs[:, keep]
