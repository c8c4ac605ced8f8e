"""From problems to traces: tokenize, decode in lock-step, decode the text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from azeotrope.core.sampling import Sampling
from azeotrope.core.seeds import derive
from azeotrope.core.types import Problem, Trace
from azeotrope.models.decode import LogitRule, decode
from azeotrope.models.lm import LM
from azeotrope.tasks.base import Task


def generate(
    lm: LM,
    problems: Sequence[Problem],
    task: Task,
    sampling: Sampling,
    *,
    seed: int = 0,
    rules: Sequence[LogitRule] = (),
    batch_size: int = 192,
    record: bool = False,
    max_new_tokens: int | None = None,
    prefix: str = "",
    progress: Callable[[int], None] | None = None,
) -> list[Trace]:
    """Sample one trace per problem; a row's seed depends on `seed` and the problem's id only.

    With `prefix`, every completion is made to begin with it; it is part of the trace's text.
    """
    seeds = [derive(seed, "sampling", problem.id) for problem in problems]
    samples = decode(
        lm,
        lm.encode_many([problem.prompt + prefix for problem in problems]),
        seeds,
        sampling,
        rules=rules,
        max_new_tokens=max_new_tokens or task.max_new_tokens,
        batch_size=batch_size,
        record=record,
        progress=progress,
    )
    return [
        Trace(
            problem_id=problem.id,
            prompt=problem.prompt,
            text=prefix + lm.decode(sample.ids),
            seed=row_seed,
            finished=sample.finished,
            n_tokens=len(sample.ids),
            token_ids=sample.ids,
            moved=sample.moved,
        )
        for problem, sample, row_seed in zip(problems, samples, seeds, strict=True)
    ]
