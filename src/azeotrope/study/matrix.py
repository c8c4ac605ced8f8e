"""One moat, many locks: what protecting one capability does to it and to the others."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import polars as pl

from azeotrope.maths import stats
from azeotrope.study.arms import Arm
from azeotrope.study.plan import Plan
from azeotrope.study.resampling import teacher_weights, units, weights_for
from azeotrope.study.tables import TaskData
from azeotrope.study.vocabulary import LEAKAGES, UNDEFENDED

SCHEMA = {
    "task": pl.String,
    "protected": pl.String,
    "arm": pl.String,
    "attack": pl.String,
    "student": pl.String,
    "metric": pl.String,
    "clean": pl.Float64,
    "value": pl.Float64,
    "loss": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "teacher_drop": pl.Float64,
    "teacher_drop_low": pl.Float64,
    "teacher_drop_high": pl.Float64,
    "n": pl.Int64,
    "n_seeds": pl.Int64,
}


def matrix_table(plan: Plan, tasks: Mapping[str, TaskData]) -> pl.DataFrame:
    """One row per measured task, arm with a protected task (`protect`), attack, student family and leakage.

    `loss` is what the student loses against the undefended release by the same attack, `teacher_drop` what the
    teacher's accuracy loses. Empty unless the study has several tasks and arms that name the protected one.
    """
    rows: list[dict[str, object]] = []
    if len(tasks) > 1:
        for task, data in tasks.items():
            for arm in plan.expansion.arms:
                protected = protected_task(arm)
                if protected is not None:
                    rows += _rows(plan, task, data, arm, protected)
    return pl.DataFrame(rows, schema=SCHEMA).fill_nan(None)


def protected_task(arm: Arm) -> str | None:
    """The task whose loss the arm protects by name; None if it protects whatever it is run on."""
    named = {str(settings["protect"]) for settings in arm.settings if settings.get("protect")}
    return named.pop() if len(named) == 1 else None


def _rows(plan: Plan, task: str, data: TaskData, arm: Arm, protected: str) -> Iterator[dict[str, object]]:
    study = plan.study
    for student, attack, metric in itertools.product(study.students, plan.expansion.attacks, LEAKAGES):
        before, after = (data.students[label, attack.label, student.family] for label in (UNDEFENDED, arm.label))
        values = [cell.matrices.get(metric, cell.scalars.get(metric)) for cell in (before, after)]
        clean, value = values
        if clean is None or value is None:
            continue
        weights = weights_for(study, task, student.bases, data.draws, len(data.problems))
        answers = teacher_weights(study, task, len(data.problems), anew=arm.label in data.anew)
        teachers = [data.teachers[label]["teacher_accuracy"] for label in (UNDEFENDED, arm.label)]
        loss = stats.paired_bootstrap(clean, value, weights, study.analysis.confidence)
        drop = stats.paired_bootstrap(teachers[0], teachers[1], answers, study.analysis.confidence)
        yield {
            "task": task,
            "protected": protected,
            "arm": arm.label,
            "attack": attack.label,
            "student": student.family,
            "metric": metric,
            "clean": float(clean.mean()),
            "value": float(value.mean()),
            "loss": loss.difference,
            "low": loss.low,
            "high": loss.high,
            "teacher_drop": drop.difference,
            "teacher_drop_low": drop.low,
            "teacher_drop_high": drop.high,
            "n": after.contents if metric == "recall_hidden" else len(data.problems),
            "n_seeds": units(study, student.bases, data.draws),
        }
