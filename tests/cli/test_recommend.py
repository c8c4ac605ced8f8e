"""`azeotrope recommend` on a made-up run: the policy, the fallback, and one sentence for wrong input."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from cli_drive import Invoke, one_sentence

from azeotrope.cli import methods
from azeotrope.study.recommend import LEAKAGES
from azeotrope.study.recommend_policy import load_policy

GUARD = ("--limit", "teacher_accuracy=0.01", "--limit", "trace_validity=0.06")  # only TraceGuard holds these
TASKS = ("arithmetic", "lookup")
CELLS = [("sft", "small"), ("sft", "large"), ("filtered_sft", "small"), ("filtered_sft", "large")]
# arm → defense, settings, is it a control?, student accuracy at worst, drop in teacher accuracy and in validity
ARMS: dict[str, tuple[str, dict[str, Any], bool, float, float, float]] = {
    "none": ("none", {}, False, 0.9, 0.0, 0.0),
    "traceguard(budget=0.1)": ("traceguard", {"kind": "traceguard", "budget": 0.1}, False, 0.8, 0.005, 0.058),
    "temperature(heat=0.3)": ("temperature", {"kind": "temperature", "heat": 0.3}, True, 0.6, 0.025, 0.025),
    "ads(lam=0.1)": ("ads", {"kind": "ads", "lam": 0.1}, False, 0.65, 0.03, 0.025),
    "ads(lam=0.4)": ("ads", {"kind": "ads", "lam": 0.4}, False, 0.3, 0.2, 0.25),
}
MANIFEST = {"name": "made", "created": "2026-01-05T09:30:00Z", "study_hash": "9f2c1a7be4d05533"}


def _rows() -> Iterator[dict[str, Any]]:
    for task, (arm, (defense, params, control, worst, _, _)) in itertools.product(TASKS, ARMS.items()):
        names = {"task": task, "arm": arm, "defense": defense, "params": json.dumps(params), "is_control": control}
        cells = {cell: worst - 0.05 * i for i, cell in enumerate(CELLS)}
        if arm == "none":
            cells |= {("undistilled", student): 0.1 for student in ("small", "large")}
        for ((attack, student), value), metric in itertools.product(cells.items(), LEAKAGES):
            yield {**names, "attack": attack, "student": student, "metric": metric, "value": value,
                   "low": value - 0.02, "high": value + 0.02, "n": 200, "n_seeds": 5}  # fmt: skip


def _harms() -> Iterator[dict[str, Any]]:
    for task, (arm, (*_, accuracy, validity)) in itertools.product(TASKS, list(ARMS.items())[1:]):
        for measure, drop in (("teacher_accuracy", accuracy), ("trace_validity", validity)):
            yield {"task": task, "arm": arm, "utility": measure, "clean": 0.95, "value": 0.95 - drop, "drop": drop,
                   "low": drop - 0.01, "high": drop + 0.01, "n": 200, "n_draws": 1}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with two tasks, a text defense, a logit defense and a control."""
    folder = tmp_path_factory.mktemp("recommend") / "made"
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps(MANIFEST), encoding="utf-8")
    pl.DataFrame(list(_rows())).write_parquet(folder / "results.parquet")
    pl.DataFrame(list(_harms())).write_parquet(folder / "utility.parquet")
    return folder


def test_the_policy_is_the_output(invoke: Invoke, run: Path, tmp_path: Path) -> None:
    found = invoke("recommend", run, *GUARD)
    assert found.code == 0
    read = yaml.safe_load(found.out)
    assert read["defenses"] == [ARMS["traceguard(budget=0.1)"][1]]
    assert [one["task"] for one in read["evidence"]["tasks"]] == ["arithmetic", "lookup"]
    assert read["run"]["study_hash"] == "9f2c1a7be4d05533"
    assert "fresh seeds" in found.err
    assert "Each task alone" in found.out
    (tmp_path / "piped.yaml").write_text(found.out, encoding="utf-8")
    policy = load_policy(tmp_path / "piped.yaml")
    flag, text = policy.arguments
    assert (flag, methods.parse("defenses", text)) == ("--defense", policy.methods()[0])


def test_out_force_and_json(invoke: Invoke, run: Path, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "p.yaml"
    first = invoke("recommend", "made", "--runs", run.parent, *GUARD, "-o", path)
    assert first.code == 0
    assert f"Policy: {path}" in first.out
    assert "traceguard" in first.out
    assert "Task lookup: " in first.out
    before = path.read_bytes()
    again = invoke("recommend", run, "--out", path)
    assert (again.code, again.out) == (2, "")
    assert one_sentence(again.err)
    assert "--force" in again.err
    assert path.read_bytes() == before
    forced = invoke("recommend", run, *GUARD, "--task", "lookup", "--out", path, "--force", "--json")
    told = json.loads(forced.out)
    assert (forced.code, told["out"], told["overall"]) == (0, str(path), None)
    assert told["tasks"][0]["arm"] == "traceguard(budget=0.1)"
    assert told["limits"] == {"teacher_accuracy": 0.01, "trace_validity": 0.06}
    assert load_policy(path).model_dump(mode="json") == told["policy"]
    assert list(path.parent.iterdir()) == [path]


def test_the_fallback_is_said_and_is_no_error(invoke: Invoke, run: Path) -> None:
    found = invoke("recommend", run, "--limit", "teacher_accuracy=0", "--limit", "trace_validity=0", "--strict")
    assert found.code == 0
    assert yaml.safe_load(found.out)["defenses"] == []
    assert "NO DEFENSE" in found.err
    words = " ".join(found.out.replace("#", " ").split())
    assert "no setting of this run holds" in words
    assert "the nearest is" in words


def test_a_control_that_wins_and_other_leakage(invoke: Invoke, run: Path) -> None:
    lifted = ("--limit", "trace_validity=none", "--limit", "teacher_accuracy=1", "--task", "arithmetic")
    ads = json.loads(invoke("recommend", run, *lifted, "--leakage", "recall_hidden", "--json").out)
    assert (ads["tasks"][0]["arm"], ads["leakage"]) == ("ads(lam=0.4)", "recall_hidden")
    assert ads["limits"] == {"teacher_accuracy": 1.0}
    control = invoke("recommend", run, "--limit", "teacher_accuracy=0.04", "--limit", "trace_validity=0.03",
                     "--task", "lookup", "--json")  # fmt: skip
    told = json.loads(control.out)["tasks"][0]
    assert (told["arm"], told["is_control"]) == ("temperature(heat=0.3)", True)
    assert told["best_defense"]["arm"] == "ads(lam=0.1)"
    assert "A CONTROL IS BEST" in control.err


WRONG: list[tuple[tuple[str, ...], int, str]] = [
    (("--limit", "teacher_acuracy=0.1"), 2, "'teacher_accuracy'"),
    (("--limit", "teacher_accuracy"), 2, "MEASURE=VALUE"),
    (("--limit", "teacher_accuracy=much"), 2, "'much'"),
    (("--limit", "teacher_accuracy=nan"), 2, "'nan'"),
    (("--limit", "teacher_accuracy=-0.1"), 2, "'-0.1'"),
    (("--limit", "teacher_accuracy=2"), 2, "0.02"),
    (("--limit", "length=0.1", "--limit", "length=0.2"), 2, "twice"),
    (("--limit", "length=0.1"), 2, "not measure length"),
    (("--limit", "teacher_accuracy=none", "--limit", "trace_validity=none"), 2, "at least one"),
    (("--task", "lokup"), 2, "'lookup'"),
    (("--leakage", "recall"), 2, "'recall_hidden'"),
    (("--out", "."), 2, "folder"),
    (("--limt", "x=1"), 2, "--limit"),
]


@pytest.mark.parametrize(("arguments", "code", "hint"), WRONG, ids=lambda value: str(value)[:40])
def test_wrong_input_is_one_sentence(
    invoke: Invoke, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...],
    code: int, hint: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    out = () if "--out" in arguments else ("--out", "p.yaml")
    found = invoke("recommend", run, *arguments, *out)
    assert (found.code, found.out) == (code, "")
    assert one_sentence(found.err)
    assert hint in found.err
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing(invoke: Invoke, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "old")
    (tmp_path / "old" / "utility.parquet").unlink()
    (tmp_path / "empty").mkdir()
    for name, hint in (("old", "azeotrope run"), ("nowhere", "nowhere"), ("empty", "manifest.json")):
        found = invoke("recommend", name, "--runs", tmp_path)
        assert (found.code, found.out) == (3, "")
        assert one_sentence(found.err)
        assert hint in found.err


def test_a_truncated_table_is_one_sentence(invoke: Invoke, run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(run, folder)
    whole = (folder / "utility.parquet").read_bytes()
    (folder / "utility.parquet").write_bytes(whole[: len(whole) // 2])
    found = invoke("recommend", folder)
    assert (found.code, found.out) == (4, "")
    assert one_sentence(found.err)
    assert "utility.parquet" in found.err
