"""Temperature: the control every antidistillation curve must beat."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from azeotrope.core.methods import Maturity
from azeotrope.core.types import Paper
from azeotrope.defenses.base import Bench, LogitDefense
from azeotrope.models.decode import Batch, LogitRule, Session, StepView


class Temperature(LogitDefense):
    """Divide the logits by 1 + `heat`, on top of the base temperature (arXiv 2504.13146, baseline).

    With base temperature τ the release is sampled at τ·(1 + heat). Costs nothing; assumes nothing.
    """

    kind: ClassVar[str] = "temperature"
    summary: ClassVar[str] = "sample hotter: noise without direction"
    paper: ClassVar[Paper | None] = Paper(
        id="2504.13146", title="Antidistillation Sampling", equations=("baseline",)
    )
    maturity: ClassVar[Maturity] = Maturity.CONTROL
    dial: ClassVar[str] = "heat"
    sweep: ClassVar[tuple[float, ...]] = (0.5, 0.8, 1.2)

    heat: float = Field(default=0.5, ge=0, description="relative rise of the sampling temperature")

    def bind(self, bench: Bench) -> LogitRule:
        """No models, no data."""
        return _Rule(1.0 + self.heat)


class _Rule(LogitRule, Session):
    """Stateless: its own session."""

    joins: ClassVar[bool] = True

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def open(self, batch: Batch) -> Session:
        return self

    def step(self, view: StepView) -> Tensor:
        return view.logits_BV / self.factor
