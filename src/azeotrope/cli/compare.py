"""Two runs side by side: the rows they share, with differences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from azeotrope.core.errors import ConfigError, nearest
from azeotrope.report.load import load_run

KEY = ["task", "arm", "attack", "student", "metric"]
_VALUES = ["value", "low", "high", "n", "n_seeds"]
APART, OVERLAP, UNKNOWN = "apart", "overlap", "not known"


def compare(a: Path, b: Path, metrics: Sequence[str] | None = None) -> dict[str, Any]:
    """Join the results of two runs on `KEY`. Raises MissingError and RunError as `load_run`, ConfigError."""
    left, right = (_results(folder) for folder in (a, b))
    known = sorted({*left["metric"].to_list(), *right["metric"].to_list()})
    for name in metrics or ():
        if name not in known:
            raise ConfigError(f"Neither run has the metric '{name}'.{nearest(name, known)}")
    if metrics:
        left, right = (frame.filter(pl.col("metric").is_in(list(metrics))) for frame in (left, right))
    shared = left.join(right, on=KEY, how="inner", suffix="_b", maintain_order="left")
    rows = [_row(record) for record in shared.iter_rows(named=True)]
    apart = sum(row["remark"] == APART for row in rows)
    only_a, only_b = len(left) - len(rows), len(right) - len(rows)
    summary = (
        f"{len(rows)} shared rows, {apart} with intervals apart; {only_a} only in A, {only_b} only in B. "
        "Intervals that overlap may still differ: within one run, the report compares on the same problems."
    )
    return {"a": str(a), "b": str(b), "rows": rows, "only_a": only_a, "only_b": only_b, "summary": summary}


def remark(a: Sequence[float | None], b: Sequence[float | None]) -> str:
    """Compare two intervals (low, high).

    >>> remark((0.1, 0.2), (0.3, 0.4)), remark((0.1, 0.3), (0.2, 0.4)), remark((None, None), (0.2, 0.4))
    ('apart', 'overlap', 'not known')
    """
    (low_a, high_a), (low_b, high_b) = a, b
    if low_a is None or high_a is None or low_b is None or high_b is None:
        return UNKNOWN
    return APART if high_a < low_b or high_b < low_a else OVERLAP


def _results(folder: Path) -> pl.DataFrame:
    frame = load_run(folder).results.select(*KEY, *_VALUES)
    texts = frame.with_columns(pl.col("attack", "student").fill_null(""))
    return texts.unique(subset=KEY, keep="first", maintain_order=True)


def _row(record: dict[str, Any]) -> dict[str, Any]:
    a = {name: record[name] for name in _VALUES}
    b = {name: record[f"{name}_b"] for name in _VALUES}
    known = a["value"] is not None and b["value"] is not None
    return {
        **{name: record[name] for name in KEY}, "a": a, "b": b,
        "difference": b["value"] - a["value"] if known else None,
        "remark": remark((a["low"], a["high"]), (b["low"], b["high"])),
    }  # fmt: skip
