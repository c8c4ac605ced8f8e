"""Tables of the documentation are the archives' figures."""

from __future__ import annotations

import doctest
import json
from pathlib import Path
from types import ModuleType

import polars as pl
import pytest
from cli_drive import ROOT, load_file


@pytest.fixture
def tables() -> ModuleType:
    return load_file("fill_tables", ROOT / "scripts" / "fill_tables.py")


def test_the_pages_are_current(tables: ModuleType) -> None:
    assert tables.main(["--check"]) == 0, "run: make docs"


def test_examples(tables: ModuleType) -> None:
    assert doctest.testmod(tables).failed == 0


def test_cells_and_verdicts(tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attack by its kind where it is the only one; arms joined; a cell left out; a claim not decided."""
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    (tmp_path / "logits-run").mkdir()
    common = {"task": "lookup", "student": "embedded/a", "metric": "student_accuracy"}
    cells = [
        ("none", "sft(n=1)", 0.925),
        ("hot", "sft(n=1)", 0.5),
        ("hot", "fkl(a=1)", 0.3),
        ("hot", "fkl(a=2)", 0.4),
    ]
    rows = [
        {**common, "arm": arm, "attack": attack, "value": v, "low": v - 0.1, "high": v} for arm, attack, v in cells
    ]
    pl.DataFrame(rows).write_parquet(tmp_path / "logits-run" / "results.parquet")
    gain = {
        "metric": "student_accuracy",
        "student": "embedded/a",
        "task": "lookup",
        "arm": "hot",
        "retained": 0.875,
    }
    named = {column for columns in tables.INTERVALS["gains"] for column in columns}
    gain |= dict.fromkeys(named - set(gain))
    gains = [
        {**gain, "attack": "sft(n=1)", "worst": False, "worst_low": None, "worst_high": None},
        {**gain, "attack": "fkl(a=2)", "worst": True, "worst_low": 0.5, "worst_high": 1.0},
    ]
    pl.DataFrame(gains).write_parquet(tmp_path / "logits-run" / "gains.parquet")
    verdict = {"claim": "K", "task": "lookup", "verdict": "supported", "mdd": 0.0449, "p_holm": 0.04, "reason": ""}
    effect = {"claim": "K", "task": "lookup", "value": 0.1, "low": 0.05, "high": 0.149}
    pl.DataFrame([effect]).write_parquet(tmp_path / "logits-run" / "claims.parquet")
    (tmp_path / "logits-run" / "claims.json").write_text(json.dumps({"verdicts": [verdict]}))
    page = """before
<!-- table
common: {run: logits-run, student: a, task: lookup}
columns: {one: {arm: [none, hot]}, two: {arm: hot, attack: fkl(a=2)}}
rows: {text: {attack: sft, leave: [two]}, left: {show: worst, leave: [one]}}
-->
stale
<!-- end -->
<!-- table
run: logits-run
verdicts: {K: it helps}
-->
<!-- end -->
after"""
    found = tables.filled(page)
    assert "| | one | two |\n|---|---|---|\n| text | 93 [83, 93] → 50 [40, 50] | |\n" in found
    assert "| left | | 88 % [50, 100], `fkl` |\n<!-- end -->" in found
    assert "| K: it helps | **supported**, 10.0 [5.0, 14.9], MDD 4.5 | not decided |" in found
    assert "stale" not in found
    assert tables.filled(found) == found
    prose = (
        "It lost 10.0 [5.0, 14.9] points, −10 %\n[−15, −5], and .50 [.40,\n.50] or 42 % [30, 40]; not 11 [5, 15]."
    )
    assert tables.unfounded(found + prose) == ["42 % [30, 40]", "11 [5, 15]"]
    with pytest.raises(ValueError, match="has 2 rows"):
        tables.filled(page.replace("attack: sft", "attack: fkl").replace("[none, hot]", "hot"))
