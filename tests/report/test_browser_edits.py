"""The section of trained edits in a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import headless
from headless import js

pytestmark = headless.marks()
NAMES = "return [...document.querySelectorAll('#edits .panel svg')].map((x) => x.getAttribute('aria-label'))"
ROWS = """return [...document.querySelectorAll('#edits tbody tr')]
  .map((row) => [...row.cells].map((cell) => cell.textContent))"""


def test_curves_and_numbers_of_every_edit(driver: Any, page: Path) -> None:
    headless.show(driver, page, 1280, "light")
    one, other = "ads lam=0.3: N 1 to −0.3; N 1 to −0.4", "temperature delta=1: N 1 to 0.25"
    assert js(driver, NAMES) == [text.replace("N", "cosine of gradients") for text in (one, other)]
    for mark in ("path.curve", "circle.chosen"):
        assert js(driver, f"return document.querySelectorAll('#edits .panel {mark}').length") == 3
    rows = js(driver, ROWS)
    assert rows[0] == [
        "ads lam=0.3", "0", "0", "cosine", "1.000", "−0.300", "0.110", "0.090", "−0.020 ± 0.004", "95.0", "0.070",
        "99.0", "98.0", "yes", "7,000",
    ]  # fmt: skip
    assert rows[2][6:9] == ["–", "–", "–"]


def test_nothing_sticks_out_on_a_narrow_screen(driver: Any, page: Path) -> None:
    headless.show(driver, page, 390, "dark")
    assert js(driver, "return document.documentElement.scrollWidth") <= 390
