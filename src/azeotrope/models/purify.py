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

from azeotrope.core.errors import ConfigError
from azeotrope.core.types import Trace
from azeotrope.maths import cmi, lowrank
from azeotrope.maths.cmi import Rows
from azeotrope.models.attention import eager_attention
from azeotrope.models.corpus import Corpus
from azeotrope.models.gradients import head_inputs, token_batches
from azeotrope.models.head_training import Measure, Objective
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
        view = self.corpus.others[0]
        clean_NV, turned_NV = self._errors(rows_N, moved_NV)
        if self.layer == "head":
            return head_cosine(clean_NV, turned_NV, view.hidden_ND[rows_N])
        return cosine(*self._gradients(chosen, rows_N, clean_NV, turned_NV))

    @torch.no_grad()
    def held_out(self, chosen: Sequence[int], moved: Rows) -> float:
        """See `Objective.held_out`: the cosine of two sums over all pieces, not a mean of cosines."""
        parts = self.parts(chosen)
        if len(parts) > 1:
            return float(cosine(*self._sums(parts, moved)))
        rows_N = self.corpus.rows(chosen)
        return float(self.measure(chosen, rows_N, moved(rows_N)))

    def parts(self, chosen: Sequence[int]) -> list[list[int]]:
        """See `Objective.parts`. Logits of fewer than D/2 rows are smaller than the gradients parts add up to."""
        width = self.corpus.others[0].hidden_ND.shape[1]
        return list(self.corpus.parts(chosen, least=width // 2))

    def shares(self, parts: Sequence[Sequence[int]]) -> Measure:
        """See `Objective.shares`. To first order, a part with gradient g'_p adds ⟨∂cos/∂g', g'_p⟩.

        That adds up to 0 (a cosine does not depend on lengths), so a part gets its share of the value as well.
        """
        if len(parts) == 1:
            return self.measure
        with torch.no_grad():
            g, turned = self._sums(parts, self.moved)
        with torch.enable_grad():
            value = cosine(g, turned.requires_grad_())
            (slope,) = torch.autograd.grad(value, turned)
        tokens = sum(len(self.corpus.rows(part)) for part in parts)

        def share(part: Sequence[int], rows_N: Tensor, moved_NV: Tensor) -> Tensor:
            clean_NV, turned_NV = self._errors(rows_N, moved_NV)
            if self.layer == "head":
                hidden_ND = self.corpus.others[0].hidden_ND[rows_N]
                added = (turned_NV * (hidden_ND @ slope.view(-1, hidden_ND.shape[1]).T)).sum()
            else:
                added = slope @ self._gradients(part, rows_N, clean_NV, turned_NV)[1]
            return added + value.detach() * (len(rows_N) / tokens)

        return share

    def _sums(self, parts: Sequence[Sequence[int]], moved: Rows) -> tuple[Tensor, Tensor]:
        """g and g' of all parts together, flat."""
        sums: list[Tensor] = []
        for part in parts:
            rows_N = self.corpus.rows(part)
            found = self._gradients(part, rows_N, *self._errors(rows_N, moved(rows_N)))
            sums = [one.add_(other) for one, other in zip(sums, found, strict=True)] if sums else list(found)
        return sums[0], sums[1]

    def _errors(self, rows_N: Tensor, moved_NV: Tensor) -> tuple[Tensor, Tensor]:
        """What the teacher's logits, and the edited ones, have the surrogate change in its own. [N, V] each."""
        student_NV, labels_N = self.corpus.others[0].logits(rows_N), self.corpus.labels_N[rows_N]
        targets = (self.corpus.teacher.logits(rows_N), moved_NV)
        clean_NV, turned_NV = (lowrank.error_of(student_NV, z_NV, labels_N, self.alpha) for z_NV in targets)
        return clean_NV, turned_NV

    def _gradients(
        self, chosen: Sequence[int], rows_N: Tensor, clean_NV: Tensor, turned_NV: Tensor
    ) -> tuple[Tensor, Tensor]:
        """g and g' of some traces, flat."""
        if self.layer == "head":
            return head_gradients(clean_NV, turned_NV, self.corpus.others[0].hidden_ND[rows_N])
        traces, number = [self.corpus.traces[i] for i in chosen], -1 if self.layer == "block" else self.layer
        return block_gradients(self.surrogate, traces, clean_NV, turned_NV, number)


def cosine(g: Tensor, turned: Tensor) -> Tensor:
    """cos(g, g') of flat gradients; 0 if one is 0.

    By sums, which torch adds in pairs: its cosine_similarity adds squares one by one, and is off by 0.3 % at the
    size of SmolLM-135M's head, by percents at that of a 7 B model's.
    """
    one, other = ((x * x).sum().clamp(min=1e-30).sqrt() for x in (g, turned))
    return (g * turned).sum() / (one * other)


def head_cosine(clean_NV: Tensor, turned_NV: Tensor, hidden_ND: Tensor) -> Tensor:
    """cos(g, g') in the surrogate's head: by the Gram trick where a [V, D] gradient would be the larger one."""
    n, size, width = *clean_NV.shape, hidden_ND.shape[1]
    if n * n < size * width:
        return lowrank.cosine(clean_NV, turned_NV, hidden_ND)
    return cosine(*head_gradients(clean_NV, turned_NV, hidden_ND))


def head_gradients(clean_NV: Tensor, turned_NV: Tensor, hidden_ND: Tensor) -> tuple[Tensor, Tensor]:
    """g and g' in the surrogate's head, flat."""
    return (clean_NV.T @ hidden_ND).flatten(), (turned_NV.T @ hidden_ND).flatten()


def block_gradients(
    surrogate: LM, traces: Sequence[Trace], clean_NV: Tensor, turned_NV: Tensor, number: int = -1
) -> tuple[Tensor, Tensor]:
    """g and g' in a block of the surrogate, flat; g' = Jᵀu' is linear in the error u', which carries the gradient.

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
    return g, other


def block(lm: LM, number: int) -> torch.nn.Module:
    """A transformer block by its number (−1: the last). Raises ConfigError if there is none of that number."""
    for module in trunk(lm).children():
        if isinstance(module, torch.nn.ModuleList) and len(module):
            check_block(lm.ref, len(module), number)
            return module[number]
    raise ConfigError(f"The model '{lm.ref}' has no list of blocks; use layer: head.")


def check_block(ref: str, blocks: int, number: int) -> None:
    """Raise ConfigError unless a model of so many blocks has one of this number."""
    if number >= blocks:
        raise ConfigError(f"The model '{ref}' has {blocks} blocks, numbered from 0; there is no layer {number}.")
