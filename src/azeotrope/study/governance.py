"""What transfers: does a student inherit the teacher's governance as completely as its capability?"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import numpy as np
import polars as pl

from azeotrope.maths import stats
from azeotrope.maths.stats import Floats
from azeotrope.study.config import StudentSettings
from azeotrope.study.plan import Plan
from azeotrope.study.resampling import units, weights_for
from azeotrope.study.tables import TaskData, over_draws, over_seeds
from azeotrope.study.vocabulary import UNDEFENDED

MEASURES = ("refusal_consistency", "answer_stability")
CAPABILITY = "student_accuracy"
SCHEMA = {
    "task": pl.String,
    "arm": pl.String,
    "attack": pl.String,
    "student": pl.String,
    "measure": pl.String,
    "teacher": pl.Float64,
    "undistilled": pl.Float64,
    "value": pl.Float64,
    "transfer": pl.Float64,
    "transfer_low": pl.Float64,
    "transfer_high": pl.Float64,
    "capability": pl.Float64,
    "capability_low": pl.Float64,
    "capability_high": pl.Float64,
    "gap": pl.Float64,
    "gap_low": pl.Float64,
    "gap_high": pl.Float64,
    "p": pl.Float64,
    "n": pl.Int64,
    "n_seeds": pl.Int64,
    "status": pl.String,
}


def governance_table(plan: Plan, tasks: Mapping[str, TaskData]) -> pl.DataFrame:
    """One row per task, arm, attack, student family and governance measure.

    transfer = (student − undistilled) / (undefended teacher − undistilled), the share of the teacher's excess
    that the student acquired; `capability` is the same share of accuracy, and `gap` = capability − transfer,
    all paired over students. Where the teacher does not exceed the undistilled student the status says so.
    """
    rows = [row for task, data in tasks.items() for row in _rows(plan, task, data)]
    return pl.DataFrame(rows, schema=SCHEMA).fill_nan(None)


def shares(student: Floats, before: Floats, teacher: Floats) -> Floats:
    """(student − before) / (teacher − before), replicate by replicate; NaN where the teacher has no excess."""
    excess = teacher - before
    return np.divide(student - before, excess, out=np.full_like(excess, np.nan), where=excess > 0)


def _rows(plan: Plan, task: str, data: TaskData) -> Iterator[dict[str, object]]:
    cells = itertools.product(plan.study.students, plan.expansion.arms, plan.expansion.attacks, MEASURES)
    for student, arm, attack, measure in cells:
        found = _replicates(plan, task, data, student, (arm.label, attack.label), measure)
        capable = _replicates(plan, task, data, student, (arm.label, attack.label), CAPABILITY)
        if found is None or capable is None:
            continue
        after, before, teacher = found
        row = {
            "task": task,
            "arm": arm.label,
            "attack": attack.label,
            "student": student.family,
            "measure": measure,
            "teacher": float(teacher[0]),
            "undistilled": float(before[0]),
            "value": float(after[0]),
            "n": data.teachers[UNDEFENDED][f"teacher_{measure}"].shape[1],
            "n_seeds": units(plan.study, student.bases, data.draws),
        }
        yield {
            **row,
            **_gap(shares(*found), shares(*capable), plan.study.analysis.confidence),
            **_constant(data.students[arm.label, attack.label, student.family].matrices[measure], found),
        }


def _gap(governance: Floats, capability: Floats, confidence: float) -> dict[str, object]:
    if not (np.isfinite(governance[0]) and np.isfinite(capability[0])):
        return {"status": "nothing to transfer"}
    out: dict[str, object] = {"status": "ok"}
    for name, draws in (("transfer", governance), ("capability", capability), ("gap", capability - governance)):
        found = stats.from_replicates(draws, n=0, n_seeds=0, confidence=confidence)
        out |= {name: found.difference, f"{name}_low": found.low, f"{name}_high": found.high}
        if name == "gap":
            out["p"] = found.p
    return out


def _constant(values: Floats, found: tuple[Floats, Floats, Floats]) -> dict[str, float]:
    """Wilson bounds of the transfer where all answers of all students are the same (a bootstrap has no width)."""
    if values.min() != values.max() or values[0, 0] not in (0.0, 1.0):
        return {}
    before, teacher = found[1][:1], found[2][:1]
    bound = stats.wilson(values[0, 0] * values.shape[1], values.shape[1])
    low, high = (float(shares(np.array([edge]), before, teacher)[0]) for edge in (bound.low, bound.high))
    return {"transfer_low": low, "transfer_high": high} if np.isfinite(low) else {}


def _replicates(
    plan: Plan, task: str, data: TaskData, student: StudentSettings, cell: tuple[str, str], measure: str
) -> tuple[Floats, Floats, Floats] | None:
    """Replicates of (student, undistilled student, undefended teacher) of a measure, or None."""
    after = data.students[(*cell, student.family)].matrices.get(measure)
    before = data.undistilled[student.family].matrices.get(measure)
    named = "teacher_accuracy" if measure == CAPABILITY else f"teacher_{measure}"
    teacher = data.teachers[UNDEFENDED].get(named)
    if after is None or before is None or teacher is None:
        return None
    weights = weights_for(plan.study, task, student.bases, data.draws, after.shape[1])
    return (
        stats.replicate(after, weights),
        stats.replicate(over_draws(before, data.draws), weights),
        stats.replicate(over_seeds(teacher, len(after)), weights),
    )
