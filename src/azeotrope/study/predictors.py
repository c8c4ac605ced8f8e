"""Does what is measured of a trained edit say what a student will lose? Rank correlations over edits.

One release is one point: a study that trains the edits of a method again for every draw, at several settings, has
settings × draws of them. Edits of one draw share its students, so the draw is the unit of the interval: a
jackknife over draws of Fisher's z = atanh ρ, with Student's t. It says nothing about causes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy.stats import rankdata

from azeotrope.maths import stats
from azeotrope.maths.stats import Floats
from azeotrope.study.plan import Plan
from azeotrope.study.tables import Students, TaskData
from azeotrope.study.vocabulary import UNDEFENDED

Row = dict[str, object]
SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "task": pl.String,
    "attack": pl.String,
    "student": pl.String,
    "predictor": pl.String,
    "rho": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "n": pl.Int64,
    "n_draws": pl.Int64,
}
METRIC = "student_accuracy"
OF_EDIT = ("held_out", "cmi_change", "kl")
OF_TEACHER = ("teacher_accuracy", "trace_validity")
FEWEST_DRAWS = 3  # below it, no interval
_EDGE = 1e-6  # ρ = ±1 has no finite z


@dataclass(frozen=True, slots=True)
class Points:
    """Releases of one task with one edit each: (arm, draw), and their measures (N,) by predictor."""

    places: tuple[tuple[str, int], ...]
    measures: dict[str, Floats]


def predictors_table(plan: Plan, tasks: Mapping[str, TaskData], edits: pl.DataFrame) -> pl.DataFrame:
    """One row per task, attack, family of students and predictor: Spearman's ρ with what students lose.

    The loss of a draw's students is their accuracy after the undefended release minus that after the defended one.
    Predictors are the method's own measure on held-out text ("cosine", ...), the change in CMI, the divergence
    from the teacher (nats), what the teacher loses of accuracy and of valid steps ("... lost"), and what the
    students of each other attack lose ("loss by ..."). Releases count whose edit is served alone and at the
    strength at which it was measured; at least four are needed, and values that differ.
    """
    rows = [row for task, data in tasks.items() for row in _task_rows(plan, task, data, edits)]
    return pl.DataFrame(rows, schema=SCHEMA).fill_nan(None)


def spearman(first: Floats, second: Floats) -> float:
    """Return Spearman's ρ of (N,) and (N,), mean ranks for ties; NaN if either is constant.

    >>> spearman(np.array([1.0, 2.0, 9.0]), np.array([5.0, 4.0, 3.0]))
    -1.0
    """
    a, b = (rankdata(values) - (len(values) + 1) / 2 for values in (first, second))
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(np.clip((a @ b) / scale, -1.0, 1.0)) if scale else float("nan")


def correlation(measure: Floats, loss: Floats, draws: Floats, confidence: float) -> tuple[float, float, float]:
    """Return ρ of `measure` and `loss` (N,) with its jackknife bounds over `draws` (N,), NaN if there are none."""
    rho = spearman(measure, loss)
    names = np.unique(draws)
    if len(names) < FEWEST_DRAWS:
        return rho, float("nan"), float("nan")
    without = np.array([spearman(measure[draws != one], loss[draws != one]) for one in names])
    whole, others = (np.arctanh(np.clip(value, _EDGE - 1, 1 - _EDGE)) for value in (rho, without))
    found = stats.student_t(stats.pseudo_values(float(whole), others), confidence)
    if found.n_seeds < len(names):  # a draw without which nothing varies
        return rho, float("nan"), float("nan")
    half = (found.high - found.low) / 2  # around the estimate itself, not the jackknife's correction of it
    return rho, float(np.tanh(whole - half)), float(np.tanh(whole + half))


def _task_rows(plan: Plan, task: str, data: TaskData, edits: pl.DataFrame) -> Iterator[Row]:
    points = _points(plan, task, data, edits)
    if len(points.places) < 4:
        return
    draws = np.array([draw for _, draw in points.places])
    for student in plan.study.students:
        losses = {
            attack.label: np.array([_loss(data, place, attack.label, student.family) for place in points.places])
            for attack in plan.expansion.attacks
        }
        for attack, loss in losses.items():
            others = {f"loss by {name}": values for name, values in losses.items() if name != attack}
            for name, values in {**points.measures, **others}.items():
                if not (np.isfinite(values).all() and np.isfinite(loss).all()):
                    continue
                rho, low, high = correlation(values, loss, draws, plan.study.analysis.confidence)
                if np.isfinite(rho):
                    yield {
                        **{"task": task, "attack": attack, "student": student.family, "predictor": name},
                        **{"rho": rho, "low": low, "high": high},
                        **{"n": len(values), "n_draws": len(np.unique(draws))},
                    }


def _points(plan: Plan, task: str, data: TaskData, edits: pl.DataFrame) -> Points:
    whole = {arm.label for arm in plan.expansion.arms if arm.strength == 1.0 and len(arm.settings) == 1}
    rows = list(edits.filter((pl.col("task") == task) & pl.col("arm").is_in(whole)).iter_rows(named=True))
    places = [(row["arm"], row["draw"]) for row in rows]
    alone = [row for row, place in zip(rows, places, strict=True) if places.count(place) == 1]
    kept = tuple((row["arm"], row["draw"]) for row in alone)
    own = {row["measure"] for row in alone}
    measures = {name: np.array([row[name] for row in alone], dtype=np.float64) for name in OF_EDIT}
    if len(own) == 1:
        measures = {own.pop() if name == "held_out" else name: values for name, values in measures.items()}
    else:
        del measures["held_out"]  # measures of different methods are no common scale
    for name in OF_TEACHER:
        if kept and name in data.teachers[UNDEFENDED]:
            measures[f"{name} lost"] = np.array([_lost(data, place, name) for place in kept])
    return Points(kept, measures)


def _lost(data: TaskData, place: tuple[str, int], metric: str) -> float:
    arm, draw = place
    return float(
        np.nanmean(data.teachers[UNDEFENDED][metric][draw]) - np.nanmean(data.teachers[arm][metric][draw])
    )


def _loss(data: TaskData, place: tuple[str, int], attack: str, family: str) -> float:
    arm, draw = place
    before, after = (_right(data.students[name, attack, family], data.draws, draw) for name in (UNDEFENDED, arm))
    return before - after


def _right(cell: Students, draws: int, draw: int) -> float:
    seeds = cell.matrices[METRIC]  # (draw · bases + base, problem)
    bases = len(seeds) // draws
    return float(np.nanmean(seeds[draw * bases : (draw + 1) * bases]))
