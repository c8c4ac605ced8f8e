"""An independent reader: what a trace is worth to somebody who continues from it.

A defense that leaves the answer alone may still spoil the reasoning in between. The reader is another model: it is
given the problem and the beginning of a released trace, goes on by itself, and is graded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from azeotrope.core.sampling import GREEDY
from azeotrope.core.types import THINK_CLOSE, THINK_OPEN, Problem, Trace
from azeotrope.models.lm import LM
from azeotrope.models.sample import generate
from azeotrope.tasks.base import Task
from azeotrope.text.segment import boundaries

SHARES = (1 / 3, 2 / 3, 1.0)  # of the sentences of the reasoning


def reader_accuracy(
    reader: LM,
    task: Task,
    problems: Sequence[Problem],
    traces: Sequence[Trace],
    shares: Sequence[float] = SHARES,
    max_new_tokens: int | None = None,
) -> list[float]:
    """Return, per trace, the share of its prefixes from which the reader reaches the right answer, greedily.

    Prefixes end after `shares` of the sentences of the reasoning (rounded up); the answer is never shown. A trace
    without reasoning leaves the reader alone with the problem.
    """
    begun = [
        (problem, prefix_of(trace.text, share))
        for problem, trace in zip(problems, traces, strict=True)
        for share in shares
    ]
    asked = [replace(problem, prompt=problem.prompt + prefix) for problem, prefix in begun]
    said = generate(reader, asked, task, GREEDY, max_new_tokens=max_new_tokens)
    right = [
        task.grade(problem, prefix + trace.text).correct
        for (problem, prefix), trace in zip(begun, said, strict=True)
    ]
    width = len(shares)
    return [sum(right[i : i + width]) / width for i in range(0, len(right), width)]


def prefix_of(text: str, share: float) -> str:
    """Return the beginning of a trace: `share` of the sentences of its reasoning, without the closing tag.

    What stands after the reasoning is never part of it; a text without a closing tag that does not open one
    either is all answer.

    >>> prefix_of("<think> A is 1. B is 2.</think> The answer is 3.", 0.5)
    '<think> A is 1.'
    >>> prefix_of("The answer is 3.", 1.0)
    ''
    """
    cut = text.rfind(THINK_CLOSE)
    if cut < 0 and not text.startswith(THINK_OPEN):
        return ""
    reasoning = text[:cut] if cut >= 0 else text
    opening = THINK_OPEN if reasoning.startswith(THINK_OPEN) else ""
    body = reasoning[len(opening) :]
    ends = boundaries(body)
    kept = math.ceil(share * len(ends) - 1e-9)
    return opening + (body[: ends[kept - 1]].rstrip() if kept else "")
