"""Sessions whose own models walk the same tokens as the teacher.

Shapes: B rows.
"""

from __future__ import annotations

from torch import Tensor

from azeotrope.models.decode import Batch, Session, StepView
from azeotrope.models.stepper import StepOut, Stepper


class WalkingSession(Session):
    """Keeps `steppers` in step with the batch: moves them, drops finished rows, releases their caches."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.steppers: list[Stepper] = []

    def walk(self, stepper: Stepper, view: StepView) -> StepOut:
        """Move a model by the tokens drawn last; at the first step it reads the prompts."""
        if view.tokens_B is None:
            return stepper.prefill(self.batch.prompts)
        return stepper.advance(view.tokens_B)

    def select(self, rows: Tensor) -> None:
        """See `Session.select`."""
        for stepper in self.steppers:
            stepper.select(rows)

    def join(self, other: Session) -> None:
        """See `Session.join`."""
        assert isinstance(other, WalkingSession)
        for mine, theirs in zip(self.steppers, other.steppers, strict=True):
            mine.join(theirs)

    def close(self) -> None:
        """See `Session.close`."""
        for stepper in self.steppers:
            stepper.close()
