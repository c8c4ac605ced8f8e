"""Look values up in the results and read a trade-off line at a given cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import polars as pl

from azeotrope.report.lines import Line
from azeotrope.study.vocabulary import UNDISTILLED, is_control


@dataclass(frozen=True, slots=True)
class Cell:
    """One measured value with its interval and where it was measured."""

    value: float
    low: float | None
    high: float | None
    n: int | None
    n_seeds: int | None
    attack: str
    student: str


class Lookup:
    """Values by (task, arm, metric), over attacks and students."""

    def __init__(self, results: pl.DataFrame) -> None:
        self._cells: dict[tuple[str, str, str], list[Cell]] = {}
        columns = ["task", "arm", "metric", "value", "low", "high", "n", "n_seeds", "attack", "student"]
        for task, arm, metric, value, *rest in results.select(columns).iter_rows():
            if value is not None and value == value:
                self._cells.setdefault((task, arm, metric), []).append(Cell(value, *rest))

    def teacher(self, task: str, arm: str, metric: str) -> Cell | None:
        """Return a teacher-side value (the row without attack and student)."""
        return next((c for c in self._cells.get((task, arm, metric), []) if not c.attack), None)

    def worst(
        self, task: str, arm: str, metric: str, student: str | None = None, attack: str | None = None
    ) -> Cell | None:
        """Return the highest student-side value over the attacks (no controls) and students that were run."""
        cells = [
            cell
            for cell in self._cells.get((task, arm, metric), [])
            if cell.attack not in ("", UNDISTILLED)
            and student in (None, cell.student)
            and (not is_control(cell.attack) if attack is None else attack == cell.attack)
        ]
        return max(cells, key=lambda cell: cell.value, default=None)

    def undistilled(self, task: str, metric: str, student: str | None = None) -> Cell | None:
        """Return the highest value of a student that saw nothing of the teacher."""
        cells = [
            cell
            for (at, _, name), found in self._cells.items()
            if at == task and name == metric
            for cell in found
            if cell.attack == UNDISTILLED and student in (None, cell.student)
        ]
        return max(cells, key=lambda cell: cell.value, default=None)


def read_at(points: Sequence[tuple[float, float]], x: float) -> float | None:
    """Read the polyline `points` where it first falls to `x`; None if it never does.

    The first point is the undefended one; the others follow in order of strength.

    >>> read_at([(0.9, 0.6), (0.8, 0.4)], 0.85)
    0.5
    """
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 >= x >= x1 and x0 > x1:
            return round(y0 + (y1 - y0) * (x0 - x) / (x0 - x1), 12)
    return None


def largest_drop(lookup: Lookup, task: str, none: str | None, lines: Sequence[Line], utility: str) -> float | None:
    """Return the largest drop in `utility` that any arm of `lines` was measured to cost."""
    start = lookup.teacher(task, none, utility) if none else None
    cells = [lookup.teacher(task, arm.arm, utility) for line in lines for arm in line.arms]
    values = [cell.value for cell in cells if cell]
    return start.value - min(values) if start and values else None
