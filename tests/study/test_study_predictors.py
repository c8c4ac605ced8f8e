"""What of a trained edit goes with a student's loss: the correlation, its interval, and which releases count."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from rich.console import Console
from study_fakes import FakeStages, study
from test_study_edits import record

from azeotrope.study.predictors import SCHEMA, correlation, spearman
from azeotrope.study.run import run
from azeotrope.study.specs import AttackSpec, ReleaseSpec

PROXIES = ("a", "b", "c", "d")
LATER = (*PROXIES, "e")


class Linked(FakeStages):
    """The later the letter of the proxy, the higher the cosine, the lower the KL and the weaker the students."""

    def release(self, spec: ReleaseSpec, out: Path) -> None:
        super().release(spec, out)
        told = json.loads((out / "info.json").read_text())
        for member in spec.arm:
            if member["kind"] == "ads":
                place = LATER.index(member["proxy"])
                told["cmi"] = {
                    **record(0.1 * place),
                    "kl": 1.0 - 0.1 * place - 0.25 * (spec.draw % 2),
                    "cmi_change": 0.3,
                }
        (out / "info.json").write_text(json.dumps(told))

    def attack(self, spec: AttackSpec, release_dir: Path, out: Path) -> None:
        super().attack(spec, release_dir, out)
        told = json.loads((release_dir / "info.json").read_text()).get("cmi")
        if told is not None:
            samples = pl.read_parquet(out / "samples.parquet")
            right = np.arange(len(samples)) % 10 < 8 - 20 * told["cosine_held_out"]
            samples.with_columns(correct=pl.Series(right)).write_parquet(out / "samples.parquet")


def table(tmp_path: Path, stages: FakeStages, **changes: Any) -> pl.DataFrame:
    defenses = [{"kind": "ads", "lam": 1.0, "proxy": name} for name in PROXIES]
    setting = study(**{"defenses": defenses, "draws": 3, **changes})
    folder = run(setting, runs=tmp_path, workers=0, stages=stages, console=Console(quiet=True))
    return pl.read_parquet(folder / "predictors.parquet")


def test_what_goes_with_the_loss_is_found(tmp_path: Path) -> None:
    found = table(tmp_path, Linked())
    assert found.schema == pl.Schema(SCHEMA)
    rows = {row["predictor"]: row for row in found.iter_rows(named=True)}
    assert rows["cosine"]["rho"] > 0.9
    assert -0.95 < rows["kl"]["rho"] < -0.6
    assert (rows["kl"]["n"], rows["kl"]["n_draws"], rows["kl"]["n_arms"]) == (12, 3, 4)
    for row in rows.values():
        assert row["low"] <= row["rho"] <= row["high"]
    assert "cmi_change" not in rows, "a measure that is the same everywhere predicts nothing"


def test_edits_at_another_strength_do_not_count(tmp_path: Path) -> None:
    other = [{"kind": "ads", "lam": [0.5, 1.0], "proxy": name} for name in PROXIES]
    found = table(tmp_path, Linked(), defenses=other)
    assert found.filter(pl.col("predictor") == "cosine")["n"].to_list() == [12]
    both = [{"compose": [{"kind": "ads", "lam": 1.0, "proxy": n}, {"kind": "temperature"}]} for n in PROXIES]
    assert table(tmp_path, Linked(), defenses=both, name="both").is_empty()
    assert len(pl.read_parquet(tmp_path / "both" / "edits.parquet")) == 12


def test_two_settings_are_no_correlation(tmp_path: Path) -> None:
    few = [{"kind": "ads", "lam": 1.0, "proxy": name} for name in PROXIES[:3]]
    assert table(tmp_path, Linked(), defenses=few).is_empty()


class Mixed(Linked):
    """Two methods whose measures share a name, several edits in one arm, and an arm without valid steps."""

    def release(self, spec: ReleaseSpec, out: Path) -> None:
        super().release(spec, out)
        proxies = [member["proxy"] for member in spec.arm if member["kind"] == "ads"]
        told = json.loads((out / "info.json").read_text())
        if "b" in proxies:
            told["other"] = told.pop("cmi")
            samples = pl.read_parquet(out / "samples.parquet")
            samples.with_columns(valid_share=pl.lit(None, pl.Float64)).write_parquet(out / "samples.parquet")
        if "d" in proxies:
            told["cmi"] = {"maps": 2, "each": [record(-0.1), record(-0.2)]}
        (out / "info.json").write_text(json.dumps(told))

    def attack(self, spec: AttackSpec, release_dir: Path, out: Path) -> None:
        FakeStages.attack(self, spec, release_dir, out)


def test_only_what_has_one_scale_everywhere_is_correlated(tmp_path: Path) -> None:
    found = table(tmp_path, Mixed(), defenses=[{"kind": "ads", "lam": 1.0, "proxy": name} for name in LATER])
    assert set(found["n_arms"]) == {4}, "not the arm with several edits"
    assert "kl" in set(found["predictor"])
    assert not {"cosine", "trace_validity lost"} & set(found["predictor"])


class Unchecked(Linked):
    """One draw of one arm has no valid steps."""

    def release(self, spec: ReleaseSpec, out: Path) -> None:
        super().release(spec, out)
        if spec.draw == 1 and any(member.get("proxy") == "c" for member in spec.arm):
            samples = pl.read_parquet(out / "samples.parquet")
            samples.with_columns(valid_share=pl.lit(None, pl.Float64)).write_parquet(out / "samples.parquet")


def test_a_measure_that_one_draw_lacks_is_left_out(tmp_path: Path) -> None:
    found = set(table(tmp_path, Unchecked())["predictor"])
    assert "kl" in found
    assert "trace_validity lost" not in found


def test_without_edits_the_table_is_empty(tmp_path: Path) -> None:
    assert table(tmp_path, FakeStages()).is_empty()


def test_one_draw_has_no_interval(tmp_path: Path) -> None:
    found = table(tmp_path, Linked(), draws=1)
    assert len(found) > 0
    assert found["low"].null_count() == len(found)


def test_ties_share_their_rank_and_constants_have_none() -> None:
    values = np.array([1.0, 1.0, 2.0, 3.0])
    assert spearman(values, np.array([4.0, 4.0, 5.0, 9.0])) == pytest.approx(1.0)
    assert spearman(values, np.array([2.0, 1.0, 3.0, 4.0])) == pytest.approx(4.5 / np.sqrt(4.5 * 5.0))
    assert np.isnan(spearman(values, np.ones(4)))


def test_a_perfect_order_has_no_interval() -> None:
    values, draws = np.arange(12.0), np.repeat(np.arange(3), 4)
    rho, low, high = correlation(values, -(values**2), (draws,), 0.95)
    assert rho == -1.0
    assert np.isnan([low, high]).all()


def test_intervals_cover_what_is_true() -> None:
    """Five draws of seven settings, with a part of each draw in common, as in a study."""
    rng = np.random.default_rng(7)
    truth = 0.6
    draws = np.repeat(np.arange(5), 7)

    def pair(n_draws: int) -> tuple[np.ndarray, np.ndarray]:
        own = rng.normal(size=(2, n_draws, 7)) + 0.7 * rng.normal(size=(2, n_draws, 1))
        first = own[0].ravel()
        return first, truth * first + np.sqrt(1 - truth**2) * own[1].ravel()

    everything = spearman(*pair(20_000))
    found = np.array([correlation(*pair(5), (draws,), 0.95) for _ in range(200)])
    covered = np.mean((found[:, 1] <= everything) & (everything <= found[:, 2]))
    assert covered >= 0.88
    assert np.median(found[:, 2] - found[:, 1]) < 0.9, "and they say something"


def test_intervals_allow_for_other_settings() -> None:
    """What seven settings do to both without a link must not pass for one: the second way of grouping."""
    rng = np.random.default_rng(11)
    draws, arms = np.repeat(np.arange(5), 7), np.tile(np.arange(7), 5)

    def excluded(groupings: tuple[np.ndarray, ...]) -> float:
        hits = 0
        for _ in range(150):
            first, second = (rng.normal(size=7)[arms] + 0.5 * rng.normal(size=35) for _ in range(2))
            _, low, high = correlation(first, second, groupings, 0.95)
            hits += low > 0 or high < 0
        return hits / 150

    assert excluded((draws,)) > 0.2, "draws alone are misled"
    assert excluded((draws, arms)) < 0.12
