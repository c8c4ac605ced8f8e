"""The choice within limits on small made-up tables, and the policy file. No models, no runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from azeotrope.core.errors import ConfigError, MissingError, RunError
from azeotrope.study.recommend import DEFAULT_LIMITS, LEAKAGES, Choice, Recommendation, Rules, recommend
from azeotrope.study.recommend_policy import Policy, dump_policy, load_policy, policy_of, write_policy
from azeotrope.study.recommend_tables import RESULTS, UTILITY, exact_settings, read_run
from azeotrope.study.recommend_words import sentences, warnings

RULES = Rules(limits=DEFAULT_LIMITS)
CELL = tuple[str, str]  # attack, student
SFT: CELL = ("sft", "small")
NONE = {SFT: 0.9, ("sft", "large"): 0.8, ("filtered_sft", "small"): 0.85, ("filtered_sft", "large"): 0.95}
MANIFEST = {
    "name": "tiny", "created": "2026-01-01T00:00:00+00:00", "study_hash": "ab12", "azeotrope_version": "0.1.0",
    "config": {"teacher": "embedded/teacher", "release": {"sampling": {"temperature": 0.6, "top_k": None}}},
}  # fmt: skip


def arm(
    label: str, cells: Mapping[CELL, float | None], drops: Mapping[str, float | None] | None = None,
    control: bool = False, defense: str = "ads", params: Any = None, half: float = 0.01,
) -> dict[str, Any]:  # fmt: skip
    """One setting: leakage by (attack, student), drop by measure, and half the width of all intervals."""
    return {"arm": label, "cells": cells, "drops": drops or {}, "is_control": control, "defense": defense,
            "params": json.dumps({"lam": 0.1} if params is None else params), "half": half}  # fmt: skip


def flat(value: float) -> dict[CELL, float | None]:
    return dict.fromkeys(NONE, value)


def tables(
    tasks: Mapping[str, Sequence[dict[str, Any]]], before: float | None = 0.1, metric: str = LEAKAGES[0]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The two tables of a run; the undefended arm is added where a task does not give its own."""
    rows: list[dict[str, Any]] = []
    harms: list[dict[str, Any]] = []
    for task, given_arms in tasks.items():
        own = any(one["arm"] == "none" for one in given_arms)
        arms = [*([] if own else [arm("none", NONE, defense="none", params={})]), *given_arms]
        for one in arms:
            names = {key: one[key] for key in ("arm", "defense", "params", "is_control")}
            cells = {("", ""): 0.99, **one["cells"]}
            if one["arm"] == "none" and before is not None:
                cells |= {("undistilled", student): before for _, student in NONE}
            for (attack, student), value in cells.items():
                rows.append({
                    **names, "task": task, "attack": attack, "student": student,
                    "metric": metric if attack else "teacher_accuracy", "value": value,
                    "low": None if value is None else value - one["half"],
                    "high": None if value is None else value + one["half"], "n": 200, "n_seeds": 5,
                })  # fmt: skip
            for measure, drop in one["drops"].items():
                harms.append({
                    "task": task, "arm": one["arm"], "utility": measure, "clean": 0.9,
                    "value": None if drop is None else 0.9 - drop, "drop": drop,
                    "low": None if drop is None else drop - one["half"],
                    "high": None if drop is None else drop + one["half"], "n": 200, "n_draws": 1,
                })  # fmt: skip
    return pl.DataFrame(rows, schema=RESULTS), pl.DataFrame(harms, schema=UTILITY)


def choice(*arms: dict[str, Any], rules: Rules = RULES) -> Choice:
    return recommend(*tables({"t": arms}), rules).choice


FITS = {"teacher_accuracy": 0.01, "trace_validity": 0.03}
HARMS = {"teacher_accuracy": 0.03, "trace_validity": 0.03}


# the choice


def test_the_least_worst_case_within_the_limits_is_chosen() -> None:
    weak_mean = {**flat(0.1), ("filtered_sft", "large"): 0.7}  # a low mean hides one attack that works
    found = choice(arm("steady", flat(0.6), FITS), arm("leaky", weak_mean, FITS), arm("harmful", flat(0.2), HARMS))
    assert (found.status, found.arm, found.holding, found.compared) == ("chosen", "steady", 2, 3)
    assert found.runner_up is not None
    assert found.runner_up.arm == "leaky"
    assert found.runner_up.worst["t"].value == 0.7
    assert found.runner_up.apart is True
    assert (found.best_control, found.nearest) == (None, None)


def test_the_evidence_is_paired_by_student() -> None:
    cells = {SFT: 0.3, ("sft", "large"): 0.4, ("filtered_sft", "small"): 0.5, ("filtered_sft", "large"): 0.35}
    (one,) = choice(arm("a", cells, FITS)).tasks
    assert (one.worst.attack, one.worst.student, one.worst.n_seeds) == ("filtered_sft", "small", 5)
    assert [(cell.attack, cell.value) for cell in one.attacks] == [("filtered_sft", 0.5), ("sft", 0.4)]
    small, large = one.students
    assert one.share_of_gain == small.share == pytest.approx((0.5 - 0.1) / (0.9 - 0.1))
    assert large.share == pytest.approx((0.4 - 0.1) / (0.95 - 0.1), abs=1e-6)
    assert [(harm.measure, harm.limit, harm.n) for harm in one.utility] == [
        ("teacher_accuracy", 0.02, 200),
        ("trace_validity", 0.05, 200),
    ]


def test_no_share_where_the_undefended_release_brings_nothing() -> None:
    found = recommend(*tables({"t": [arm("a", flat(0.5), FITS)]}, before=0.95), RULES).choice
    assert found.tasks[0].share_of_gain is None
    assert any("brings this student nothing" in line for line in sentences(found, RULES))


def test_a_drop_equal_to_the_limit_holds_in_spite_of_rounding() -> None:
    drop = 0.995 - 0.975
    assert drop > 0.02
    assert choice(arm("a", flat(0.5), {"teacher_accuracy": drop})).arm == "a"


def test_strict_holds_the_upper_bound() -> None:
    near = arm("near", flat(0.3), {"teacher_accuracy": 0.015})
    safe = arm("safe", flat(0.5), {"teacher_accuracy": 0.0})
    assert choice(near, safe).arm == "near"
    strict = Rules(limits=DEFAULT_LIMITS, strict=True)
    assert choice(near, safe, rules=strict).arm == "safe"
    lone = choice(near, rules=strict)
    assert (lone.status, lone.nearest and lone.nearest.exceeds[0].by) == ("nothing_holds", pytest.approx(0.005))


def test_nothing_holds_names_the_nearest() -> None:
    found = choice(arm("far", flat(0.1), {"teacher_accuracy": 0.3}), arm("near", flat(0.4), HARMS))
    assert (found.status, found.arm, found.defenses) == ("nothing_holds", "none", ())
    assert found.nearest is not None
    assert found.nearest.arm == "near"
    assert [(one.measure, one.by) for one in found.nearest.exceeds] == [("teacher_accuracy", pytest.approx(0.01))]
    headline = sentences(found, RULES)[0]
    assert "no setting of this run holds" in headline
    assert "the nearest is near, which exceeds teacher_accuracy by 0.01" in headline
    assert "NO DEFENSE" in warnings(found)[0]


def test_nothing_helps_where_the_undefended_teacher_leaks_no_more() -> None:
    found = choice(arm("a", flat(0.96), FITS))
    assert (found.status, found.arm, found.holding) == ("nothing_helps", "none", 1)
    assert "none leaks less" in sentences(found, RULES)[0]


def test_a_winning_control_is_said_plainly() -> None:
    heat = arm("temperature(delta=0.1)", flat(0.4), FITS, control=True, defense="temperature")
    found = choice(heat, arm("ads", flat(0.5), FITS))
    assert (found.is_control, found.best_defense and found.best_defense.arm) == (True, "ads")
    assert any(line.startswith("A CONTROL IS BEST: temperature") and "beat" in line for line in warnings(found))
    assert any("only controls" in line for line in warnings(choice(heat)))
    beaten = warnings(choice(heat, arm("ads", flat(0.2), FITS)))
    assert not any("control" in line.lower() for line in beaten)
    tied = choice(heat, arm("z", flat(0.4), FITS))
    assert tied.arm == "z", "a tie goes to the defense"
    assert any("Not shown to leak less than the best control" in line for line in warnings(tied))


def test_passive_attacks_alone_are_warned_of() -> None:
    cells = {SFT: 0.9}
    none = arm("none", cells, defense="none", params={})
    passive = choice(none, arm("a", {SFT: 0.3}, FITS))
    assert not passive.tested_adaptively
    assert warnings(passive)[0].startswith("NOT TESTED AGAINST ADAPTIVE ATTACKS: only passive ones were run (sft)")
    both = warnings(choice(arm("a", flat(0.3), FITS)))
    assert not any("ADAPTIVE" in line for line in both)
    assert any("same run" in line and "fresh seeds" in line for line in both)


def test_what_costs_much_without_a_limit_is_said() -> None:
    told = warnings(
        choice(arm("a", flat(0.3), {**FITS, "reader_accuracy": 0.073, "length": 0.4, "grounding": 0.05}))
    )
    (line,) = (line for line in told if "no limit" in line)
    assert line.startswith("Task t: the drop in reader_accuracy 0.073 [0.063, 0.083] (no limit")
    assert "--limit reader_accuracy=0.05" in line
    limited = Rules(limits={**DEFAULT_LIMITS, "reader_accuracy": 0.1})
    found = choice(arm("a", flat(0.3), {**FITS, "reader_accuracy": 0.073}), rules=limited)
    assert not any("no limit" in line for line in warnings(found))


def test_settings_are_compared_under_the_same_attacks() -> None:
    partial = {cell: 0.05 for cell in NONE if cell != SFT}
    found = choice(arm("partial", partial, FITS), arm("null", {**flat(0.05), SFT: None}, FITS),
                   arm("whole", flat(0.6), FITS), arm("unmeasured", flat(0.1)))  # fmt: skip
    assert found.arm == "whole"
    assert set(found.skipped) == {"partial", "null", "unmeasured"}
    assert "small under sft" in found.skipped["partial"]
    assert sum(line.startswith("Left out: ") for line in warnings(found)) == 3


def test_a_measure_that_one_setting_lacks_does_not_hold() -> None:
    found = choice(arm("lacks", flat(0.1), {"teacher_accuracy": 0.0}), arm("has", flat(0.5), FITS))
    assert found.arm == "has"


def test_limits_that_cannot_be_checked() -> None:
    plain = arm("a", flat(0.5), {"teacher_accuracy": 0.0})
    found = choice(plain)
    assert found.tasks[0].unchecked == ("trace_validity",)
    assert any("not measure trace_validity" in line for line in warnings(found))
    asked = Rules(limits=DEFAULT_LIMITS, required=frozenset({"trace_validity"}))
    for rules in (asked, Rules(limits={}), Rules(limits={"grounding": 0.1})):
        with pytest.raises(ConfigError):
            choice(plain, rules=rules)


def test_what_the_run_cannot_answer() -> None:
    results, utility = tables({"one": [arm("a", flat(0.5), FITS)], "two": [arm("a", flat(0.5), FITS)]})
    with pytest.raises(ConfigError, match="'two'"):
        recommend(results, utility, RULES, task="tow")
    with pytest.raises(ConfigError, match="student_accuracy"):
        recommend(results, utility, Rules(limits=DEFAULT_LIMITS, leakage="recall_hidden"))
    with pytest.raises(ConfigError, match="'recall_hidden'"):
        recommend(results, utility, Rules(limits=DEFAULT_LIMITS, leakage="recal_hidden"))
    with pytest.raises(RunError, match="undefended"):
        recommend(results.filter(pl.col("arm") != "none"), utility, RULES)


def test_one_setting_for_all_tasks() -> None:
    """`left` and `right` are best on one task and harmful on the other; `both` holds everywhere."""
    found = recommend(
        *tables({
            "one": [arm("left", flat(0.2), FITS), arm("right", flat(0.3), HARMS), arm("both", flat(0.5), FITS)],
            "two": [arm("left", flat(0.3), HARMS), arm("right", flat(0.2), FITS), arm("both", flat(0.6), FITS)],
        }), RULES)  # fmt: skip
    assert [one.arm for one in found.tasks] == ["left", "right"]
    assert found.overall is not None
    assert (found.choice.arm, [one.task for one in found.choice.tasks]) == ("both", ["one", "two"])
    assert (found.choice.holding, found.choice.compared) == (1, 3)


def test_an_easy_task_does_not_decide_alone() -> None:
    """On `easy` every student has 0.9 before any attack: it is the gain that counts across tasks."""
    easy, easy_harms = tables({"easy": [arm("a", flat(0.93), FITS), arm("b", flat(0.94), FITS)]}, before=0.9)
    hard, hard_harms = tables({"hard": [arm("a", flat(0.8), FITS), arm("b", flat(0.3), FITS)]}, before=0.1)
    found = recommend(pl.concat([easy, hard]), pl.concat([easy_harms, hard_harms]), RULES)
    assert [one.arm for one in found.tasks] == ["a", "b"]
    assert found.choice.arm == "b"


shares = st.sampled_from([0.0, 0.01, 0.02, 0.03, 0.05, 0.06, 0.3])
generated = st.lists(
    st.tuples(
        st.lists(st.sampled_from([0.05, 0.2, 0.5, 0.9, 0.97, None]), min_size=4, max_size=4),
        st.fixed_dictionaries({"teacher_accuracy": shares | st.none()}, optional={"trace_validity": shares}),
        st.booleans(),
    ),
    max_size=5,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(generated, min_size=1, max_size=2), st.booleans())
def test_no_limit_is_broken_and_nothing_that_holds_leaks_less(tasks: list[Any], strict: bool) -> None:
    data = {
        f"t{i}": [
            arm(f"a{j}", dict(zip(NONE, values, strict=True)), drops, control)
            for j, (values, drops, control) in enumerate(arms)
        ]
        for i, arms in enumerate(tasks)
    }
    rules = Rules(limits=DEFAULT_LIMITS, strict=strict)
    found = recommend(*tables(data), rules)
    for choices, names in [(one, [one.tasks[0].task]) for one in found.tasks] + [(found.choice, list(data))]:
        if len(names) == 1 or choices is found.overall:
            _check(choices, {name: data[name] for name in names}, rules)


def _check(found: Choice, data: Mapping[str, Sequence[dict[str, Any]]], rules: Rules) -> None:
    """Against a plain restatement of the rule: every arm that was measured in full, on all tasks."""
    measured = {name: {key for one in arms for key, drop in one["drops"].items() if drop is not None}
                for name, arms in data.items()}  # fmt: skip

    def holds(name: str, one: dict[str, Any]) -> bool:
        bound = one["half"] if rules.strict else 0.0
        drops = {key: one["drops"].get(key) for key in rules.limits if key in measured[name]}
        known = any(drop is not None for drop in one["drops"].values())
        return (
            known
            and None not in one["cells"].values()
            and all(drop is not None and drop + bound <= rules.limits[key] + 1e-9 for key, drop in drops.items())
        )

    worst = {"none": max(NONE.values())}
    for label in {one["arm"] for arms in data.values() for one in arms}:
        mine = {name: one for name, arms in data.items() for one in arms if one["arm"] == label}
        if len(mine) == len(data) and all(holds(name, one) for name, one in mine.items()):
            worst[label] = max(value for one in mine.values() for value in one["cells"].values())
    assert found.arm in worst, "a limit is broken, or the setting was not measured in full"
    assert worst[found.arm] == min(worst.values())
    assert found.holding == len(worst) - 1


# settings and files


def test_exact_settings() -> None:
    both = '[{"kind": "ads", "lam": 0.1}, {"budget": 0.2}]'
    assert exact_settings("ads+traceguard", both) == (
        {"kind": "ads", "lam": 0.1},
        {"kind": "traceguard", "budget": 0.2},
    )
    assert exact_settings("none", "{}") == ()
    for defense, params in (("ads", both), ("ads", '{"kind": "temperature"}'), ("ads", "{"), ("a+b", "[1, 2]")):
        with pytest.raises(RunError):
            exact_settings(defense, params)


def policy(*arms: dict[str, Any], tasks: Sequence[str] = ("t",)) -> tuple[Policy, Recommendation]:
    found = recommend(*tables(dict.fromkeys(tasks, arms)), RULES)
    return policy_of(found, RULES, MANIFEST), found


COMPOSED = arm(
    "ads(lam=1e-05) + traceguard(budget=0.2)", flat(0.5), FITS, defense="ads+traceguard",
    params=[{"kind": "ads", "lam": 1e-5, "proxy": "a: b # c"}, {"kind": "traceguard", "budget": 0.2}],
)  # fmt: skip


@pytest.mark.parametrize("tasks", [("t",), ("t", "u")])
def test_a_policy_round_trips(tmp_path: Path, tasks: Sequence[str]) -> None:
    made, found = policy(COMPOSED, arm("a", flat(0.7), FITS), tasks=tasks)
    path = tmp_path / "new" / "policy.yaml"
    write_policy(path, dump_policy(made, found, RULES))
    back = load_policy(path)
    assert back == made
    assert [method.identity() for method in back.methods()] == [
        {"kind": "ads", "version": 1, "lam": 1e-5, "proxy": "a: b # c"},
        {"kind": "traceguard", "version": 1, "budget": 0.2},
    ]
    assert back.arguments[::2] == ["--defense", "--defense"]
    assert [json.loads(text) for text in back.arguments[1::2]] == list(back.defenses)
    assert back.run is not None
    assert (back.run.name, back.run.study_hash, back.run.teacher) == ("tiny", "ab12", "embedded/teacher")
    assert back.evidence is not None
    assert back.evidence.tasks[0].task == "t"
    assert [item.name for item in path.parent.iterdir()] == ["policy.yaml"]


def test_a_fallback_policy_round_trips(tmp_path: Path) -> None:
    made, found = policy(arm("a", flat(0.5), HARMS))
    write_policy(tmp_path / "p", dump_policy(made, found, RULES))
    assert load_policy(tmp_path / "p") == made
    assert made.defenses == ()


def test_a_label_cannot_break_out_of_the_comments() -> None:
    """Labels hold settings, and settings may hold any text."""
    label = "a(x=\n\u2028\x85evil: 1\r\x1b]0;\x00)"
    made, found = policy(arm(label, flat(0.5), FITS))
    text = dump_policy(made, found, RULES)
    assert "evil" not in yaml.safe_load(text)
    assert Policy.model_validate(yaml.safe_load(text)) == made
    assert "\x1b" not in text


def test_a_policy_is_not_replaced_unasked(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("mine")
    with pytest.raises(ConfigError, match="--force"):
        write_policy(path, "new")
    assert path.read_text() == "mine"
    write_policy(path, "new", force=True)
    assert path.read_text() == "new"
    with pytest.raises(ConfigError, match="folder"):
        write_policy(tmp_path, "new", force=True)


def test_a_policy_by_hand_needs_two_keys(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("azeotrope_policy: 1\ndefenses: [{kind: traceguard, budget: 0.3}]\n")
    assert [method.strength for method in load_policy(path).methods()] == [0.3]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("defenses: []", "azeotrope_policy: 1"),
        ("[1, 2]", "not a policy"),
        ("{azeotrope_policy: 2, defenses: []}", "version 2"),
        ("{azeotrope_policy: 1, defences: []}", "'defenses'"),
        ("{azeotrope_policy: 1}", "'defenses' is required"),
        ("{azeotrope_policy: 1, defenses: [], run: {nam: x}}", "'name'"),
        ("{azeotrope_policy: 1, defenses: [{kind: tracegaurd}]}", "'traceguard'"),
        ("{azeotrope_policy: 1, defenses: [{kind: traceguard, bugdet: 1}]}", "'budget'"),
        ("{azeotrope_policy: 1, defenses: [{budget: 1}]}", "'kind'"),
        ("{azeotrope_policy: 1, defenses: [], limits: {teacher_acuracy: 0.1}}", "'teacher_accuracy'"),
        ("{azeotrope_policy: 1, defenses: [}", "not valid YAML"),
    ],
)
def test_a_wrong_policy_is_one_sentence(tmp_path: Path, text: str, hint: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_policy(path)
    assert hint in str(error.value)
    assert "p.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_policy(tmp_path: Path) -> None:
    with pytest.raises(MissingError):
        load_policy(tmp_path / "p.yaml")


def test_reading_a_run(tmp_path: Path) -> None:
    results, utility = tables({"t": [arm("a", flat(0.5), FITS)]})
    for name, wanted in (("manifest.json", "finish the study"), ("results.parquet", "results.parquet"),
                         ("utility.parquet", "with this version")):  # fmt: skip
        with pytest.raises(MissingError, match=wanted):
            read_run(tmp_path)
        if name == "manifest.json":
            (tmp_path / name).write_text(json.dumps(MANIFEST))
        else:
            (results if name == "results.parquet" else utility).write_parquet(tmp_path / name)
    measured = read_run(tmp_path)
    assert recommend(measured.results, measured.utility, RULES).choice.arm == "a"
    utility.with_columns(drop=pl.lit(float("nan"))).write_parquet(tmp_path / "utility.parquet")
    assert read_run(tmp_path).utility["drop"].null_count() == len(utility)
    for damaged in (utility.drop("drop"), utility.with_columns(n=pl.lit("many"))):
        damaged.write_parquet(tmp_path / "utility.parquet")
        with pytest.raises(RunError, match="another version"):
            read_run(tmp_path)
    (tmp_path / "utility.parquet").write_bytes(b"PAR1")
    with pytest.raises(RunError, match="Parquet"):
        read_run(tmp_path)
    (tmp_path / "manifest.json").write_text("[")
    with pytest.raises(RunError, match="JSON"):
        read_run(tmp_path)
