"""Signal A: how much was harvested lately, over four half-lives.

V_h ← V_h 2^(-Δt/h) + w for h of five minutes, an hour, a day and thirty days (spec 4.2 A), with w = answer tokens
+ ρ · disclosed reasoning tokens + κ · log-probabilities. A stream of w per second settles at V_h = w h / ln 2.
Eight bytes a half-life. The score is log2 of the largest V_h / B_h, B_h being what benign traffic peaks at (99th
percentile of entity-days).
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from typing import Final

from azeotrope.gateway.signals.settings import DAY, HOUR, MINUTE

HALF_LIVES: Final = (5 * MINUTE, HOUR, DAY, 30 * DAY)
NAMES: Final = ("five minutes", "an hour", "a day", "30 days")


def age(volumes: array[float], elapsed: float) -> None:
    """Let time pass; steps back count as none."""
    if elapsed > 0:
        for i, half_life in enumerate(HALF_LIVES):
            volumes[i] *= 2.0 ** (-elapsed / half_life)


def excess(volumes: Sequence[float], benign: Sequence[float]) -> tuple[float, int]:
    """Return the score and the index of the half-life that gave it; -inf for no volume."""
    best = max(range(len(benign)), key=lambda i: volumes[i] / benign[i])
    ratio = volumes[best] / benign[best]
    return (math.log2(ratio) if ratio > 0 else float("-inf")), best
