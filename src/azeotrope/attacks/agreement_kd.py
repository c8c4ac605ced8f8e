"""Following the teacher's distribution only where it pulls the same way as the teacher's words."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from azeotrope.attacks.distill import Distillation, TokenByToken
from azeotrope.attacks.following import Following, Source
from azeotrope.attacks.guide import Target
from azeotrope.core.types import Paper
from azeotrope.maths import divergences
from azeotrope.models.lm import LM


class AgreementKD(Distillation):
    """D = KL(p ‖ q) at tokens where ⟨q − e_y, q − p⟩ > 0, and 0 elsewhere.

    The two are the logit gradients of cross-entropy and of D: the thief trusts the word that was said, and a shown
    distribution that would push the student away from it is left out. Aimed at defenses that turn the gradient of
    the logits and leave the text alone (arXiv 2602.03396); the idea of dropping conflicting gradients is that of
    arXiv 2001.06782.
    """

    kind: ClassVar[str] = "agreement_kd"
    summary: ClassVar[str] = "distill logits only where they pull the way the text does"
    paper: ClassVar[Paper | None] = Paper(id="2001.06782", title="Gradient Surgery for Multi-Task Learning")

    def divergence(self, logp: Tensor, logq: Tensor, progress: float) -> Tensor:
        """See `Distillation.divergence`."""
        return divergences.forward_kl(logp, logq)

    def follow(self, lm: LM, source: Source) -> Following:
        """See `Distilling.follow`."""
        super().follow(lm, source)  # checks
        return _Agreeing(self, source)


class _Agreeing(TokenByToken):
    def compare(self, logits_NV: Tensor, labels_N: Tensor, target: Target) -> Tensor:
        logp, logq = self.attack.pair(logits_NV, target)
        p, q = logp.exp(), logq.detach().exp()
        pulls_N = ((q - said(labels_N, target, p)) * (q - p)).sum(-1) > 0
        return torch.where(pulls_N, self.attack.divergence(logp, logq, self.progress), 0.0)


def said(labels_N: Tensor, target: Target, like: Tensor) -> Tensor:
    """One-hot labels over the columns of a compared pair; a label that is not shown is in the last, the rest's."""
    if target.ids_NK is None:
        return torch.zeros_like(like).scatter(-1, labels_N[:, None], 1.0)
    here_NK = (target.ids_NK == labels_N[:, None]) & ~target.known_NK.isneginf()
    found = torch.zeros_like(like)
    found[:, : here_NK.shape[-1]] = here_NK.to(like)
    if found.shape[-1] > here_NK.shape[-1]:
        found[:, -1] = (~here_NK.any(-1)).to(like)
    return found
