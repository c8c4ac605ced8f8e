"""Distillation across tokenizers: chunks of text that are whole tokens on both sides; a divergence per method.

Shapes: N labeled tokens of a batch, M chunks of a batch, V student and U teacher vocabulary.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from azeotrope.attacks.distill import own_logprob
from azeotrope.attacks.following import Distilling, Following, Source
from azeotrope.attacks.guide import Target
from azeotrope.core.access import Access
from azeotrope.core.types import Trace
from azeotrope.models.alignment import Chunks, Cutting, chunks, matched, shared_spans
from azeotrope.models.exposure import Exposure
from azeotrope.models.lm import LM


@dataclass(frozen=True, slots=True)
class Compared:
    """A batch in chunks, both sides: the teacher's next-token log-probabilities where a chunk begins [M, U], the
    student's [M, V], and the log-probabilities of a chunk's other tokens and of all of them, [M] each. Without
    `whole` the teacher shows only some of its tokens, and the others (−inf) are unknown, not impossible.
    """

    teacher_MU: Tensor
    student_MV: Tensor
    teacher_rest_M: Tensor
    student_rest_M: Tensor
    teacher_total_M: Tensor
    student_total_M: Tensor
    whole: bool = True

    def at(self, told_M: Tensor) -> Compared:
        """Some of the chunks."""
        return Compared(
            self.teacher_MU[told_M],
            self.student_MV[told_M],
            self.teacher_rest_M[told_M],
            self.student_rest_M[told_M],
            self.teacher_total_M[told_M],
            self.student_total_M[told_M],
            self.whole,
        )


class AcrossTokenizers(Distilling):
    """D is the mean over chunks of the subclass's divergence; chunks of which it cannot be told are left out.

    See `Distilling` for the rest of the loss. The teacher's tokenizer is public; tokens are matched by the bytes
    at which they end. Where not all tokens are shown, those that are not are one bucket (or are left out), so that
    the student is not taught that they cannot occur.
    """

    softens: ClassVar[bool] = False
    cut: ClassVar[Cutting] = staticmethod(shared_spans)

    @abstractmethod
    def divergence(self, found: Compared, matched: tuple[Tensor, Tensor]) -> Tensor:
        """D per chunk, [M], NaN where it cannot be told; `matched`: ids (student's, teacher's) spelled alike."""

    def follow(self, lm: LM, source: Source) -> Following:
        """See `Distilling.follow`."""
        return ChunkByChunk(self, lm, source)


class ChunkByChunk(Following):
    """Compares teacher and student at every chunk."""

    def __init__(self, attack: AcrossTokenizers, lm: LM, source: Source) -> None:
        super().__init__(source)
        self.attack, self.teacher = attack, source.service.tokenizer
        self.size = max(
            [1 + max(self.teacher.get_vocab().values())]
            + [e.known_TK.shape[-1] for e in source.targets[:1] if e.ids_TK is None]
        )
        self.matched = matched(lm.tokenizer, self.teacher)
        self.texts: dict[int, Chunks] = {}
        self.own: dict[int, Chunks] = {}
        if self.shown is not Access.TEXT:
            for place, i in enumerate(source.texts):
                self.texts[place] = self._cut(lm, source.traces[i], source.targets[i])

    def _cut(self, lm: LM, trace: Trace, shown: Exposure) -> Chunks:
        return chunks(lm.tokenizer, self.teacher, trace, shown, type(self.attack).cut, self.size)

    def adopt(self, lm: LM, texts: Mapping[int, tuple[Trace, Exposure]]) -> None:
        """See `Following.adopt`."""
        self.own = {place: self._cut(lm, trace, shown) for place, (trace, shown) in texts.items()}

    def distance(self, logits_NV: Tensor, labels_N: Tensor, target: Target) -> Tensor | None:
        """See `Following.distance`."""
        if not self.texts:
            return None
        compared = self.compared(logits_NV, labels_N, target)
        found_M = self.attack.divergence(compared, self.matched)
        told_M = found_M.isfinite()
        if not told_M.any():
            return None
        if not told_M.all():  # 0 times the gradient of what is not finite would not be 0
            found_M = self.attack.divergence(compared.at(told_M), self.matched)
        return found_M.mean()

    def compared(self, logits_NV: Tensor, labels_N: Tensor, target: Target) -> Compared:
        """Both sides of the batch's chunks."""
        parts: list[Chunks] = []
        firsts, owners = [], torch.full_like(labels_N, -1)
        for row, (place, own) in enumerate(zip(target.index_B.tolist(), target.own_B.tolist(), strict=True)):
            where = torch.nonzero(target.rows_N == row)[:, 0]
            start, found = int(where[0]) if len(where) else 0, (self.own if own else self.texts)[place]
            found = found.within(len(where))
            for number, (a, b) in enumerate(zip(found.first_M.tolist(), found.end_M.tolist(), strict=True)):
                owners[start + a : start + b] = number + sum(len(p.first_M) for p in parts)
            parts.append(found)
            firsts.append(start + found.first_M)
        first_M = torch.cat(firsts)
        said_N = own_logprob(logits_NV, labels_N)
        inside_N = owners >= 0
        total_M = said_N.new_zeros(len(first_M)).index_add(0, owners[inside_N], said_N[inside_N])
        return Compared(
            torch.cat([part.known_MV for part in parts]),
            torch.log_softmax(logits_NV[first_M], -1),
            torch.cat([part.rest_M for part in parts]),
            total_M - said_N[first_M],
            torch.cat([part.total_M for part in parts]),
            total_M,
            self.shown is Access.FULL_LOGITS,
        )
