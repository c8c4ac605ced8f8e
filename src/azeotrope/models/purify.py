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
from azeotrope.maths import lowrank
from azeotrope.models.attention import eager_attention
from azeotrope.models.corpus import Corpus
from azeotrope.models.gradients import head_inputs, token_batches
from azeotrope.models.head_training import Objective
from azeotrope.models.learnable import Learnable
from azeotrope.models.lm import LM
from azeotrope.models.stepper import trunk

Layer = Literal["head", "block"]


class Cosine(Objective):
    """cos(g, g') in a layer of the surrogate, which is the corpus's first other model."""

    name = "cosine"
    sign = 1.0

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
        if self.layer == "block":
            return block_cosine(self.surrogate, [corpus.traces[i] for i in chosen], clean_NV, turned_NV)
        return head_cosine(clean_NV, turned_NV, view.hidden_ND[rows_N])


def head_cosine(clean_NV: Tensor, turned_NV: Tensor, hidden_ND: Tensor) -> Tensor:
    """cos(g, g') in the surrogate's head: by the Gram trick where a [V, D] gradient would be the larger one."""
    n, size, width = *clean_NV.shape, hidden_ND.shape[1]
    if n * n < size * width:
        return lowrank.cosine(clean_NV, turned_NV, hidden_ND)
    g, turned = clean_NV.T @ hidden_ND, turned_NV.T @ hidden_ND
    return F.cosine_similarity(g.flatten(), turned.flatten(), dim=0)


def block_cosine(surrogate: LM, traces: Sequence[Trace], clean_NV: Tensor, turned_NV: Tensor) -> Tensor:
    """cos(g, g') in the surrogate's last block; g' = Jᵀu' is linear in the error u', which carries the gradient.

    Raises ConfigError if the model has no list of blocks.
    """
    parameters = list(last_block(surrogate).parameters())
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


def last_block(lm: LM) -> torch.nn.Module:
    """The last transformer block. Raises ConfigError if the model has no list of blocks."""
    for module in trunk(lm).children():
        if isinstance(module, torch.nn.ModuleList) and len(module):
            return module[-1]
    raise ConfigError(f"The model '{lm.ref}' has no list of blocks; use layer: head.")
