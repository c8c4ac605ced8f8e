"""Change a run folder and look into a page."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl


def edit(folder: Path, name: str, change: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    """Replace a table by what `change` makes of it."""
    change(pl.read_parquet(folder / name)).write_parquet(folder / name)


def data_of(page: str) -> dict[str, Any]:
    """Return what the page's scripts draw from."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert found
    return dict(json.loads(found[1]))


def section_of(page: str, name: str) -> str:
    """Return the HTML of one section, or "" if the page has none of that name."""
    found = re.search(rf'<section id="{name}".*?</section>', page, re.S)
    return found[0] if found else ""
