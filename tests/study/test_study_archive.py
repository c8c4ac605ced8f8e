from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console
from study_fakes import FakeStages, study

from azeotrope.core.errors import AzeotropeError, MissingError
from azeotrope.study.archive import archive, restore
from azeotrope.study.plan import make_plan, remaining
from azeotrope.study.run import run
from azeotrope.study.store import Store, write_parquet

QUIET = Console(quiet=True)
TABLES = ("results.parquet", "samples.parquet", "equal_cost.parquet", "gains.parquet", "utility.parquet")


def ran(runs: Path, stages: FakeStages, **changes: object) -> Path:
    return run(study(**changes), runs=runs, workers=0, stages=stages, console=QUIET)


def started(log: Path) -> list[str]:
    return [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []


@pytest.fixture
def moved(tmp_path: Path) -> tuple[Path, Path, FakeStages]:
    """A run, and the root of another machine on which its archive was restored."""
    first = ran(tmp_path / "here", FakeStages())
    kept = archive(first, tmp_path / "results")
    there = tmp_path / "there"
    found = restore(kept, there)
    assert found.steps == found.new > 0
    return first, there, FakeStages(log=str(tmp_path / "log"))


def test_a_restored_run_is_done_and_ends_with_the_same_tables(moved: tuple[Path, Path, FakeStages]) -> None:
    first, there, stages = moved
    again = ran(there, stages)
    assert started(Path(stages.log)) == []
    for name in TABLES:
        assert (first / name).read_bytes() == (again / name).read_bytes()


def test_more_draws_do_only_the_new_steps(moved: tuple[Path, Path, FakeStages]) -> None:
    first, there, stages = moved
    more = study(draws=study().draws_of("facts") + 1)
    left = remaining(make_plan(more, stages).work, Store(there))
    assert {step.draw for step in left} == {more.draws_of("facts") - 1}
    continued = run(more, runs=there, workers=0, stages=stages, console=QUIET)
    whole = run(more, runs=first.parent, workers=0, stages=FakeStages(), console=QUIET)
    assert (continued / "results.parquet").read_bytes() == (whole / "results.parquet").read_bytes()


def test_where_an_attack_is_missing_its_release_is_done_again(moved: tuple[Path, Path, FakeStages]) -> None:
    _, there, stages = moved
    store = Store(there)
    plan = make_plan(study(), stages)
    attack = plan.of("attack")[0]
    release = next(step for step in plan.steps if step.id == attack.needs[0])
    assert store.done("release", release.id)
    assert not store.whole("release", release.id)
    for path in store.folder("attack", attack.id).iterdir():
        path.unlink()
    assert [step.id for step in remaining(plan.work, store)] == [release.id, attack.id]
    ran(there, stages)
    assert started(Path(stages.log)) == ["release", "attack"]
    assert store.whole("release", release.id)
    assert (store.folder("release", release.id) / "traces.parquet").is_file()


def test_restoring_never_replaces_what_is_there(tmp_path: Path) -> None:
    first = ran(tmp_path / "here", FakeStages())
    kept = archive(first, tmp_path / "results")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "here").rglob("*") if path.is_file()}
    assert restore(kept, tmp_path / "here").new == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_an_unfinished_run_is_archived_as_far_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(AzeotropeError):
        ran(tmp_path / "here", FakeStages(trouble="raise:attack"))
    kept = archive(tmp_path / "here" / study().name, tmp_path / "results")
    found = restore(kept, tmp_path / "there")
    assert 0 < found.new < len(make_plan(study(), FakeStages()).work)


def test_what_holds_no_measurements_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingError, match="is no run or trial"):
        archive(tmp_path / "empty", tmp_path / "results")
    with pytest.raises(MissingError, match="name a folder that 'archive' wrote"):
        restore(tmp_path / "empty", tmp_path / "runs")


@pytest.mark.parametrize("change", ["file", "stage", "step", "lost", "cut"])
def test_a_damaged_or_hostile_archive_writes_nothing(tmp_path: Path, change: str) -> None:
    kept = archive(ran(tmp_path / "here", FakeStages()), tmp_path / "results")
    path = kept / "measured" / "records.parquet"
    frame = pl.read_parquet(path)
    if change == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    elif change == "lost":
        write_parquet(frame.filter(pl.col("file") != "done.json"), path)
    else:
        write_parquet(frame.with_columns(pl.lit("../../escape.json").alias(change)), path)
    with pytest.raises(AzeotropeError) as caught:
        restore(kept, tmp_path / "there")
    assert str(path) in str(caught.value)
    assert not list((tmp_path / "there").rglob("*.json"))
    assert not (tmp_path / "escape.json").exists()


def test_the_archive_holds_no_text_of_a_trace(tmp_path: Path) -> None:
    first = ran(tmp_path / "here", FakeStages())
    kept = archive(first, tmp_path / "results")
    names = {path.name for path in kept.rglob("*")}
    assert not any(name.startswith(("traces", "holdout", "resample", "fitted", "losses")) for name in names)
    steps = json.loads((first / "steps.json").read_text())
    assert pl.read_parquet(kept / "measured" / "records.parquet")["step"].n_unique() == len(
        {step["id"] for step in steps}
    )
