from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import headless


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One browser, shared."""
    with headless.browser(tmp_path_factory.mktemp("profile")) as found:
        yield found
