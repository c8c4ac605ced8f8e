"""Round the log-probabilities that are shown."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator

from azeotrope.core.methods import E, Maturity, SurfaceDefense
from azeotrope.core.types import Paper

FINEST = 1e-6  # nats; below it, rounding divides by what float32 takes for 0


class RoundLogprobs(SurfaceDefense):
    """Show log-probabilities rounded to multiples of `step` nats (0: as they are).

    They need not sum to 1 afterwards, as with services that round. Changes no text.
    """

    kind: ClassVar[str] = "round_logprobs"
    summary: ClassVar[str] = "round the log-probabilities that are shown"
    paper: ClassVar[Paper | None] = None
    maturity: ClassVar[Maturity] = Maturity.EXPERIMENTAL
    dial: ClassVar[str] = "step"
    sweep: ClassVar[tuple[float, ...]] = (0.1, 1.0, 4.0)

    step: float = Field(default=0.1, ge=0, description="width of a step in nats; 0 or at least 1e-6")

    @model_validator(mode="after")
    def _a_float_can_hold_it(self) -> Self:
        if 0 < self.step < FINEST:
            raise ValueError(
                f"log-probabilities are float32, which has no steps of {self.step:g} nats; set step to 0"
            )
        return self

    def expose(self, exposure: E) -> E:
        """See `SurfaceDefense.expose`."""
        return exposure.rounded(self.step)
