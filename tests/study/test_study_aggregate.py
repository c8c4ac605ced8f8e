from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from rich.console import Console
from study_fakes import FakeStages, digest, study

from azeotrope.core.errors import ConfigError, RunError
from azeotrope.study.config import load_study
from azeotrope.study.resampling import spread
from azeotrope.study.run import run
from azeotrope.study.store import run_lock

QUIET = Console(quiet=True)
RESULTS = [
    "study",
    "task",
    "arm",
    "defense",
    "params",
    "strength",
    "is_control",
    "attack",
    "student",
    "metric",
    "value",
    "low",
    "high",
    "n",
    "n_seeds",
    "unit",
    "higher_is_better",
]
EQUAL_COST = [
    "task",
    "student",
    "attack",
    "utility",
    "drop",
    "metric",
    "defense",
    "reference",
    "difference",
    "low",
    "high",
    "p",
    "n",
    "n_seeds",
    "status",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import study_fakes as fakes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("azeotrope.core.plugins.load", fakes.fake_load)
        return run(
            study(),
            runs=tmp_path_factory.mktemp("runs"),
            workers=0,
            stages=FakeStages(),
            console=QUIET,
            command="azeotrope run study.yaml",
            logit_order=("a", "b"),
        )


def row(folder: Path, **where: str) -> dict[str, object]:
    frame = pl.read_parquet(folder / "results.parquet")
    return frame.filter(*(pl.col(key) == value for key, value in where.items())).row(0, named=True)


def test_results_hold_every_metric_of_the_contract(folder: Path) -> None:
    frame = pl.read_parquet(folder / "results.parquet")
    assert frame.columns == RESULTS
    keys = ["task", "arm", "attack", "student", "metric"]
    assert not frame.select(keys).is_duplicated().any()
    teacher = {"teacher_accuracy", "trace_validity", "wrong_statements", "trace_tokens", "teacher_finished"}
    student = {
        "student_accuracy",
        "student_accuracy_finished",
        "student_finished",
        "recall_hidden",
        "s_minus_t",
        "gain",
        "clean_nll",
    }
    assert set(frame.filter(pl.col("attack") == "")["metric"]) == teacher
    assert set(frame.filter(pl.col("attack") == "sft")["metric"]) == student
    before = frame.filter(pl.col("attack") == "undistilled")
    assert set(before["arm"]) == {"none"}
    assert set(before["metric"]) == student - {"s_minus_t", "gain"}
    inside = frame.filter(pl.col("low").is_not_null())
    assert ((inside["low"] <= inside["value"]) & (inside["value"] <= inside["high"])).all()
    assert frame.null_count().row(0, named=True)["value"] == 0


def test_values_are_those_of_the_samples(folder: Path) -> None:
    samples = pl.read_parquet(folder / "samples.parquet")
    arm = "ads(lam=0.4)"
    attacked = samples.filter(pl.col("arm") == arm, pl.col("attack") == "sft")
    found = row(folder, arm=arm, metric="student_accuracy")
    assert found["value"] == pytest.approx(attacked["correct"].mean())
    assert (found["n"], found["n_seeds"], found["strength"]) == (40, 6, 0.4)
    assert json.loads(str(found["params"])) == {"kind": "ads", "lam": 0.4, "proxy": "embedded/proxy"}
    finished = attacked.filter(pl.col("finished"))
    assert row(folder, arm=arm, metric="student_accuracy_finished")["value"] == pytest.approx(
        finished["correct"].mean()
    )
    teacher = samples.filter(pl.col("arm") == arm, pl.col("attack") == "")
    for metric, column in (("teacher_accuracy", "correct"), ("trace_validity", "valid_share")):
        assert row(folder, arm=arm, metric=metric)["value"] == pytest.approx(teacher[column].mean())
    before = samples.filter(pl.col("attack") == "undistilled")["correct"].mean()
    assert row(folder, arm=arm, metric="gain")["value"] == pytest.approx(attacked["correct"].mean() - before)  # type: ignore[operator]
    assert row(folder, arm=arm, metric="s_minus_t")["value"] == pytest.approx(
        attacked["correct"].mean() - teacher["correct"].mean()
    )  # type: ignore[operator]


def test_seeds_and_draws_are_aligned(folder: Path) -> None:
    """s_minus_t must subtract the teacher of the same draw, problem by problem."""
    samples = pl.read_parquet(folder / "samples.parquet").filter(pl.col("arm") == "none")
    student = samples.filter(pl.col("attack") == "sft").select("draw", "base", "problem_id", "correct")
    teacher = samples.filter(pl.col("attack") == "").select("draw", "problem_id", t="correct")
    joined = student.join(teacher, on=["draw", "problem_id"])
    gaps = joined.group_by("draw", "base").agg((pl.col("correct").cast(int) - pl.col("t").cast(int)).mean())
    assert row(folder, arm="none", metric="s_minus_t")["value"] == pytest.approx(gaps["correct"].mean())
    assert len(gaps) == 6


def test_tasks_with_draws_of_their_own(folder: Path, tmp_path: Path) -> None:
    """A task with more draws has more seeds; the other's numbers are those that it has alone."""
    tasks = [{"kind": "facts"}, {"kind": "facts", "level": 2}]
    draws = {"facts": 2, "facts(level=2)": 3}
    both = run(study(tasks=tasks, draws=draws), runs=tmp_path, workers=0, stages=FakeStages(), console=QUIET)
    alone = pl.read_parquet(folder / "results.parquet")
    found = pl.read_parquet(both / "results.parquet")
    seeds = found.filter((pl.col("metric") == "gain") & (pl.col("arm") == "none"))
    assert dict(seeds.select("task", "n_seeds").iter_rows()) == {"facts": 6, "facts(level=2)": 9}
    keys = ["arm", "attack", "student", "metric"]
    first = found.filter(pl.col("task") == "facts")
    assert_frame_equal(first.select(alone.columns).sort(keys), alone.sort(keys))


def test_equal_cost_rows(folder: Path) -> None:
    frame = pl.read_parquet(folder / "equal_cost.parquet")
    assert frame.columns == EQUAL_COST
    assert set(frame["defense"]) == {"ads"}
    assert set(frame["reference"]) == {"temperature"}
    assert set(frame["drop"]) == {0.02, 0.05, 0.10}
    assert set(frame["utility"]) == {"teacher_accuracy", "trace_validity", "length"}
    assert len(frame) == 3 * 2 * 3
    assert set(frame["status"]) <= {"ok", "not reached"}
    missed = frame.filter(pl.col("status") == "not reached")
    assert missed["difference"].null_count() == len(missed)
    reached = frame.filter(pl.col("status") == "ok")
    assert len(reached)
    assert ((reached["low"] <= reached["difference"]) & (reached["difference"] <= reached["high"])).all()
    assert reached["p"].is_between(0, 1).all()


def test_equal_cost_value_is_the_interpolation_of_the_table(folder: Path) -> None:
    frame = pl.read_parquet(folder / "results.parquet")
    frame = frame.filter(
        pl.col("metric").is_in(["teacher_accuracy", "student_accuracy"]), pl.col("attack") != "undistilled"
    )

    def at(defense: str, drop: float) -> float:
        arms = frame.filter(pl.col("defense").is_in(["none", defense])).sort("strength")
        u = arms.filter(pl.col("metric") == "teacher_accuracy")["value"].to_list()
        v = arms.filter(pl.col("metric") == "student_accuracy")["value"].to_list()
        return float(np.interp(-(u[0] - drop), [-x for x in u], v))

    found = pl.read_parquet(folder / "equal_cost.parquet").filter(
        pl.col("utility") == "teacher_accuracy", pl.col("metric") == "student_accuracy", pl.col("status") == "ok"
    )
    assert len(found)
    for item in found.iter_rows(named=True):
        assert item["difference"] == pytest.approx(at("ads", item["drop"]) - at("temperature", item["drop"]))


def test_losses_costs_diffs_and_manifest(folder: Path) -> None:
    losses = pl.read_parquet(folder / "losses.parquet")
    assert losses.columns == ["task", "arm", "attack", "student", "seed", "step", "split", "loss"]
    assert set(losses["seed"]) == {0, 3}  # base 0 of draws 0 and 1, three bases each
    costs = pl.read_parquet(folder / "costs.parquet")
    slow = costs.filter(pl.col("arm") == "ads(lam=0.4)", pl.col("stage") == "release").row(0, named=True)
    assert (slow["seconds"], slow["tokens"], slow["relative"]) == pytest.approx((2.8, 200, 1.4))
    diffs = json.loads((folder / "diffs.json").read_text())
    assert [set(item) for item in diffs] == [{"task", "problem_id", "prompt", "gold", "arms"}]
    assert [arm["arm"] for arm in diffs[0]["arms"]][:2] == ["none", "temperature(delta=0.1)"]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {
        "name",
        "created",
        "azeotrope_version",
        "code_rev",
        "study_hash",
        "config",
        "command",
        "hardware",
        "packages",
        "logit_order",
        "wall_seconds",
        "headline",
        "notes",
        "problems",
    } <= set(manifest)
    assert manifest["headline"] == {"metric": "recall_hidden", "attack": "sft"}
    assert manifest["problems"] == {"facts": {"test": 40, "release": 10}}
    assert manifest["logit_order"] == ["a", "b"]
    (made,) = manifest["made"]
    assert made["steps"] == len(list((folder.parent / "steps").glob("[!.]*/*/done.json")))
    assert made["cpu"] == manifest["hardware"]["cpu"]
    assert made["first"] <= made["last"] <= manifest["created"][:10]
    assert manifest["notes"][-1] == "a note"
    assert "pairs as independent" in manifest["notes"][0]
    assert manifest["diagnostics"][0] == {"task": "facts", "arm": "none", "draw": 0, "cosine": 0.5}


def test_the_stored_study_reads_back(folder: Path) -> None:
    assert load_study(folder / "study.yaml") == study()


def test_one_seed_and_no_temperature_are_noted(tmp_path: Path) -> None:
    lone = study(
        name="lone",
        draws=1,
        defenses=[{"kind": "ads", "lam": [0.2, 0.5]}],
        students=[{"family": "embedded/student", "bases": 1}],
    )
    where = run(lone, runs=tmp_path, workers=0, stages=FakeStages(), console=QUIET)
    notes = " ".join(json.loads((where / "manifest.json").read_text())["notes"])
    assert "one seed" in notes
    assert "No temperature arm" in notes
    assert pl.read_parquet(where / "equal_cost.parquet").is_empty()
    nll = row(where, metric="clean_nll", attack="sft")
    assert nll["low"] is None
    recall = row(where, metric="recall_hidden", attack="sft")
    assert recall["low"] is not None  # Wilson over the hidden facts


def test_two_tasks_and_two_families(tmp_path: Path) -> None:
    wide = study(
        tasks=[{"kind": "facts"}, {"kind": "facts", "level": 2}],
        draws=1,
        students=[{"family": "a", "bases": 2}, {"family": "b", "bases": 3}],
    )
    where = run(wide, runs=tmp_path, workers=0, stages=FakeStages(), console=QUIET)
    frame = pl.read_parquet(where / "results.parquet")
    assert set(frame["task"]) == {"facts", "facts(level=2)"}
    accuracy = frame.filter(pl.col("metric") == "student_accuracy", pl.col("attack") == "sft")
    assert set(accuracy.select("student", "n_seeds").iter_rows()) == {("a", 2), ("b", 3)}


def test_a_second_study_reuses_the_undefended_steps(tmp_path: Path) -> None:
    run(study(), runs=tmp_path, workers=0, stages=FakeStages(), console=QUIET)
    log = tmp_path / "log"
    second = study(name="second", defenses=[{"kind": "traceguard", "budget": 0.2}])
    run(second, runs=tmp_path, workers=0, stages=FakeStages(log=str(log)), console=QUIET)
    assert [line.split()[0] for line in log.read_text().splitlines()] == ["release", "attack"] * 2


def test_wrong_numbers_of_workers(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="workers"):
        run(study(), runs=tmp_path, workers=-1, stages=FakeStages(), console=QUIET)


@pytest.mark.parametrize(("unit", "count"), [("base", 3), ("draw", 2)])
def test_bases_or_draws_can_be_the_unit(folder: Path, tmp_path: Path, unit: str, count: int) -> None:
    settings = {"replicates": 200, "unit": unit}
    where = run(study(analysis=settings), runs=tmp_path, workers=0, stages=FakeStages(), console=QUIET)
    for metric in ("student_accuracy", "recall_hidden", "clean_nll", "gain"):
        names = {"arm": "none", "attack": "sft", "metric": metric}
        by_pair, by_unit = row(folder, **names), row(where, **names)
        assert by_unit["value"] == pytest.approx(by_pair["value"])
        assert (by_pair["n_seeds"], by_unit["n_seeds"]) == (6, count)
    assert set(pl.read_parquet(where / "equal_cost.parquet")["n_seeds"]) == {count}


def test_weights_spread_over_the_seeds_of_their_unit() -> None:
    given = np.array([[0.7, 0.3]])
    by_draw = spread(study(analysis={"unit": "draw"}), given, bases=3, draws=2)
    assert by_draw == pytest.approx(np.array([[0.7, 0.7, 0.7, 0.3, 0.3, 0.3]]) / 3)
    by_base = spread(study(analysis={"unit": "base"}), given, bases=2, draws=3)
    assert by_base == pytest.approx(np.array([[0.7, 0.3, 0.7, 0.3, 0.7, 0.3]]) / 3)
    assert spread(study(analysis={"unit": "pair"}), given, bases=1, draws=2) == pytest.approx(given)


def test_headline_attack_must_exist() -> None:
    assert study(analysis={"headline": {"attack": "sft"}}).analysis.headline.attack == "sft"
    with pytest.raises(ConfigError, match=r"no attack 'sfd'. Did you mean 'sft'"):
        study(analysis={"headline": {"attack": "sfd"}})


def test_a_run_in_use_is_refused_and_a_full_disk_keeps_the_old_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = run(study(), runs=tmp_path, workers=0, stages=FakeStages(), console=QUIET)
    with run_lock(where), pytest.raises(RunError, match="in use by another process"):
        run(study(), runs=tmp_path, workers=0, stages=FakeStages(), console=QUIET)
    before = digest(where / "results.parquet")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(RunError, match="disk is full"):
            run(study(seed=5), runs=tmp_path, workers=0, stages=FakeStages(), console=QUIET)
    assert digest(where / "results.parquet") == before
    assert not list(where.glob(".*.tmp"))
