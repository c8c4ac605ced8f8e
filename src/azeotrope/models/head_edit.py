"""Edits of an LM head: what purified logits, a trained head and head-only antidistillation have in common.

With z = Wh, a linear map of the logits z' = (E + sAB)z and a shift of the head z' = (W + sΔW)h are both a head
W' = W + s(…). Merged it is a head of the same size; unmerged, O(VR) or one more head multiplication a token.

Shapes: B rows, V vocabulary, D hidden size, R rank.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from azeotrope.core.errors import ConfigError
from azeotrope.maths import lowrank
from azeotrope.models.decode import Batch, LogitRule, Session, StepView
from azeotrope.models.lm import LM
from azeotrope.models.tail import soft_cap, tail


class HeadEdit(ABC):
    """A linear edit of a head; `scale` multiplies it, and 0 is no edit."""

    scale: float

    @abstractmethod
    def change(self, lm: LM) -> Tensor:
        """What is added to the head's weight, [V, D]. Raises ConfigError if the sizes do not fit."""

    @abstractmethod
    def bias(self, lm: LM) -> Tensor | None:
        """What is added to the head's bias, [V], if it has one."""

    @abstractmethod
    def shift(self, logits_BV: Tensor, hidden_BD: Tensor | None, temperature: float) -> Tensor:
        """The edited logits from the unedited ones, which have been divided by `temperature`. [B, V]."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """What has to be stored to have the edit again (without its scale)."""

    @property
    @abstractmethod
    def reads_hidden(self) -> bool:
        """Whether `shift` needs the head's input."""

    @property
    def of_logits(self) -> bool:
        """Whether it maps the logits, and so does not care by what a model multiplies its head's output."""
        return not self.reads_hidden

    @abstractmethod
    def scaled(self, scale: float) -> Self:
        """The same edit at another scale."""


@dataclass(frozen=True, slots=True)
class LogitMap(HeadEdit):
    """z' = z + s·A(Bz), in the gauge B·1 = 0 (arXiv 2602.03396); ΔW = A(BW)."""

    a_VR: Tensor
    b_RV: Tensor
    scale: float = 1.0

    def change(self, lm: LM) -> Tensor:
        """See `HeadEdit.change`."""
        self._fits(lm)
        weight_VD = lm.head.weight.detach()
        found: Tensor = self.scale * (self.a_VR.to(weight_VD) @ (self.b_RV.to(weight_VD) @ weight_VD))
        return found

    def bias(self, lm: LM) -> Tensor | None:
        """See `HeadEdit.bias`."""
        if lm.head.bias is None:
            return None
        bias_V = lm.head.bias.detach()
        found: Tensor = self.scale * (self.a_VR.to(bias_V) @ (self.b_RV.to(bias_V) @ bias_V))
        return found

    def shift(self, logits_BV: Tensor, hidden_BD: Tensor | None, temperature: float) -> Tensor:
        """See `HeadEdit.shift`."""
        return torch.addmm(logits_BV, self._low(logits_BV), self.a_VR.to(logits_BV).T, alpha=self.scale)

    def added(self, logits_BV: Tensor) -> Tensor:
        """What `shift` adds to the logits, s·A(Bz); finite where tokens are masked. [B, V]."""
        found: Tensor = self.scale * (self._low(logits_BV) @ self.a_VR.to(logits_BV).T)
        return found

    def _low(self, logits_BV: Tensor) -> Tensor:
        """Bz. [B, R]."""
        b_RV = self.b_RV.to(logits_BV)
        low_BR = logits_BV @ b_RV.T
        if not torch.isfinite(low_BR).all():  # some tokens are masked: they count as average
            masked_BV = logits_BV.isneginf()
            filled_BV = logits_BV.masked_fill(masked_BV, 0.0)
            mean_B1 = filled_BV.sum(-1, keepdim=True) / (~masked_BV).sum(-1, keepdim=True).clamp(min=1)
            low_BR = torch.where(masked_BV, mean_B1, filled_BV) @ b_RV.T
        return low_BR

    def tensors(self) -> dict[str, Tensor]:
        """See `HeadEdit.tensors`."""
        return {"a_VR": self.a_VR, "b_RV": self.b_RV}

    @property
    def reads_hidden(self) -> bool:
        """See `HeadEdit.reads_hidden`."""
        return False

    def scaled(self, scale: float) -> LogitMap:
        """See `HeadEdit.scaled`."""
        return replace(self, scale=scale)

    def inverse(self) -> LogitMap:
        """The map that undoes this one. Raises ConfigError if it is singular."""
        return LogitMap(lowrank.inverse(self.scale * self.a_VR, self.b_RV), self.b_RV)

    def _fits(self, lm: LM) -> None:
        if self.a_VR.shape[0] != lm.vocab_size:
            raise ConfigError(
                f"A map of {self.a_VR.shape[0]} logits cannot edit '{lm.ref}', "
                f"whose vocabulary has {lm.vocab_size} tokens."
            )


@dataclass(frozen=True, slots=True)
class HeadShift(HeadEdit):
    """z' = (W + s·ΔW)h, any ΔW."""

    delta_VD: Tensor
    scale: float = 1.0

    def change(self, lm: LM) -> Tensor:
        """See `HeadEdit.change`."""
        if self.delta_VD.shape != lm.head.weight.shape:
            raise ConfigError(
                f"A head shift of shape {tuple(self.delta_VD.shape)} does not fit '{lm.ref}', "
                f"whose head is {tuple(lm.head.weight.shape)}."
            )
        return self.scale * self.delta_VD.to(lm.head.weight)

    def bias(self, lm: LM) -> Tensor | None:
        """See `HeadEdit.bias`."""
        return None

    def shift(self, logits_BV: Tensor, hidden_BD: Tensor | None, temperature: float) -> Tensor:
        """See `HeadEdit.shift`."""
        assert hidden_BD is not None
        return torch.addmm(logits_BV, hidden_BD, self.delta_VD.T.to(hidden_BD), alpha=self.scale / temperature)

    def tensors(self) -> dict[str, Tensor]:
        """See `HeadEdit.tensors`."""
        return {"delta_VD": self.delta_VD}

    @property
    def reads_hidden(self) -> bool:
        """See `HeadEdit.reads_hidden`."""
        return True

    def scaled(self, scale: float) -> HeadShift:
        """See `HeadEdit.scaled`."""
        return replace(self, scale=scale)


def edit_of(tensors: Mapping[str, Tensor]) -> HeadEdit:
    """The edit that `HeadEdit.tensors` describes. Raises ConfigError for tensors of no known edit."""
    if set(tensors) == {"a_VR", "b_RV"}:
        return LogitMap(tensors["a_VR"], tensors["b_RV"])
    if set(tensors) == {"delta_VD"}:
        return HeadShift(tensors["delta_VD"])
    raise ConfigError(f"No head edit is made of the tensors {', '.join(sorted(tensors)) or '(none)'}.")


def merged(lm: LM, edit: HeadEdit) -> LM:
    """A copy of the model with the edit folded into its head, untied from the input embedding.

    Raises ConfigError for a model that bends its logits after the head: an edit of them is no edit of the head.
    """
    if soft_cap(lm) is not None:
        raise ConfigError(f"'{lm.ref}' bends its logits after the head, so no edit of them can be folded into it.")
    factor = tail(lm).factor
    model = copy.deepcopy(lm.model)
    edited = LM(model, lm.tokenizer, lm.ref, f"{lm.revision}+edit")
    if model.config.tie_word_embeddings:
        model.config.tie_word_embeddings = False
        edited.head.weight = torch.nn.Parameter(edited.head.weight.detach().clone())
    bias = edit.bias(lm)
    with torch.no_grad():
        edited.head.weight.add_(edit.change(lm) / (1.0 if edit.of_logits else factor))
        if bias is not None:
            edited.head.bias.add_(bias)
    return edited


class EditRule(LogitRule, Session):
    """A head edit at decode time: as another head where that is possible and wanted, else logit by logit."""

    joins: ClassVar[bool] = True

    def __init__(self, edit: HeadEdit, temperature: float, *, merge: bool = True) -> None:
        self.edit, self.temperature, self.merge = edit, temperature, merge
        self.needs_hidden = edit.reads_hidden
        self._head_VD: Tensor | None = None

    def edited_head(self, lm: LM, temperature: float) -> Tensor | None:
        """W + ΔW; see `LogitRule.edited_head`."""
        if not self.merge or self.edit.bias(lm) is not None or soft_cap(lm) is not None:
            return None
        if self._head_VD is None:
            self._head_VD = lm.head.weight.detach() + self.edit.change(lm)
        return self._head_VD

    def open(self, batch: Batch) -> Session:
        """See `LogitRule.open`."""
        return self

    def step(self, view: StepView) -> Tensor:
        """See `Session.step`."""
        return self.edit.shift(view.logits_BV, view.hidden_BD, self.temperature)
