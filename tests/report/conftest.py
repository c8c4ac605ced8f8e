from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from synthetic_run import make_run

import headless
from azeotrope.report import build


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One synthetic run, shared; tests that change files copy it."""
    return make_run(tmp_path_factory.mktemp("runs") / "synthetic")


@pytest.fixture
def copied(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of that run to change."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


@pytest.fixture(scope="session")
def page(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of that run."""
    return build(finished_run, tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One browser, shared."""
    with headless.browser(tmp_path_factory.mktemp("profile")) as found:
        yield found
