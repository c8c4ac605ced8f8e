"""What the section on every defense against every attack says in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from folders import data_of, edit, section_of
from synthetic_gains import FACED, GAPPY, HALF, LACKED, crowd
from synthetic_tables import LONG

from azeotrope.report import build
from azeotrope.report.gains import lacking, told, worst_cases
from azeotrope.report.load import load_run
from azeotrope.study.gains import NOTHING, UNMEASURED, UNSTARTED

TABLE = "gains.parquet"
# ads at full strength loses .9 of what an attack feels: .45 · .73, of the best .6
LOWEST = 0.45 * (1 - 0.9 * 0.3) / 0.6


def said(folder: Path) -> list[str]:
    return [one.sentence for one in told(load_run(folder))]


def rows_of(shares: dict[str, list[float | None]], students: int = 1) -> list[dict[str, Any]]:
    """Rows by arm; the shares of one student after the other."""
    return [
        {"arm": arm, "attack": f"a{i // students}", "student": f"s{i % students}", "retained": share}
        for arm, found in shares.items()
        for i, share in enumerate(found)
    ]


def test_the_worst_case_is_the_highest_share_over_attacks_and_students() -> None:
    rows = rows_of(
        {"one": [0.2, 0.7, None, 0.4], "two": [-0.1, -0.2, None, None], "three": [None] * 4}, students=2
    )
    found = worst_cases(rows)
    assert {arm: row["retained"] for arm, row in found.items()} == {"one": 0.7, "two": -0.1}
    assert (found["one"]["attack"], found["one"]["student"]) == ("a0", "s1")


def test_an_arm_lacks_what_another_has() -> None:
    rows = rows_of({"whole": [0.2, 0.7, None], "part": [0.1, None, None], "other": [None, 0.1, None]})
    assert lacking(rows) == ["part", "other"]
    assert lacking(rows_of({"one": [0.1, None], "two": [0.2, None]})) == []


def test_the_lowest_worst_case_is_told_with_its_attack_and_its_cost(finished_run: Path) -> None:
    first, second = told(load_run(finished_run))
    assert (first.subject, second.subject) == ("arithmetic", "lookup")
    assert first.sentence.startswith(
        "Of 20 settings, ads lam=0.4 leaves the thief least at worst: by resampled_sft"
    )
    for part in (
        "resampled_sft(check=consensus, tries=4) (student gpt-small) he gets "
        f"{100 * LOWEST:.1f} % [{100 * LOWEST - 5:.1f}, {100 * LOWEST + 5:.1f}] of his best undefended gain in "
        "student accuracy (n = 400, 5 seeds); the teacher's accuracy drops by 16.0 points [15.0, 17.0].",
        "Choosing by this number flatters the setting that is chosen; that is not corrected for.",
        f"Left out, for want of an attack or student that others have: {GAPPY}.",
    ):  # fmt: skip
        assert part in first.sentence
    assert "not shown" not in first.sentence
    assert "control" not in first.sentence


def test_the_chosen_setting_really_has_the_lowest_worst_case(finished_run: Path) -> None:
    table = pl.read_parquet(finished_run / TABLE).filter(
        pl.col("task") == "arithmetic",
        pl.col("metric") == "student_accuracy",
        ~pl.col("arm").is_in(["none", GAPPY]),
    )
    worst = table.group_by("arm").agg(pl.col("retained").max()).sort("retained")
    assert (worst["arm"][0], worst["retained"][0]) == ("ads lam=0.4", pytest.approx(LOWEST))
    assert len(worst) == 20


def test_a_control_that_is_lowest_does_not_hide_the_best_defense(copied: Path) -> None:
    better = pl.col("retained") - pl.when(pl.col("arm") == "temperature excess=1").then(0.7).otherwise(0.0)
    edit(copied, TABLE, lambda frame: frame.with_columns(retained=better))
    sentence = said(copied)[0]
    assert sentence.startswith("Of 20 settings, temperature excess=1 (a control) leaves the thief least")
    assert ". Of the defenses that are no controls, ads lam=0.4 leaves the thief least" in sentence


def test_a_worst_case_that_reaches_everything_is_not_called_protection(copied: Path) -> None:
    edit(copied, TABLE, lambda frame: frame.with_columns(worst_high=pl.col("worst_high") + 0.6))
    assert "in student accuracy, which is not shown to be below 100 % (n = 400" in said(copied)[0]
    edit(copied, TABLE, lambda frame: frame.with_columns(worst_high=pl.lit(None, dtype=pl.Float64)))
    assert "% (no interval) of his best undefended gain in student accuracy, which is not shown" in said(copied)[0]


def test_one_setting_is_not_chosen_among_others(copied: Path) -> None:
    edit(copied, TABLE, lambda frame: frame.filter(pl.col("arm").is_in(["none", "ads lam=0.1"])))
    sentence = said(copied)[0]
    assert sentence.startswith("The only setting, ads lam=0.1 leaves the thief least at worst")
    assert "corrected" not in sentence


def test_without_a_gain_to_share_the_highest_is_told(copied: Path) -> None:
    nothing = {name: pl.lit(None, dtype=pl.Float64) for name in ("retained", "worst_low", "worst_high")}
    edit(copied, TABLE, lambda frame: frame.with_columns(status=pl.lit(NOTHING), **nothing))
    sentence = said(copied)[0]
    assert sentence.startswith("No attack is shown to gain any student accuracy on the undefended release")
    assert "The highest gain is +60.0 points [+57.0, +63.0], by fkl (student gpt-small) (n = 400, 5" in sentence


def test_without_an_undistilled_student_the_share_was_not_measured(copied: Path) -> None:
    gone = {name: pl.lit(None, dtype=pl.Float64) for name in ("gain", "retained", "undistilled", "best")}
    edit(copied, TABLE, lambda frame: frame.with_columns(status=pl.lit(UNSTARTED), **gone))
    assert all(sentence.endswith("is left cannot be compared: it was not measured.") for sentence in said(copied))


def test_no_setting_with_every_attack_is_said(copied: Path) -> None:
    gap = (pl.col("arm") != "none") & (pl.col("attack") == "sft")
    share = pl.when(gap).then(None).otherwise(pl.col("retained"))
    status = pl.when(gap).then(pl.lit(UNMEASURED)).otherwise(pl.col("status"))
    edit(copied, TABLE, lambda frame: frame.with_columns(retained=share, status=status))
    assert all(sentence.endswith("no setting has every attack and student.") for sentence in said(copied))


def test_the_measure_is_the_headline_of_the_study(copied: Path) -> None:
    manifest = json.loads((copied / "manifest.json").read_text(encoding="utf-8"))
    for metric, wanted in (("recall_hidden", "recall of hidden facts"), ("s_minus_t", "student accuracy")):
        manifest["headline"] = {"metric": metric}
        (copied / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        assert f"undefended gain in {wanted} (n = 400" in said(copied)[0]


def test_only_the_undefended_release_says_nothing(copied: Path) -> None:
    edit(copied, TABLE, lambda frame: frame.filter(pl.col("arm") == "none"))
    assert said(copied) == []
    assert section_of(build(copied).read_text(encoding="utf-8"), "gains")


def test_the_made_up_tables_follow_the_contract(finished_run: Path) -> None:
    """What the browser tests rest on: one worst case per arm, and the arm that lacks two attacks."""
    for table in (pl.read_parquet(finished_run / TABLE), pl.DataFrame(crowd(12, 25))):
        keys = ["task", "arm", "student", "metric"]
        assert set(table.group_by(keys).agg(pl.col("worst").sum())["worst"]) == {1}
    table = pl.read_parquet(finished_run / TABLE)
    lost = table.filter(pl.col("status") == UNMEASURED)
    assert set(lost["arm"]) == {GAPPY}
    assert set(lost["attack"]) == set(LACKED)
    assert LONG in set(table["arm"])
    assert set(table["attack"]) == set(FACED)
    gap = table["retained_high"] - table["retained_low"]
    assert gap.drop_nulls().to_list() == pytest.approx([2 * HALF] * len(gap.drop_nulls()))


def test_a_study_of_many_arms_and_attacks_stays_a_small_part_of_the_page(copied: Path) -> None:
    pl.DataFrame(crowd(12, 25), infer_schema_length=None).write_parquet(copied / TABLE)
    page = build(copied).read_text(encoding="utf-8")
    assert len(data_of(page)["gains"]["retained"]) == 300
    assert len(json.dumps(data_of(page)["gains"])) < 200_000
