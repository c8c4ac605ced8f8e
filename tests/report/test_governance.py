"""What the section on transfer says in words."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
from folders import edit, section_of

from azeotrope.report import build
from azeotrope.report.governance import told
from azeotrope.report.load import load_run

TABLE = "governance.parquet"


def test_one_sentence_per_task_and_measure_with_the_undefended_release_first(finished_run: Path) -> None:
    found = told(load_run(finished_run))
    assert [one.subject for one in found] == [
        "Refusal consistency on arithmetic", "Answer stability on arithmetic",
        "Refusal consistency on lookup", "Answer stability on lookup",
    ]  # fmt: skip
    share = r"\d+\.\d % \[\d+\.\d, \d+\.\d\]"
    pattern = (
        rf"On the undefended release \(student [a-z-]+, attack \w+\) the student acquired {share} of the "
        rf"teacher's excess in accuracy and {share} of that in refusal consistency: a gap of \+\d+\.\d points "
        r"\[\+\d+\.\d, \+\d+\.\d\], p = \.004 \(n = 120, 5 seeds\)\. Of 84 other cases of arm, attack and "
        r"student, capability is shown to go further in \d+ and less far in 0\."
    )
    assert re.fullmatch(pattern, found[0].sentence)
    assert "Of 42 other cases" in found[1].sentence  # nothing to transfer to the other family


def test_cases_are_counted_by_their_intervals(copied: Path) -> None:
    arm = pl.col("arm")
    low = pl.when(arm == "ads lam=0.1").then(-0.5).when(arm == "ads lam=0.2").then(-0.1).otherwise(0.1)
    high = pl.when(arm == "ads lam=0.1").then(-0.3).when(arm == "ads lam=0.2").then(None).otherwise(0.4)
    edit(copied, TABLE, lambda f: f.filter((pl.col("attack") == "sft") & (pl.col("student") == "gpt-small")))
    edit(copied, TABLE, lambda f: f.filter(arm.str.starts_with("ads")).with_columns(gap_low=low, gap_high=high))
    sentence = told(load_run(copied))[0].sentence
    assert sentence.startswith("On ads lam=0.05 (student gpt-small, attack sft)")  # no undefended row: the widest
    assert sentence.endswith("Of 3 other cases of arm, attack and student, capability is shown to go further in 1 "
                             "and less far in 1.")  # fmt: skip


def test_nothing_to_transfer_is_said(copied: Path) -> None:
    edit(copied, TABLE, lambda f: f.with_columns(
        status=pl.lit("nothing to transfer"), gap=pl.lit(None), transfer=pl.lit(None)))  # fmt: skip
    text = section_of(build(copied).read_text(encoding="utf-8"), "governance")
    assert text.count("The teacher is not above the undistilled student, so there is nothing to transfer.") == 4


def test_a_single_case_is_told_without_counting_others(copied: Path) -> None:
    edit(copied, TABLE, lambda f: f.head(1).with_columns(p=pl.lit(None), gap_low=pl.lit(None)))
    (found,) = told(load_run(copied))
    assert "points (no interval) (n = 120, 5 seeds)." in found.sentence
    assert "other cases" not in found.sentence
