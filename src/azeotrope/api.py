"""The library in four calls: run a study, read its results, write its report, load a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl

    from azeotrope.models.lm import LM


def run(study: Mapping[str, Any] | str | Path, *, runs: str | Path = "runs", workers: int = 1) -> Path:
    """Run (or continue) a study given as a mapping or a YAML file; return its run folder.

    `workers` 0 runs in this process. Raises ConfigError, MissingError or RunError.
    """
    from azeotrope.study.config import load_study, parse_study
    from azeotrope.study.run import run as execute

    parsed = parse_study(dict(study)) if isinstance(study, Mapping) else load_study(Path(study))
    return execute(parsed, runs=Path(runs), workers=workers)


def results(run_dir: str | Path) -> pl.DataFrame:
    """Return the tidy results of a run: one row per task, arm, attack, student and metric."""
    from azeotrope.study.store import read_parquet

    return read_parquet(Path(run_dir) / "results.parquet")


def report(run_dir: str | Path) -> Path:
    """Write the run's self-contained HTML report and return its path."""
    from azeotrope.report import build

    return build(Path(run_dir))


def load(ref: str) -> LM:
    """Load a model: ``embedded/NAME``, a folder, or a Hugging Face name."""
    from azeotrope.models.lm import load as load_model

    return load_model(ref)
