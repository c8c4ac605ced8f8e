"""One of several head edits for every request.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from azeotrope.core.errors import ConfigError
from azeotrope.maths.hashrng import row_keys, uniforms
from azeotrope.models.decode import Batch, LogitRule, Session, StepView
from azeotrope.models.head_edit import HeadEdit

_CHOICE_STREAM = 31


class ChosenEditRule(LogitRule, Session):
    """Serves a row through the edit that its seed picks, from its first token to its last, whatever the batch.

    Logit by logit: no single head is the same edit. Raises ConfigError without any edit.
    """

    joins: ClassVar[bool] = True

    def __init__(self, edits: Sequence[HeadEdit], temperature: float) -> None:
        if not edits:
            raise ConfigError("A choice among head edits needs at least one edit.")
        self.edits, self.temperature = tuple(edits), temperature
        self.needs_hidden = any(edit.reads_hidden for edit in edits)

    def choice(self, seeds_B: Tensor) -> Tensor:
        """The number of each row's edit. int64 [B]."""
        u_B = uniforms(row_keys(seeds_B, _CHOICE_STREAM, 0), 1)[:, 0]
        return (u_B * len(self.edits)).long().clamp(max=len(self.edits) - 1)

    def open(self, batch: Batch) -> Session:
        """See `LogitRule.open`."""
        return self

    def step(self, view: StepView) -> Tensor:
        """See `Session.step`."""
        choice_B = self.choice(view.seeds_B)
        out_BV = torch.empty_like(view.logits_BV)
        for i, edit in enumerate(self.edits):
            rows = (choice_B == i).nonzero()[:, 0]
            if len(rows):
                hidden_BD = None if view.hidden_BD is None else view.hidden_BD[rows]
                out_BV[rows] = edit.shift(view.logits_BV[rows], hidden_BD, self.temperature)
        return out_BV
