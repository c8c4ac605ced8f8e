"""Made-up tables of the optional sections: with nulls, an arm without rows and long labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import polars as pl
from synthetic_gains import gains

LONG = (
    "random_sentences(budget=0.35, match=share, pool=computation) + temperature(heat=0.25)"  # not in the results
)
FAR_TASK = "proportions_in_several_steps"  # measured in the matrix only
LACKING = "gaussian sigma=2"  # an arm without rows
PARTLY = "permutation lam=0.4"  # an arm that lacks two measures
UNKNOWN = "permutation lam=0.2"  # an arm whose validity could not be computed
CONTROL = "clean resample"
CLEAN = {"teacher_accuracy": 0.93, "trace_validity": 0.96, "reader_accuracy": 0.88, "grounding": 0.97}
NGRAM = "ngram(longest=5, features=50000)"
Arm = Mapping[str, Any]


def write_tables(
    folder: Path, tasks: Sequence[str], arms: Sequence[Arm], cells: Sequence[tuple[str, str]]
) -> None:
    """Write the six tables. `arms` have a label, a share of the full strength and drops at full strength."""
    known = [*arms, {"arm": LONG, "share": 0.8, "accuracy": 0.03, "validity": 0.25, "defense": "both"}]
    kept = [arm for arm in known if arm["arm"] != LACKING]
    tables = {
        "gains": gains(tasks, kept, {"ads": 0.9, "traceguard": 0.5, "temperature": 0.6, "none": 0.0}),
        "utility": _utility(Random(2), tasks, [arm for arm in kept if arm["defense"] != "none"]),
        "governance": _governance(Random(3), tasks, kept, cells),
        "matrix": _matrix(Random(4), [*tasks, FAR_TASK], cells),
        "edits": _edits(tasks),
        "predictors": _predictors(tasks[0]),
        "detectability": _detectability(Random(5), tasks, [arm for arm in kept if arm["defense"] != "none"]),
    }
    for name, rows in tables.items():
        pl.DataFrame(list(rows), infer_schema_length=None).write_parquet(folder / f"{name}.parquet")


def _predictors(task: str) -> Iterator[dict[str, Any]]:
    """Of one attack with intervals, of another with too few releases to be told."""
    for name, rho in (("trace_validity lost", 0.86), ("cosine", -0.25), ("loss by sft", 0.9), ("kl", 0.4)):
        row = {"task": task, "student": "llama-small", "predictor": name, "rho": rho}
        bounds = {"low": rho - 0.3, "high": min(1.0, rho + 0.3)}
        yield {**row, "attack": "gkd", **bounds, "n": 35, "n_draws": 5, "n_arms": 7}
        yield {**row, "attack": "fkl", **bounds, "n": 6, "n_draws": 3, "n_arms": 4}


def _bounds(value: float, half: float, *names: str) -> dict[str, float]:
    return dict(zip(names, (value - half, value + half), strict=True))


def _utility(rng: Random, tasks: Sequence[str], arms: Sequence[Arm]) -> Iterator[dict[str, Any]]:
    for task in tasks:
        for arm in arms:
            curve = arm["share"] ** 1.4
            full = {
                "teacher_accuracy": arm["accuracy"], "trace_validity": arm["validity"],
                "reader_accuracy": 0.6 * arm["validity"], "grounding": 0.4 * arm["validity"],
            }  # fmt: skip
            for name, clean in CLEAN.items():
                if arm["arm"] == PARTLY and name in ("reader_accuracy", "grounding"):
                    continue
                drop = full[name] * curve + rng.gauss(0, 0.001)
                yield _lost(task, arm["arm"], name, clean, clean - drop, drop, 0.008 + 0.01 * curve)
            shorter = 1.2 if arm["defense"] == "both" else 0.3 * curve
            yield _lost(task, arm["arm"], "length", 84.0, 84 * (1 + shorter), shorter, 0.1 * shorter or None)


def _lost(
    task: str, arm: str, utility: str, clean: float, value: float, drop: float, half: float | None
) -> dict[str, Any]:
    found = {"clean": clean, "value": value, "drop": drop, "low": None, "high": None}
    if half is not None:
        found |= _bounds(drop, half, "low", "high")
    if (arm, utility) == (UNKNOWN, "trace_validity"):
        found = dict.fromkeys(found)
    return {"task": task, "arm": arm, "utility": utility, **found, "n": 400, "n_draws": 1}


def _governance(
    rng: Random, tasks: Sequence[str], arms: Sequence[Arm], cells: Sequence[tuple[str, str]]
) -> Iterator[dict[str, Any]]:
    for task in tasks:
        for arm in arms:
            for attack, student in cells:
                for measure, part in (("refusal_consistency", 0.35), ("answer_stability", 0.7)):
                    capability = 1.05 - 0.75 * arm["share"] + rng.gauss(0, 0.03)
                    idle = measure == "answer_stability" and student.startswith("llama")
                    yield {
                        "task": task, "arm": arm["arm"], "attack": attack, "student": student, "measure": measure,
                        "teacher": 0.9, "undistilled": 0.9 if idle else 0.3,
                        "value": 0.88 if idle else 0.3 + 0.6 * part * capability,
                        **_transferred(capability, capability * part - 0.02, None if idle else 0.12),
                        "n": 120, "n_seeds": 5, "status": "nothing to transfer" if idle else "ok",
                    }  # fmt: skip


def _transferred(capability: float, transfer: float, half: float | None) -> dict[str, Any]:
    """Shares with intervals; all null where there was nothing to transfer."""
    found: dict[str, Any] = {}
    values = {"transfer": transfer, "capability": capability, "gap": capability - transfer}
    for name, value in values.items():
        known = half is not None
        found[name] = value if known else None
        found |= {f"{name}_low": value - half if half else None, f"{name}_high": value + half if half else None}
    return found | {"p": 0.004 if half else None}


def _matrix(rng: Random, tasks: Sequence[str], cells: Sequence[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    rows = [
        (tasks[0], "ads lam=0.05"), (tasks[0], "ads lam=0.2"), (tasks[1], "ads lam=0.1"),
        (tasks[1], "ads lam=0.4"), (tasks[1], LONG),
    ]  # fmt: skip
    for task in tasks:
        for strength, (protected, arm) in enumerate(rows):
            for attack, student in cells:
                for metric in ("student_accuracy", "recall_hidden"):
                    loss = (0.12 + 0.06 * strength) * (1 if task == protected else -0.15) + rng.gauss(0, 0.004)
                    unknown = arm == LONG and task == tasks[0]
                    drop = 0.02 * (task == protected) * (1 + strength)
                    yield {
                        "task": task, "protected": protected, "arm": arm, "attack": attack, "student": student,
                        "metric": metric, "clean": 0.7, "value": None if unknown else 0.7 - loss,
                        "loss": None if unknown else loss, "low": None if unknown else loss - 0.03,
                        "high": None if unknown else loss + 0.03, "teacher_drop": drop,
                        "teacher_drop_low": drop - 0.01, "teacher_drop_high": drop + 0.01, "n": 400, "n_seeds": 5,
                    }  # fmt: skip


def _detectability(rng: Random, tasks: Sequence[str], arms: Sequence[Arm]) -> Iterator[dict[str, Any]]:
    for task in tasks:
        for arm in (*arms, {"arm": CONTROL, "share": 0.0}):
            for detector in ("ngram", NGRAM):
                yield from _classified(rng, {"task": task, "arm": arm["arm"], "detector": detector}, arm["share"])
            share = arm["share"]
            figures = {
                "token_delta": ("token_delta", -0.3 * share, 0.02), "tfidf_cosine": ("tfidf_cosine", 0.8, 0.01),
                "marker_rate_defended": ("marker_rate", 6 * (1 - share), 0.4),
                "marker_rate_difference": ("marker_rate", -6 * share, 0.5),
            }  # fmt: skip
            for measure, (detector, value, half) in figures.items():
                yield {
                    "task": task, "arm": arm["arm"], "detector": detector, "measure": measure,
                    "unit": "per_problem", "value": value, **_bounds(value, half, "low", "high"), "n": 1200,
                    "n_problems": 600, "note": "",
                }  # fmt: skip


def _classified(rng: Random, where: Mapping[str, str], share: float) -> Iterator[dict[str, Any]]:
    for unit, gain, n in (("per_trace", 0.3, 1200), ("per_group", 0.46, 120)):
        value = 0.5 + gain * share**0.7 + rng.gauss(0, 0.008)
        known = not (unit == "per_group" and where["arm"] == PARTLY)
        few = "the thresholds need 99 clean calibration traces a fold; there are 80"
        figures = {"auroc": value if known else None, "tpr_at_fpr": None, "fpr": None}
        if unit == "per_trace":
            figures |= {"tpr_at_fpr": 0.01 + 0.2 * share, "fpr": 0.012}
        for measure, figure in figures.items():
            half = 0.03 if measure == "auroc" else 0.008
            bounds = {"low": None, "high": None} if figure is None else _bounds(figure, half, "low", "high")
            yield {
                **where, "measure": measure, "unit": unit, "value": figure, **bounds, "n": n, "n_problems": 600,
                "note": few if figure is None else "",
            }  # fmt: skip


def _edits(tasks: Sequence[str]) -> Iterator[dict[str, Any]]:
    """ADS with one edit in two draws, and one without information about its CMI."""
    for task in tasks:
        for draw in (0, 1):
            yield _edit(task, "ads lam=0.3", draw, -0.3 - 0.1 * draw)
        yield {**_edit(task, "temperature delta=1", 0, 0.25), **dict.fromkeys(BOUNDED)}


BOUNDED = ("cmi_before", "cmi_after", "cmi_change", "cmi_change_se")


def _edit(task: str, arm: str, draw: int, held_out: float) -> dict[str, Any]:
    return {
        "task": task, "arm": arm, "defense": arm.split()[0], "draw": draw, "edit": 0, "measure": "cosine",
        "first": 1.0, "held_out": held_out, "cmi_before": 0.11, "cmi_after": 0.09, "cmi_change": -0.02,
        "cmi_change_se": 0.004, "agreement": 0.95, "kl": 0.07, "clean_accuracy": 0.99, "accuracy": 0.98,
        "kept": True, "chosen_step": 96, "steps": 240, "n": 7000,
        "curve": [1.0 - (1.0 - held_out) * i / 9 for i in range(10)],
    }  # fmt: skip
