"""How visible an arm is: its release against the undefended one, beside a clean resample in its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from azeotrope.core import plugins
from azeotrope.core.errors import ConfigError
from azeotrope.core.methods import parse_method
from azeotrope.core.seeds import derive
from azeotrope.detect.base import Detector
from azeotrope.detect.compare import CONTROL, compare
from azeotrope.study.plan import Plan
from azeotrope.study.specs import DETECT, DetectSpec
from azeotrope.study.store import Store, read_parquet, write_parquet

FIGURES = {
    "detector": pl.String,
    "measure": pl.String,
    "unit": pl.String,
    "value": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "n": pl.Int64,
    "n_problems": pl.Int64,
    "note": pl.String,
}
SCHEMA = {"task": pl.String, "arm": pl.String, **FIGURES}


def detect(spec: DetectSpec, release_dir: Path, clean_dir: Path, out: Path) -> list[str]:
    """Write detect.parquet: every detector's figures on the problems that were asked twice.

    Returns why detectors were left out (a classifier needs more problems than a small release has). The rows
    of an arm and of the control come from the same problems, split and resampling.
    """
    clean, again = (_texts(clean_dir / name) for name in ("traces.parquet", "resample.parquet"))
    asked = {name: clean[name] for name in clean if name in again}
    texts = again if spec.control else _texts(release_dir / "traces.parquet")
    side = {name: texts[name] for name in asked}
    rows: list[dict[str, Any]] = []
    notes = []
    for settings in spec.detectors:
        detector = _detector(settings)
        try:
            found = compare({"side": side}, asked, None, [detector], derive(spec.seed, DETECT))
        except ConfigError as error:
            notes.append(str(error))
            continue
        rows += [{name: row.as_dict()[name] for name in FIGURES} for row in found]
    write_parquet(pl.DataFrame(rows, schema=FIGURES).fill_nan(None), out / "detect.parquet")
    return notes


def detectability_table(plan: Plan, store: Store) -> pl.DataFrame:
    """One row per task, arm and figure; the control's rows are those of the arm named `clean resample`."""
    frames = []
    for step in plan.of(DETECT):
        assert isinstance(step.spec, DetectSpec)
        found = read_parquet(store.folder(step.stage, step.id) / "detect.parquet")
        arm = CONTROL if step.spec.control else step.arm
        frames.append(found.select(pl.lit(step.task).alias("task"), pl.lit(arm).alias("arm"), *FIGURES))
    return pl.concat(frames) if frames else pl.DataFrame(schema=SCHEMA)


def _texts(path: Path) -> dict[str, list[str]]:
    return {str(row[0]): [str(row[1])] for row in read_parquet(path).select("problem_id", "text").iter_rows()}


def _detector(settings: dict[str, Any]) -> Detector:
    values = dict(settings)
    found = parse_method(plugins.load("detectors", values.pop("kind")), values, "detectors")
    assert isinstance(found, Detector)
    return found
