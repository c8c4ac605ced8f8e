"""The table of trained edits: from the records of the releases, one row an edit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console
from study_fakes import FakeStages, study

from azeotrope.study.edits import SCHEMA
from azeotrope.study.run import run
from azeotrope.study.specs import ReleaseSpec


def record(held_out: float, **more: Any) -> dict[str, Any]:
    return {
        "agreement": 0.9, "kl": 0.1, "tokens": 700, "clean_accuracy": 1.0, "kept": True, "cosine_first": 1.0,
        "cosine_held_out": held_out, "cosines": [1.0, 0.4, held_out], "chosen_step": 4,
        "checkpoints": [{"step": s, "cosine": held_out, "accuracy": (90 + s) / 100} for s in (2, 4, 6)],
        **more,
    }  # fmt: skip


class Trained(FakeStages):
    """Releases of ADS record one trained edit, those of temperature several."""

    def release(self, spec: ReleaseSpec, out: Path) -> None:
        super().release(spec, out)
        told = json.loads((out / "info.json").read_text())
        kinds = [settings["kind"] for settings in spec.arm]
        if "ads" in kinds:
            swept = [{"temperature": t, "cmi_before": 0.1 * t, "cmi_after": 0.08 * t} for t in (0.5, 2.0)]
            told["cmi"] = record(
                -0.3, cmi_before=0.1, cmi_after=0.08, cmi_change=-0.02, cmi_change_se=0.01, cmi_sweep=swept
            )
        if "temperature" in kinds:
            told["cmi"] = {"maps": 2, "caution": "a word", "each": [record(-0.1), record(-0.2)]}
        (out / "info.json").write_text(json.dumps(told))


def test_one_row_an_edit(tmp_path: Path) -> None:
    folder = run(study(draws=2), runs=tmp_path, workers=0, stages=Trained(), console=Console(quiet=True))
    frame = pl.read_parquet(folder / "edits.parquet")
    assert frame.schema == pl.Schema(SCHEMA)
    assert len(frame) == 2 * (2 * 1 + 2 * 2), "draws x (arms x edits)"
    assert set(frame["defense"]) == {"cmi"}
    one = frame.filter(pl.col("arm").str.starts_with("ads")).row(0, named=True)
    assert (one["measure"], one["first"], one["held_out"], one["edit"]) == ("cosine", 1.0, -0.3, 0)
    assert (one["accuracy"], one["chosen_step"], one["steps"], one["n"]) == (0.94, 4, 6, 700)
    assert (one["cmi_change"], one["cmi_change_se"], one["curve"]) == (-0.02, 0.01, [1.0, 0.4, -0.3])
    assert (one["temperatures"], one["swept_before"], one["swept_after"]) == (
        [0.5, 2.0],
        [0.05, 0.2],
        [0.04, 0.16],
    )
    several = frame.filter(pl.col("arm").str.starts_with("temperature"))
    assert several["edit"].unique().sort().to_list() == [0, 1]
    assert several["cmi_before"].null_count() == len(several)


def test_without_edits_the_table_is_empty(tmp_path: Path) -> None:
    folder = run(study(draws=1), runs=tmp_path, workers=0, stages=FakeStages(), console=Console(quiet=True))
    assert pl.read_parquet(folder / "edits.parquet").is_empty()


class TrainedAds(Trained):
    """Those of temperature record none."""

    def release(self, spec: ReleaseSpec, out: Path) -> None:
        (super() if any(settings["kind"] == "ads" for settings in spec.arm) else super(Trained, self)).release(
            spec, out
        )


WITH_TEACHERS = {
    "utility": ("drop", "low", "high"),
    "gains": ("teacher_drop", "teacher_drop_low", "teacher_drop_high"),
}


@pytest.mark.parametrize("table", WITH_TEACHERS)
def test_what_a_draw_trains_anew_is_a_unit_of_its_own(tmp_path: Path, table: str) -> None:
    """The same measurements: wider intervals for teachers of which every draw is another, no other estimate."""
    found = {}
    for name, stages in (("trained", TrainedAds()), ("one", FakeStages())):
        folder = run(study(draws=3), runs=tmp_path / name, workers=0, stages=stages, console=Console(quiet=True))
        rows = pl.read_parquet(folder / f"{table}.parquet").filter(pl.col("arm") != "none")
        found[name] = {row["arm"]: [row[column] for column in WITH_TEACHERS[table]] for row in rows.to_dicts()}
    assert len(found["one"]) == 4
    for arm, (drop, low, high) in found["one"].items():
        anew = found["trained"][arm]
        assert anew[0] == drop
        if arm.startswith("ads"):
            assert anew[2] - anew[1] > 1.1 * (high - low)
        else:
            assert anew[1:] == [low, high]
