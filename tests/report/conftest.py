from __future__ import annotations

from pathlib import Path

import pytest
from synthetic_run import make_run


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One synthetic run, shared; tests that change files copy it."""
    return make_run(tmp_path_factory.mktemp("runs") / "synthetic")
