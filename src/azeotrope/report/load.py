"""Read a run folder. Only the manifest and the results must be there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from azeotrope.core.errors import MissingError, RunError

RESULTS = {
    "task": pl.String, "arm": pl.String, "defense": pl.String, "params": pl.String, "strength": pl.Float64,
    "is_control": pl.Boolean, "attack": pl.String, "student": pl.String, "metric": pl.String,
    "value": pl.Float64, "low": pl.Float64, "high": pl.Float64, "n": pl.Int64, "n_seeds": pl.Int64,
}  # fmt: skip
EQUAL_COST = {
    "task": pl.String, "student": pl.String, "attack": pl.String, "utility": pl.String, "drop": pl.Float64,
    "metric": pl.String, "defense": pl.String, "reference": pl.String, "difference": pl.Float64,
    "low": pl.Float64, "high": pl.Float64, "p": pl.Float64, "n": pl.Int64, "n_seeds": pl.Int64,
    "status": pl.String,
}  # fmt: skip
LOSSES = {
    "task": pl.String, "arm": pl.String, "attack": pl.String, "student": pl.String, "seed": pl.Int64,
    "step": pl.Int64, "split": pl.String, "loss": pl.Float64,
}  # fmt: skip
COSTS = {
    "task": pl.String, "arm": pl.String, "stage": pl.String, "seconds": pl.Float64, "tokens": pl.Float64,
    "tokens_per_second": pl.Float64, "relative": pl.Float64,
}  # fmt: skip
RECOVERY = {
    "task": pl.String, "student": pl.String, "arm": pl.String, "attack": pl.String, "metric": pl.String,
    "clean": pl.Float64, "passive": pl.Float64, "value": pl.Float64,
    "gain": pl.Float64, "gain_low": pl.Float64, "gain_high": pl.Float64,
    "recovery": pl.Float64, "recovery_low": pl.Float64, "recovery_high": pl.Float64,
    "n": pl.Int64, "n_seeds": pl.Int64, "status": pl.String,
    "queries": pl.Int64, "own_tokens": pl.Int64, "seconds": pl.Float64,
}  # fmt: skip
Schema = Mapping[str, type[pl.DataType]]


@dataclass(frozen=True, slots=True)
class Run:
    """Everything the report shows; a part the run did not store is None."""

    folder: Path
    manifest: Mapping[str, Any]
    results: pl.DataFrame
    equal_cost: pl.DataFrame | None
    losses: pl.DataFrame | None
    costs: pl.DataFrame | None
    recovery: pl.DataFrame | None
    diffs: list[dict[str, Any]] | None


def load_run(folder: Path) -> Run:
    """Read `folder`. Raises MissingError for an incomplete run and RunError for a damaged file."""
    folder = Path(folder)
    for name in ("manifest.json", "results.parquet"):
        if not (folder / name).is_file():
            raise MissingError(f"'{folder}' has no {name}; finish the study first, or check the path.")
    manifest = _json(folder / "manifest.json")
    if not isinstance(manifest, dict):
        raise RunError(f"'{folder / 'manifest.json'}' must hold a JSON object.")
    results = _frame(folder / "results.parquet", RESULTS)
    if results is None or results.is_empty():
        raise RunError(f"'{folder / 'results.parquet'}' has no rows; run the study again.")
    diffs = _json(folder / "diffs.json")
    if diffs is not None and not isinstance(diffs, list):
        raise RunError(f"'{folder / 'diffs.json'}' must hold a JSON list.")
    recovery = _frame(folder / "recovery.parquet", RECOVERY)
    return Run(
        folder=folder,
        manifest=manifest,
        results=results,
        equal_cost=_frame(folder / "equal_cost.parquet", EQUAL_COST),
        losses=_frame(folder / "losses.parquet", LOSSES),
        costs=_frame(folder / "costs.parquet", COSTS),
        recovery=None if recovery is None or recovery.is_empty() else recovery,
        diffs=diffs or None,
    )


def _json(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = _first_line(error)
        raise RunError(f"'{path}' cannot be read as JSON ({reason}); run the study again.") from None


def _frame(path: Path, schema: Schema) -> pl.DataFrame | None:
    if not path.is_file():
        return None
    try:
        frame = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise RunError(
            f"'{path}' cannot be read as Parquet ({_first_line(error)}); run the study again to restore it."
        ) from None
    missing = [name for name in schema if name not in frame.columns]
    if missing:
        raise RunError(f"'{path}' lacks the columns {', '.join(missing)}; it was written by another version.")
    try:
        typed = frame.with_columns(pl.col(name).cast(kind) for name, kind in schema.items())
        floats = pl.col(pl.Float64)
        return typed.with_columns(pl.when(floats.is_finite()).then(floats))
    except pl.exceptions.PolarsError as error:
        raise RunError(f"'{path}' holds a column of the wrong type ({_first_line(error)}).") from None


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
