"""Recovery: closed forms, a table from real step outputs of the miniature lab, and its empty case."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.console import Console
from study_fakes import CLASSES, FakeSFT, FakeStages, study

from azeotrope.core.budget import Budget
from azeotrope.core.errors import ConfigError
from azeotrope.study.arms import expand
from azeotrope.study.recovery import SCHEMA, compare
from azeotrope.study.run import run


def replicates(center: float, noise: float, seed: int) -> np.ndarray:
    draws = center + noise * np.random.default_rng(seed).standard_normal(2001)
    draws[0] = center
    return draws


def test_the_share_that_comes_back() -> None:
    found = compare(replicates(0.9, 0.01, 1), replicates(0.5, 0.01, 2), replicates(0.7, 0.01, 3), 5, 0.95)
    assert found["recovery"] == pytest.approx(0.5)
    assert 0.4 < found["recovery_low"] < 0.5 < found["recovery_high"] < 0.6
    assert found["gain"] == pytest.approx(0.2)
    assert found["gain_low"] > 0.1
    assert found["status"] == "ok"


@pytest.mark.parametrize(("after", "wanted"), [(0.5, 0.0), (0.9, 1.0), (0.4, -0.25), (1.0, 1.25)])
def test_anchors(after: float, wanted: float) -> None:
    clean, before = np.full(101, 0.9), np.full(101, 0.5)
    assert compare(clean, before, np.full(101, after), 5, 0.95)["recovery"] == pytest.approx(wanted)


def test_where_nothing_was_lost_there_is_nothing_to_recover() -> None:
    found = compare(replicates(0.9, 0.05, 1), replicates(0.9, 0.05, 2), replicates(0.95, 0.05, 3), 5, 0.95)
    assert found["status"] == "nothing lost"
    assert "recovery" not in found
    assert found["gain"] == pytest.approx(0.05)


class FakeOther(FakeSFT):
    kind = "other"

    @property
    def budget(self) -> Budget:
        return Budget(leaked=2)


def test_the_table_compares_each_attack_with_the_passive_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CLASSES["attacks"], "other", FakeOther)
    from study_fakes import fake_load

    from azeotrope.core import plugins

    monkeypatch.setattr(plugins, "load", fake_load)
    plan = study(attacks=[{"kind": "sft"}, {"kind": "other"}])
    folder = run(plan, runs=tmp_path, stages=FakeStages(), workers=0, console=Console(quiet=True))
    frame = pl.read_parquet(folder / "recovery.parquet")
    assert frame.columns == list(SCHEMA)
    assert set(frame["attack"]) == {"other"}
    assert "none" not in set(frame["arm"])
    results = pl.read_parquet(folder / "results.parquet")
    one = frame.filter(pl.col("metric") == "student_accuracy").row(0, named=True)
    told = results.filter(
        pl.col("arm") == one["arm"],
        pl.col("attack") == "other",
        pl.col("student") == one["student"],
        pl.col("metric") == "student_accuracy",
        pl.col("task") == one["task"],
    )
    assert told["value"][0] == pytest.approx(one["value"])
    assert one["n_seeds"] > 1
    assert (one["queries"], one["leaked"], one["extra_seconds"]) == (0, 2, 0.0), "as much as the passive one"
    assert one["seconds"] > 0


def test_recovery_counts_from_the_attack_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CLASSES["attacks"], "other", FakeOther)
    from study_fakes import fake_load

    from azeotrope.core import plugins

    monkeypatch.setattr(plugins, "load", fake_load)
    settings = {"replicates": 200, "unit": "pair"}
    named = study(attacks=[{"kind": "sft"}, {"kind": "other"}], analysis={**settings, "passive": "other"})
    folder = run(named, runs=tmp_path, stages=FakeStages(), workers=0, console=Console(quiet=True))
    assert set(pl.read_parquet(folder / "recovery.parquet")["attack"]) == {"sft"}
    with pytest.raises(ConfigError, match=r"'analysis\.passive': no attack 'othre'\. Did you mean 'other'"):
        expand(study(attacks=[{"kind": "sft"}, {"kind": "other"}], analysis={**settings, "passive": "othre"}))


def test_without_a_passive_attack_the_table_is_empty(folder_without_passive: Path) -> None:
    frame = pl.read_parquet(folder_without_passive / "recovery.parquet")
    assert frame.is_empty()
    assert frame.columns == list(SCHEMA)


@pytest.fixture
def folder_without_passive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(CLASSES["attacks"], "other", FakeOther)
    from study_fakes import fake_load

    from azeotrope.core import plugins

    monkeypatch.setattr(plugins, "load", fake_load)
    return run(
        study(attacks=[{"kind": "other"}]),
        runs=tmp_path,
        stages=FakeStages(),
        workers=0,
        console=Console(quiet=True),
    )
