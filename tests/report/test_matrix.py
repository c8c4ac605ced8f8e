"""What the section on protected and measured tasks says in words."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
from folders import edit, section_of
from synthetic_tables import FAR_TASK, LONG

from azeotrope.report import build
from azeotrope.report.load import load_run
from azeotrope.report.matrix import told, worst_arm

TABLE = "matrix.parquet"


def test_the_worst_case_is_the_smallest_loss_and_the_arm_the_one_where_it_is_largest() -> None:
    rows = [
        {"arm": arm, "loss": loss}
        for arm, loss in (("weak", 0.4), ("weak", -0.1), ("strong", 0.2), ("strong", 0.25), ("unknown", None))
    ]
    assert worst_arm(rows) == {"arm": "strong", "loss": 0.2}
    assert worst_arm([{"arm": "unknown", "loss": None}]) is None


def test_every_protected_task_is_told_with_what_it_does_elsewhere(finished_run: Path) -> None:
    own, other = told(load_run(finished_run))
    assert [own.subject, other.subject] == ["Protecting arithmetic", "Protecting lookup"]
    assert own.sentence.startswith("At ads lam=0.2 the worst case (student ")
    for part in (
        "counted in student accuracy, loses 17.",
        "where the teacher's accuracy drops by 4.0 points [3.0, 5.0] (n = 400, 5 seeds)",
        "; on lookup it is not shown to lose any (−2.", f" and on {FAR_TASK} it ",
    ):  # fmt: skip
        assert part in own.sentence
    assert other.sentence.startswith(f"At {LONG} the worst case")
    assert "on arithmetic it was not measured" in other.sentence


def test_a_sure_gain_of_the_thief_is_said_to_be_one(copied: Path) -> None:
    edit(copied, TABLE, lambda f: f.with_columns(loss=pl.lit(-0.1), low=pl.lit(-0.12), high=pl.lit(-0.08)))
    assert "counted in student accuracy, gains 10.0 points [8.0, 12.0]" in told(load_run(copied))[0].sentence


def test_the_measure_is_the_headline_of_the_study(copied: Path) -> None:
    manifest = json.loads((copied / "manifest.json").read_text(encoding="utf-8"))
    for metric, wanted in (("recall_hidden", "recall of hidden facts"), ("s_minus_t", "student accuracy")):
        manifest["headline"] = {"metric": metric}
        (copied / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        assert f"counted in {wanted}," in told(load_run(copied))[0].sentence


def test_what_was_not_measured_is_said(copied: Path) -> None:
    edit(copied, TABLE, lambda f: f.filter(pl.col("task") != pl.col("protected")))
    text = section_of(build(copied).read_text(encoding="utf-8"), "matrix")
    assert text.count("What it costs the thief there was not measured.") == 2
