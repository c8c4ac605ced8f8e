"""Shared fixtures: where the real traces are."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
R1 = "r1_distill_cots_300.jsonl"
ANCHOR = "thought_anchor_base_qwen14b.jsonl"


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background job: children would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


def find_data_dir() -> Path | None:
    """The folder of real data: `AZEOTROPE_DATA`, or ../shared/data beside the repository, or None."""
    named = os.environ.get("AZEOTROPE_DATA")
    path = Path(named) if named else ROOT.parent / "shared" / "data"
    return path if path.is_dir() else None


@pytest.fixture(scope="session")
def data_dir() -> Path:
    path = find_data_dir()
    if path is None:
        pytest.skip("no real traces: set AZEOTROPE_DATA to the folder that contains traces_r1/")
    return path


@pytest.fixture(scope="session")
def real_texts(data_dir: Path) -> dict[str, list[str]]:
    """File name -> the full texts of its rows."""
    return {
        name: [json.loads(line)["solution"] for line in open(data_dir / "traces_r1" / name, encoding="utf-8")]
        for name in (R1, ANCHOR)
    }


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if find_data_dir() is None:
        terminalreporter.section("real data missing")
        terminalreporter.write_line("Tests on real traces were SKIPPED: set AZEOTROPE_DATA to their folder.")
