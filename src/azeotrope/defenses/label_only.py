"""Show the token that was said instead of the distribution from which it was drawn."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

import torch
from pydantic import Field

from azeotrope.core.methods import Maturity
from azeotrope.core.types import Paper
from azeotrope.defenses.base import SurfaceDefense
from azeotrope.models.exposure import Exposure


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

    def expose(self, exposure: Exposure) -> Exposure:
        """See `SurfaceDefense.expose`."""
        if self.share == 0.0:
            return exposure
        if self.share == 1.0:
            return exposure.nothing()
        known_TK, said_T1 = exposure.known_TK, torch.tensor(exposure.tokens, dtype=torch.long)[:, None]
        ids_TK = torch.arange(known_TK.shape[1])[None] if exposure.ids_TK is None else exposure.ids_TK
        label_TK = torch.where(ids_TK == said_T1, math.log(self.share), float("-inf")).to(known_TK)
        return replace(exposure, known_TK=torch.logaddexp(known_TK + math.log1p(-self.share), label_TK))
