"""Trials: the file, the rules against closed forms, verdicts, and a whole trial on fake stages."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import study_fakes as fakes

from azeotrope.core.errors import ConfigError
from azeotrope.study.claims import Trial, load_trial, parse_trial
from azeotrope.study.plan import Plan, make_plan
from azeotrope.study.tables import Students, TaskData
from azeotrope.study.trial import conclude, run_trial
from azeotrope.study.verdicts import (
    INCONCLUSIVE,
    NAN,
    NOT_SUPPORTED,
    SUPPORTED,
    Finding,
    _decisive,
    _p_value,
    decide,
    seeds_needed,
)

FAMILY, P, BASES, DRAWS = "embedded/student", 40, 3, 2
COMMON = {
    "teacher": "embedded/teacher",
    "tasks": [{"kind": "facts"}],
    "release": {"n": 10},
    "attacks": [{"kind": "sft"}],
    "students": [{"family": FAMILY, "bases": BASES}],
    "draws": DRAWS,
    "evaluation": {"problems": P},
    "detectors": [],
    "analysis": {"replicates": 200, "unit": "pair"},
}
ARMS = [
    {"kind": "temperature", "delta": [0.1, 0.3]},
    {"kind": "ads", "lam": [0.1, 0.4]},
    {"kind": "traceguard", "budget": [0.1, 0.3]},
]


def trial(*tests: dict[str, Any], **changes: Any) -> Trial:
    claims = [{"id": f"C{i}", "text": "t", "part": "one", "test": test} for i, test in enumerate(tests, 1)]
    raw = {"name": "trial", "common": COMMON, "parts": {"one": {"defenses": ARMS}}, "claims": claims}
    return parse_trial({**raw, **changes})


def plan_of(found: Trial) -> Plan:
    return make_plan(found.study("one"), fakes.FakeStages())


def data_of(
    plan: Plan, students: dict[str, float], teachers: dict[str, dict[str, float]], noise: float = 0
) -> Any:
    """Constant measures by arm (label or its beginning), with `noise` between the students of ADS."""

    def of(table: dict[str, Any], arm: str) -> Any:
        return next(value for name, value in table.items() if arm.startswith(name))

    data = TaskData(tuple(f"p{i}" for i in range(P)), DRAWS)
    for arm in plan.expansion.arms:
        teacher = {"teacher_accuracy": 1.0, "wrong_statements": 0.0, **of(teachers, arm.label)}
        data.teachers[arm.label] = {name: np.full((DRAWS, P), value) for name, value in teacher.items()}
        spread = noise * np.resize([[1.0], [-1.0]], (BASES * DRAWS, 1)) if arm.defense == "ads" else 0.0
        cell = Students({"student_accuracy": np.full((BASES * DRAWS, P), of(students, arm.label)) + spread}, {})
        data.students[arm.label, "sft", FAMILY] = cell
    data.undistilled[FAMILY] = Students({"student_accuracy": np.full((BASES, P), 0.2)}, {})
    return data


TEACHERS = {
    "none": {},
    "temperature(delta=0.1": {"teacher_accuracy": 0.95, "wrong_statements": 0.2},
    "temperature(delta=0.3": {"teacher_accuracy": 0.85, "wrong_statements": 0.6},
    "ads(lam=0.1": {"teacher_accuracy": 0.95, "wrong_statements": 0.2},
    "ads(lam=0.4": {"teacher_accuracy": 0.85, "wrong_statements": 0.6},
    "traceguard": {},
}
STUDENTS = {
    "none": 0.9,
    "temperature(delta=0.1": 0.8,
    "temperature(delta=0.3": 0.6,
    "ads(lam=0.1": 0.6,
    "ads(lam=0.4": 0.3,
    "traceguard(budget=0.1": 0.85,
    "traceguard(budget=0.3": 0.7,
}
EQUAL = {"rule": "equal_cost", "defense": "ads", "reference": "temperature", "drop": 0.05}
CONTROLLED = {**EQUAL, "rule": "controlled", "errors": 0.2}
GROWS = {"rule": "grows", "defense": "traceguard"}


def verdicts(found: Trial, students: dict[str, float], teachers: dict[str, Any], noise: float = 0) -> Any:
    plan = plan_of(found)
    return decide(found, {"one": (plan, {"facts": data_of(plan, students, teachers, noise)})})


def only(found: Trial, students: dict[str, float] = STUDENTS, teachers: Any = TEACHERS, noise: float = 0) -> str:
    (verdict,), _ = verdicts(found, students, teachers, noise)
    return str(verdict.verdict)


# The file.


def test_a_part_is_a_study_of_its_own_name() -> None:
    found = trial(EQUAL)
    assert found.study("one").name == "trial-one"
    assert found.study("one").evaluation.problems == P


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"claims": [{"id": "C1", "text": "t", "part": "onne", "test": EQUAL}]}, "Did you mean 'one'"),
        ({"claims": [{"id": "C1", "text": "t", "part": "one", "test": {**EQUAL, "dorp": 1}}]}, "dorp"),
        ({"claims": [{"id": "C1", "text": "t", "part": "one", "test": {"rule": "magic"}}]}, "rule"),
        ({"parts": {"one": {"defenses": [{"kind": "adz"}]}}}, "Part 'one' of the trial 'trial'"),
        ({"margin": 2}, "margin"),
    ],
)
def test_mistakes_are_one_sentence(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        trial(EQUAL, **change)


def test_a_file_that_is_not_a_trial(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("- 1\n")
    with pytest.raises(ConfigError, match="does not hold a trial"):
        load_trial(path)


def test_a_curve_that_the_part_lacks() -> None:
    with pytest.raises(ConfigError, match="none of the curves"):
        only(trial({**EQUAL, "defense": "permutation"}))


# The rules.


def test_weaker_at_equal_cost() -> None:
    (verdict,), (finding,) = verdicts(trial(EQUAL), STUDENTS, TEACHERS)
    assert verdict.verdict == SUPPORTED
    assert finding.value == pytest.approx(0.2)
    assert finding.n_seeds == BASES * DRAWS


def test_the_opposite_is_not_supported() -> None:
    swapped = {**EQUAL, "defense": "temperature", "reference": "ads"}
    assert only(trial(swapped)) == NOT_SUPPORTED


def test_a_difference_below_the_margin_is_not_supported() -> None:
    near = {**STUDENTS, "ads(lam=0.1": 0.8, "ads(lam=0.4": 0.6}
    assert only(trial(EQUAL), near) == NOT_SUPPORTED


def test_noise_leaves_it_open_and_says_how_many_seeds_are_needed() -> None:
    (verdict,), (finding,) = verdicts(trial(EQUAL), STUDENTS, TEACHERS, noise=0.25)
    assert verdict.verdict == INCONCLUSIVE
    assert verdict.mdd > 0.05
    assert finding.seeds_needed > finding.n_seeds


def test_a_cost_that_is_not_reached_is_inconclusive() -> None:
    (verdict,), _ = verdicts(trial({**EQUAL, "drop": 0.4}), STUDENTS, TEACHERS)
    assert verdict.verdict == INCONCLUSIVE
    assert "not reached" in verdict.reason


def test_controlled_needs_both_matches() -> None:
    assert only(trial(CONTROLLED)) == SUPPORTED
    by_errors = {**TEACHERS, "ads(lam=0.1": {"teacher_accuracy": 0.95, "wrong_statements": 0.6},
                 "ads(lam=0.4": {"teacher_accuracy": 0.85, "wrong_statements": 1.8}}  # fmt: skip
    even = {**STUDENTS, "ads(lam=0.1": 0.6, "ads(lam=0.4": 0.2}
    assert only(trial(CONTROLLED), even, by_errors) == NOT_SUPPORTED, "it has three times the wrong statements"


def test_fewer_wrong_statements_cannot_explain_a_larger_harm() -> None:
    few = {**TEACHERS, "ads(lam=0.1": {"teacher_accuracy": 0.95}, "ads(lam=0.4": {"teacher_accuracy": 0.85}}
    (verdict,), _ = verdicts(trial(CONTROLLED), STUDENTS, few)
    assert verdict.verdict == SUPPORTED
    assert "no more wrong statements" in verdict.reason


def test_grows_while_answers_are_unchanged() -> None:
    assert only(trial(GROWS)) == SUPPORTED
    touched = {**TEACHERS, "traceguard": {"teacher_accuracy": 0.99}}
    assert only(trial(GROWS), STUDENTS, touched) == NOT_SUPPORTED


def test_one_strength_cannot_grow() -> None:
    parts = {"one": {"defenses": [{"kind": "traceguard", "budget": [0.3]}]}}
    with pytest.raises(ConfigError, match="has one strength in"):
        trial(GROWS, parts=parts)


def test_where_one_attack_suffices_every_family_needs_one() -> None:
    def finding(student: str, p: float, reading: str = SUPPORTED) -> Finding:
        return Finding(
            claim="C", text="", part="one", task="t", student=student, effect="x", value=0.0, low=0.0, high=0.0,
            p=p, mdd=0.1, n=1, n_seeds=1, reading=reading,
        )  # fmt: skip

    found = [finding("a", 0.001), finding("a", 0.5), finding("b", 0.02), finding("b", NAN)]
    assert _p_value(found, found, ["a"]) == pytest.approx(0.002)
    assert _p_value(found, found, ["a", "b"]) == pytest.approx(0.04), "the family in which it is least sure"
    assert math.isnan(_p_value(found, found, ["a", "c"]))
    failed = finding("a", 1e-6, NOT_SUPPORTED)
    assert _p_value(found, [*found, failed], ["a"]) == pytest.approx(0.003), "that another fails supports nothing"


def test_weaker_than_every_reference() -> None:
    rule = {
        "rule": "weaker",
        "arm": "ads(lam=0.4",
        "references": ["temperature(delta=0.3", "traceguard(budget=0.3"],
    }
    assert only(trial(rule)) == SUPPORTED
    assert only(trial({**rule, "arm": "temperature(delta=0.1"})) == NOT_SUPPORTED
    with pytest.raises(ConfigError, match="not one of the arms"):
        only(trial({**rule, "arm": "temperature"}))


@pytest.mark.parametrize(("value", "said"), [(0.8, SUPPORTED), (0.7, NOT_SUPPORTED)])
def test_restored_by_some_attack(value: float, said: str) -> None:
    """The passive student falls from .9 to .6; half of that is .75."""
    rule = {"rule": "restored", "arm": "ads(lam=0.1"}
    attacks = [{"kind": "sft"}, {"kind": "sft", "epochs": 4}, {"kind": "sft", "epochs": 5}]
    found = trial(rule, common={**COMMON, "attacks": attacks})
    plan = plan_of(found)
    data = data_of(plan, STUDENTS, TEACHERS)
    for (arm, attack, family), cell in list(data.students.items()):
        assert attack == "sft"
        data.students[arm, "sft(epochs=4)", family] = cell
        better = Students({"student_accuracy": np.full((BASES * DRAWS, P), value)}, {})
        data.students[arm, "sft(epochs=5)", family] = better
    (verdict,), findings = decide(found, {"one": (plan, {"facts": data})})
    assert verdict.verdict == said
    assert len(findings) == 2
    share = round(100 * (value - 0.6) / 0.3)
    assert (
        f"the most is restored by sft(epochs=5): {share} % [{share}, {share}] of a loss of 30.0" in verdict.reason
    )


def three_attacks(test: dict[str, Any], values: dict[str, float]) -> tuple[str, list[str], list[float]]:
    """The verdict where students of ADS at .1 come out at `values` by attack; effects and their sizes."""
    attacks = [{"kind": "sft"}, {"kind": "sft", "epochs": 4}, {"kind": "sft", "epochs": 6}]
    found = trial(test, common={**COMMON, "attacks": attacks})
    plan = plan_of(found)
    data = data_of(plan, STUDENTS, TEACHERS)
    for (arm, _, family), cell in list(data.students.items()):
        for attack, value in values.items():
            made = Students({"student_accuracy": np.full((BASES * DRAWS, P), value)}, {})
            data.students[arm, attack, family] = made if arm.startswith("ads(lam=0.1") else cell
    (verdict,), findings = decide(found, {"one": (plan, {"facts": data})})
    return verdict.verdict, [f.effect for f in findings], [f.value for f in findings]


def test_attacks_below_others() -> None:
    values = {"sft": 0.5, "sft(epochs=4)": 0.4, "sft(epochs=6)": 0.7}
    rule = {"rule": "below", "arm": "ads(lam=0.1", "attacks": ["sft(epochs=4)"], "references": ["sft"]}
    assert three_attacks(rule, values) == (SUPPORTED, ["sft(epochs=4) below sft"], pytest.approx([0.1]))
    both = {**rule, "attacks": ["sft(epochs=4)", "sft(epochs=6)"]}
    verdict, effects, sizes = three_attacks(both, values)
    assert (verdict, len(effects), sizes) == (NOT_SUPPORTED, 2, pytest.approx([0.1, -0.2]))
    other = {**both, "reference_arm": "none"}  # students of the undefended teacher are at .9
    assert three_attacks(other, values)[::2] == (SUPPORTED, pytest.approx([0.5, 0.2]))
    above = {**both, "slack": 0.1}  # 20 points above are too much, 10 below are not
    verdict, effects, sizes = three_attacks(above, values)
    assert (verdict, sizes) == (NOT_SUPPORTED, pytest.approx([0.2, -0.1]))
    assert effects[1] == "sft(epochs=6) at most 10 points above sft"
    assert three_attacks({**above, "slack": 0.25}, values)[0] == SUPPORTED
    assert three_attacks({**above, "slack": 0.18}, values)[0] == NOT_SUPPORTED, "the slack is the margin"
    with pytest.raises(ConfigError, match="none of the attacks"):
        three_attacks({**rule, "references": ["stf"]}, values)


@pytest.mark.parametrize(("slack", "said"), [(0.06, SUPPORTED), (0.04, NOT_SUPPORTED)])
def test_a_defense_may_cost_the_teacher_so_much(slack: float, said: str) -> None:
    rule = {"rule": "spares", "arm": "ads(lam=0.1", "slack": slack}
    (verdict,), (finding,) = verdicts(trial(rule), STUDENTS, TEACHERS)
    assert (verdict.verdict, finding.value) == (said, pytest.approx(slack - 0.05))
    assert finding.effect == f"teacher accuracy lost is at most {100 * slack:g} points"
    assert (finding.n_seeds, finding.reading) == (DRAWS, said), "the teacher is one in every draw"
    with pytest.raises(ConfigError, match="takes a share"):
        trial({**rule, "utility": "wrong_statements"})
    with pytest.raises(ConfigError, match="no measure 'accuracies'"):
        only(trial({**rule, "utility": "accuracies"}))


@pytest.mark.parametrize("unit", ["draw", "pair", "base"])
def test_what_a_defense_costs_the_teacher_is_known_by_draw(unit: str) -> None:
    """Of two maps one costs 1 point and one 9, which says little of those to come, whatever the students."""
    found = trial(
        {"rule": "spares", "arm": "ads(lam=0.1", "slack": 0.06},
        common={**COMMON, "analysis": {**COMMON.get("analysis", {}), "unit": unit}},
    )
    plan = plan_of(found)
    data = data_of(plan, STUDENTS, TEACHERS)
    (arm,) = (name for name in data.teachers if name.startswith("ads(lam=0.1"))
    data.teachers[arm]["teacher_accuracy"] = np.repeat([[0.99], [0.91]], P, axis=1)
    (verdict,), (finding,) = decide(found, {"one": (plan, {"facts": data})})
    assert (verdict.verdict, finding.n_seeds) == (INCONCLUSIVE, 2)
    assert finding.low < 0 < finding.value == pytest.approx(0.01)
    assert finding.seeds_needed > 2


def test_a_cost_around_the_slack_is_inconclusive() -> None:
    found = trial({"rule": "below", "arm": "ads(lam=0.1", "attacks": ["sft"], "references": ["sft"],
                   "reference_arm": "none", "slack": 0.01})  # fmt: skip
    above = {**STUDENTS, "ads(lam=0.1": 0.92}
    assert only(found, above) == NOT_SUPPORTED
    assert only(found, above, noise=0.03) == INCONCLUSIVE, "though the interval is below the trial's margin"


def test_only_some_attacks_may_restore() -> None:
    values = {"sft": 0.6, "sft(epochs=4)": 0.8, "sft(epochs=6)": 0.6}
    rule = {"rule": "restored", "arm": "ads(lam=0.1"}
    assert three_attacks(rule, values)[0] == SUPPORTED
    verdict, effects, _ = three_attacks({**rule, "attacks": ["sft(epochs=6)"]}, values)
    assert (verdict, effects) == (NOT_SUPPORTED, ["sft(epochs=6)"])


def test_nothing_to_restore_is_inconclusive() -> None:
    found = trial({"rule": "restored", "arm": "ads(lam=0.1"})
    (verdict,), _ = verdicts(found, {**STUDENTS, "ads(lam=0.1": 0.9}, TEACHERS)
    assert verdict.verdict == INCONCLUSIVE
    assert "nothing to restore: the passive student lost 0.0 points [0.0, 0.0]" in verdict.reason
    assert "a loss of 0.0 would have been found" in verdict.reason


def test_the_base_that_was_the_surrogate() -> None:
    """Base k loses .3 under arm k and .1 under the others."""
    arms = [{"kind": "ads", "lam": 0.1 * (1 + k)} for k in range(BASES)]
    names = [f"ads(lam={0.1 * (1 + k):g})" for k in range(BASES)]
    rule = {"rule": "surrogate", "arms": names}
    found = trial(rule, parts={"one": {"defenses": arms}})
    plan = plan_of(found)
    data = data_of(plan, {"none": 0.9, "ads": 0.8}, {"none": {}, "ads": {}})
    for k, name in enumerate(names):
        lost = np.where(np.arange(BASES * DRAWS) % BASES == k, 0.6, 0.8)
        data.students[name, "sft", FAMILY] = Students({"student_accuracy": np.tile(lost[:, None], (1, P))}, {})
    (verdict,), (finding,) = decide(found, {"one": (plan, {"facts": data})})
    assert verdict.verdict == SUPPORTED
    assert finding.value == pytest.approx(0.2)
    short = trial({**rule, "arms": names[:2]}, parts={"one": {"defenses": arms}})
    with pytest.raises(ConfigError, match="2 arms for 3 bases"):
        decide(short, {"one": (plan_of(short), {"facts": data})})


def test_capability_against_governance() -> None:
    found = trial({"rule": "asymmetric"})
    plan = plan_of(found)
    data = data_of(plan, STUDENTS, TEACHERS)
    data.teachers["none"]["teacher_refusal_consistency"] = np.full((DRAWS, 7), 0.9)
    data.students["none", "sft", FAMILY].matrices["refusal_consistency"] = np.full((BASES * DRAWS, 7), 0.5)
    data.undistilled[FAMILY].matrices["refusal_consistency"] = np.full((BASES, 7), 0.1)
    (verdict,), (finding,) = decide(found, {"one": (plan, {"facts": data})})
    assert verdict.verdict == SUPPORTED
    assert finding.value == pytest.approx(0.7 / 0.8 - 0.5)
    assert finding.n == 7


def test_withstands_the_worst_attack() -> None:
    """The undefended gain is .7; ADS at .4 leaves .1, temperature at .1 leaves .6."""
    assert only(trial({"rule": "withstands", "arm": "ads(lam=0.4", "share": 0.5})) == SUPPORTED
    assert only(trial({"rule": "withstands", "arm": "temperature(delta=0.1", "share": 0.5})) == NOT_SUPPORTED
    (verdict,), _ = verdicts(
        trial({"rule": "withstands", "arm": "temperature(delta=0.1", "share": 0.5}), STUDENTS, TEACHERS
    )
    assert re.search(r"the worst attack \(.*\) gets 8\d % \[\d+, \d+\] of the undefended gain", verdict.reason)


@pytest.mark.parametrize(
    ("any_of", "verdict", "expected"),
    [
        (False, SUPPORTED, 0.4),
        (False, NOT_SUPPORTED, 0.2),
        (False, INCONCLUSIVE, 0.3),
        (True, SUPPORTED, 0.1),
        (True, NOT_SUPPORTED, 0.4),
        (True, INCONCLUSIVE, 0.25),
    ],
)
def test_the_detectable_difference_is_of_what_the_verdict_rests_on(
    any_of: bool, verdict: str, expected: float
) -> None:
    readings = [
        (SUPPORTED, 0.1),
        (NOT_SUPPORTED, 0.2),
        (INCONCLUSIVE, 0.3),
        (INCONCLUSIVE, 0.25),
        (NOT_SUPPORTED, 0.4),
        (SUPPORTED, NAN),
    ]
    rows = [
        Finding(claim="C", text="t", part="p", task="t", student="s", effect="e", value=-mdd, low=0, high=0, p=0,
                mdd=mdd, n=1, n_seeds=2, reading=reading)
        for reading, mdd in readings
    ]  # fmt: skip
    assert _decisive(verdict, rows, any_of) == expected
    assert _decisive(verdict, [], any_of) != _decisive(verdict, [], any_of), "unknown"


def test_groups_are_adjusted_apart() -> None:
    found = trial(*[EQUAL] * 8)
    apart = found.model_copy(
        update={"claims": tuple(c.model_copy(update={"group": str(i // 4)}) for i, c in enumerate(found.claims))}
    )
    plan = plan_of(found)
    data = {"one": (plan, {"facts": data_of(plan, STUDENTS, TEACHERS)})}
    (one, *_), (two, *_) = decide(found, data)[0], decide(apart, data)[0]
    assert one.p_holm == pytest.approx(8 * one.p)
    assert two.p_holm == pytest.approx(4 * two.p)


def test_many_claims_are_adjusted() -> None:
    """With 200 replicates p is at least .01: one of eight claims cannot stand at Holm's level."""
    found, _ = verdicts(trial(EQUAL), STUDENTS, TEACHERS)
    assert found[0].p_holm == pytest.approx(found[0].p)
    many, _ = verdicts(trial(*[EQUAL] * 8), STUDENTS, TEACHERS)
    assert {v.verdict for v in many} == {INCONCLUSIVE}
    assert "Holm" in many[0].reason
    assert replace(many[0], reason="").p < 0.05


def test_seeds_needed_is_the_first_that_suffices() -> None:
    from azeotrope.maths.stats import minimum_detectable

    needed = seeds_needed(0.06, 0.05)
    assert minimum_detectable(0.06, needed) <= 0.05 < minimum_detectable(0.06, needed - 1)
    assert seeds_needed(float("nan"), 0.05) == 0
    assert seeds_needed(5.0, 0.01) == 0


# A whole trial.


def test_a_trial_runs_its_parts_and_decides(tmp_path: Path) -> None:
    found = trial(EQUAL, GROWS, parts={"one": {"defenses": ARMS}, "two": {"defenses": ARMS[:1]}})
    result = run_trial(found, runs=tmp_path, workers=0, stages=fakes.FakeStages())
    assert [v.claim for v in result.verdicts] == ["C1", "C2"]
    assert result.unfinished == []
    frame = pl.read_parquet(result.folder / "claims.parquet")
    assert len(frame) == len(result.findings)
    page = (result.folder / "claims.md").read_text()
    assert f"**{result.verdicts[0].verdict}**" in page
    again = run_trial(found, runs=tmp_path, workers=0, stages=fakes.FakeStages(trouble="raise:release"))
    assert again.verdicts == result.verdicts, "nothing is repeated"
    assert set(result.facts["parts"]) == {"one", "two"}
    assert result.facts["core_hours"] >= 0


def test_unfinished_parts_leave_their_claims_open(tmp_path: Path) -> None:
    found = trial(EQUAL, parts={"one": {"defenses": ARMS}, "two": {"defenses": ARMS[:1]}})
    result = run_trial(found, runs=tmp_path, parts=["two"], workers=0, stages=fakes.FakeStages())
    assert result.verdicts == []
    assert result.unfinished == ["one"]
    assert "Not finished" in (result.folder / "claims.md").read_text()
    assert conclude(found, runs=tmp_path, stages=fakes.FakeStages()).unfinished == ["one"]
