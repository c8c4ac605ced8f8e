"""From step outputs to the tidy tables of a run folder. Always from all stored rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from azeotrope.maths import stats
from azeotrope.maths.stats import Difference, Floats, Interval, Weights
from azeotrope.study.arms import NONE, Arm
from azeotrope.study.config import Study
from azeotrope.study.plan import Plan
from azeotrope.study.resampling import per_unit, teacher_weights, units, weights_for
from azeotrope.study.specs import ATTACK, RELEASE
from azeotrope.study.store import DONE, Store, read_json
from azeotrope.study.tables import Students, TaskData, collect, over_draws, over_seeds
from azeotrope.study.vocabulary import UNDEFENDED

RESULTS = {
    "study": pl.String,
    "task": pl.String,
    "arm": pl.String,
    "defense": pl.String,
    "params": pl.String,
    "strength": pl.Float64,
    "is_control": pl.Boolean,
    "attack": pl.String,
    "student": pl.String,
    "metric": pl.String,
    "value": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "n": pl.Int64,
    "n_seeds": pl.Int64,
    "unit": pl.String,
    "higher_is_better": pl.Boolean,
}
LOSSES = {
    "task": pl.String,
    "arm": pl.String,
    "attack": pl.String,
    "student": pl.String,
    "seed": pl.Int64,
    "step": pl.Int64,
    "split": pl.String,
    "loss": pl.Float64,
}
COSTS = {
    "task": pl.String,
    "arm": pl.String,
    "stage": pl.String,
    "seconds": pl.Float64,
    "tokens": pl.Int64,
    "tokens_per_second": pl.Float64,
    "relative": pl.Float64,
}


@dataclass(frozen=True, slots=True)
class Meaning:
    """A metric's unit, and whether more of it is better *for the teacher's owner* (None: neither)."""

    unit: str
    higher_is_better: bool | None
    share: bool = True  # a mean of values in [0, 1]


METRICS = {
    "teacher_accuracy": Meaning("fraction", True),
    "trace_validity": Meaning("fraction", True),
    "wrong_statements": Meaning("per trace", False, share=False),
    "trace_tokens": Meaning("tokens", None, share=False),
    "teacher_finished": Meaning("fraction", True),
    "reader_accuracy": Meaning("fraction", True),
    "grounding": Meaning("fraction", True),
    "teacher_refusal_consistency": Meaning("fraction", True),
    "teacher_over_refusal": Meaning("fraction", False),
    "teacher_answer_stability": Meaning("fraction", True),
    "teacher_horizon_accuracy": Meaning("fraction", True),
    "student_accuracy": Meaning("fraction", False),
    "student_accuracy_finished": Meaning("fraction", False),
    "student_finished": Meaning("fraction", None),
    "recall_hidden": Meaning("fraction", False),
    "recall_any": Meaning("fraction", False),
    "recall_statement": Meaning("fraction", False),
    "recall_second": Meaning("fraction", False),
    "recall_corrected": Meaning("fraction", False),
    "horizon_accuracy": Meaning("fraction", False),
    "refusal_consistency": Meaning("fraction", None),
    "over_refusal": Meaning("fraction", None),
    "answer_stability": Meaning("fraction", None),
    "s_minus_t": Meaning("difference", False, share=False),
    "gain": Meaning("difference", False, share=False),
    "clean_nll": Meaning("nats/token", True, share=False),
}
UNKNOWN = Meaning("", None, share=False)


def results_table(plan: Plan, tasks: Mapping[str, TaskData]) -> pl.DataFrame:
    """Return one row per (task, arm, attack, student family, metric), intervals included.

    Holds nothing that differs between two runs of the same study (no timings, no dates).
    """
    rows = []
    for task, data in tasks.items():
        for arm in plan.expansion.arms:
            rows += [{"task": task, **_arm(arm), **row} for row in _teacher_rows(plan, task, data, arm)]
            rows += [{"task": task, **_arm(arm), **row} for row in _student_rows(plan, task, data, arm)]
        rows += [{"task": task, **_arm(NONE), **row} for row in _undistilled_rows(plan, task, data)]
    return pl.DataFrame([{"study": plan.study.name, **row} for row in rows], schema=RESULTS).fill_nan(None)


def samples_table(plan: Plan, store: Store) -> pl.DataFrame:
    """Return every graded answer: teacher rows have attack and student "", undistilled rows "undistilled"."""
    found = collect(plan.steps, store, "samples.parquet")
    return found if found is not None else pl.DataFrame()


def losses_table(plan: Plan, store: Store) -> pl.DataFrame:
    """Return the training curves; `seed` numbers (draw, base) pairs as draw · bases + base."""
    frame = collect(plan.of(ATTACK), store, "losses.parquet")
    if frame is None:
        return pl.DataFrame(schema=LOSSES)
    bases = {student.family: student.bases for student in plan.study.students}
    seed = pl.col("draw") * pl.col("student").replace_strict(bases, return_dtype=pl.Int64) + pl.col("base")
    return frame.with_columns(seed=seed).select(pl.col(name).cast(kind) for name, kind in LOSSES.items())


def costs_table(plan: Plan, store: Store) -> pl.DataFrame:
    """Return worker seconds and tokens per (task, arm, stage), summed over draws, attacks and students.

    `relative` is seconds per token over that of the undefended arm: 2.0 is twice as slow per token.
    """
    sums: dict[tuple[str, str, str], tuple[float, int]] = {}
    for step in plan.steps:
        folder = store.folder(step.stage, step.id)
        info = read_json(folder / "info.json")
        seconds = info.get("seconds", read_json(folder / DONE)["seconds"])
        key = (step.task, step.arm or UNDEFENDED, step.stage)
        before = sums.get(key, (0.0, 0))
        sums[key] = (before[0] + float(seconds), before[1] + int(info.get("tokens", 0)))
    rows = []
    for (task, arm, stage), (seconds, tokens) in sums.items():
        base_seconds, base_tokens = sums[task, UNDEFENDED, stage]
        known = tokens and base_tokens and base_seconds
        relative = (seconds / tokens) / (base_seconds / base_tokens) if known else None
        rows.append(
            {
                "task": task,
                "arm": arm,
                "stage": stage,
                "seconds": seconds,
                "tokens": tokens,
                "tokens_per_second": tokens / seconds if seconds else None,
                "relative": relative,
            }
        )
    return pl.DataFrame(rows, schema=COSTS)


def diffs(plan: Plan, store: Store) -> list[dict[str, Any]]:
    """Merge the arms' texts on the same test problems (first draw) for the diff explorer."""
    merged: dict[tuple[str, str], dict[str, Any]] = {}
    for step in plan.of(RELEASE):
        path = store.folder(step.stage, step.id) / "diffs.json"
        if step.draw or not path.exists():
            continue
        for item in read_json(path):
            entry = merged.setdefault(
                (step.task, item["problem_id"]),
                {
                    "task": step.task,
                    "problem_id": item["problem_id"],
                    "prompt": item["prompt"],
                    "gold": item["gold"],
                    "arms": [],
                },
            )
            entry["arms"].append(
                {
                    "arm": step.arm,
                    "text": item["text"],
                    "correct": item["correct"],
                    "tokens": item.get("tokens"),
                    "removed": item.get("removed"),
                }
            )
    return list(merged.values())


def infos(plan: Plan, store: Store) -> list[dict[str, Any]]:
    """Return the info.json of every step, in plan order, with the step's stage, task, arm and draw."""
    return [
        {
            "stage": step.stage,
            "task": step.task,
            "arm": step.arm,
            "attack": step.attack,
            "student": step.student,
            "draw": step.draw,
            "info": read_json(store.folder(step.stage, step.id) / "info.json"),
        }
        for step in plan.steps
    ]


def _teacher_rows(plan: Plan, task: str, data: TaskData, arm: Arm) -> Iterator[dict[str, Any]]:
    for metric, matrix in data.teachers[arm.label].items():
        weights = teacher_weights(plan.study, task, matrix.shape[1], anew=arm.label in data.anew)
        yield _row(metric, _interval(metric, matrix, weights, plan.study.analysis.confidence))


def _student_rows(plan: Plan, task: str, data: TaskData, arm: Arm) -> Iterator[dict[str, Any]]:
    confidence = plan.study.analysis.confidence
    for student in plan.study.students:
        seeds = student.bases * data.draws
        weights = weights_for(plan.study, task, student.bases, data.draws, len(data.problems))
        n_seeds = units(plan.study, student.bases, data.draws)
        before = data.undistilled[student.family].matrices["student_accuracy"]
        teacher = over_seeds(data.teachers[arm.label]["teacher_accuracy"], seeds)
        for attack in plan.expansion.attacks:
            cell = data.students[arm.label, attack.label, student.family]
            names = {"attack": attack.label, "student": student.family}
            for row in _cell_rows(plan.study, task, cell, student.bases, data.draws):
                yield {**names, **row, "n_seeds": n_seeds}
            accuracy = cell.matrices["student_accuracy"]
            for metric, other in (("s_minus_t", teacher), ("gain", over_draws(before, data.draws))):
                gap = stats.paired_bootstrap(accuracy, other, weights, confidence)
                yield {**names, **_row(metric, gap), "n_seeds": n_seeds}


def _undistilled_rows(plan: Plan, task: str, data: TaskData) -> Iterator[dict[str, Any]]:
    for student in plan.study.students:
        cell = data.undistilled[student.family]
        for row in _cell_rows(plan.study, task, cell, student.bases, 1):
            yield {"attack": "undistilled", "student": student.family, **row}


def _cell_rows(study: Study, task: str, cell: Students, bases: int, draws: int) -> Iterator[dict[str, Any]]:
    confidence = study.analysis.confidence
    for metric, matrix in cell.matrices.items():
        weights = weights_for(study, task, bases, draws, matrix.shape[1])
        yield _row(metric, _interval(metric, matrix, weights, confidence))
    for metric, values in cell.scalars.items():
        yield _row(metric, _scalar(metric, per_unit(study, values, bases), cell.contents, confidence))


def _interval(metric: str, matrix: Floats, weights: Weights, confidence: float) -> Interval:
    of = stats.proportion if METRICS.get(metric, UNKNOWN).share else stats.bootstrap
    return of(matrix, weights, confidence)


def _scalar(metric: str, values: Floats, contents: int, confidence: float) -> Interval:
    """A Student-t interval over seeds; shares are clipped, and get Wilson bounds where t has no width."""
    if not metric.startswith("recall_"):
        return stats.student_t(values, confidence)
    found = stats.student_t(values, confidence, n=contents)
    low, high = max(0.0, found.low), min(1.0, found.high)
    if found.n_seeds < 2 or found.value in (0.0, 1.0):
        bound = stats.wilson(found.value * contents, contents, confidence)
        low, high = bound.low, bound.high
    return Interval(value=found.value, low=low, high=high, n=contents, n_seeds=found.n_seeds)


def _row(metric: str, found: Interval | Difference) -> dict[str, Any]:
    value = found.value if isinstance(found, Interval) else found.difference
    meaning = METRICS.get(metric, UNKNOWN)
    low, high = (None if np.isnan(bound) else round(bound, 10) for bound in (found.low, found.high))
    return {
        "metric": metric,
        "value": round(value, 10),
        "low": low,
        "high": high,
        "n": found.n,
        "n_seeds": found.n_seeds,
        "unit": meaning.unit,
        "higher_is_better": meaning.higher_is_better,
    }


def _arm(arm: Arm) -> dict[str, Any]:
    params = list(arm.settings) if len(arm.settings) > 1 else dict(*arm.settings)
    return {
        "arm": arm.label,
        "defense": arm.defense,
        "params": json.dumps(params, sort_keys=True),
        "strength": arm.strength,
        "is_control": arm.is_control,
        "attack": "",
        "student": "",
    }
