"""Gains of every attack under every arm: brute force, identities, what is missing, agreement with other tables."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scipy.stats import norm
from study_fakes import CLASSES, FakeSFT, FakeStages, fake_load, study

from azeotrope.core.access import Access
from azeotrope.core.seeds import derive
from azeotrope.maths.stats import resample
from azeotrope.study import vocabulary
from azeotrope.study.claim_rules import Scene, ground
from azeotrope.study.claims import Claim
from azeotrope.study.gains import (
    NOTHING,
    OK,
    SCHEMA,
    UNMEASURED,
    UNREFERRED,
    UNSTARTED,
    gains_table,
    share_of,
    status_of,
)
from azeotrope.study.plan import Plan, make_plan
from azeotrope.study.run import run
from azeotrope.study.specs import AttackSpec
from azeotrope.study.tables import Students, TaskData

FAMILY, P, BASES, DRAWS = "embedded/student", 40, 3, 2
SEEDS = BASES * DRAWS
ATTACKS = ("sft", "other", "reader")
WEAK = "ads(lam=0.1)"
STRONG = "ads(lam=0.4)"


class FakeOther(FakeSFT):
    kind = "other"


class FakeReader(FakeSFT):
    kind = "reader"
    needs = Access.FULL_LOGITS


class Unlike(FakeStages):
    """Attacks that differ: each is as good as its place in the list says."""

    def attack(self, spec: AttackSpec, release_dir: Path, out: Path) -> None:
        teacher = float(np.mean(pl.read_parquet(release_dir / "samples.parquet")["correct"].to_numpy()))
        place = ATTACKS.index(spec.attack["kind"])
        rng = np.random.default_rng(derive(spec.seed, "unlike", str(place), str(spec.draw), str(teacher)))
        self._students(spec, out, 0.8 * teacher - 0.1 * place, rng)


@pytest.fixture(scope="module", autouse=True)
def attacks() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CLASSES["attacks"], "other", FakeOther)
        patch.setitem(CLASSES["attacks"], "reader", FakeReader)
        patch.setattr("azeotrope.core.plugins.load", fake_load)
        yield


@pytest.fixture(scope="module")
def folder(attacks: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    wanted = study(
        attacks=[{"kind": kind} for kind in ATTACKS],
        release={"n": 10, "access": "full_logits"},
        defenses=[{"kind": "ads", "lam": [0.1, 0.4]}],
    )
    runs = tmp_path_factory.mktemp("runs")
    return run(wanted, runs=runs, workers=0, stages=Unlike(), console=Console(quiet=True))


@pytest.fixture(scope="module")
def table(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder / "gains.parquet")


def accuracies(folder: Path, arm: str, attack: str) -> np.ndarray:
    """Answers (draw · bases + base, problem) straight from the samples; undistilled ones once per draw."""
    rows = pl.read_parquet(folder / "samples.parquet").filter(
        pl.col("arm") == arm, pl.col("attack") == attack, pl.col("student") == FAMILY
    )
    problems = sorted(rows["problem_id"].unique().to_list())
    found = np.full((SEEDS, P), np.nan)
    for row in rows.iter_rows(named=True):
        for draw in range(DRAWS) if attack == "undistilled" else [row["draw"]]:
            found[draw * BASES + row["base"], problems.index(row["problem_id"])] = row["correct"]
    assert np.isfinite(found).all()
    return found


def replicates(values: np.ndarray) -> np.ndarray:
    """Weighted means, one replicate after the other."""
    weights = resample(SEEDS, P, replicates=200, seed=derive(study().seed, "bootstrap", "facts"))
    return np.array([seeds @ values @ items for seeds, items in zip(weights.seeds, weights.items, strict=True)])


def middle(draws: np.ndarray) -> list[float]:
    return [draws[0], *np.quantile(draws[1:], [0.025, 0.975])]


def test_every_number_by_brute_force(folder: Path, table: pl.DataFrame) -> None:
    start = replicates(accuracies(folder, "none", "undistilled"))
    gains = {
        (arm, attack): replicates(accuracies(folder, arm, attack)) - start
        for arm in ("none", WEAK, STRONG)
        for attack in ATTACKS
    }
    best = max(ATTACKS, key=lambda attack: gains["none", attack][0])
    mine = table.filter(pl.col("metric") == "student_accuracy")
    assert len(mine) == len(gains)
    for row in mine.iter_rows(named=True):
        gain = gains[row["arm"], row["attack"]]
        assert row["value"] == pytest.approx(gain[0] + start[0])
        assert [row["gain"], row["gain_low"], row["gain_high"]] == pytest.approx(middle(gain))
        share = gain / gains["none", best]
        assert [row["retained"], row["retained_low"], row["retained_high"]] == pytest.approx(middle(share))
        case = np.max([gains[row["arm"], a] for a in ATTACKS], axis=0)
        assert row["worst"] == (gain[0] == case[0])
        if row["worst"]:
            bounds = middle(case / np.max([gains["none", a] for a in ATTACKS], axis=0))[1:]
            assert [row["worst_low"], row["worst_high"]] == pytest.approx(bounds)
        else:
            assert row["worst_low"] is None
            assert row["worst_high"] is None
        assert (row["best"], row["best_attack"]) == (pytest.approx(gains["none", best][0]), best)
        assert (row["undistilled"], row["n"], row["n_seeds"]) == (pytest.approx(start[0]), P, SEEDS)
        assert row["status"] == OK


def test_the_table_has_a_row_per_pair_and_measure_and_one_worst_case_per_arm(table: pl.DataFrame) -> None:
    assert table.schema == pl.Schema(SCHEMA)
    keys = ["task", "arm", "student", "metric"]
    assert not table.select([*keys, "attack"]).is_duplicated().any()
    assert set(table["metric"]) == {"student_accuracy", "recall_hidden"}
    assert len(table) == 3 * 3 * 2
    found = table.group_by(keys).agg(pl.col("worst").sum(), pl.col("retained").max().alias("most"))
    assert found["worst"].to_list() == [1] * 6
    worst = table.filter(pl.col("worst")).join(found.drop("worst"), on=keys)
    assert (worst["retained"] == worst["most"]).all()
    assert dict(zip(table["attack"], table["access"], strict=True)) == {
        "sft": "text", "other": "text", "reader": "full_logits"
    }  # fmt: skip
    recall = table.filter(pl.col("metric") == "recall_hidden")
    assert set(recall["n"]) == {8}


def test_a_recall_has_an_interval_from_three_seeds_on(attacks: None, tmp_path: Path) -> None:
    def bounded(draws: int) -> dict[str, int]:
        two = study(
            release={"n": 10, "access": "full_logits"}, students=[{"family": FAMILY, "bases": 1}], draws=draws
        )
        made = run(two, runs=tmp_path, workers=0, stages=Unlike(), console=Console(quiet=True))
        found = pl.read_parquet(made / "gains.parquet").filter(pl.col("gain").is_not_null())
        return dict(found.group_by("metric").agg(pl.col("gain_low").count()).iter_rows())

    assert bounded(2) == {"student_accuracy": 5, "recall_hidden": 0}
    assert bounded(3)["recall_hidden"] == 5


def test_a_control_of_an_attack_is_shown_and_is_no_worst_case(
    attacks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = study(attacks=[{"kind": "sft"}, {"kind": "other"}], release={"n": 10})
    made = run(wanted, runs=tmp_path, workers=0, stages=Unlike(), console=Console(quiet=True))
    here = (pl.col("metric") == "student_accuracy") & (pl.col("arm") == "none")
    before = pl.read_parquet(made / "gains.parquet").filter(pl.col("worst") & here)
    assert set(before["attack"]) == {"sft"} == set(before["best_attack"])
    monkeypatch.setattr(vocabulary, "CONTROL_ATTACKS", {"sft"})
    made = run(wanted, runs=tmp_path, workers=0, stages=Unlike(), console=Console(quiet=True))
    after = pl.read_parquet(made / "gains.parquet").filter(here)
    assert set(after.filter(pl.col("worst"))["attack"]) == {"other"} == set(after["best_attack"])
    assert after.filter(pl.col("attack") == "sft")["retained"].null_count() == 0


def test_the_best_undefended_attack_keeps_exactly_everything(table: pl.DataFrame) -> None:
    none = table.filter(pl.col("arm") == "none")
    best = none.filter(pl.col("attack") == pl.col("best_attack"))
    assert len(best) == 2
    bounds = ["retained", "retained_low", "retained_high", "worst_low", "worst_high"]
    assert best.select(bounds).rows() == [(1.0,) * 5] * 2
    assert best["worst"].all()
    assert (none["retained"] <= 1.0).all()
    assert none.select("teacher_drop", "teacher_drop_low", "teacher_drop_high").unique().rows() == [(0.0,) * 3]


def test_shares_agree_with_the_gains_and_the_other_tables(folder: Path, table: pl.DataFrame) -> None:
    assert (table["retained"] - table["gain"] / table["best"]).abs().max() < 1e-9
    results = pl.read_parquet(folder / "results.parquet")
    told = results.filter(pl.col("metric") == "gain").select("arm", "attack", "value", "low", "high")
    mine = table.filter(pl.col("metric") == "student_accuracy").join(told, on=["arm", "attack"], suffix="_told")
    for name, other in (("gain", "value_told"), ("gain_low", "low"), ("gain_high", "high")):
        assert (mine[name] - mine[other]).abs().max() < 1e-9
    utility = pl.read_parquet(folder / "utility.parquet").filter(pl.col("utility") == "teacher_accuracy")
    both = table.join(utility, on=["task", "arm"], suffix="_told")
    assert set(both["arm"]) == {WEAK, STRONG}
    pairs = (("teacher_drop", "drop"), ("teacher_drop_low", "low"), ("teacher_drop_high", "high"))
    for name, other in (*pairs, ("teacher_accuracy", "value_told")):
        assert (both[name] - both[other]).abs().max() < 1e-9


# Made-up measurements


def plan_of(*attacks: str) -> Plan:
    wanted = study(
        attacks=[{"kind": kind} for kind in attacks],
        release={"n": 10, "access": "full_logits"},
        defenses=[{"kind": "ads", "lam": [0.1, 0.4]}],
    )
    return make_plan(wanted, FakeStages())


def data_of(plan: Plan, level: Callable[[str, str], float], start: float = 0.2, noise: float = 0.0) -> TaskData:
    """Students of a level, plus and minus `noise` by turns."""
    spread = noise * np.resize([[1.0], [-1.0]], (SEEDS, 1))
    data = TaskData(tuple(f"p{i}" for i in range(P)), DRAWS)
    for arm in plan.expansion.arms:
        data.teachers[arm.label] = {"teacher_accuracy": np.full((DRAWS, P), 1.0 - arm.strength)}
        for attack in plan.expansion.attacks:
            values = np.full((SEEDS, P), level(arm.label, attack.label)) + spread
            data.students[arm.label, attack.label, FAMILY] = Students({"student_accuracy": values}, {})
    data.undistilled[FAMILY] = Students({"student_accuracy": np.full((BASES, P), start)}, {})
    return data


def levels(arm: str, attack: str) -> float:
    return {"none": 0.7, WEAK: 0.6, STRONG: 0.3}[arm] - 0.1 * ATTACKS.index(attack)


def test_the_share_does_not_depend_on_where_the_student_starts_or_on_the_scale() -> None:
    plan = plan_of(*ATTACKS)
    one = gains_table(plan, {"facts": data_of(plan, levels)})
    moved = gains_table(plan, {"facts": data_of(plan, lambda *pair: 0.1 + 0.5 * levels(*pair), start=0.2)})
    assert (one["retained"] - moved["retained"]).abs().max() < 1e-9
    cell = one.filter(pl.col("arm") == STRONG, pl.col("attack") == "sft")
    assert cell["retained"].to_list() == pytest.approx([0.1 / 0.5])


def test_a_better_attack_raises_the_worst_gain_and_shrinks_every_other_share() -> None:
    few, many = plan_of("other", "reader"), plan_of(*ATTACKS)
    before, after = (gains_table(plan, {"facts": data_of(plan, levels)}) for plan in (few, many))
    both = before.join(after, on=["arm", "attack"], suffix="_after")
    assert len(both) == 6
    assert both["retained_after"].to_list() == pytest.approx([0.8 * share for share in both["retained"]])
    worst = [table.filter(pl.col("worst")).sort("arm")["gain"].to_numpy() for table in (before, after)]
    assert (worst[1] > worst[0]).all()


def test_a_student_that_ends_below_its_start_keeps_a_negative_share() -> None:
    plan = plan_of("sft")
    found = gains_table(plan, {"facts": data_of(plan, lambda arm, _: {"none": 0.7, WEAK: 0.2, STRONG: 0.1}[arm])})
    shares = dict(zip(found["arm"], found["retained"], strict=True))
    assert shares == pytest.approx({"none": 1.0, WEAK: 0.0, STRONG: -0.2})


@pytest.mark.parametrize(("level", "noise"), [(0.2, 0.0), (0.1, 0.0), (0.22, 0.2)])
def test_without_an_undefended_gain_there_is_no_share(level: float, noise: float) -> None:
    plan = plan_of("sft", "other")
    found = gains_table(plan, {"facts": data_of(plan, lambda *_: level, noise=noise)})
    assert set(found["status"]) == {NOTHING}
    nulls = ["retained", "retained_low", "retained_high", "worst_low", "worst_high"]
    assert found.select(nulls).null_count().row(0) == (len(found),) * 5
    assert found["gain"].to_list() == pytest.approx([level - 0.2] * len(found))
    assert found["worst"].sum() == 3  # the ranking of attacks needs no share
    assert found["best"].to_list() == pytest.approx([level - 0.2] * len(found))


def test_the_best_of_many_attacks_needs_a_surer_gain() -> None:
    """2.15 standard errors: enough for one attack at 95 % (1.96), too little for the best of three (2.39)."""
    normal = norm.ppf((np.arange(2000) + 0.5) / 2000)
    sure, zero = np.concatenate([[2.15], 2.15 + normal]), np.concatenate([[0.0], normal])
    assert status_of({"sft": sure}, True, 0.95) == OK
    assert status_of({"sft": sure, "other": zero, "reader": zero}, True, 0.95) == NOTHING
    assert status_of({"sft": sure, "other": zero, "reader": zero}, True, 0.9) == OK


def test_what_is_missing_is_said_and_nothing_else_is_lost() -> None:
    plan = plan_of(*ATTACKS)
    whole = gains_table(plan, {"facts": data_of(plan, levels)})
    data = data_of(plan, levels)
    data.students[WEAK, "sft", FAMILY].matrices.clear()
    data.students[WEAK, "other", FAMILY].matrices["student_accuracy"][:] = np.nan
    found = gains_table(plan, {"facts": data})
    lost = found.filter(pl.col("status") == UNMEASURED)
    assert lost.select("arm", "attack").rows() == [(WEAK, "sft"), (WEAK, "other")]
    assert not lost["worst"].any()
    assert lost.select("value", "gain", "retained", "n").null_count().row(0) == (2,) * 4
    assert lost["teacher_accuracy"].to_list() == pytest.approx([0.9] * 2)
    assert found.filter(pl.col("worst"), pl.col("arm") == WEAK)["attack"].to_list() == ["reader"]
    others = [table.filter(pl.col("arm") != WEAK) for table in (whole, found)]
    assert others[0].equals(others[1])


def test_without_an_undistilled_student_there_are_values_only() -> None:
    plan = plan_of(*ATTACKS)
    data = data_of(plan, levels)
    data.undistilled[FAMILY].matrices.clear()
    found = gains_table(plan, {"facts": data})
    assert set(found["status"]) == {UNSTARTED}
    assert found.select("gain", "retained", "best", "undistilled").null_count().row(0) == (9,) * 4
    assert found["value"].null_count() == 0
    assert found["worst"].sum() == 3


def test_without_the_undefended_release_there_are_gains_only() -> None:
    plan = plan_of(*ATTACKS)
    data = data_of(plan, levels)
    for attack in ATTACKS:
        data.students["none", attack, FAMILY].matrices.clear()
    found = gains_table(plan, {"facts": data}).filter(pl.col("arm") != "none")
    assert set(found["status"]) == {UNREFERRED}
    assert found["gain"].null_count() == 0
    assert found.select("retained", "best").null_count().row(0) == (6, 6)


def test_a_measure_that_no_student_has_gives_no_rows() -> None:
    plan = plan_of("sft")
    assert set(gains_table(plan, {"facts": data_of(plan, levels)})["metric"]) == {"student_accuracy"}


@pytest.mark.parametrize("arm", [WEAK, STRONG])
def test_the_worst_case_is_what_the_claim_rule_says(arm: str) -> None:
    plan = plan_of(*ATTACKS)
    data = data_of(plan, levels)
    rng = np.random.default_rng(3)
    for cell in data.students.values():
        cell.matrices["student_accuracy"][:] = rng.random((SEEDS, P)) < cell.matrices["student_accuracy"]
    (row,) = gains_table(plan, {"facts": data}).filter(pl.col("worst"), pl.col("arm") == arm).iter_rows(named=True)
    rule = {"rule": "withstands", "arm": arm, "share": 0.5}
    claim = Claim.model_validate({"id": "W", "text": "t", "part": "one", "test": rule})
    ((said, _),) = ground(claim, Scene(plan, "facts", data, plan.study.students[0])).conditions
    found = re.fullmatch(r"the worst attack \((.*)\) gets (\S+) % \[(\S+), (\S+)\] of the undefended gain", said)
    assert found
    assert found[1] == row["attack"]
    shown = [row["retained"], row["worst_low"], row["worst_high"]]
    assert [int(text) for text in found.groups()[1:]] == [round(100 * value) for value in shown]


def test_the_claim_rule_says_where_there_is_no_gain() -> None:
    plan = plan_of("sft")
    rule = {"rule": "withstands", "arm": WEAK, "share": 0.5}
    claim = Claim.model_validate({"id": "W", "text": "t", "part": "one", "test": rule})
    data = data_of(plan, lambda *_: 0.1)
    found = ground(claim, Scene(plan, "facts", data, plan.study.students[0]))
    assert found.conditions == [("without the defense no attack gains anything", True)]


SHARES = st.floats(-1, 1)


@given(st.lists(st.tuples(SHARES, SHARES), min_size=1, max_size=8))
def test_a_share_is_finite_exactly_where_there_is_something_to_share(pairs: list[tuple[float, float]]) -> None:
    gain, best = np.array(pairs).T
    found = share_of(gain, best)
    kept = np.isfinite(found)
    assert np.array_equal(kept, best > 1e-12)
    assert found[kept] * best[kept] == pytest.approx(gain[kept])
    assert np.array_equal(share_of(best, best)[kept], np.ones(kept.sum()))
