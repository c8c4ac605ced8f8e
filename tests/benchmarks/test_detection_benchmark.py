"""The detection benchmark runs and reports every figure it promises."""

from __future__ import annotations

import json
from pathlib import Path

import detection
import pytest


@pytest.mark.slow
def test_the_quick_page_has_its_lines(tmp_path: Path) -> None:
    page, figures = detection.run(["--quick", "--json", str(tmp_path / "figures.json")])
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    assert lines[0].startswith("| scenario | keys | ROC AUC")
    assert lines[1].startswith("| legitimate batch customer, undeclared |"), "the price comes first"
    assert [row["hostile"] for row in figures["rows"]] == [False, True, True, True]
    assert all(cost > 0 for cost in figures["microseconds"].values())
    assert json.loads((tmp_path / "figures.json").read_text())["rises"] == list(figures["rises"])
