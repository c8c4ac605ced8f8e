"""Sentences under a section: how their numbers, intervals and counts are written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from azeotrope.report.measures import points, seeds

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Told:
    """What a section says about one subject, such as a defense on a task."""

    subject: str
    sentence: str


def bounds(low: float | None, high: float | None, write: Callable[[float], str] = points) -> str:
    """Write an interval.

    >>> bounds(0.1, 0.25), bounds(None, 0.25)
    ('[+10.0, +25.0]', '(no interval)')
    """
    return "(no interval)" if low is None or high is None else f"[{write(low)}, {write(high)}]"


def percent(value: float) -> str:
    """Write a share in percent, without the sign.

    >>> percent(-0.301)
    '−30.1'
    """
    return points(value, signed=False)


def counts(row: Row) -> str:
    """Say what a number rests on, as far as the row tells.

    >>> counts({"n": 200, "n_seeds": 5}), counts({"n": None, "n_seeds": None})
    (' (n = 200, 5 seeds)', '')
    """
    found = [
        f"n = {row['n']}" if row.get("n") is not None else "",
        seeds(row["n_seeds"]) if row.get("n_seeds") is not None else "",
    ]
    inside = ", ".join(part for part in found if part)
    return f" ({inside})" if inside else ""


def join(parts: Sequence[str]) -> str:
    """Join in running text.

    >>> join(["a"]), join(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def above(low: float | None, bound: float = 0.0) -> bool:
    """Whether an interval lies above `bound`."""
    return low is not None and low > bound


def tasks_of(table: pl.DataFrame, results: pl.DataFrame) -> list[str]:
    """Return the tasks of `table`: those of the results first, in their order."""
    known = [*results["task"].unique(maintain_order=True), *table["task"].unique(maintain_order=True)]
    mine = set(table["task"].to_list())
    return [task for task in dict.fromkeys(known) if task in mine]


def where(rows: Iterable[Row], **fixed: Any) -> list[Row]:
    """Return the rows that hold these values."""
    return [row for row in rows if all(row[key] == value for key, value in fixed.items())]
