"""Does what is measured of a trained edit say what a student will lose? Rank correlations over edits.

One release is one point: a study that trains the edits of a method again for every draw, at several settings, has
settings × draws of them. Edits of one draw share its students, and those of one setting whatever it does to all
of them, so that points are not independent either way. The interval is the wider of two: jackknives over draws
and over settings of Fisher's z = atanh ρ, with Student's t. It is not adjusted for the number of predictors, and
says nothing about causes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.stats import spearmanr

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
    "n_arms": pl.Int64,
}
METRIC = "student_accuracy"
OF_EDIT = ("held_out", "cmi_change", "kl")
OF_TEACHER = ("teacher_accuracy", "trace_validity")
FEWEST_GROUPS = 3  # of draws or settings; below it, no interval
FEWEST_ARMS = 4  # below it, a difference of two or three settings would pass for a correlation
_EDGE = 1.0 - 1e-9  # ρ = ±1 has no finite z


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
    strength at which it was measured; they must be of `FEWEST_ARMS` settings, and their values differ.
    """
    rows = [row for task, data in tasks.items() for row in _task_rows(plan, task, data, edits)]
    return pl.DataFrame(rows, schema=SCHEMA).fill_nan(None)


def spearman(first: Floats, second: Floats) -> float:
    """Return Spearman's ρ of (N,) and (N,), mean ranks for ties; NaN if either is constant.

    >>> spearman(np.array([1.0, 2.0, 9.0]), np.array([5.0, 4.0, 3.0]))
    -1.0
    """
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(spearmanr(first, second).statistic)


def correlation(
    measure: Floats, loss: Floats, groupings: Sequence[Sequence[object]], confidence: float
) -> tuple[float, float, float]:
    """Return Spearman's ρ of `measure` and `loss` (N,) with bounds, NaN where there are none.

    `groupings` name every point's group, once for each way in which points belong together. The bounds are around
    the estimate itself, not around the jackknife's correction of it.
    """
    rho = spearman(measure, loss)
    halves = [_half_width(measure, loss, np.array(names, dtype=str), confidence) for names in groupings]
    if not np.isfinite([rho, *halves]).all():
        return rho, float("nan"), float("nan")
    z, half = float(np.arctanh(rho)), max(halves)
    return rho, float(np.tanh(z - half)), float(np.tanh(z + half))


def _half_width(measure: Floats, loss: Floats, groups: NDArray[np.str_], confidence: float) -> float:
    """Half the width of the jackknife's interval of atanh ρ over groups; NaN if too few, or perfectly ordered."""
    names = np.unique(groups)
    if len(names) < FEWEST_GROUPS:
        return float("nan")
    kept = [groups != name for name in names]
    values = np.array([spearman(measure, loss), *(spearman(measure[k], loss[k]) for k in kept)])
    if not (np.abs(values) < _EDGE).all():
        return float("nan")
    z = np.arctanh(values)
    found = stats.student_t(stats.pseudo_values(float(z[0]), z[1:]), confidence)
    return (found.high - found.low) / 2


def _task_rows(plan: Plan, task: str, data: TaskData, edits: pl.DataFrame) -> Iterator[Row]:
    points = _points(plan, task, data, edits)
    arms, draws = ([place[k] for place in points.places] for k in (0, 1))
    counts = {"n": len(arms), "n_draws": len(set(draws)), "n_arms": len(set(arms))}
    if counts["n_arms"] < FEWEST_ARMS:
        return
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
                rho, low, high = correlation(values, loss, (draws, arms), plan.study.analysis.confidence)
                if np.isfinite(rho):
                    yield {
                        **{"task": task, "attack": attack, "student": student.family, "predictor": name},
                        **{"rho": rho, "low": low, "high": high, **counts},
                    }


def _points(plan: Plan, task: str, data: TaskData, edits: pl.DataFrame) -> Points:
    whole = {arm.label for arm in plan.expansion.arms if arm.strength == 1.0 and len(arm.settings) == 1}
    rows = list(edits.filter((pl.col("task") == task) & pl.col("arm").is_in(whole)).iter_rows(named=True))
    places = [(row["arm"], row["draw"]) for row in rows]
    alone = [row for row, place in zip(rows, places, strict=True) if places.count(place) == 1]
    kept = tuple((row["arm"], row["draw"]) for row in alone)
    own = {(row["defense"], row["measure"]) for row in alone}
    measures = {name: np.array([row[name] for row in alone], dtype=np.float64) for name in OF_EDIT}
    held_out = measures.pop("held_out")
    if len(own) == 1:  # those of different methods are no common scale, whatever they are called
        measures = {own.pop()[1]: held_out, **measures}
    for name in OF_TEACHER:
        if all(name in data.teachers[arm] for arm in {UNDEFENDED, *(arm for arm, _ in kept)}):
            measures[f"{name} lost"] = np.array([_lost(data, place, name) for place in kept])
    return Points(kept, measures)


def _lost(data: TaskData, place: tuple[str, int], metric: str) -> float:
    arm, draw = place
    before, after = (data.teachers[name][metric][draw] for name in (UNDEFENDED, arm))
    if np.isnan(before).all() or np.isnan(after).all():
        return float("nan")
    return float(np.nanmean(before) - np.nanmean(after))


def _loss(data: TaskData, place: tuple[str, int], attack: str, family: str) -> float:
    arm, draw = place
    before, after = (_right(data.students[name, attack, family], data.draws, draw) for name in (UNDEFENDED, arm))
    return before - after


def _right(cell: Students, draws: int, draw: int) -> float:
    seeds = cell.matrices[METRIC]  # (draw · bases + base, problem)
    bases = len(seeds) // draws
    return float(np.nanmean(seeds[draw * bases : (draw + 1) * bases]))
