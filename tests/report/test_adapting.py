"""What the verdict and the page say about adaptive attacks, without a browser."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from synthetic_run import HOSTILE

from azeotrope.core.errors import RunError
from azeotrope.report import build
from azeotrope.report.adapting import tell
from azeotrope.report.load import load_run
from azeotrope.report.schemas import RECOVERY
from azeotrope.report.verdict import verdict
from azeotrope.study.recovery import SCHEMA
from azeotrope.study.vocabulary import is_passive


def edit(folder: Path, change: Any, name: str = "recovery.parquet") -> None:
    change(pl.read_parquet(folder / name)).write_parquet(folder / name)


def page_of(folder: Path) -> str:
    return build(folder).read_text(encoding="utf-8")


def row(
    attack: str, recovery: tuple[float, float, float] | None, gain: float = 0.1, **more: Any
) -> dict[str, Any]:
    low, high = (recovery[1], recovery[2]) if recovery else (None, None)
    return {
        "attack": attack, "student": "s", "metric": "student_accuracy", "n": 200, "n_seeds": 5,
        "recovery": recovery[0] if recovery else None, "recovery_low": low, "recovery_high": high,
        "gain": gain, "gain_low": gain - 0.02, "gain_high": gain + 0.02,
        "status": "ok" if recovery else "nothing lost", **more,
    }  # fmt: skip


# The section


def test_what_is_read_is_what_a_study_writes() -> None:
    assert {name: SCHEMA[name] for name in RECOVERY} == RECOVERY


@pytest.mark.parametrize("empty", [False, True])
def test_without_rows_there_is_no_section_and_no_sentence(copied: Path, empty: bool) -> None:
    assert 'id="recovery"' in page_of(copied)
    assert 'href="#recovery"' in page_of(copied)
    if empty:
        edit(copied, lambda f: f.clear())
    else:
        (copied / "recovery.parquet").unlink()
    text = page_of(copied)
    for part in ('id="recovery"', 'href="#recovery"', 'class="adapting"', "<dt>Recovery</dt>"):
        assert part not in text
    assert verdict(load_run(copied)).adapting == ()


def test_missing_columns_and_wrong_types_are_one_sentence(copied: Path) -> None:
    edit(copied, lambda f: f.drop("own_tokens", "gain_low"))
    with pytest.raises(RunError, match=r"recovery\.parquet' lacks the columns gain_low, own_tokens"):
        build(copied)
    edit(copied, lambda f: f.with_columns(own_tokens=pl.lit("many"), gain_low=pl.lit(0.0)))
    with pytest.raises(RunError, match=r"recovery\.parquet' holds a column of the wrong type"):
        build(copied)


def test_numbers_that_are_not_finite_do_not_break_the_page(copied: Path) -> None:
    edit(copied, lambda f: f.with_columns(recovery_high=pl.lit(float("inf")), recovery_low=pl.lit(float("nan"))))
    found = verdict(load_run(copied)).adapting
    assert all("no interval" in one.sentence and "not shown to recover" in one.sentence for one in found)
    island = re.search(r'id="data">(.*?)</script>', page_of(copied), re.S)
    assert island
    assert set(json.loads(island[1])["recovery"]["recovery_high"]) == {None}


def test_hostile_labels_stay_text(copied: Path) -> None:
    swap = [
        pl.col(name).replace(old, HOSTILE) for name, old in (("attack", "sft_filtered"), ("student", "gpt-small"))
    ]
    edit(copied, lambda f: f.with_columns(swap))
    text = page_of(copied)
    assert "<script>window.pwned" not in text
    assert "<img src=x" not in text
    assert "&lt;script&gt;window.pwned" in text[text.index('class="adapting"') :]


# The verdict


def test_verdict_names_the_worst_adaptive_attack_of_every_defense(finished_run: Path) -> None:
    found = verdict(load_run(finished_run))
    assert [(one.task, one.defense) for one in found.adapting] == [
        ("arithmetic", "ads"), ("arithmetic", "traceguard"), ("lookup", "ads"), ("lookup", "traceguard"),
    ]  # fmt: skip
    pattern = (
        r"At ads lam=0\.1, which costs \d\.\d points of teacher accuracy, the worst-case adaptive attack, "
        r"sft_filtered \(student [a-z-]+\), recovers 3\d\.\d % \[\d\d\.\d, \d\d\.\d\] of the student accuracy "
        r"that the passive student lost \(n = 400, 5 seeds\)\."
    )
    assert re.fullmatch(pattern, found.adapting[0].sentence)
    assert found.adapting[1].sentence.startswith("At traceguard budget=0.4, which costs ")  # its strongest
    assert found.lead.startswith("By student accuracy of the worst case over attacks and students, at")
    assert "Only a passive student" not in found.caution
    assert "not corrected for the choice" in found.caution
    assert "trace_inversion" in found.caution


def test_the_worst_case_is_over_students_at_one_arm(copied: Path) -> None:
    worst = (pl.col("student") == "llama-small") & (pl.col("attack") == "trace_inversion")
    elsewhere = pl.col("arm") != "ads lam=0.1"
    edit(copied, lambda f: f.with_columns(
        recovery=pl.when(worst).then(0.9).when(elsewhere).then(5.0).otherwise("recovery"),
        recovery_high=pl.when(worst).then(1.1).otherwise("recovery_high")))  # fmt: skip
    assert (
        "trace_inversion (student llama-small), recovers 90.0 %" in verdict(load_run(copied)).adapting[0].sentence
    )


def test_the_measure_is_the_headline_or_accuracy(copied: Path) -> None:
    manifest = json.loads((copied / "manifest.json").read_text(encoding="utf-8"))
    for metric, wanted in (
        ("recall_hidden", "of the recall of hidden facts"),
        ("s_minus_t", "the student accuracy"),
    ):
        manifest["headline"] = {"metric": metric}
        (copied / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        assert wanted in verdict(load_run(copied)).adapting[0].sentence


def test_another_passive_setting_is_not_adapting(copied: Path) -> None:
    edit(copied, lambda f: f.with_columns(attack=pl.lit("sft(lr=0.1)")))
    edit(copied, lambda f: f.filter(pl.col("attack") != "sft_filtered"), "results.parquet")
    found = verdict(load_run(copied))
    assert found.adapting == ()
    assert "not evidence that a defense is effective" in found.caution


def test_without_a_comparison_the_adaptive_attack_is_still_named(copied: Path) -> None:
    (copied / "equal_cost.parquet").unlink()
    found = verdict(load_run(copied))
    assert "no verdict is drawn" in found.lead
    assert len(found.adapting) == 4


def test_a_single_attack_keeps_the_shorter_lead(copied: Path) -> None:
    (copied / "recovery.parquet").unlink()
    edit(copied, lambda f: f.filter(pl.col("attack") != "sft_filtered"), "results.parquet")
    assert verdict(load_run(copied)).lead.startswith("By student accuracy of the worst-case student, at")


@pytest.mark.parametrize(
    ("label", "wanted"),
    [
        ("sft", True),
        ("sft(epochs=3)", True),
        ("sft #1f0c", True),
        ("sft_filtered", False),
        ("filtered_sft", False),
    ],
)
def test_passive_labels(label: str, wanted: bool) -> None:
    assert is_passive(label) is wanted


# The wording


def test_an_interval_with_zero_is_not_shown_to_recover_anything() -> None:
    for low in (-0.2, 0.0):
        told = tell([row("a", (0.3, low, 0.8))])
        assert "the worst-case adaptive attack, a (student s), is not shown to recover anything of the" in told
        assert "30.0 % [" in told


def test_an_unsure_worst_case_does_not_hide_a_sure_one() -> None:
    told = tell([row("b", (0.2, 0.1, 0.3)), row("a", (0.3, -0.2, 0.8)), row("c", (0.1, 0.05, 0.15))])
    assert "a (student s), is not shown to recover anything" in told
    assert "; b (student s) recovers 20.0 % [10.0, 30.0]" in told
    assert "c (student s)" not in told


def test_a_worst_case_below_zero_is_said_to_get_less() -> None:
    told = tell([row("a", (-0.3, -0.5, -0.1)), row("b", (-0.6, -0.9, -0.4))])
    assert "a (student s), gets less than the passive student: it recovers −30.0 % [−50.0, −10.0]" in told


def test_nothing_lost_tells_the_gain() -> None:
    told = tell([row("a", None, 0.01), row("b", None, 0.05)])
    assert told.startswith("the passive student is not shown to lose any student accuracy")
    assert "the highest gain is +5.0 points [+3.0, +7.0] (n = 200, 5 seeds) by b (student s)" in told
    assert "not shown to be above 0" in tell([row("a", None, 0.01)])
    assert tell([row("a", None, gain=0.0) | {"gain": None}]).endswith("so there is nothing to recover")


def test_a_sure_gain_of_a_student_that_lost_nothing_is_told_too() -> None:
    told = tell([row("a", (0.3, 0.1, 0.5)), row("b", None, 0.05, student="t"), row("c", None, 0.01, student="t")])
    assert told.endswith("; where the passive student lost nothing, b (student t) gains +5.0 points [+3.0, +7.0] "
                         "(n = 200, 5 seeds)")  # fmt: skip
    assert "gains" not in tell([row("a", (0.3, 0.1, 0.5)), row("c", None, 0.01)])
