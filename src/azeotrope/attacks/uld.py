"""ULD: sorted probabilities compared position by position, whatever the tokens are."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from azeotrope.attacks.crossing import AcrossTokenizers, Compared
from azeotrope.core.types import Paper
from azeotrope.maths import divergences, truncated
from azeotrope.models.alignment import Cutting, by_position


class ULD(AcrossTokenizers):
    """D = Σ_i |sort(p_t)_i − sort(q_t)_i| at the t-th token of each side (arXiv 2402.12030, eq. 5).

    Token t of the teacher and token t of the student need not say the same; the longer side's end is left out. The
    paper's loss is CE + 1.5·D, which is this one at α = .6 up to a factor. Where k tokens are shown, they are
    compared with the student's k largest, and all others with all others.
    """

    kind: ClassVar[str] = "uld"
    summary: ClassVar[str] = "distill sorted probabilities, position by position; any tokenizer"
    version: ClassVar[int] = 2
    paper: ClassVar[Paper | None] = Paper(
        id="2402.12030", title="Towards Cross-Tokenizer Distillation", equations=("5",)
    )
    cut: ClassVar[Cutting] = staticmethod(by_position)

    alpha: float = Field(default=0.6, ge=0, le=1, description="α, the divergence's share of the loss")

    def divergence(self, found: Compared, matched: tuple[Tensor, Tensor]) -> Tensor:
        """See `AcrossTokenizers.divergence`."""
        if found.whole:
            return divergences.sorted_l1(found.teacher_MU, found.student_MV)
        logp, logq = (truncated.with_rest(x) for x in truncated.largest(found.teacher_MU, found.student_MV))
        return 2.0 * divergences.total_variation(logp, logq)
