from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console
from study_fakes import FakeStages, study

from azeotrope.cli.status import status
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


TWO: dict[str, Any] = {"attacks": [{"kind": "sft"}, {"kind": "sft", "epochs": 4}]}


def without_an_attack(runs: Path, stages: FakeStages) -> tuple[Store, list[str], str]:
    """Remove one attack of a release; return the store, the release's other attacks, and the release."""
    store, plan = Store(runs), make_plan(study(**TWO), stages)
    lost = plan.of("attack")[0]
    others = [s.id for s in plan.work if s.stage == "attack" and s.needs == lost.needs and s.id != lost.id]
    assert others
    shutil.rmtree(store.folder("attack", lost.id))
    return store, others, lost.needs[0]


def test_kept_texts_are_gone_on_from(tmp_path: Path) -> None:
    first = ran(tmp_path / "here", FakeStages(), **TWO)
    kept = archive(first, tmp_path / "results", texts=True)
    restore(kept, tmp_path / "there")
    stages = FakeStages(log=str(tmp_path / "log"))
    store, _, release = without_an_attack(tmp_path / "there", stages)
    assert store.whole("release", release)
    ran(tmp_path / "there", stages, **TWO)
    assert started(Path(stages.log)) == ["attack"]


def test_texts_come_back_to_what_was_restored_without_them(moved: tuple[Path, Path, FakeStages]) -> None:
    first, there, stages = moved
    kept = archive(first, there.parent / "more", texts=True)
    again = restore(kept, there)
    releases = [step for step in make_plan(study(), stages).work if step.stage == "release"]
    assert again.new == len(releases)
    assert all(Store(there).whole("release", step.id) for step in releases)


@pytest.mark.parametrize("same", [True, False])
def test_what_learned_from_other_texts_is_done_again(tmp_path: Path, same: bool) -> None:
    """The students of one release have all learned from the same texts, also where another machine made others."""
    there, stages = tmp_path / "there", FakeStages(log=str(tmp_path / "log"))
    restore(archive(ran(tmp_path / "here", FakeStages(), **TWO), tmp_path / "results"), there)
    store, others, release = without_an_attack(there, stages)
    if not same:
        for step in [release, *others]:
            path = next(store.steps.glob(f"*/{step}/done.json"))
            path.write_text(path.read_text().replace(store.record("release", release)["texts"], "elsewhere"))
    ran(there, stages, **TWO)
    assert len(started(Path(stages.log))) == 2 + (0 if same else len(others))
    assert not remaining(make_plan(study(**TWO), stages).work, store)
    texts = store.record("release", release)["texts"]
    assert all(store.record("attack", step)["read"] == {release: texts} for step in others)


def test_texts_of_another_making_are_not_put_back(tmp_path: Path) -> None:
    kept = archive(ran(tmp_path / "here", FakeStages(), **TWO), tmp_path / "results", texts=True)
    for path in (tmp_path / "results" / "releases").glob("*/traces.parquet"):
        write_parquet(pl.read_parquet(path).with_columns(pl.col("text") + " "), path)
    restore(kept, tmp_path / "there")
    releases = [step for step in make_plan(study(**TWO), FakeStages()).work if step.stage == "release"]
    assert not any(Store(tmp_path / "there").whole("release", step.id) for step in releases)


def test_status_does_not_count_what_read_other_texts(tmp_path: Path) -> None:
    folder = ran(tmp_path, FakeStages(), **TWO)
    whole = status(folder)
    step = next(path for path in (tmp_path / "steps" / "attack").glob("*/done.json"))
    record = json.loads(step.read_text())
    step.write_text(json.dumps({**record, "read": dict.fromkeys(record["read"], "elsewhere")}))
    less = status(folder)
    assert (whole["stored"], less["stored"]) == (whole["steps"], whole["steps"] - 1)


def without_word_of_texts(kept: Path, out: Path) -> Path:
    """The archive as it was written before steps told of the texts they read."""
    older = Path(shutil.copytree(kept, out / kept.name))
    path = older / "measured" / "records.parquet"
    rows = pl.read_parquet(path).to_dicts()
    for row in rows:
        if row["file"] == "done.json":
            told = json.loads(row["text"])
            row["text"] = json.dumps({key: value for key, value in told.items() if key not in ("texts", "read")})
    write_parquet(pl.DataFrame(rows), path)
    return older


@pytest.mark.parametrize("texts", [True, False])
@pytest.mark.parametrize("older_first", [True, False])
def test_archives_may_be_restored_in_any_order(tmp_path: Path, texts: bool, older_first: bool) -> None:
    newer = archive(ran(tmp_path / "here", FakeStages(), **TWO), tmp_path / "results", texts=texts)
    older = without_word_of_texts(newer, tmp_path / "older")
    there, plan = tmp_path / "there", make_plan(study(**TWO), FakeStages())
    for source in (older, newer) if older_first else (newer, older):
        restore(source, there)
    store = Store(there)
    assert remaining(plan.work, store) == []
    for step in plan.work:
        record = store.record(step.stage, step.id)
        assert "texts" in record if step.stage == "release" else set(record.get("read", ())) == set(step.needs)
        if step.stage == "release":
            assert store.whole("release", step.id) == texts
    assert restore(older, there).new == restore(newer, there).new == 0


def test_what_was_made_here_is_never_replaced_by_measurements(tmp_path: Path) -> None:
    """Not even if it read other texts than the archive's and the store's: it is done again, by a run."""
    kept = archive(ran(tmp_path / "here", FakeStages(), **TWO), tmp_path / "results", texts=True)
    step = next(path for path in (tmp_path / "here" / "steps" / "attack").glob("*/done.json"))
    record = json.loads(step.read_text())
    step.write_text(json.dumps({**record, "read": dict.fromkeys(record["read"], "elsewhere")}))
    assert restore(kept, tmp_path / "here").new == 0
    (step.parent / Store.MEASURED_ONLY).touch()
    assert restore(kept, tmp_path / "here").new == 1
    assert json.loads(step.read_text()) == record


def test_what_read_the_stored_texts_stays(tmp_path: Path) -> None:
    """Of two makings told of, the one whose release is in the store."""
    here = archive(ran(tmp_path / "here", FakeStages(), **TWO), tmp_path / "results")
    other = Path(shutil.copytree(here, tmp_path / "other" / here.name))
    path = other / "measured" / "records.parquet"
    texts = pl.col("text").str.replace_all(r'("texts":"|"read":\{"[0-9a-f]+":")[0-9a-f]+', "${1}0123")
    write_parquet(pl.read_parquet(path).with_columns(texts), path)
    assert (
        pl.read_parquet(path)["text"].str.contains("0123").sum()
        >= len(make_plan(study(**TWO), FakeStages()).work) - 1
    )
    restore(here, tmp_path / "there")
    assert restore(other, tmp_path / "there").new == 0
    assert remaining(make_plan(study(**TWO), FakeStages()).work, Store(tmp_path / "there")) == []


def test_status_of_what_was_restored_knows_what_its_steps_read(tmp_path: Path) -> None:
    first = ran(tmp_path / "here", FakeStages(), **TWO)
    restore(archive(first, tmp_path / "results"), tmp_path / "there")
    whole = status(tmp_path / "there" / first.name)
    assert whole["stored"] == whole["steps"] > 0
    for path in (tmp_path / "there" / "steps" / "release").glob("*/done.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "texts": "elsewhere"}))
    less = status(tmp_path / "there" / first.name)
    readers = [step for step in make_plan(study(**TWO), FakeStages()).work if step.needs]
    assert less["stored"] == whole["stored"] - len(readers)
