"""Show the token that was said instead of the distribution from which it was drawn."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from azeotrope.core.methods import E, Maturity, SurfaceDefense
from azeotrope.core.types import Paper


class LabelOnly(SurfaceDefense):
    """Show (1 − s)·p + s·e_y, y being the token of the text; at s = 1 no log-probabilities at all.

    Along text that the student wrote itself, y is the student's token: it then hears itself.

    Full strength closes the channel: the floor that other defenses of log-probabilities are compared with.
    """

    kind: ClassVar[str] = "label_only"
    summary: ClassVar[str] = "mix what is shown with the token that was said; at 1 show text only"
    paper: ClassVar[Paper | None] = None
    maturity: ClassVar[Maturity] = Maturity.CONTROL
    dial: ClassVar[str] = "share"
    sweep: ClassVar[tuple[float, ...]] = (0.5, 0.9, 1.0)

    share: float = Field(default=1.0, ge=0, le=1, description="s, weight of the token that was said")

    def expose(self, exposure: E) -> E:
        """See `SurfaceDefense.expose`."""
        return exposure.mixed(self.share) if self.share else exposure
