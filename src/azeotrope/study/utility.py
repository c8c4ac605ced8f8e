"""Utility is a vector: what an arm takes from the honest user, one measure at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import polars as pl

from azeotrope.maths import stats
from azeotrope.maths.stats import Floats, Weights
from azeotrope.study.plan import Plan
from azeotrope.study.resampling import teacher_weights
from azeotrope.study.tables import TaskData, over_seeds
from azeotrope.study.vocabulary import LENGTH, UNDEFENDED, UTILITIES

_METRIC = {LENGTH: "trace_tokens"}  # the measured metric where its name is not the utility's
SCHEMA = {
    "task": pl.String,
    "arm": pl.String,
    "utility": pl.String,
    "clean": pl.Float64,
    "value": pl.Float64,
    "drop": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "n": pl.Int64,
    "n_draws": pl.Int64,
}


def utility_table(plan: Plan, tasks: Mapping[str, TaskData]) -> pl.DataFrame:
    """One row per task, defended arm and utility measure, with the drop paired over test problems.

    `drop` is the undefended value minus the arm's, for shares; for `length`, whose values are tokens, it is
    |value / clean − 1|: longer costs the reader time, shorter costs him steps.
    """
    return pl.DataFrame(list(_rows(plan, tasks)), schema=SCHEMA).fill_nan(None)


def measured(data: TaskData, utility: str) -> bool:
    """Whether the task has this measure."""
    return _METRIC.get(utility, utility) in data.teachers[UNDEFENDED]


def kept(data: TaskData, arm: str, utility: str, weights: Weights, seeds: int) -> Floats | None:
    """Replicates (R,) of what an arm keeps of a measure, so that undefended − arm is the drop.

    Shares as they are; `length` as 1 − |tokens / undefended tokens − 1|. None if the arm lacks the measure.
    """
    value = data.teachers[arm].get(_METRIC.get(utility, utility))
    if value is None:
        return None
    found = stats.replicate(over_seeds(value, seeds), weights)
    if utility != LENGTH:
        return found
    clean = stats.replicate(over_seeds(data.teachers[UNDEFENDED][_METRIC[LENGTH]], seeds), weights)
    return np.asarray(1.0 - np.abs(found / clean - 1.0), dtype=np.float64)


def _rows(plan: Plan, tasks: Mapping[str, TaskData]) -> Iterator[dict[str, object]]:
    confidence = plan.study.analysis.confidence
    for task, data in tasks.items():
        for arm in plan.expansion.arms:
            weights = teacher_weights(plan.study, task, len(data.problems), anew=arm.label in data.anew)
            for utility in UTILITIES if arm.label != UNDEFENDED else ():
                before = kept(data, UNDEFENDED, utility, weights, data.draws)
                after = kept(data, arm.label, utility, weights, data.draws)
                if before is None or after is None:
                    continue
                gap = stats.from_replicates(
                    before - after, n=len(data.problems), n_seeds=data.draws, confidence=confidence
                )
                metric = _METRIC.get(utility, utility)
                yield {
                    "task": task,
                    "arm": arm.label,
                    "utility": utility,
                    "clean": float(np.nanmean(data.teachers[UNDEFENDED][metric])),
                    "value": float(np.nanmean(data.teachers[arm.label][metric])),
                    "drop": round(gap.difference, 10),
                    "low": round(gap.low, 10),
                    "high": round(gap.high, 10),
                    "n": gap.n,
                    "n_draws": data.draws,
                }
