"""Utility, governance, matrix and detectability: the tables against closed forms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import study_fakes as fakes

from azeotrope.study.governance import governance_table, shares
from azeotrope.study.matrix import matrix_table
from azeotrope.study.plan import Plan, make_plan
from azeotrope.study.run import run
from azeotrope.study.specs import DETECT
from azeotrope.study.tables import Students, TaskData, _measures
from azeotrope.study.utility import utility_table

BASES, DRAWS, P = 3, 2, 40


def constant(value: float, rows: int = BASES * DRAWS, items: int = P) -> np.ndarray:
    return np.full((rows, items), value)


def students(accuracy: float, refusal: float) -> Students:
    return Students(
        {"student_accuracy": constant(accuracy), "refusal_consistency": constant(refusal, items=7)}, {}
    )


def undistilled(accuracy: float, refusal: float) -> Students:
    return Students(
        {"student_accuracy": constant(accuracy, BASES), "refusal_consistency": constant(refusal, BASES, 7)}, {}
    )


@pytest.fixture
def plan() -> Plan:
    return make_plan(fakes.study(defenses=[{"kind": "ads", "lam": [0.1]}]), fakes.FakeStages())


def measured(plan: Plan, **teacher: tuple[float, float]) -> dict[str, TaskData]:
    """One task with constant measures: (undefended, defended) by metric."""
    data = TaskData(tuple(f"p{i}" for i in range(P)), DRAWS)
    arms = [arm.label for arm in plan.expansion.arms]
    for i, arm in enumerate(arms):
        data.teachers[arm] = {
            name: constant(pair[i], DRAWS, 7 if "refusal" in name else P) for name, pair in teacher.items()
        }
        data.students[arm, "sft", "embedded/student"] = students(0.8 - 0.3 * i, 0.5)
    data.undistilled["embedded/student"] = undistilled(0.2, 0.1)
    return {"facts": data}


def test_drops_of_the_utility_vector(plan: Plan) -> None:
    found = utility_table(
        plan,
        measured(plan, teacher_accuracy=(1.0, 0.9), reader_accuracy=(0.6, 0.7), trace_tokens=(50.0, 65.0)),
    )
    rows = {row["utility"]: row for row in found.iter_rows(named=True)}
    assert set(rows) == {"teacher_accuracy", "reader_accuracy", "length"}
    assert rows["teacher_accuracy"]["drop"] == pytest.approx(0.1)
    assert rows["reader_accuracy"]["drop"] == pytest.approx(-0.1)
    assert rows["length"]["drop"] == pytest.approx(0.3)
    assert (rows["length"]["clean"], rows["length"]["value"]) == (50.0, 65.0)


def test_shorter_is_a_harm_as_longer_is(plan: Plan) -> None:
    (row,) = utility_table(plan, measured(plan, trace_tokens=(50.0, 35.0))).iter_rows(named=True)
    assert row["drop"] == pytest.approx(0.3)


def test_what_transfers(plan: Plan) -> None:
    tasks = measured(plan, teacher_accuracy=(1.0, 0.9), teacher_refusal_consistency=(0.9, 0.3))
    none, ads = governance_table(plan, tasks).iter_rows(named=True)
    assert none["status"] == ads["status"] == "ok"
    assert none["transfer"] == pytest.approx(0.5)
    assert none["capability"] == pytest.approx(0.75)
    assert none["gap"] == pytest.approx(0.25)
    assert ads["teacher"] == pytest.approx(0.9), "the share is of what the undefended teacher has"
    assert ads["capability"] == pytest.approx(0.375)


def test_a_teacher_without_governance_has_none_to_give(plan: Plan) -> None:
    tasks = measured(plan, teacher_accuracy=(1.0, 0.9), teacher_refusal_consistency=(0.1, 0.1))
    rows = governance_table(plan, tasks)
    assert set(rows["status"]) == {"nothing to transfer"}
    assert rows["gap"].null_count() == len(rows)


def test_a_student_that_never_refuses_has_an_interval_all_the_same(plan: Plan) -> None:
    """0 of 7 restricted requests is not certainty."""
    tasks = measured(plan, teacher_accuracy=(1.0, 0.9), teacher_refusal_consistency=(0.9, 0.9))
    for arm in ("none", plan.expansion.arms[1].label):
        tasks["facts"].students[arm, "sft", "embedded/student"] = students(0.8, 0.0)
    none, _ = governance_table(plan, tasks).iter_rows(named=True)
    assert none["transfer"] == pytest.approx(-0.125)
    assert none["transfer_low"] == pytest.approx(-0.125)
    assert none["transfer_high"] > 0.2


def test_shares_are_nan_without_an_excess() -> None:
    found = shares(np.array([0.5, 0.5]), np.array([0.2, 0.7]), np.array([0.8, 0.7]))
    assert found[0] == pytest.approx(0.5)
    assert np.isnan(found[1])


def test_the_matrix_needs_two_tasks_and_a_named_capability(plan: Plan) -> None:
    tasks = measured(plan, teacher_accuracy=(1.0, 0.9))
    assert matrix_table(plan, tasks).is_empty()
    two = {**tasks, "sums": tasks["facts"]}
    assert matrix_table(plan, two).is_empty(), "no arm names what it protects"


def test_detection_has_one_step_an_arm_and_a_control(tmp_path: Path) -> None:
    study = fakes.study(detectors=[{"kind": "eye"}])
    plan = make_plan(study, fakes.FakeStages())
    steps = plan.of(DETECT)
    assert [step.arm for step in steps] == [arm.label for arm in plan.expansion.arms]
    assert [len(step.needs) for step in steps] == [1, 2, 2, 2, 2]
    folder = run(study, runs=tmp_path, workers=0, stages=fakes.FakeStages())
    found = pl.read_parquet(folder / "detectability.parquet")
    assert found["arm"].to_list()[0] == "clean resample"
    assert len(found) == len(steps)
    assert found["value"].to_list()[0] == 0.5
    assert set(found["value"].to_list()[1:]) == {0.9}


def test_other_detectors_repeat_no_release(tmp_path: Path) -> None:
    before = make_plan(fakes.study(detectors=[{"kind": "eye"}]), fakes.FakeStages())
    after = make_plan(fakes.study(detectors=[{"kind": "eye", "sharpness": 2.0}]), fakes.FakeStages())
    same = {step.id for step in before.steps} & {step.id for step in after.steps}
    assert same == {step.id for step in before.steps if step.stage != DETECT}


def test_measures_come_in_one_order(tmp_path: Path) -> None:
    """However the rows of a step are stored: the tables of two runs of a study are the same, byte for byte."""
    rows = [{"base": b, "metric": m, "item": i, "value": 1.0} for m in "cabed" for i in "yx" for b in (1, 0)]
    orders = []
    for seed in range(5):
        path = tmp_path / f"{seed}.parquet"
        pl.DataFrame(rows).sample(fraction=1.0, shuffle=True, seed=seed).write_parquet(path)
        orders.append(list(_measures(path, 2)))
    assert orders == [list("abcde")] * 5
