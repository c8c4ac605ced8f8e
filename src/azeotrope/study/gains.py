"""Defenses against attacks: what students gain under each pair, as a share of the best undefended gain.

Replicates are arrays (R,) whose entry 0 is the estimate. gain = students after an attack − the same students
before any. retained = gain / the best undefended gain over attacks. A cell's interval keeps both attacks: that of
the cell, and the one that is best without a defense. The interval of an arm's worst case chooses both anew in
every replicate, as the rule `withstands` does. Choosing on one side only would lean: a maximum in the denominator
alone, re-chosen, makes every defense look better than its estimate. A share of a recall, which has one number a
student, has no interval below three seeds: two that happen to agree would make it as narrow as one likes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from azeotrope.maths import stats
from azeotrope.maths.stats import Floats, Weights
from azeotrope.study.config import StudentSettings
from azeotrope.study.plan import Plan
from azeotrope.study.resampling import teacher_weights, units, weights_for
from azeotrope.study.tables import Students, TaskData, over_draws
from azeotrope.study.utility import kept
from azeotrope.study.vocabulary import LEAKAGES, UNDEFENDED, is_control

TEACHER = "teacher_accuracy"
OK = "ok"
NOTHING = "nothing gained"  # no attack is shown to gain anything without a defense, so there is no share
UNSTARTED = "no undistilled student"  # the measure is missing before any attack
UNREFERRED = "undefended not measured"
UNMEASURED = "not measured"  # this pair lacks the measure
SCHEMA = {
    "task": pl.String,
    "arm": pl.String,
    "attack": pl.String,
    "access": pl.String,
    "student": pl.String,
    "metric": pl.String,
    "undistilled": pl.Float64,
    "best": pl.Float64,
    "best_attack": pl.String,
    "value": pl.Float64,
    "gain": pl.Float64,
    "gain_low": pl.Float64,
    "gain_high": pl.Float64,
    "retained": pl.Float64,
    "retained_low": pl.Float64,
    "retained_high": pl.Float64,
    "worst": pl.Boolean,
    "worst_low": pl.Float64,
    "worst_high": pl.Float64,
    "teacher_accuracy": pl.Float64,
    "teacher_drop": pl.Float64,
    "teacher_drop_low": pl.Float64,
    "teacher_drop_high": pl.Float64,
    "n": pl.Int64,
    "n_seeds": pl.Int64,
    "status": pl.String,
}
BOUNDS = tuple(f"{name}_{end}" for name in ("gain", "retained", "worst") for end in ("low", "high"))
RECALL = "recall_hidden"
FEWEST = 3  # seeds that bound a measure of which each student has one number
Row = dict[str, object]


@dataclass(frozen=True, slots=True)
class Measured:
    """One student family and measure: `values` (arm, attack) → (R,), and `start` (R,) before any attack."""

    values: Mapping[tuple[str, str], Floats]
    start: Floats | None
    n: Mapping[tuple[str, str], int]

    def gains(self, arm: str) -> dict[str, Floats]:
        """Gains by attack, of the attacks and controls measured on `arm`; empty without `start`."""
        if self.start is None:
            return {}
        return {attack: value - self.start for (label, attack), value in self.values.items() if label == arm}


def gains_table(plan: Plan, tasks: Mapping[str, TaskData]) -> pl.DataFrame:
    """One row per task, arm (the undefended one included), attack or control, student family and leakage measure.

    `gain` and `retained` have paired-bootstrap intervals (recall: from three seeds on). `worst` marks the attack
    with the highest share on its arm; `worst_low` and `worst_high` bound the arm's worst case. `best` is the best
    undefended gain.
    `retained` is null where `status` is not "ok": "nothing gained" if the best undefended gain is not above 0 at a
    Bonferroni level over attacks, "no undistilled student", "undefended not measured", "not measured" (that pair).
    `access` is what the attack reads. The teacher's drop is that of `utility.parquet`.
    """
    rows = [row for task, data in tasks.items() for row in _rows(plan, task, data)]
    return pl.DataFrame(rows, schema=SCHEMA).fill_nan(None)


def highest(gains: Iterable[Floats]) -> Floats:
    """The highest of several gains (R,), chosen anew in each replicate. Raises ValueError if there is none."""
    return np.asarray(np.max(list(gains), axis=0), dtype=np.float64)


def share_of(gain: Floats, best: Floats) -> Floats:
    """gain / best in each replicate; NaN where the best gain is not above 0.

    >>> share_of(np.array([0.3, 0.1]), np.array([0.6, 0.0])).tolist()
    [0.5, nan]
    """
    return np.divide(gain, best, out=np.full_like(best, np.nan), where=best > stats.ROUNDING)


def best_attack(gains: Mapping[str, Floats]) -> str:
    """The attack with the highest estimate, the first of equals. Raises ValueError if there is none.

    >>> best_attack({"a": np.array([0.2]), "b": np.array([0.3]), "c": np.array([0.3])})
    'b'
    """
    return max(gains, key=lambda attack: float(gains[attack][0]))


def status_of(undefended: Mapping[str, Floats], started: bool, confidence: float) -> str:
    """Say whether shares of the best undefended gain can be given, and if not, why.

    The best attack is chosen by its estimate, so its lower bound is taken at a Bonferroni level over all attacks.
    """
    if not started:
        return UNSTARTED
    if not undefended:
        return UNREFERRED
    best = undefended[best_attack(undefended)]
    level = 1.0 - (1.0 - confidence) / len(undefended)
    low = stats.from_replicates(best, n=0, n_seeds=0, confidence=level).low
    return OK if low > stats.ROUNDING else NOTHING


def _rows(plan: Plan, task: str, data: TaskData) -> Iterator[Row]:
    teachers = {arm.label: _teacher(plan, task, data, arm.label) for arm in plan.expansion.arms}
    for student, metric in itertools.product(plan.study.students, LEAKAGES):
        found = _measure(plan, task, data, student, metric)
        if not found.values:
            continue
        names = {"task": task, "student": student.family, "metric": metric}
        n_seeds = units(plan.study, student.bases, data.draws)
        unbounded = dict.fromkeys(BOUNDS) if metric == RECALL and n_seeds < FEWEST else {}
        for row in _pairs(plan, found):
            yield {**names, **row, **unbounded, **teachers[str(row["arm"])], "n_seeds": n_seeds}


def _measure(plan: Plan, task: str, data: TaskData, student: StudentSettings, metric: str) -> Measured:
    """Replicates of every pair that has the measure, under one set of weights."""
    weights = weights_for(plan.study, task, student.bases, data.draws, len(data.problems))
    values, n = {}, {}
    for arm, attack in itertools.product(plan.expansion.arms, plan.expansion.attacks):
        cell = data.students[arm.label, attack.label, student.family]
        drawn = _drawn(cell, metric, weights)
        if drawn is not None:
            values[arm.label, attack.label] = drawn
            n[arm.label, attack.label] = cell.contents if metric == RECALL else len(data.problems)
    return Measured(values, _drawn(data.undistilled[student.family], metric, weights, data.draws), n)


def _drawn(cell: Students, metric: str, weights: Weights, draws: int = 1) -> Floats | None:
    """Replicates of a measure, its rows repeated over `draws`; None if the students lack it."""
    values = cell.matrices.get(metric, cell.scalars.get(metric))
    if values is None or not np.isfinite(values).any():
        return None
    return stats.replicate(over_draws(values, draws), weights)


def _pairs(plan: Plan, found: Measured) -> Iterator[Row]:
    confidence = plan.study.analysis.confidence
    undefended = _thieves(found.gains(UNDEFENDED))
    status = status_of(undefended, found.start is not None, confidence)
    shared: Row = {
        "undistilled": None if found.start is None else round(float(found.start[0]), 10),
        "status": status,
    }
    if undefended:
        name = best_attack(undefended)
        shared |= {"best": round(float(undefended[name][0]), 10), "best_attack": name}
    reference = undefended if status == OK else {}
    for arm in plan.expansion.arms:
        values = {attack: value for (label, attack), value in found.values.items() if label == arm.label}
        worst = best_attack(_thieves(values)) if _thieves(values) else None
        gains = found.gains(arm.label)
        for attack in plan.expansion.attacks:
            row = {"arm": arm.label, "attack": attack.label, "access": attack.needs.name.lower(), **shared}
            if attack.label not in values:
                yield {**row, "worst": False, "status": UNMEASURED}
                continue
            yield {
                **row,
                "value": round(float(values[attack.label][0]), 10),
                **_gain(gains.get(attack.label), reference, confidence),
                "worst": attack.label == worst,
                **(_worst(_thieves(gains), reference, confidence) if attack.label == worst else {}),
                "n": found.n[arm.label, attack.label],
            }


def _thieves(values: Mapping[str, Floats]) -> dict[str, Floats]:
    """Those of attacks: a control of an attack is no worst case."""
    return {attack: value for attack, value in values.items() if not is_control(attack)}


def _gain(gain: Floats | None, undefended: Mapping[str, Floats], confidence: float) -> Row:
    """A cell's gain and, with something to share, its share."""
    if gain is None:
        return {}
    row = _bounded("gain", gain, confidence)
    if not undefended:
        return row
    return row | _bounded("retained", share_of(gain, undefended[best_attack(undefended)]), confidence)


def _worst(gains: Mapping[str, Floats], undefended: Mapping[str, Floats], confidence: float) -> Row:
    """The bounds of an arm's worst case."""
    if not undefended:
        return {}
    share = share_of(highest(gains.values()), highest(undefended.values()))
    found = _bounded("worst", share, confidence)
    return {name: found[name] for name in ("worst_low", "worst_high")}


def _bounded(name: str, draws: Floats, confidence: float) -> Row:
    found = stats.from_replicates(draws, n=0, n_seeds=0, confidence=confidence)
    numbers = {name: found.difference, f"{name}_low": found.low, f"{name}_high": found.high}
    return {key: round(value, 10) + 0.0 for key, value in numbers.items()}  # never −0


def _teacher(plan: Plan, task: str, data: TaskData, arm: str) -> Row:
    """The teacher's accuracy on an arm, and its drop with the weights of the utility table."""
    weights = teacher_weights(plan.study, task, len(data.problems), anew=arm in data.anew)
    clean, value = (kept(data, label, TEACHER, weights, data.draws) for label in (UNDEFENDED, arm))
    if clean is None or value is None:
        return {}
    drop = _bounded("teacher_drop", clean - value, plan.study.analysis.confidence)
    return {TEACHER: round(float(value[0]), 10), **drop}
