"""One map of the logits whose tokens are dealt anew for every request.

Shapes: B rows, V vocabulary, R rank.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from azeotrope.maths.hashrng import permutations, row_keys
from azeotrope.models.decode import Batch, LogitRule, Session, StepView
from azeotrope.models.head_edit import LogitMap

_READ_STREAM, _WRITTEN_STREAM = 32, 33


class DrawnEditRule(LogitRule):
    """z + P·s·A(B·Q·z), with the permutations P and Q of a row drawn from its seed, whatever the batch."""

    def __init__(self, edit: LogitMap) -> None:
        self.edit = edit

    def open(self, batch: Batch) -> DrawnEdits:
        """See `LogitRule.open`."""
        return DrawnEdits(self.edit, batch.seeds_B)


class DrawnEdits(Session):
    """The maps of the rows of one batch: two permutations a row, no matrix."""

    joins: ClassVar[bool] = True

    def __init__(self, edit: LogitMap, seeds_B: Tensor) -> None:
        size = len(edit.a_VR)
        self.edit = edit
        self.read_BV = permutations(row_keys(seeds_B, _READ_STREAM, 0), size)
        self.written_BV = permutations(row_keys(seeds_B, _WRITTEN_STREAM, 0), size)

    def step(self, view: StepView) -> Tensor:
        """See `Session.step`."""
        return self.shift(view.logits_BV)

    def shift(self, logits_BV: Tensor) -> Tensor:
        """Row b's logits through map b, or (if there is one map) all rows through it. [B, V]."""
        added_BV = self.edit.added(logits_BV.gather(1, self.read_BV.expand_as(logits_BV)))
        return logits_BV + added_BV.gather(1, self.written_BV.expand_as(logits_BV))

    def select(self, rows: Tensor) -> None:
        """See `Session.select`."""
        self.read_BV, self.written_BV = self.read_BV[rows], self.written_BV[rows]

    def join(self, other: Session) -> None:
        """See `Session.join`."""
        assert isinstance(other, DrawnEdits)
        self.read_BV = torch.cat([self.read_BV, other.read_BV])
        self.written_BV = torch.cat([self.written_BV, other.written_BV])
