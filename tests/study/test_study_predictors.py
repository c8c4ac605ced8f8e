"""What of a trained edit goes with a student's loss: the correlation, its interval, and which releases count."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scipy.stats import spearmanr
from study_fakes import FakeStages, study
from test_study_edits import record

from azeotrope.study.predictors import SCHEMA, correlation, spearman
from azeotrope.study.run import run
from azeotrope.study.specs import AttackSpec, ReleaseSpec

PROXIES = ("a", "b", "c", "d")


class Linked(FakeStages):
    """The later the letter of the proxy, the higher the cosine, the lower the KL and the weaker the students."""

    def release(self, spec: ReleaseSpec, out: Path) -> None:
        super().release(spec, out)
        told = json.loads((out / "info.json").read_text())
        for member in spec.arm:
            if member["kind"] == "ads":
                place = PROXIES.index(member["proxy"])
                told["cmi"] = {
                    **record(0.1 * place),
                    "kl": 1.0 - 0.1 * place - 0.01 * spec.draw,
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
    assert rows["kl"]["rho"] < -0.9
    assert (rows["cosine"]["n"], rows["cosine"]["n_draws"]) == (12, 3)
    assert rows["cosine"]["low"] <= rows["cosine"]["rho"] <= rows["cosine"]["high"]
    assert "cmi_change" not in rows, "a measure that is the same everywhere predicts nothing"


def test_edits_at_another_strength_do_not_count(tmp_path: Path) -> None:
    other = [{"kind": "ads", "lam": [0.5, 1.0], "proxy": name} for name in PROXIES]
    found = table(tmp_path, Linked(), defenses=other)
    assert found.filter(pl.col("predictor") == "cosine")["n"].to_list() == [12]
    both = [{"compose": [{"kind": "ads", "lam": 1.0, "proxy": n}, {"kind": "temperature"}]} for n in PROXIES]
    assert table(tmp_path, Linked(), defenses=both, name="both").is_empty()


def test_without_edits_the_table_is_empty(tmp_path: Path) -> None:
    assert table(tmp_path, FakeStages()).is_empty()


def test_one_draw_has_no_interval(tmp_path: Path) -> None:
    found = table(tmp_path, Linked(), draws=1)
    assert len(found) > 0
    assert found["low"].null_count() == len(found)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=20))
def test_rank_correlation_is_scipys(pairs: list[tuple[int, int]]) -> None:
    first, second = (np.array(values, dtype=np.float64) for values in zip(*pairs, strict=True))
    mine = spearman(first, second)
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert np.isnan(mine)
    else:
        assert mine == pytest.approx(spearmanr(first, second).statistic, abs=1e-12)


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
    covered = 0
    for _ in range(200):
        _, low, high = correlation(*pair(5), draws.astype(np.float64), 0.95)
        covered += low <= everything <= high
    assert 0.88 <= covered / 200 <= 1.0
