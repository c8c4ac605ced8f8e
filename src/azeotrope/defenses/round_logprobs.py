"""Round the log-probabilities that are shown."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from azeotrope.core.methods import E, Maturity, SurfaceDefense
from azeotrope.core.types import Paper


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

    step: float = Field(default=0.1, ge=0, description="width of a step in nats")

    def expose(self, exposure: E) -> E:
        """See `SurfaceDefense.expose`."""
        return exposure.rounded(self.step)
