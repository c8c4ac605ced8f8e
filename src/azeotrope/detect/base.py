"""What a detector is: it compares defended and clean texts of the same problems and returns measurements.

A detector never sees which side is which except by the order of its arguments, so that a clean resample can take
the place of the defended texts: that is the control (`azeotrope.detect.compare`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from azeotrope.core.methods import Method
from azeotrope.core.types import Trace
from azeotrope.maths.stats import Interval

Texts = Mapping[str, Sequence[str]]  # problem id → its samples


class Unit(StrEnum):
    """What is counted once: a problem (both sides of it), a trace, or a group of traces."""

    PROBLEM = "per_problem"
    TRACE = "per_trace"
    GROUP = "per_group"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One figure with its interval. `n` counts the texts (or groups) that entered it, on both sides if both did.

    `low` and `high` are NaN where they cannot be computed, and so is `value`; `note` then says why.
    """

    measure: str
    unit: Unit
    value: float
    low: float
    high: float
    n: int
    n_problems: int
    note: str = ""


class Detector(Method):
    """A way of telling defended text from clean text, or of saying how far apart they are."""

    @abstractmethod
    def measure(self, defended: Texts, clean: Texts, seed: int = 0) -> list[Measurement]:
        """Compare the problems that both sides have. Deterministic given `seed`.

        Raises ConfigError if there are too few of them.
        """


def measurement(measure: str, unit: Unit, found: Interval, n_problems: int, note: str = "") -> Measurement:
    """Name an interval."""
    return Measurement(
        measure=measure, unit=unit, value=found.value, low=found.low, high=found.high, n=found.n,
        n_problems=n_problems, note=note,
    )  # fmt: skip


def texts_of(traces: Iterable[Trace]) -> dict[str, list[str]]:
    """Collect the texts of traces by problem."""
    found: dict[str, list[str]] = {}
    for trace in traces:
        found.setdefault(trace.problem_id, []).append(trace.text)
    return found


def shared_problems(*sides: Texts) -> list[str]:
    """Return the problems of which every side has a text, sorted."""
    return sorted(set.intersection(*({name for name, texts in side.items() if texts} for side in sides)))


def count_texts(ids: Iterable[str], *sides: Texts) -> int:
    """Return how many texts the sides have of these problems."""
    return sum(len(side[name]) for name in ids for side in sides)
