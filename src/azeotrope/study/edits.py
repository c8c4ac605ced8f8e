"""What trained edits of the head did to held-out text: one row an edit, from the records of the releases."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl

from azeotrope.study.plan import Plan
from azeotrope.study.specs import RELEASE
from azeotrope.study.store import Store, read_json

SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "task": pl.String,
    "arm": pl.String,
    "defense": pl.String,
    "draw": pl.Int64,
    "edit": pl.Int64,
    "measure": pl.String,
    "first": pl.Float64,
    "held_out": pl.Float64,
    "cmi_before": pl.Float64,
    "cmi_after": pl.Float64,
    "cmi_change": pl.Float64,
    "cmi_change_se": pl.Float64,
    "cmi_loo_before": pl.Float64,
    "cmi_loo_after": pl.Float64,
    "ncmi_before": pl.Float64,
    "ncmi_after": pl.Float64,
    "agreement": pl.Float64,
    "kl": pl.Float64,
    "clean_accuracy": pl.Float64,
    "accuracy": pl.Float64,
    "kept": pl.Boolean,
    "chosen_step": pl.Int64,
    "steps": pl.Int64,
    "n": pl.Int64,
    "curve": pl.List(pl.Float64),
    "temperatures": pl.List(pl.Float64),
    "swept_before": pl.List(pl.Float64),
    "swept_after": pl.List(pl.Float64),
}
FURTHER = ("cmi_loo_before", "cmi_loo_after", "ncmi_before", "ncmi_after")
SAME = (
    *("cmi_before", "cmi_after", "cmi_change", "cmi_change_se", *FURTHER),
    *("agreement", "kl", "clean_accuracy", "kept"),
)


def edits_table(plan: Plan, store: Store) -> pl.DataFrame:
    """One row per task, arm, draw and trained edit of the head.

    `measure` is what training moved ("cosine", "divergence", ...): `first` at the first step, `held_out` at the
    chosen checkpoint, on `n` tokens of traces that were not trained on, as all of the following; `curve` on the
    training batches, thinned, over `steps` steps. CMI in nats: the plug-in (biased low), its change with a
    jackknife standard error over traces, leave-one-out (biased high), and divided by the separation of classes
    (NCMI). `swept_before` and `swept_after` are the plug-in CMI at each of `temperatures`, for methods that look
    at more than one. The held-out traces also choose among the checkpoints, which flatters `held_out` a little.
    `accuracy` is the teacher's on the problems that choose the checkpoint. All at scale 1, whatever scale the arm
    is served at.
    """
    rows = []
    for step in plan.of(RELEASE):
        info = read_json(store.folder(step.stage, step.id) / "info.json")
        for defense, told in info.items():
            if isinstance(told, dict):
                names = {"task": step.task, "arm": step.arm, "defense": defense, "draw": step.draw}
                rows += [{**names, "edit": i, **row} for i, row in enumerate(_edits(told))]
    return pl.DataFrame(rows, schema=SCHEMA).fill_nan(None)


def trains(info: dict[str, Any]) -> bool:
    """Whether a release's info.json tells of a trained edit."""
    return any(next(_edits(told), None) is not None for told in info.values() if isinstance(told, dict))


def _edits(told: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for one in told.get("each", [told]):
        measure = next((key.removesuffix("_held_out") for key in one if key.endswith("_held_out")), None)
        if measure is None or "checkpoints" not in one:
            continue
        chosen = next(c for c in one["checkpoints"] if c["step"] == one["chosen_step"])
        yield {
            "measure": measure,
            "first": one[f"{measure}_first"],
            "held_out": one[f"{measure}_held_out"],
            **{name: one.get(name) for name in SAME},
            "accuracy": chosen["accuracy"],
            "chosen_step": one["chosen_step"],
            "steps": max(c["step"] for c in one["checkpoints"]),
            "n": one["tokens"],
            "curve": [float(value) for value in one[f"{measure}s"]],
            "temperatures": [point["temperature"] for point in one.get("cmi_sweep", ())],
            **{
                f"swept_{n}": [point[f"cmi_{n}"] for point in one.get("cmi_sweep", ())]
                for n in ("before", "after")
            },
        }
