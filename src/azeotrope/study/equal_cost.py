"""Defenses compared at equal harm to the honest user, against their controls."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from azeotrope.maths import stats
from azeotrope.maths.stats import Curve, Floats, Weights
from azeotrope.study.arms import Arm
from azeotrope.study.plan import Plan
from azeotrope.study.resampling import units, weights_for
from azeotrope.study.tables import TaskData
from azeotrope.study.utility import kept, measured
from azeotrope.study.vocabulary import LEAKAGES, UNDEFENDED, UTILITIES

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
    for student in study.students:
        weights = weights_for(study, task, student.bases, data.draws, len(data.problems))
        drawn = _Drawn(data, student.family, weights, student.bases * data.draws)
        n_seeds = units(study, student.bases, data.draws)
        for attack, utility, metric in itertools.product(plan.expansion.attacks, UTILITIES, LEAKAGES):
            cell = data.students[UNDEFENDED, attack.label, student.family]
            if not (measured(data, utility) and (metric in cell.matrices or metric in cell.scalars)):
                continue
            curves = {sweep.name: drawn.curve(sweep, attack.label, utility, metric) for sweep in found}
            n = cell.contents if metric == "recall_hidden" else len(data.problems)
            for (one, other), drop in itertools.product(pairs, study.analysis.drops):
                first, second = curves[one.name], curves[other.name]
                if first is None or second is None:
                    continue
                gap = stats.equal_cost(
                    first, second, drop, n=n, n_seeds=n_seeds, confidence=study.analysis.confidence
                )
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


class _Drawn:
    """Replicates of the arms' measures for one student family, each drawn once."""

    def __init__(self, data: TaskData, family: str, weights: Weights, seeds: int) -> None:
        self.data, self.family, self.weights, self.seeds = data, family, weights, seeds
        self._useful: dict[tuple[str, str], Floats | None] = {}
        self._leaked: dict[tuple[str, str, str], Floats | None] = {}

    def curve(self, sweep: Sweep, attack: str, utility: str, metric: str) -> Curve | None:
        """One defense's curve; None if a point lacks the utility or the metric."""
        labels = [UNDEFENDED, *(arm.label for arm in sweep.arms)]
        useful = [self.useful(label, utility) for label in labels]
        leaked = [self.leaked(label, attack, metric) for label in labels]
        u, v = [x for x in useful if x is not None], [x for x in leaked if x is not None]
        if len(u) < len(labels) or len(v) < len(labels):
            return None
        return stats.curve([arm.strength for arm in sweep.arms], u[1:], v[1:], (u[0], v[0]))

    def useful(self, label: str, utility: str) -> Floats | None:
        """What an arm keeps of a utility."""
        if (label, utility) not in self._useful:
            self._useful[label, utility] = kept(self.data, label, utility, self.weights, self.seeds)
        return self._useful[label, utility]

    def leaked(self, label: str, attack: str, metric: str) -> Floats | None:
        """What an arm leaks by an attack."""
        key = (label, attack, metric)
        if key not in self._leaked:
            cell = self.data.students[label, attack, self.family]
            values = cell.matrices.get(metric, cell.scalars.get(metric))
            self._leaked[key] = None if values is None else stats.replicate(values, self.weights)
        return self._leaked[key]


def _references(sweep: Sweep, found: Sequence[Sweep]) -> list[Sweep]:
    members = sweep.kind.split("+")
    wanted = [REFERENCE, *(extra for kind, extra in EXTRA_REFERENCES.items() if kind in members)]
    return [other for other in found if other.kind in wanted and other.kind != sweep.kind]


def _numbers(gap: stats.Difference | None) -> dict[str, object]:
    if gap is None:
        return {"difference": None, "low": None, "high": None, "p": None, "status": "not reached"}
    rounded = {key: round(getattr(gap, key), 10) for key in ("difference", "low", "high", "p")}
    return {**rounded, "status": "ok"}
