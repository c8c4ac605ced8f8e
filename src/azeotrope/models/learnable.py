"""Head edits while they are trained: their parameters, and what they make of the teacher's logits.

Shapes: N tokens, V vocabulary, D hidden size, R rank.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from azeotrope.core.errors import ConfigError
from azeotrope.maths import lowrank
from azeotrope.models.head_edit import HeadEdit, HeadShift, LogitMap
from azeotrope.models.lm import LM, Outline


class Learnable(ABC):
    """Parameters that make an edit. Before the first step every edit is none."""

    parameters: list[Tensor]

    @abstractmethod
    def moved(self, logits_NV: Tensor, hidden_ND: Tensor) -> Tensor:
        """The edited logits, with gradients into the parameters. [N, V]."""

    @abstractmethod
    def edit(self) -> HeadEdit:
        """The edit as it is now, at scale 1."""


class LearnableMap(Learnable):
    """A and B of z + A(Bz), B in its gauge; A ~ N(0, 1/R), B = 0 (arXiv 2602.03396)."""

    def __init__(self, size: int, rank: int, seed: int, dtype: torch.dtype = torch.float32) -> None:
        generator = torch.Generator().manual_seed(seed % 2**63)
        a_VR = torch.randn(size, rank, generator=generator) / math.sqrt(rank)
        self.a_VR = a_VR.to(dtype).requires_grad_()
        self.b_RV = torch.zeros(rank, size, dtype=dtype, requires_grad=True)
        self.parameters = [self.a_VR, self.b_RV]

    def moved(self, logits_NV: Tensor, hidden_ND: Tensor) -> Tensor:
        """See `Learnable.moved`."""
        return lowrank.transform(logits_NV, self.a_VR, lowrank.centered(self.b_RV))

    def edit(self) -> LogitMap:
        """See `Learnable.edit`."""
        return LogitMap(self.a_VR.detach().clone(), lowrank.centered(self.b_RV.detach()).clone())


class LearnableShift(Learnable):
    """ΔW of z + ΔW h; ΔW = 0 at first."""

    def __init__(self, size: int, width: int, dtype: torch.dtype = torch.float32) -> None:
        self.delta_VD = torch.zeros(size, width, dtype=dtype, requires_grad=True)
        self.parameters = [self.delta_VD]

    def moved(self, logits_NV: Tensor, hidden_ND: Tensor) -> Tensor:
        """See `Learnable.moved`."""
        return torch.addmm(logits_NV, hidden_ND, self.delta_VD.T)

    def edit(self) -> HeadShift:
        """See `Learnable.edit`."""
        return HeadShift(self.delta_VD.detach().clone())


def learnable(teacher: LM, rank: int, seed: int, dtype: torch.dtype = torch.float32) -> Learnable:
    """A map of the teacher's logits of the given rank, or for rank 0 a shift of its whole head.

    Raises ConfigError for a rank outside 0 to V.
    """
    size, width = teacher.head.weight.shape
    check_rank(teacher, rank)
    return LearnableMap(size, rank, seed, dtype) if rank else LearnableShift(size, width, dtype)


def check_rank(teacher: LM | Outline, rank: int) -> None:
    """Raise ConfigError for a rank outside 0 to V."""
    if not 0 <= rank <= teacher.vocab_size:
        raise ConfigError(
            f"The rank {rank} of a logit map exceeds the vocabulary of '{teacher.ref}', which has "
            f"{teacher.vocab_size} tokens; lower `rank`."
        )
