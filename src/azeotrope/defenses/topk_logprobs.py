"""Show only the largest log-probabilities of every token."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field

from azeotrope.core.methods import E, Maturity, SurfaceDefense
from azeotrope.core.types import Paper


class TopKLogprobs(SurfaceDefense):
    """With every token, show the `k` largest log-probabilities and nothing of the others.

    The strength is 1/k, so that it falls to 0 as more is shown; `k` = 0 shows all (the identity). What a service
    shows less anyway stays less. Changes no text, so it costs users of the text nothing.
    """

    kind: ClassVar[str] = "topk_logprobs"
    summary: ClassVar[str] = "show the k largest log-probabilities only"
    paper: ClassVar[Paper | None] = None
    maturity: ClassVar[Maturity] = Maturity.EXPERIMENTAL
    dial: ClassVar[str] = "k"
    sweep: ClassVar[tuple[float, ...]] = (0.05, 0.2, 1.0)

    k: int = Field(default=5, ge=0, description="how many are shown; 0 shows all")

    @property
    def strength(self) -> float:
        """1/k; 0 where all are shown."""
        return 1.0 / self.k if self.k else 0.0

    def at(self, strength: float) -> Self:
        """The same method with k = 1/strength, rounded, at least 1; validated."""
        k = max(1, round(1.0 / strength)) if strength > 0 else 0 if strength == 0 else -1
        return type(self).model_validate({"k": k})

    def expose(self, exposure: E) -> E:
        """See `SurfaceDefense.expose`."""
        return exposure.top(self.k) if self.k else exposure
