"""Measuring teachers and students: every row that the tables of a study are computed from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from azeotrope.core.sampling import GREEDY
from azeotrope.core.seeds import derive
from azeotrope.core.types import Problem, Trace
from azeotrope.models.conduct import Answer, Observation, conduct
from azeotrope.models.gradients import nll
from azeotrope.models.lm import LM
from azeotrope.models.reader import reader_accuracy
from azeotrope.models.sample import generate
from azeotrope.models.scoring import TraceScore, recall, score_traces
from azeotrope.study.config import Evaluation
from azeotrope.study.store import write_parquet
from azeotrope.tasks.base import Task

TOKEN_CHARACTERS = 4.0
EMBEDDED_READER = "embedded/student-neox-4"
MEASURES = {"base": pl.Int64, "metric": pl.String, "item": pl.String, "value": pl.Float64}


def test_problems(task: Task, seed: int, evaluation: Evaluation) -> list[Problem]:
    """The test problems of a study: the same for every arm, draw and student."""
    return task.problems("test", evaluation.problems, derive(seed, "test"))


def reader_of(teacher: str, evaluation: Evaluation) -> str | None:
    """The model that continues from trace prefixes; None where the study names none and none is known."""
    return evaluation.reader or (EMBEDDED_READER if teacher.startswith("embedded/") else None)


def token_limit(lm: LM, task: Task, evaluation: Evaluation, prompts: Sequence[str]) -> int:
    """The student's token limit: the task's, stretched where its tokenizer cuts finer than 4 characters a token.

    Otherwise a student with another tokenizer would be cut off earlier than its fellows.
    """
    limit = evaluation.max_new_tokens or task.max_new_tokens
    tokens, characters = sum(map(len, lm.encode_many(list(prompts)))), sum(map(len, prompts))
    return int(limit * max(1.0, TOKEN_CHARACTERS * tokens / max(1, characters)))


def measure_teacher(
    task: Task,
    tests: Sequence[Problem],
    shown: Sequence[Trace],
    answer: Answer,
    *,
    reader: LM | None,
    evaluation: Evaluation,
    seed: int,
    out: Path,
) -> list[TraceScore]:
    """Write samples and measures of a defended teacher; `shown` are its replies to `tests`, as released."""
    scores = score_traces(task, tests, shown)
    frame = pl.DataFrame([asdict(score) for score in scores], infer_schema_length=None)
    if reader is not None:
        limit = token_limit(reader, task, evaluation, [p.prompt for p in tests[:50]])
        read = reader_accuracy(reader, task, tests, shown, max_new_tokens=limit)
        frame = frame.with_columns(reader_correct=pl.Series(read, dtype=pl.Float64))
    write_parquet(frame, out / "samples.parquet")
    found = conduct(task, answer, tests, shown, evaluation.conduct, derive(seed, "conduct"))
    _write_measures([(0, found)], out)
    return scores


def measure_students(
    students: Sequence[LM],
    task: Task,
    seed: int,
    evaluation: Evaluation,
    clean: Sequence[Trace],
    out: Path,
) -> int:
    """Write samples, probes, metrics and measures of students; return the tokens generated."""
    tests = test_problems(task, seed, evaluation)
    probes = task.probes()
    samples: list[dict[str, Any]] = []
    recalls: list[dict[str, Any]] = []
    metrics: list[dict[str, Any]] = []
    measures: list[tuple[int, list[Observation]]] = []
    for base, lm in enumerate(students):
        limit = token_limit(lm, task, evaluation, [p.prompt for p in tests[:50]])
        traces = generate(lm, tests, task, GREEDY, max_new_tokens=limit)
        for score in score_traces(task, tests, traces):
            row = asdict(score)
            samples.append(
                {"base": base, **{k: row[k] for k in ("problem_id", "correct", "finished", "n_tokens")}}
            )
        recalls += [
            {"base": base, **{**asdict(found), "recalled": float(found.recalled)}} for found in recall(lm, probes)
        ]
        if clean:
            metrics.append({"base": base, "metric": "clean_nll", "value": nll(lm, clean)})
        answer = _greedy(lm, task, limit)
        measures.append((base, conduct(task, answer, tests, traces, evaluation.conduct, derive(seed, "conduct"))))
    write_parquet(pl.DataFrame(samples), out / "samples.parquet")
    if recalls:
        write_parquet(pl.DataFrame(recalls), out / "probes.parquet")
    if metrics:
        write_parquet(pl.DataFrame(metrics), out / "metrics.parquet")
    _write_measures(measures, out)
    return sum(int(s["n_tokens"]) for s in samples)


def _greedy(lm: LM, task: Task, limit: int) -> Answer:
    def answer(problems: Sequence[Problem]) -> list[Trace]:
        return generate(lm, problems, task, GREEDY, max_new_tokens=limit)

    return answer


def _write_measures(found: Sequence[tuple[int, Sequence[Observation]]], out: Path) -> None:
    rows = [{"base": base, **asdict(item)} for base, items in found for item in items]
    if rows:
        write_parquet(pl.DataFrame(rows, schema=MEASURES), out / "measures.parquet")
