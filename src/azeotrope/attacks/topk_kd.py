"""Distillation from the few log-probabilities that an API returns with every token."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from azeotrope.attacks.distill import Distillation
from azeotrope.core.access import Access
from azeotrope.core.types import Paper
from azeotrope.maths import divergences


class TopKKD(Distillation):
    """D = Σ_K p log(p/q) over the k tokens shown, and by default one bucket for all others.

    The data-processing inequality makes the bucketed divergence a lower bound of the full one. `renormalize`
    compares the conditional distributions, `ignore` leaves the missing mass out, and teaches that
    there is none.
    """

    kind: ClassVar[str] = "topk_kd"
    summary: ClassVar[str] = "distill the k log-probabilities that an API shows"
    paper: ClassVar[Paper | None] = None
    needs: ClassVar[Access] = Access.TOPK_LOGPROBS
    may_ignore: ClassVar[bool] = True

    def divergence(self, logp: Tensor, logq: Tensor, progress: float) -> Tensor:
        """See `Distillation.divergence`."""
        return divergences.forward_kl(logp, logq)
