"""Purified logits: an edit whose logits give a surrogate student another gradient (arXiv 2602.03396).

The measure is cos(g, g'): g is the gradient of the distillation loss (1 − α)·CE + α·KL in the surrogate for the
teacher's logits, g' the same for the edited ones. Training lowers it.

Shapes: N labeled tokens, V vocabulary, D hidden size of the surrogate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from azeotrope.core.errors import ConfigError
from azeotrope.core.types import Trace
from azeotrope.maths import cmi, lowrank
from azeotrope.models.attention import eager_attention
from azeotrope.models.corpus import Corpus
from azeotrope.models.gradients import head_inputs, token_batches
from azeotrope.models.head_training import Objective
from azeotrope.models.learnable import Learnable
from azeotrope.models.lm import LM
from azeotrope.models.stepper import trunk

Layer = Literal["head", "block"] | int  # the last block, or one by its number


class Cosine(Objective):
    """cos(g, g') in a layer of the surrogate, which is the corpus's first other model."""

    name = "cosine"
    sign = 1.0
    temperatures = cmi.TEMPERATURES

    def __init__(
        self, corpus: Corpus, head: Learnable, surrogate: LM, *, alpha: float = 0.5, layer: Layer = "head"
    ) -> None:
        super().__init__(corpus, head)
        self.surrogate, self.alpha, self.layer = surrogate, alpha, layer

    def measure(self, chosen: Sequence[int], rows_N: Tensor, moved_NV: Tensor) -> Tensor:
        """See `Objective.measure`."""
        corpus, view = self.corpus, self.corpus.others[0]
        z_NV, labels_N = corpus.teacher.logits_NV[rows_N], corpus.labels_N[rows_N]
        student_NV = view.logits_NV[rows_N]
        clean_NV, turned_NV = (
            lowrank.error_of(student_NV, target_NV, labels_N, self.alpha) for target_NV in (z_NV, moved_NV)
        )
        if self.layer != "head":
            traces, number = [corpus.traces[i] for i in chosen], -1 if self.layer == "block" else self.layer
            return block_cosine(self.surrogate, traces, clean_NV, turned_NV, number)
        return head_cosine(clean_NV, turned_NV, view.hidden_ND[rows_N])


def head_cosine(clean_NV: Tensor, turned_NV: Tensor, hidden_ND: Tensor) -> Tensor:
    """cos(g, g') in the surrogate's head: by the Gram trick where a [V, D] gradient would be the larger one."""
    n, size, width = *clean_NV.shape, hidden_ND.shape[1]
    if n * n < size * width:
        return lowrank.cosine(clean_NV, turned_NV, hidden_ND)
    g, turned = clean_NV.T @ hidden_ND, turned_NV.T @ hidden_ND
    return F.cosine_similarity(g.flatten(), turned.flatten(), dim=0)


def block_cosine(
    surrogate: LM, traces: Sequence[Trace], clean_NV: Tensor, turned_NV: Tensor, number: int = -1
) -> Tensor:
    """cos(g, g') in a block of the surrogate; g' = Jᵀu' is linear in the error u', which carries the gradient.

    Raises ConfigError as `block` does.
    """
    parameters = list(block(surrogate, number).parameters())
    with torch.enable_grad(), eager_attention(surrogate):
        rows = [
            head_inputs(surrogate, batch)[1] for trace in traces for batch in token_batches(surrogate, [trace], 1)
        ]
        logits_NV = torch.cat(rows)
        first_NV, second_NV = (error.to(logits_NV.dtype) for error in (clean_NV, turned_NV))
        clean = torch.autograd.grad(logits_NV, parameters, first_NV, retain_graph=True)
        turned = torch.autograd.grad(logits_NV, parameters, second_NV, create_graph=turned_NV.requires_grad)
    g, other = (torch.cat([part.flatten() for part in found]) for found in (clean, turned))
    return F.cosine_similarity(g, other, dim=0)


def block(lm: LM, number: int) -> torch.nn.Module:
    """A transformer block by its number (−1: the last). Raises ConfigError if there is none of that number."""
    for module in trunk(lm).children():
        if isinstance(module, torch.nn.ModuleList) and len(module):
            if number >= len(module):
                raise ConfigError(
                    f"The model '{lm.ref}' has {len(module)} blocks, numbered from 0; there is no layer {number}."
                )
            return module[number]
    raise ConfigError(f"The model '{lm.ref}' has no list of blocks; use layer: head.")
