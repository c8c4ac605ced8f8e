"""What the page says of trained edits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
from synthetic_run import TASKS

from azeotrope.report.edits import told
from azeotrope.report.load import load_run
from azeotrope.report.sections import shown


def test_a_sentence_an_edit(finished_run: Path) -> None:
    found = told(load_run(finished_run))
    assert [one.subject for one in found] == [TASKS[0], f"{TASKS[0]}, gkd", *TASKS[1:]]
    assert found[0].sentence == (
        "ads lam=0.3: the cosine went from 1.00 to −0.40 … −0.30 on held-out text, with the argmax kept at "
        "95.0 % of tokens and the teacher's accuracy at 98.0 % (before: 99.0 %); CMI 0.110 → 0.090 nats "
        "(2 trained). temperature delta=1: the cosine went from 1.00 to 0.25 on held-out text, with the argmax "
        "kept at 95.0 % of tokens and the teacher's accuracy at 98.0 % (before: 99.0 %)."
    )


def test_what_goes_with_the_loss_of_students(finished_run: Path) -> None:
    run = load_run(finished_run)
    assert run.predictors is not None
    assert told(run)[1].sentence == (
        "rank correlation with the loss of llama-small, over 35 releases (7 settings, 5 draws; no cause): "
        "loss by the students of sft 0.90 [0.60, 1.00], valid steps lost by the teacher 0.86 [0.56, 1.00], "
        "KL from the teacher 0.40 [0.10, 0.70]; not told apart from 0: cosine −0.25 [−0.55, 0.05]."
    )
    weak = run.predictors.with_columns(low=-0.5, high=0.5)
    assert "no cause): nothing told apart from 0; not told" in told(replace(run, predictors=weak))[1].sentence
    assert len(told(replace(run, predictors=None))) == len(TASKS)


def test_one_draw_has_an_interval_of_the_change(finished_run: Path, tmp_path: Path) -> None:
    run = load_run(finished_run)
    assert run.edits is not None
    first = run.edits.filter(pl.col("draw") == 0, pl.col("cmi_before").is_not_null())
    assert "a change of −0.020 [−0.028, −0.012]." in told(replace(run, edits=first))[0].sentence


def test_what_was_not_measured_is_said(finished_run: Path) -> None:
    run = load_run(finished_run)
    assert run.edits is not None
    lost = run.edits.filter(pl.col("draw") == 0).with_columns(held_out=None, agreement=None, cmi_change=None)
    assert (
        "went from 1.00 to – on held-out text, with the argmax kept at – %"
        in told(replace(run, edits=lost))[0].sentence
    )


def test_a_run_without_edits_has_no_section(finished_run: Path) -> None:
    assert "edits" in [section.name for section in shown(load_run(finished_run))]
    assert "edits" not in [section.name for section in shown(replace(load_run(finished_run), edits=None))]


def test_an_edit_that_costs_more_than_was_allowed_is_told(finished_run: Path) -> None:
    run = load_run(finished_run)
    assert run.edits is not None
    beyond = run.edits.with_columns(kept=pl.col("draw") == 0)
    sentence = told(replace(run, edits=beyond))[0].sentence
    assert (
        "(before: 99.0 %); 1 of 2 cost the teacher more than was allowed, as no checkpoint did better;" in sentence
    )
