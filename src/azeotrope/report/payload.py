"""The data the page's scripts draw from, as plain JSON values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from azeotrope.detect.compare import CONTROL
from azeotrope.report.lines import Line, arms_of, lines_of, undefended
from azeotrope.report.load import Run
from azeotrope.report.measures import LEAKAGE, TEACHER_UTILITIES, table
from azeotrope.report.palette import looks, marker, marker_path
from azeotrope.report.sections import SECTIONS, measure_names
from azeotrope.report.traces import trace_pages
from azeotrope.report.verdict import headline_metric
from azeotrope.study.vocabulary import UNDISTILLED, is_control

CURVE_POINTS = 60  # per loss curve; more would only make the page heavy
RESULT_COLUMNS = (
    "task", "arm", "defense", "strength", "attack", "student", "metric",
    "value", "low", "high", "n", "n_seeds",
)  # fmt: skip


def payload(run: Run) -> dict[str, Any]:
    """Return everything the scripts need; numbers that are not finite become null."""
    names = run.results["metric"].unique(maintain_order=True).to_list()
    tasks = run.results["task"].unique(maintain_order=True).to_list()
    data: dict[str, Any] = {
        "measures": table(measure_names(run)),
        "utilities": [name for name in TEACHER_UTILITIES if name in names],
        "leakage": [name for name in LEAKAGE if name in names],
        "headline": headline_metric(run),
        "undistilled": UNDISTILLED,
        "control": CONTROL,
        "attack_controls": [
            name for name in run.results["attack"].unique(maintain_order=True) if is_control(name)
        ],
        "tasks": [_task(run.results, task) for task in tasks],
        "looks": _looks(run.results["defense"].to_list()),
        "results": _columns(run.results, RESULT_COLUMNS),
        "equal": None if run.equal_cost is None else _columns(run.equal_cost, run.equal_cost.columns),
        "costs": None if run.costs is None else _columns(run.costs, run.costs.columns),
        "losses": None if run.losses is None else _losses(run.losses),
        "diffs": None if run.diffs is None else trace_pages(run.diffs),
    }
    for section in SECTIONS:
        found = run.table(section.name)
        data[section.name] = None if found is None else _columns(found, tuple(section.schema))
    return {key: _finite(value) for key, value in data.items()}


def _task(results: pl.DataFrame, task: str) -> dict[str, Any]:
    rows = results.filter(pl.col("task") == task)
    arms = arms_of(results, task)
    attacked = rows.filter((pl.col("student") != "") & (pl.col("attack") != UNDISTILLED))
    return {
        "name": task,
        "none": undefended(arms),
        "students": attacked["student"].unique(maintain_order=True).to_list(),
        "attacks": attacked["attack"].unique(maintain_order=True).to_list(),
        "lines": [_line(line) for line in lines_of(arms)],
    }


def _line(line: Line) -> dict[str, Any]:
    return {
        "label": line.label,
        "kind": line.kind,
        "control": line.is_control,
        "variant": line.variant,
        "arms": [{"arm": arm.arm, "strength": arm.strength} for arm in line.arms],
    }


def _looks(kinds: Iterable[str]) -> dict[str, Any]:
    return {
        kind: {
            "color": f"var(--kind-{index})",
            "markers": [marker_path(marker(look, variant), 5) for variant in range(6)],
        }
        for index, (kind, look) in enumerate(looks(kinds).items())
    }


def _columns(frame: pl.DataFrame, names: Sequence[str]) -> dict[str, list[Any]]:
    return {name: frame[name].to_list() for name in names}


def _losses(frame: pl.DataFrame) -> list[dict[str, Any]]:
    keys = ["task", "arm", "attack", "student", "seed", "split"]
    series = []
    for key, group in frame.sort("step").group_by(keys, maintain_order=True):
        rows = _thin(group.select("step", "loss").rows())
        steps, losses = [row[0] for row in rows], [row[1] for row in rows]
        series.append({**dict(zip(keys, key, strict=True)), "step": steps, "loss": losses})
    return series


def _thin(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Keep at most `CURVE_POINTS` evenly spaced rows, the first and the last among them."""
    if len(rows) <= CURVE_POINTS:
        return rows
    last = len(rows) - 1
    return [rows[round(i * last / (CURVE_POINTS - 1))] for i in range(CURVE_POINTS)]


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
