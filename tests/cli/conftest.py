from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cli_drive import ROOT, Invoke, Result, load_file

from azeotrope.cli.entry import call


@pytest.fixture
def invoke(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Run a command line in this process, through the handler that the console script uses."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*arguments: object) -> Result:
        capsys.readouterr()
        code = call([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def synthetic() -> Any:
    """The made-up run folders of the report's tests."""
    return load_file("cli_synthetic_run", ROOT / "tests" / "report" / "synthetic_run.py")


@pytest.fixture(scope="session")
def finished_runs(tmp_path_factory: pytest.TempPathFactory, synthetic: Any) -> Path:
    """A runs root with two finished runs, `a` and `b`."""
    root = tmp_path_factory.mktemp("runs")
    for seed, name in enumerate("ab"):
        synthetic.make_run(root / name, seed)
        (root / name / "study.yaml").write_text(f"name: {name}\n", encoding="utf-8")
    return root
