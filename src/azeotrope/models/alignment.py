"""Texts cut by two tokenizers: where their tokens end in bytes, and the spans that begin and end together.

Shapes: T student tokens, M chunks, V teacher vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from azeotrope.core.errors import ConfigError
from azeotrope.core.types import Trace
from azeotrope.models.exposure import Exposure

Span = tuple[int, int, int, int]  # first and end token of one side, first and end token of the other
Cutting = Callable[[Sequence[int], Sequence[int]], list[Span]]


@dataclass(frozen=True, slots=True)
class Chunks:
    """A text in chunks that are whole tokens for student and teacher.

    Per chunk: the student's tokens `first_M` to `end_M`, the teacher's log-probabilities at its first token
    `known_MV` (−inf: not shown), and what the teacher gives its other tokens (`rest_M`) and all of them
    (`total_M`), sums of log-probabilities, NaN where one is not shown.
    """

    first_M: Tensor
    end_M: Tensor
    known_MV: Tensor
    rest_M: Tensor
    total_M: Tensor

    def within(self, tokens: int) -> Chunks:
        """Those that end within the first `tokens` tokens of the student."""
        keep_M = self.end_M <= tokens
        return Chunks(*(x[keep_M] for x in (self.first_M, self.end_M, self.known_MV, self.rest_M, self.total_M)))


def byte_ends(tokenizer: Any, text: str, finished: bool) -> tuple[list[int], list[int]]:
    """Token ids of a text and the byte at which each ends; a finished one closes with the end of sequence.

    Tokens inside one character end where the character does. Raises ConfigError if the tokenizer cannot tell.
    """
    try:
        found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    except NotImplementedError:  # what transformers raises for offsets of a slow tokenizer
        raise ConfigError(
            "Matching two tokenizers needs to know where tokens end; use a model with a fast tokenizer."
        ) from None
    sizes = [0, *accumulate(len(character.encode("utf-8", "surrogatepass")) for character in text)]
    ids, ends = list(found["input_ids"]), [sizes[end] for _, end in found["offset_mapping"]]
    if finished:
        ids.append(int(tokenizer.eos_token_id))
        ends.append(sizes[-1] + 1)
    return ids, list(accumulate(ends, max))


def shared_spans(first: Sequence[int], second: Sequence[int]) -> list[Span]:
    """The finest spans that both sides cut alike, from the (non-decreasing) ends of their tokens.

    Linear. Tokens that end where their predecessor ends belong to its span (arXiv 2604.18963, TRL's GOLD).

    >>> shared_spans([1, 3, 4], [3, 4])
    [(0, 2, 0, 1), (2, 3, 1, 2)]
    """
    spans: list[Span] = []
    i = j = begin_i = begin_j = 0
    while i < len(first) and j < len(second):
        if first[i] != second[j]:
            if first[i] < second[j]:
                i += 1
            else:
                j += 1
            continue
        end = first[i]
        while i < len(first) and first[i] == end:
            i += 1
        while j < len(second) and second[j] == end:
            j += 1
        spans.append((begin_i, i, begin_j, j))
        begin_i, begin_j = i, j
    return spans


def by_position(first: Sequence[int], second: Sequence[int]) -> list[Span]:
    """Token against token in order, whatever they say, as far as the shorter side goes."""
    return [(t, t + 1, t, t + 1) for t in range(min(len(first), len(second)))]


def chunks(student: Any, teacher: Any, trace: Trace, shown: Exposure, cut: Cutting, size: int) -> Chunks:
    """Cut one text for a student's and a teacher's tokenizer; `size` is the teacher's vocabulary V.

    Raises ConfigError if the service's tokens are not those of the teacher's tokenizer.
    """
    _, own_ends = byte_ends(student, trace.text, trace.finished)
    ids, ends = byte_ends(teacher, trace.text, trace.finished)
    if tuple(ids) != shown.tokens:
        raise ConfigError("The service cut a text into other tokens than the teacher's public tokenizer does.")
    dense_TV = dense(shown, size)
    said_T = dense_TV.gather(-1, torch.tensor(ids)[:, None])[:, 0] if ids else dense_TV[:, 0]
    said_T = said_T.masked_fill(said_T.isneginf(), float("nan")) if shown.ids_TK is not None else said_T
    spans = cut(own_ends, ends)
    totals = [said_T[c:d].sum() for _, _, c, d in spans]
    rests = [said_T[c + 1 : d].sum() for _, _, c, d in spans]
    return Chunks(
        torch.tensor([a for a, _, _, _ in spans], dtype=torch.long),
        torch.tensor([b for _, b, _, _ in spans], dtype=torch.long),
        dense_TV[torch.tensor([c for _, _, c, _ in spans], dtype=torch.long)],
        torch.stack(rests) if rests else torch.empty(0),
        torch.stack(totals) if totals else torch.empty(0),
    )


def dense(shown: Exposure, size: int) -> Tensor:
    """Log-probabilities over the whole vocabulary, [T, V]; −inf where they are not shown.

    Normalized where rounding made their sum another than 1 (all shown) or more than that (some shown).
    """
    if shown.ids_TK is None:
        return torch.log_softmax(shown.known_TK, -1)
    empty_TV = torch.full((len(shown.tokens), size), float("-inf"))
    if shown.ids_TK.shape[-1] == 0:
        return empty_TV
    unfilled_TK = shown.known_TK.isneginf()
    known_TV = empty_TV.scatter_reduce(
        -1, shown.ids_TK.masked_fill(unfilled_TK, 0), shown.known_TK, "amax", include_self=True
    )
    return known_TV - known_TV.logsumexp(-1, keepdim=True).clamp(min=0.0)


def matched(student: Any, teacher: Any) -> tuple[Tensor, Tensor]:
    """Ids (student's, teacher's) of the tokens that both vocabularies spell alike."""
    ours, theirs = student.get_vocab(), teacher.get_vocab()
    both = sorted(ours.keys() & theirs.keys())
    first, second = (
        torch.tensor([vocabulary[t] for t in both], dtype=torch.long) for vocabulary in (ours, theirs)
    )
    return first, second
