from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = str(Path(__file__).parent)
if HERE not in sys.path:  # so that spawned workers can import the fakes by the same name
    sys.path.insert(0, HERE)


@pytest.fixture(autouse=True)
def _fake_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    import study_fakes as fakes

    monkeypatch.setattr("azeotrope.core.plugins.load", fakes.fake_load)
