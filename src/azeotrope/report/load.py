"""Read a run folder. Only the manifest and the results must be there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from azeotrope.core.errors import MissingError, RunError
from azeotrope.report import schemas
from azeotrope.report.schemas import Schema


@dataclass(frozen=True, slots=True)
class Run:
    """Everything the report shows; a part the run did not store is None."""

    folder: Path
    manifest: Mapping[str, Any]
    results: pl.DataFrame
    equal_cost: pl.DataFrame | None
    losses: pl.DataFrame | None
    costs: pl.DataFrame | None
    gains: pl.DataFrame | None
    edits: pl.DataFrame | None
    predictors: pl.DataFrame | None
    recovery: pl.DataFrame | None
    utility: pl.DataFrame | None
    governance: pl.DataFrame | None
    matrix: pl.DataFrame | None
    detectability: pl.DataFrame | None
    diffs: list[dict[str, Any]] | None

    def table(self, name: str) -> pl.DataFrame | None:
        """Return one of the tables by its name."""
        found: pl.DataFrame | None = getattr(self, name)
        return found


def load_run(folder: Path) -> Run:
    """Read `folder`. Raises MissingError for an incomplete run and RunError for a damaged file."""
    folder = Path(folder)
    for name in ("manifest.json", "results.parquet"):
        if not (folder / name).is_file():
            raise MissingError(f"'{folder}' has no {name}; finish the study first, or check the path.")
    manifest = _json(folder / "manifest.json")
    if not isinstance(manifest, dict):
        raise RunError(f"'{folder / 'manifest.json'}' must hold a JSON object.")
    results = _frame(folder / "results.parquet", schemas.RESULTS)
    if results is None or results.is_empty():
        raise RunError(f"'{folder / 'results.parquet'}' has no rows; run the study again.")
    diffs = _json(folder / "diffs.json")
    if diffs is not None and not isinstance(diffs, list):
        raise RunError(f"'{folder / 'diffs.json'}' must hold a JSON list.")
    return Run(
        folder=folder,
        manifest=manifest,
        results=results,
        equal_cost=_frame(folder / "equal_cost.parquet", schemas.EQUAL_COST),
        losses=_frame(folder / "losses.parquet", schemas.LOSSES),
        costs=_frame(folder / "costs.parquet", schemas.COSTS),
        gains=_rows(folder / "gains.parquet", schemas.GAINS),
        edits=_rows(folder / "edits.parquet", schemas.EDITS),
        predictors=_rows(folder / "predictors.parquet", schemas.PREDICTORS),
        recovery=_rows(folder / "recovery.parquet", schemas.RECOVERY),
        utility=_rows(folder / "utility.parquet", schemas.UTILITY),
        governance=_rows(folder / "governance.parquet", schemas.GOVERNANCE),
        matrix=_rows(folder / "matrix.parquet", schemas.MATRIX),
        detectability=_rows(folder / "detectability.parquet", schemas.DETECTABILITY),
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


def _rows(path: Path, schema: Schema) -> pl.DataFrame | None:
    """A table without rows is the same as none."""
    frame = _frame(path, schema)
    return None if frame is None or frame.is_empty() else frame


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
