"""Which tokens of a trace are its reasoning."""

from __future__ import annotations

from collections.abc import Sequence

from azeotrope.core.types import THINK_CLOSE, THINK_OPEN, Trace, split_answer
from azeotrope.models.gradients import completions
from azeotrope.models.lm import LM


def reasoning_masks(lm: LM, traces: Sequence[Trace]) -> list[list[bool]]:
    """For every token of every completion (as `completions` makes them): does it write reasoning?

    Reasoning is what stands between the think tags; tags, answer span and end of sequence are not. Without a
    closing tag the whole text is reasoning (`split_answer`). A token that reaches over the end of the reasoning
    does not count: the text up to there is tokenized alone, and what both tokenizations share is inside.
    """
    rows = completions(lm, traces)
    spans = [reasoning_span(trace.text) for trace in traces]
    opened = lm.encode_many([trace.text[:start] for trace, (start, _) in zip(traces, spans, strict=True)])
    closed = lm.encode_many([trace.text[:end] for trace, (_, end) in zip(traces, spans, strict=True)])
    masks = []
    for row, before, until in zip(rows, opened, closed, strict=True):
        first, last = _shared(row, before), _shared(row, until)
        masks.append([first <= i < last for i in range(len(row))])
    return masks


def reasoning_span(text: str) -> tuple[int, int]:
    """Character offsets of the reasoning of a completion, without its tags."""
    reasoning, _ = split_answer(text)
    end = len(reasoning) - len(THINK_CLOSE) if reasoning.endswith(THINK_CLOSE) else len(reasoning)
    head = text[:end]
    start = len(head) - len(head.lstrip())
    return (start + len(THINK_OPEN) if head.startswith(THINK_OPEN, start) else 0), end


def _shared(row: Sequence[int], other: Sequence[int]) -> int:
    """The length of the common beginning."""
    n = 0
    while n < min(len(row), len(other)) and row[n] == other[n]:
        n += 1
    return n
