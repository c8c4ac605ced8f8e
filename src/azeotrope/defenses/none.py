"""No defense: the reference every curve starts from."""

from __future__ import annotations

from typing import ClassVar

from azeotrope.core.methods import Maturity, Stage, TraceDefense
from azeotrope.core.types import Trace


class NoDefense(TraceDefense):
    """Release what the teacher says. It has no dial."""

    kind: ClassVar[str] = "none"
    summary: ClassVar[str] = "the undefended teacher"
    maturity: ClassVar[Maturity] = Maturity.CONTROL
    stage: ClassVar[Stage] = Stage.TRACE
    dial: ClassVar[str] = ""

    def rewrite(self, trace: Trace, rng: object) -> Trace:
        """Return the trace unchanged."""
        return trace
