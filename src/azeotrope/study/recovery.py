"""What adapting brings the thief: the share of a defense's effect that an attack undoes, and its price."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import polars as pl

from azeotrope.maths import stats
from azeotrope.maths.stats import Floats
from azeotrope.study.arms import Named
from azeotrope.study.config import StudentSettings
from azeotrope.study.plan import Plan
from azeotrope.study.resampling import units, weights_for
from azeotrope.study.specs import ATTACK
from azeotrope.study.store import Store, read_json
from azeotrope.study.tables import Students, TaskData
from azeotrope.study.vocabulary import LEAKAGES, UNDEFENDED

SCHEMA = {
    "task": pl.String,
    "student": pl.String,
    "arm": pl.String,
    "attack": pl.String,
    "metric": pl.String,
    "clean": pl.Float64,
    "passive": pl.Float64,
    "value": pl.Float64,
    "gain": pl.Float64,
    "gain_low": pl.Float64,
    "gain_high": pl.Float64,
    "recovery": pl.Float64,
    "recovery_low": pl.Float64,
    "recovery_high": pl.Float64,
    "n": pl.Int64,
    "n_seeds": pl.Int64,
    "status": pl.String,
    "queries": pl.Int64,
    "query_tokens": pl.Int64,
    "own_tokens": pl.Int64,
    "trained_tokens": pl.Int64,
    "leaked": pl.Int64,
    "seconds": pl.Float64,
    "extra_seconds": pl.Float64,
}

PRICES = ("queries", "query_tokens", "own_tokens", "tokens", "seconds")


def recovery_table(plan: Plan, tasks: Mapping[str, TaskData], store: Store) -> pl.DataFrame:
    """One row per task, student family, defended arm, adaptive attack and leakage measure.

    recovery = (attack − passive) / (clean − passive), paired over students and problems: 0 is what the passive
    thief gets on the defended release, 1 what he gets on the undefended one; `analysis.passive` says which attack
    is his. `gain` is the numerator with its interval. Where the passive thief's loss is not distinguishable from
    0 there is nothing to recover: the status says so and recovery is null. Costs are means per student and draw
    beyond the release itself: `queries` asked of the teacher and `leaked` undefended traces (`query_tokens` counts
    the tokens of both), and `seconds` with the measuring of the student, which takes as long after every attack:
    `extra_seconds` are those beyond the passive attack's. Empty without a passive attack in the study.
    """
    rows = [row for task, data in tasks.items() for row in _rows(plan, task, data, store)]
    return pl.DataFrame(rows, schema=SCHEMA).fill_nan(None)


def _rows(plan: Plan, task: str, data: TaskData, store: Store) -> Iterator[dict[str, object]]:
    study = plan.study
    attacks = plan.expansion.attacks
    passive = passive_of(plan)
    arms = [arm.label for arm in plan.expansion.arms if arm.label != UNDEFENDED]
    if passive is None:
        return
    for student in study.students:
        weights = weights_for(study, task, student.bases, data.draws, len(data.problems))
        n_seeds = units(study, student.bases, data.draws)
        for metric in LEAKAGES:
            clean = _values(data.students[UNDEFENDED, passive, student.family], metric)
            for arm in arms if clean is not None else ():
                before = _values(data.students[arm, passive, student.family], metric)
                for attack in attacks:
                    cell = data.students[arm, attack.label, student.family]
                    after = _values(cell, metric)
                    if attack.label == passive or after is None or before is None or clean is None:
                        continue
                    yield {
                        "task": task,
                        "student": student.family,
                        "arm": arm,
                        "attack": attack.label,
                        "metric": metric,
                        **compare(
                            stats.replicate(clean, weights),
                            stats.replicate(before, weights),
                            stats.replicate(after, weights),
                            n_seeds,
                            study.analysis.confidence,
                        ),
                        "n": cell.contents if metric == "recall_hidden" else len(data.problems),
                        "n_seeds": n_seeds,
                        **_price(plan, store, (task, arm, student), attack, passive),
                    }


def passive_of(plan: Plan) -> str | None:
    """The label of the attack from which recovery counts; None if the study has none."""
    wanted, attacks = plan.study.analysis.passive, plan.expansion.attacks
    named = [attack.label for attack in attacks if attack.label == wanted]
    return next(iter(named or [attack.label for attack in attacks if attack.settings["kind"] == wanted]), None)


def _values(cell: Students, metric: str) -> Floats | None:
    return cell.matrices.get(metric, cell.scalars.get(metric))


def compare(clean: Floats, before: Floats, after: Floats, n_seeds: int, confidence: float) -> dict[str, object]:
    """Gain and recovery from replicates, of which the first is the estimate."""
    gain = stats.from_replicates(after - before, n=0, n_seeds=n_seeds, confidence=confidence)
    loss = stats.from_replicates(clean - before, n=0, n_seeds=n_seeds, confidence=confidence)
    found: dict[str, object] = {
        "clean": float(clean[0]),
        "passive": float(before[0]),
        "value": float(after[0]),
        "gain": gain.difference,
        "gain_low": gain.low,
        "gain_high": gain.high,
    }
    if not loss.low > 0.0:
        return {**found, "status": "nothing lost"}
    ratio = np.divide(after - before, clean - before, out=np.full_like(clean, np.nan), where=clean > before)
    share = ratio[1:][np.isfinite(ratio[1:])]
    low, high = np.quantile(share, [(1.0 - confidence) / 2.0, (1.0 + confidence) / 2.0])
    return {
        **found,
        "recovery": float(ratio[0]),
        "recovery_low": float(low),
        "recovery_high": float(high),
        "status": "ok",
    }


def _price(
    plan: Plan, store: Store, cell: tuple[str, str, StudentSettings], attack: Named, passive: str
) -> dict[str, object]:
    """Means per student and draw of what the attack asked, generated, trained on, and took."""
    mean, before = (_means(plan, store, cell, label) for label in (attack.label, passive))
    leaked = attack.budget.leaking(plan.study.release.n)
    return {
        "queries": max(0, round(mean["queries"]) - leaked),
        "query_tokens": round(mean["query_tokens"]),
        "own_tokens": round(mean["own_tokens"]),
        "trained_tokens": round(mean["tokens"]),
        "leaked": leaked,
        "seconds": round(mean["seconds"], 1),
        "extra_seconds": round(mean["seconds"] - before["seconds"], 1),
    }


def _means(plan: Plan, store: Store, cell: tuple[str, str, StudentSettings], attack: str) -> dict[str, float]:
    task, arm, student = cell
    steps = plan.of(ATTACK, task=task, arm=arm, attack=attack, student=student.family)
    infos = [read_json(store.folder(step.stage, step.id) / "info.json") for step in steps]
    return {key: sum(float(info.get(key, 0)) for info in infos) / (student.bases * len(steps)) for key in PRICES}
