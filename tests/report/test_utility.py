"""What the section on honest users says in words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from folders import edit, section_of
from synthetic_tables import LONG

from azeotrope.report import build
from azeotrope.report.load import load_run
from azeotrope.report.utility import spares_answers, spoiled, told

TABLE = "utility.parquet"


def drop(low: float | None, high: float | None, utility: str = "teacher_accuracy") -> dict[str, Any]:
    middle = None if low is None or high is None else (low + high) / 2
    return {"utility": utility, "drop": middle, "low": low, "high": high}


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [(-0.01, 0.02, True), (0.0, 0.02, True), (0.001, 0.02, False), (-0.02, -0.01, False), (None, None, False)],
)
def test_answers_are_spared_where_the_interval_contains_zero(
    low: float | None, high: float | None, wanted: bool
) -> None:
    assert spares_answers({"teacher_accuracy": drop(low, high)}) is wanted
    assert not spares_answers({})


def test_length_alone_and_unsure_drops_are_no_harm() -> None:
    unsure = drop(-0.01, 0.2, "trace_validity")
    length = drop(0.2, 0.4, "length")
    assert spoiled({"trace_validity": unsure, "length": length}) == []
    small, large = drop(0.01, 0.03, "grounding"), drop(0.1, 0.2, "reader_accuracy")
    found = spoiled({"grounding": small, "reader_accuracy": large, "trace_validity": unsure})
    assert found == [large, small]


def test_the_arms_that_spare_answers_and_spoil_the_trace_are_named(finished_run: Path) -> None:
    found = told(load_run(finished_run))
    assert [one.subject for one in found] == [
        "traceguard on arithmetic", "random_sentences (control) on arithmetic",
        "traceguard on lookup", "random_sentences (control) on lookup",
    ]  # fmt: skip
    number = r"\d+\.\d points \[−?\d+\.\d, \d+\.\d\]"
    assert re.fullmatch(
        rf"At traceguard budget=0\.4 the answers are not shown to suffer \(teacher accuracy: {number}\), but the "
        rf"trace does, by {number} of trace validity, {number} of reader accuracy and {number} of grounding "
        r"\(n = 400\)\. The trace is 30\.0 % longer\. The same holds at traceguard budget=0\.1 and traceguard "
        r"budget=0\.2\.",
        found[0].sentence,
    )


def test_an_arm_that_the_results_lack_is_named_too(copied: Path) -> None:
    free = (pl.col("arm") == LONG) & (pl.col("utility") == "teacher_accuracy")
    edit(copied, TABLE, lambda f: f.with_columns(low=pl.when(free).then(-0.01).otherwise("low")))
    assert f"{LONG} on lookup" in [one.subject for one in told(load_run(copied))]


def test_no_such_arm_is_said_and_without_both_sides_nothing_is(copied: Path) -> None:
    edit(copied, TABLE, lambda f: f.with_columns(low=pl.when(pl.col("low") < 0).then(0.001).otherwise("low")))
    text = section_of(build(copied).read_text(encoding="utf-8"), "utility")
    assert text.count("No arm is shown to spoil the trace where the answers are not shown to suffer.") == 2
    edit(copied, TABLE, lambda f: f.filter(pl.col("utility") == "teacher_accuracy"))
    assert told(load_run(copied)) == []
