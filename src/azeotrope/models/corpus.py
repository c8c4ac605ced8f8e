"""What a head edit is learned from: the teacher's own traces as every model involved reads them.

All models are frozen, so each trace is read once; only the edit moves in training. What a model's head reads is
kept, its logits are not: they are V/D times as much, and one matrix product away.

Shapes: N labeled tokens of all traces, V vocabulary, D hidden size (each model's own).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from azeotrope.core.errors import ConfigError
from azeotrope.core.types import Trace
from azeotrope.maths.checks import require_logits
from azeotrope.models.gradients import head_inputs, token_batches
from azeotrope.models.lm import LM, check_pair
from azeotrope.models.reasoning import reasoning_masks
from azeotrope.models.tail import tail

HELD_OUT = 0.25  # share of the traces on which an edit is measured and not trained
LEAST = 4
ROOM = 2**25  # logits held at a time wherever text is gone through in pieces: 134 MB in float32


@dataclass(frozen=True, slots=True)
class View:
    """One model along the traces: what its head reads, row for row, and what it makes of that."""

    hidden_ND: Tensor
    tail: Callable[[Tensor], Tensor]
    size: int  # V

    def logits(self, rows: Tensor | slice) -> Tensor:
        """The logits of some rows, computed anew. [n, V]."""
        return self.tail(self.hidden_ND[rows])


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

    def owners(self, rows_N: Tensor) -> Tensor:
        """The traces to which rows belong. int64 [N]."""
        return torch.bucketize(rows_N, torch.tensor([part.stop for part in self.slices]), right=True)

    def parts(self, chosen: Sequence[int], least: int = 0) -> Iterator[list[int]]:
        """The chosen traces that have rows, in order, as many at a time as fit into `ROOM` or `least` rows."""
        piece, part, rows = max(self.piece, least), list[int](), 0
        for i in chosen:
            length = self.slices[i].stop - self.slices[i].start
            if part and rows + length > piece:
                yield part
                part, rows = [], 0
            if length:
                part.append(i)
                rows += length
        if part:
            yield part

    @property
    def piece(self) -> int:
        """How many rows have logits that fit into `ROOM`."""
        return max(1, ROOM // self.teacher.size)


def read(teacher: LM, others: Sequence[LM], traces: Sequence[Trace], dtype: torch.dtype = torch.float32) -> Corpus:
    """Run all models over the traces; tables are kept in `dtype`.

    Raises ConfigError unless the models share a vocabulary, there are at least 4 traces, and logits are finite and
    made by the head (`tail`).
    """
    for other in others:
        check_pair(teacher, other)
    if len(traces) < LEAST:
        raise ConfigError(f"A head edit needs at least {LEAST} traces to be learned from, not {len(traces)}.")
    models = (teacher, *others)
    parts: list[list[Tensor]] = [[] for _ in models]
    labels: list[Tensor] = []
    slices, start = [], 0
    with torch.no_grad():
        for trace in traces:
            (batch,) = token_batches(teacher, [trace], 1)
            for lm, part in zip(models, parts, strict=True):
                hidden_ND, logits_NV, labels_N = head_inputs(lm, batch)
                require_logits(logits_NV, f"'{lm.ref}' along the teacher's traces")
                part.append(hidden_ND.to(dtype))
            labels.append(labels_N)
            slices.append(slice(start, start + len(labels_N)))
            start += len(labels_N)
    views = [View(torch.cat(part), tail(lm), lm.vocab_size) for lm, part in zip(models, parts, strict=True)]
    masks = reasoning_masks(teacher, traces)
    return Corpus(
        traces=tuple(traces),
        slices=tuple(slices),
        labels_N=torch.cat(labels),
        reasoning_N=torch.tensor([flag for mask in masks for flag in mask], dtype=torch.bool),
        teacher=views[0],
        others=tuple(views[1:]),
    )
