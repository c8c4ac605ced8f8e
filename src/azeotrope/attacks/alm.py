"""ALM-style distillation: the likelihoods of chunks of text, which need no common vocabulary."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from azeotrope.attacks.crossing import AcrossTokenizers, Compared
from azeotrope.core.access import Access
from azeotrope.core.types import Paper
from azeotrope.maths import divergences


class ALM(AcrossTokenizers):
    """D = KL between the events "this chunk comes next" under teacher and student (arXiv 2503.20083, binarized).

    P^(1/τ) of each chunk's likelihood P; τ → `temperature` (the paper's code has 100; D is not multiplied by τ²).
    Reads only what the teacher gives its own words, so the few log-probabilities of an API suffice; chunks with a
    word that is not shown are left out.
    """

    kind: ClassVar[str] = "alm"
    summary: ClassVar[str] = "distill the likelihood of chunks of text; any tokenizer"
    paper: ClassVar[Paper | None] = Paper(
        id="2503.20083", title="Cross-Tokenizer Distillation via Approximate Likelihood Matching"
    )
    needs: ClassVar[Access] = Access.TOPK_LOGPROBS
    softens: ClassVar[bool] = True

    def divergence(self, found: Compared, matched: tuple[Tensor, Tensor]) -> Tensor:
        """See `AcrossTokenizers.divergence`."""
        return divergences.bernoulli_kl(
            found.teacher_total_M / self.temperature, found.student_total_M / self.temperature
        )
