"""`azeotrope detect`, end to end on trace files."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
from cli_drive import Invoke, one_sentence

from azeotrope.cli import tracefile
from azeotrope.core.types import Trace
from azeotrope.defenses.traceguard import TraceGuard
from azeotrope.tasks.lookup import Lookup

FAST = ("--detector", "token_delta", "--detector", "marker_rate")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`defended.jsonl`, `clean.jsonl` and `again.parquet` on the same 24 problems (the first has 30)."""
    folder = tmp_path_factory.mktemp("traces")
    task = Lookup()
    problems = task.problems("release", 30)
    guard = TraceGuard(budget=1.0)
    defended = [guard.rewrite(trace, Random(0)) for trace in task.gold_traces(problems, 3)]
    tracefile.write(defended, folder / "defended.jsonl")
    tracefile.write(task.gold_traces(problems[:24], 1), folder / "clean.jsonl")
    tracefile.write(task.gold_traces(problems[:24], 2), folder / "again.parquet")
    other = [Trace(problem_id="elsewhere", prompt="q", text="a")]
    tracefile.write(other, folder / "other.jsonl")
    return folder


def test_detect_json(invoke: Invoke, files: Path) -> None:
    sides = (files / "defended.jsonl", files / "clean.jsonl", "--resample", files / "again.parquet")
    found = invoke("detect", *sides, "--seed", 4, "--json")
    told = json.loads(found.out)
    assert (found.code, told["problems"], told["control"], told["seed"]) == (0, 24, True, 4)
    assert [row["arm"] for row in told["rows"][:2]] == ["clean resample", "defended.jsonl"]
    assert {row["detector"] for row in told["rows"]} == {"token_delta", "tfidf_cosine", "marker_rate", "ngram"}
    area = [row for row in told["rows"] if (row["measure"], row["unit"]) == ("auroc", "per_trace")]
    assert all(row["low"] <= row["value"] <= row["high"] and row["n"] == 48 for row in area)
    rate = next(row for row in told["rows"] if (row["measure"], row["unit"]) == ("tpr_at_fpr", "per_trace"))
    assert rate["value"] is None
    assert "99 clean calibration traces" in rate["note"]
    assert "24 problems that all files share" in found.err
    assert invoke("detect", *sides, "--seed", 4, "--json").out == found.out


def test_detect_for_people(invoke: Invoke, files: Path) -> None:
    sides = (files / "defended.jsonl", files / "clean.jsonl")
    text = invoke("detect", *sides, "--resample", files / "again.parquet", *FAST)
    assert text.code == 0
    assert text.out.index("clean resample") < text.out.index("defended.jsonl")
    assert "No control" not in text.err
    bare = invoke("detect", *sides, "--detector", "ngram:features=word,folds=3")
    assert bare.code == 0
    assert bare.err.count("No control") == 1
    assert "--resample" in bare.err
    assert "not measurable" in bare.out
    assert "ngram(features=word, folds=3)" in bare.out or "folds=3" in bare.out


WRONG: list[tuple[tuple[str, ...], int, str]] = [
    (("defended.jsonl", "clean.jsonl", "--detector", "ngrm"), 2, "'ngram'"),
    (("defended.jsonl", "clean.jsonl", "--detector", "ngram:fold=3"), 2, "'folds'"),
    (("defended.jsonl", "clean.jsonl", "--detector", "ngram:fpr=2"), 2, "ngram.fpr"),
    (("defended.jsonl", "nowhere.jsonl"), 3, "nowhere.jsonl"),
    (("defended.csv", "clean.jsonl"), 2, ".parquet"),
]


@pytest.mark.parametrize(("arguments", "code", "hint"), WRONG, ids=lambda value: str(value)[-30:])
def test_wrong_input_is_one_sentence(
    invoke: Invoke, files: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int, hint: str
) -> None:
    monkeypatch.chdir(files)
    found = invoke("detect", *arguments)
    assert (found.code, found.out) == (code, "")
    assert one_sentence(found.err)
    assert hint in found.err


def test_nothing_in_common_and_too_few(invoke: Invoke, files: Path) -> None:
    apart = invoke("detect", files / "other.jsonl", files / "clean.jsonl", *FAST)
    assert (apart.code, apart.out) == (2, "")
    assert "no problem in common" in apart.err
    few = invoke("detect", files / "defended.jsonl", files / "clean.jsonl", "--detector", "ngram:folds=10")
    assert (few.code, few.out) == (2, "")
    assert "at least 40 problems" in few.err
    assert "there are 24" in few.err
