from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from study_fakes import FakeADS, FakeStages, study

from azeotrope.study.plan import make_plan
from azeotrope.study.run import dry_run_of, run


def ids(stages: FakeStages | None = None, **changes: Any) -> list[str]:
    return [step.id for step in make_plan(study(**changes), stages or FakeStages()).steps]


def test_every_step_comes_after_what_it_needs() -> None:
    plan = make_plan(study(), FakeStages())
    seen: set[str] = set()
    for step in plan.steps:
        assert set(step.needs) <= seen
        seen.add(step.id)
    counts = {stage: len(plan.of(stage)) for stage in ("release", "attack", "undistilled")}
    assert counts == {"release": 10, "attack": 10, "undistilled": 1}
    assert len(seen) == len(plan.steps)


def test_ids_do_not_depend_on_the_order_of_keys_or_on_spelled_out_defaults() -> None:
    one = ids(defenses=[{"kind": "ads", "lam": 0.2, "proxy": "p"}])
    other = ids(defenses=[{"proxy": "p", "lam": 0.2, "kind": "ads"}])
    assert one == other
    assert ids(attacks=[{"kind": "sft", "epochs": 3}]) == ids()
    swapped = [{"kind": "traceguard"}, {"kind": "ads"}]
    assert ids(defenses=[{"compose": swapped}]) == ids(defenses=[{"compose": swapped[::-1]}])


def test_ids_ignore_what_does_not_change_the_output() -> None:
    assert ids(name="other", analysis={"replicates": 500}) == ids()
    assert ids(FakeStages(sleep=1.0)) == ids()


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"teacher": "other"},
        {"release": {"n": 11}},
        {"evaluation": {"problems": 41}},
        {"tasks": [{"kind": "facts", "level": 2}]},
        {"release": {"n": 10, "sampling": {"temperature": 0.5}}},
    ],
)
def test_ids_change_with_the_output(changes: dict[str, Any]) -> None:
    assert not set(ids(**changes)) & {step.id for step in make_plan(study(), FakeStages()).of("release")}


def test_versions_and_revisions_change_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(ids())
    assert len(before & set(ids(FakeStages(versions={"release": 1, "attack": 2, "undistilled": 1})))) == 11
    # A new release version changes the attacks that read it.
    assert len(before & set(ids(FakeStages(versions={"release": 2, "attack": 1, "undistilled": 1})))) == 1
    monkeypatch.setattr(FakeADS, "version", 2)
    assert len(before & set(ids())) == 21 - 8
    monkeypatch.setattr(FakeStages, "inputs", lambda self, spec: {"weights": "other"})
    assert not before & set(ids())


def test_more_arms_keep_the_old_steps() -> None:
    more = [{"kind": "temperature", "delta": [0.1, 0.3, 0.5]}, {"kind": "ads", "lam": [0.1, 0.4]}]
    assert set(ids()) < set(ids(defenses=more))
    assert set(ids()) < set(ids(draws=3))


def test_dry_run_writes_nothing_and_counts_what_is_stored(tmp_path: Path) -> None:
    console = Console(record=True, width=160)
    runs = tmp_path / "runs"
    run(study(), runs=runs, stages=FakeStages(), dry_run=True, console=console)
    assert not runs.exists()
    text = console.export_text()
    assert "ads(lam=0.4)" in text
    assert "21 steps (0 stored), 43 cells, 21,000 tokens to do, about 4 min" in " ".join(text.split())
    run(study(), runs=runs, workers=0, stages=FakeStages(), console=Console(quiet=True))
    small = dry_run_of(
        study(defenses=[{"kind": "ads", "lam": [0.1, 0.2]}]), runs=runs, workers=2, stages=FakeStages()
    ).as_dict()
    assert (small["steps"], small["cached"], small["tokens"]) == (13, 9, 4000)
    assert set(small["measured"]) == {"release", "attack", "undistilled"}
    assert small["wall_seconds"] < 5  # 40 s by the heuristic; the stored steps took milliseconds


def test_planning_and_aggregating_import_no_torch() -> None:
    code = "import sys, azeotrope.study.run; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
