"""What the section on visibility says in words."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
from folders import edit, section_of
from synthetic_tables import CONTROL, NGRAM

from azeotrope.detect.compare import CONTROL as NAME
from azeotrope.report import build
from azeotrope.report.detectability import told
from azeotrope.report.load import load_run

TABLE = "detectability.parquet"
is_control = pl.col("arm") == CONTROL


def test_the_control_is_the_one_of_the_detectors() -> None:
    assert CONTROL == NAME


def test_one_sentence_per_task_and_trained_detector(finished_run: Path) -> None:
    found = told(load_run(finished_run))
    assert [one.subject for one in found] == [
        f"{detector} on {task}" for task in ("arithmetic", "lookup") for detector in ("ngram", NGRAM)
    ]
    figure = r"0\.\d\d \[0\.\d\d, [01]\.\d\d\] \(n = \d+\)"
    most = f"are told apart from clean text; the most visible is .+ with an AUROC of {figure}"
    assert re.fullmatch(
        rf"By one trace, 21 of 21 arms {most}\. By a group of traces, 20 of 20 arms {most}\. The control, clean "
        rf"text again, is at {figure} by one trace and {figure} by a group of traces\.",
        found[0].sentence,
    )


def test_an_arm_whose_interval_contains_guessing_is_not_told_apart(copied: Path) -> None:
    edit(
        copied,
        TABLE,
        lambda f: f.with_columns(low=pl.when(pl.col("arm") == "ads lam=0.1").then(0.5).otherwise("low")),
    )
    assert "By one trace, 20 of 21 arms are told apart" in told(load_run(copied))[0].sentence


def test_a_control_away_from_guessing_takes_the_figures_back(copied: Path) -> None:
    group = is_control & (pl.col("unit") == "per_group")
    edit(copied, TABLE, lambda f: f.with_columns(low=pl.when(group).then(0.6).otherwise("low")))
    sentence = told(load_run(copied))[0].sentence
    assert sentence.endswith(": that is not guessing, so the figures by a group of traces are not to be trusted.")
    edit(copied, TABLE, lambda f: f.with_columns(high=pl.when(is_control).then(0.4).otherwise("high")))
    assert "by one trace and a group of traces are not to be trusted" in told(load_run(copied))[0].sentence


def test_an_absent_control_and_figures_that_could_not_be_measured_are_said(copied: Path) -> None:
    edit(copied, TABLE, lambda f: f.filter(~is_control).with_columns(
        value=pl.lit(None), low=pl.lit(None), high=pl.lit(None), note=pl.lit("too few problems")))  # fmt: skip
    text = section_of(build(copied).read_text(encoding="utf-8"), "detectability")
    assert text.count("By one trace nothing could be measured (too few problems).") == 4
    assert text.count("There is no control, so nothing says what these figures would be without a defense.") == 4


def test_without_a_trained_detector_nothing_is_said(copied: Path) -> None:
    edit(copied, TABLE, lambda f: f.filter(pl.col("measure") == "token_delta"))
    assert told(load_run(copied)) == []
