"""What a detector is: it compares defended and clean texts of the same problems and returns measurements.

A detector never sees which side is which except by the order of its arguments, so that a clean resample can take
the place of the defended texts: that is the control (`azeotrope.detect.compare`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from azeotrope.core.methods import Method
from azeotrope.core.types import Trace
from azeotrope.maths.stats import Interval
from azeotrope.text.cuts import CutText

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


class RunningScore(ABC):
    """The score of one trace while sentences are cut from it, one after another."""

    @abstractmethod
    def try_cut(self, start: int, end: int, most: float) -> bool:
        """Cut ``original[start:end]`` if the score is at most `most` without it; return whether it was cut.

        Offsets are characters of the original; spans do not overlap and leave think tags and the answer alone.
        """


class TraceScorer(ABC):
    """A detector that can also judge a single trace, for a defense that must stay below a score.

    Mix it into a `Detector`. Judging one trace needs no other traces and nothing that was fitted.
    """

    @abstractmethod
    def score(self, edited: str, original: str) -> float:
        """Return how suspicious `edited` is beside `original`: 0 if they are alike, larger for more, never NaN."""

    def running(self, original: str) -> RunningScore:
        """Return the score of `original` while it is cut. It agrees with `score`; override it to be faster."""
        return _Rescored(self, original)


class _Rescored(RunningScore):
    """Measures the whole text again for every cut."""

    def __init__(self, scorer: TraceScorer, original: str) -> None:
        self._scorer, self._text = scorer, CutText(original)

    def try_cut(self, start: int, end: int, most: float) -> bool:
        original = self._text.original
        edited = self._text.before(start, start) + self._text.after(end, len(original))
        if not self._scorer.score(edited, original) <= most:
            return False
        self._text.cut(start, end)
        return True


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
