"""Defenses compared at equal harm to the honest user, against their controls."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from azeotrope.maths import stats
from azeotrope.maths.stats import Curve, Weights
from azeotrope.study.arms import UNDEFENDED, Arm
from azeotrope.study.plan import Plan
from azeotrope.study.resampling import units, weights_for
from azeotrope.study.tables import TaskData
from azeotrope.study.utility import UTILITIES, kept, measured

LEAKAGES = ("student_accuracy", "recall_hidden")
REFERENCE = "temperature"  # the control of every defense
EXTRA_REFERENCES = {"ads": "permutation", "traceguard": "random_sentences"}  # further controls, by kind
SCHEMA = {
    "task": pl.String,
    "student": pl.String,
    "attack": pl.String,
    "utility": pl.String,
    "drop": pl.Float64,
    "metric": pl.String,
    "defense": pl.String,
    "reference": pl.String,
    "difference": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "p": pl.Float64,
    "n": pl.Int64,
    "n_seeds": pl.Int64,
    "status": pl.String,
}


@dataclass(frozen=True, slots=True)
class Sweep:
    """The arms of one curve; `name` is the kind where that is unambiguous, else the full label."""

    name: str
    kind: str
    arms: tuple[Arm, ...]


def equal_cost_table(plan: Plan, tasks: Mapping[str, TaskData]) -> pl.DataFrame:
    """Compare every defense with its controls at each teacher cost: one row per comparison.

    A row whose cost one of the two curves does not reach has status "not reached" and null numbers.
    """
    found = sweeps(plan.expansion.arms)
    rows = [row for task, data in tasks.items() for row in _rows(plan, task, data, found)]
    return pl.DataFrame(rows, schema=SCHEMA).fill_nan(None)


def sweeps(arms: Sequence[Arm]) -> list[Sweep]:
    """Group arms into curves, in order of first appearance; the undefended arm belongs to all of them."""
    groups: dict[str, list[Arm]] = {}
    for arm in arms:
        if arm.label != UNDEFENDED:
            groups.setdefault(arm.curve, []).append(arm)
    kinds = Counter(members[0].defense for members in groups.values())
    return [
        Sweep(
            name=members[0].defense if kinds[members[0].defense] == 1 else label,
            kind=members[0].defense,
            arms=tuple(members),
        )
        for label, members in groups.items()
    ]


def _rows(plan: Plan, task: str, data: TaskData, found: Sequence[Sweep]) -> Iterator[dict[str, object]]:
    """All comparisons of a task: students × attacks × utilities × metrics × pairs of curves × drops."""
    study = plan.study
    pairs = [(one, other) for one in found for other in _references(one, found)]
    cells = itertools.product(study.students, plan.expansion.attacks, UTILITIES, LEAKAGES)
    for student, attack, utility, metric in cells:
        cell = data.students[UNDEFENDED, attack.label, student.family]
        if not (measured(data, utility) and (metric in cell.matrices or metric in cell.scalars)):
            continue
        weights = weights_for(study, task, student.bases, data.draws, len(data.problems))
        names = (attack.label, student.family, utility, metric)
        curves = {sweep.name: _curve(data, sweep, names, weights) for sweep in found}
        n = cell.contents if metric == "recall_hidden" else len(data.problems)
        n_seeds = units(study, student.bases, data.draws)
        for (one, other), drop in itertools.product(pairs, study.analysis.drops):
            first, second = curves[one.name], curves[other.name]
            if first is None or second is None:
                continue
            gap = stats.equal_cost(first, second, drop, n=n, n_seeds=n_seeds, confidence=study.analysis.confidence)
            yield {
                "task": task,
                "student": student.family,
                "attack": attack.label,
                "utility": utility,
                "drop": drop,
                "metric": metric,
                "defense": one.name,
                "reference": other.name,
                "n": n,
                "n_seeds": n_seeds,
                **_numbers(gap),
            }


def _references(sweep: Sweep, found: Sequence[Sweep]) -> list[Sweep]:
    members = sweep.kind.split("+")
    wanted = [REFERENCE, *(extra for kind, extra in EXTRA_REFERENCES.items() if kind in members)]
    return [other for other in found if other.kind in wanted and other.kind != sweep.kind]


def _curve(data: TaskData, sweep: Sweep, names: tuple[str, str, str, str], weights: Weights) -> Curve | None:
    """One defense's curve as replicates; None if a point lacks the utility or the metric."""
    attack, family, utility, metric = names
    points = {}
    for label in (UNDEFENDED, *(arm.label for arm in sweep.arms)):
        cell = data.students[label, attack, family]
        leakage = cell.matrices.get(metric, cell.scalars.get(metric))
        useful = kept(data, label, utility, weights, len(leakage)) if leakage is not None else None
        if leakage is None or useful is None:
            return None
        points[label] = (useful, stats.replicate(leakage, weights))
    defended = [points[arm.label] for arm in sweep.arms]
    return stats.curve(
        [arm.strength for arm in sweep.arms],
        [u for u, _ in defended],
        [v for _, v in defended],
        points[UNDEFENDED],
    )


def _numbers(gap: stats.Difference | None) -> dict[str, object]:
    if gap is None:
        return {"difference": None, "low": None, "high": None, "p": None, "status": "not reached"}
    rounded = {key: round(getattr(gap, key), 10) for key in ("difference", "low", "high", "p")}
    return {**rounded, "status": "ok"}
