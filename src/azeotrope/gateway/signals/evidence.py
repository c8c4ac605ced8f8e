"""From six signals to one score: e-values, and never one signal alone.

Every signal gives an e-value (mean at most 1 for benign traffic): A, B, C, D, F against a calibration, E as it is.
Signals look at the same requests, so e-values are averaged, never multiplied. Before that each is capped at `CAP`
times the second-largest *family's* e-value, and the score is 0 where that is below `FLOOR`: however loud, one
family alone moves nothing. Capping only makes e-values smaller, so the score is still one, as far as each of them
is: A and F for the largest score of a day, B to D for that of one size class (a day passes through several), E at
any fixed request if gaps do not depend on conduct. None of this is leant on: when the ladder rises is measured on
benign days (`fit`).

Families: volume (A), template (B), content (C and D, which read the same words), conduct (E), linkage (F).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

from azeotrope.maths.evalues import combine

CAP: Final = 16.0
FLOOR: Final = 2.0


class Signal(IntEnum):
    """The six signals, in the order of every tuple of theirs."""

    VOLUME = 0
    TEMPLATE = 1
    COVERAGE = 2
    DRIFT = 3
    CONDUCT = 4
    LINKAGE = 5


FAMILIES: Final = (
    (Signal.VOLUME,), (Signal.TEMPLATE,), (Signal.COVERAGE, Signal.DRIFT), (Signal.CONDUCT,), (Signal.LINKAGE,)
)  # fmt: skip

Six = tuple[float, float, float, float, float, float]
SILENT: Final[Six] = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0)


class Reading(NamedTuple):
    """Raw scores of a subject; NaN where a signal has nothing to say. `n` is the decayed number of prompts."""

    n: float
    scores: Six


def score(evalues: Six) -> float:
    """Return the corroborated mean of six e-values; 0 without a second family.

    >>> score((1.0, 1.0, 1.0, 1.0, 1e9, 1.0))
    0.0
    >>> score((4.0, 1.0, 1.0, 1.0, 1e9, 1.0))
    12.0
    """
    families = sorted(max(evalues[signal] for signal in family) for family in FAMILIES)
    second = families[-2]
    if second < FLOOR:
        return 0.0
    cap = CAP * second
    return combine([min(value, cap) for value in evalues])
