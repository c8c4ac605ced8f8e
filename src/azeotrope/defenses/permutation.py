"""The permutation control of ADS: the same numbers, without their direction."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import model_validator

from azeotrope.core.methods import Maturity
from azeotrope.defenses.ads import AntidistillationBase, AntidistillRule
from azeotrope.defenses.base import Bench
from azeotrope.models.decode import LogitRule


class Permutation(AntidistillationBase):
    """Tilt by s ⊙ (Δ − mean Δ)[π]: permuted over the vocabulary, signs flipped (arXiv 2504.13146, App. A).

    Uses log-probability differences, centered before the signs are flipped: an offset that ADS ignores
    would otherwise become noise. Fresh π and s per row and step. Costs what the back-end costs.
    """

    kind: ClassVar[str] = "permutation"
    summary: ClassVar[str] = "ADS with its penalty shuffled: noise of the same size"
    maturity: ClassVar[Maturity] = Maturity.CONTROL

    @model_validator(mode="after")
    def _unmerged(self) -> Self:
        if self.merged:
            raise ValueError("the permutation is fresh at every step and cannot be merged into the head")
        return self

    def bind(self, bench: Bench) -> LogitRule:
        """Return the rule that tilts by the shuffled Δ."""
        return AntidistillRule(self, self.direction(bench), shuffled=True)
