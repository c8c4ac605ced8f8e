"""Signal F, second half: does a cluster of tenants share out one job?

Partition score: mean over pairs of members of the cosine of their template counts, minus the share of their bodies
that overlap, 1 - U(all) / Σ U(member). A hydra uses the same templates and takes care not to ask the same twice.

Regularity: Fano factor Var(N) / Mean(N) of the cluster's requests per minute, decayed over six hours. A steady
load balancer is below 1, people come in bursts and are above.

Score = log2(members) · max(0, partition) + max(0, 1 - Fano), the latter once 30 minutes with traffic were seen.
Members of a harmless cluster (customers of one small application) share templates, too: the score says how far a
group is one job, the other signals say whether that job is extraction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from azeotrope.gateway.signals.bank import Memory
from azeotrope.gateway.signals.content import shared_templates
from azeotrope.gateway.signals.settings import HOUR, MINUTE
from azeotrope.maths.sketches import distinct

SAMPLED: Final = 12  # members of a large cluster that are compared with each other
WINDOWS: Final = 30.0
_KEEP: Final = 2.0 ** (-MINUTE / (6 * HOUR))


class Rhythm:
    """Decayed mean and variance of a count per minute; 40 bytes of numbers."""

    __slots__ = ("_count", "_minute", "_sum", "_sum2", "_used", "_weight")

    def __init__(self) -> None:
        self._minute, self._count = -1, 0
        self._weight = self._sum = self._sum2 = self._used = 0.0

    def tick(self, now: float) -> None:
        """Count a request."""
        minute = int(now // MINUTE)
        if minute != self._minute:
            if 0 <= self._minute < minute:
                self._close(minute - self._minute)
            self._minute, self._count = minute, 0
        self._count += 1

    def _close(self, minutes: int) -> None:
        """End the running minute; the others up to now were empty."""
        n = self._count
        fade = _KEEP ** (minutes - 1)
        self._weight = fade * (_KEEP * self._weight + 1) + (1 - fade) / (1 - _KEEP)
        self._sum = fade * (_KEEP * self._sum + n)
        self._sum2 = fade * (_KEEP * self._sum2 + n * n)
        self._used = fade * (_KEEP * self._used + 1)

    @property
    def fano(self) -> float:
        """Var / Mean of the finished minutes; NaN before `WINDOWS` of them had traffic."""
        if self._used < WINDOWS:
            return math.nan
        mean = self._sum / self._weight
        return max(0.0, self._sum2 / self._weight - mean * mean) / mean


def partition(members: Sequence[Memory]) -> float:
    """Return shared templates minus shared bodies of a group's memories, within [-1, 1]; 0 for fewer than two."""
    if len(members) < 2:
        return 0.0
    step = max(1, len(members) // SAMPLED)
    some = members[::step][:SAMPLED]
    templates = shared_templates(some)
    apart = sum(distinct(memory.registers) for memory in some)
    union = np.maximum.reduce([memory.registers for memory in some])
    return templates - max(0.0, 1.0 - distinct(union) / max(apart, 1e-9))


def together(members: int, partitioned: float, fano: float) -> float:
    """Return the score of F."""
    regular = 0.0 if math.isnan(fano) else max(0.0, 1.0 - fano)
    return math.log2(max(1, members)) * max(0.0, partitioned) + regular
