"""What a head edit is learned from: the teacher's own traces as every model involved reads them.

All models are frozen, so each trace is read once; only the edit moves in training.

Shapes: N labeled tokens of all traces, V vocabulary, D hidden size (each model's own).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from azeotrope.core.errors import ConfigError
from azeotrope.core.types import Trace
from azeotrope.maths.checks import require_logits
from azeotrope.models.gradients import head_inputs, token_batches
from azeotrope.models.lm import LM, check_pair
from azeotrope.models.reasoning import reasoning_masks

HELD_OUT = 0.25  # share of the traces on which an edit is measured and not trained
LEAST = 4


@dataclass(frozen=True, slots=True)
class View:
    """One model along the traces: its logits and what its head reads, row for row."""

    logits_NV: Tensor
    hidden_ND: Tensor


@dataclass(frozen=True, slots=True)
class Corpus:
    """The traces, their rows in every table, labels, which tokens are reasoning, and the models' views.

    The first quarter of the traces (one at least) is held out, the rest is trained on.
    """

    traces: tuple[Trace, ...]
    slices: tuple[slice, ...]
    labels_N: Tensor
    reasoning_N: Tensor
    teacher: View
    others: tuple[View, ...]

    @property
    def held_out(self) -> range:
        """The traces that are measured on."""
        return range(max(1, int(HELD_OUT * len(self.traces))))

    @property
    def training(self) -> range:
        """The traces that are trained on."""
        return range(len(self.held_out), len(self.traces))

    def rows(self, chosen: Sequence[int]) -> Tensor:
        """Row numbers of the chosen traces. int64 [n]."""
        return torch.cat([torch.arange(self.slices[i].start, self.slices[i].stop) for i in chosen])


def read(teacher: LM, others: Sequence[LM], traces: Sequence[Trace], dtype: torch.dtype = torch.float32) -> Corpus:
    """Run all models over the traces; tables are kept in `dtype`.

    Raises ConfigError unless the models share a vocabulary, there are at least 4 traces, and logits are finite.
    """
    for other in others:
        check_pair(teacher, other)
    if len(traces) < LEAST:
        raise ConfigError(f"A head edit needs at least {LEAST} traces to be learned from, not {len(traces)}.")
    models = (teacher, *others)
    parts: list[list[tuple[Tensor, Tensor]]] = [[] for _ in models]
    labels: list[Tensor] = []
    slices, start = [], 0
    with torch.no_grad():
        for trace in traces:
            (batch,) = token_batches(teacher, [trace], 1)
            for lm, part in zip(models, parts, strict=True):
                hidden_ND, logits_NV, labels_N = head_inputs(lm, batch)
                part.append((logits_NV.to(dtype), hidden_ND.to(dtype)))
            labels.append(labels_N)
            slices.append(slice(start, start + len(labels_N)))
            start += len(labels_N)
    views = [View(*(torch.cat(column) for column in zip(*part, strict=True))) for part in parts]
    for lm, view in zip(models, views, strict=True):
        require_logits(view.logits_NV, f"'{lm.ref}' along the teacher's traces")
    masks = reasoning_masks(teacher, traces)
    return Corpus(
        traces=tuple(traces),
        slices=tuple(slices),
        labels_N=torch.cat(labels),
        reasoning_N=torch.tensor([flag for mask in masks for flag in mask], dtype=torch.bool),
        teacher=views[0],
        others=tuple(views[1:]),
    )
