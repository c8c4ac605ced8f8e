"""What is kept inline for every key, tenant and cluster: volumes, bets, the ladder. About 1 KB each.

The thread that serves requests updates volumes and bets (signals A and E, some microseconds); the worker hands
over what it found in the prompts as one immutable object.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from typing import Final

from azeotrope.gateway.signals import volume
from azeotrope.gateway.signals.content import Content
from azeotrope.gateway.signals.evidence import SILENT, Reading, Six
from azeotrope.gateway.signals.group import Rhythm
from azeotrope.gateway.signals.ladder import GROUND, Rungs, joined
from azeotrope.gateway.signals.volume import HALF_LIVES
from azeotrope.maths.evalues import Bets

OFTEN: Final = 24  # requests of a subject that are each looked at


class Gauge:
    """The state of one subject. `level` is "key", "tenant" or "cluster"; `requests` is how many were ever seen."""

    __slots__ = (
        "_count", "_time", "content", "evalues", "last", "level", "linkage", "name", "past_bound", "peak",
        "requests", "rungs", "sampling", "score", "sums", "suspicion", "taken", "tenant", "volumes", "wealth",
    )  # fmt: skip

    def __init__(self, level: str, name: str, tenant: str, bets: Bets, now: float) -> None:
        self.level, self.name, self.tenant = level, name, tenant
        self.volumes = array("d", [0.0] * len(HALF_LIVES))
        self.sums, self.wealth = bets.sums(), bets.wealth()
        self._time, self._count = now, 0.0
        self.requests = 0
        self.suspicion = 0.0  # sum of their x
        self.taken = 0  # requests that the worker has taken
        self.last = self.sampling = 0  # of the last prompt and its parameters, to tell a repetition
        self.peak = 1.0  # largest value of the e-process
        self.past_bound = False  # whether the conduct is past a false-alarm bound
        self.content: Content | None = None
        self.linkage = math.nan
        self.rungs: Rungs = GROUND
        self.score, self.evalues = 0.0, SILENT

    @property
    def seen(self) -> float:
        """When the last request came."""
        return self._time

    def take(self, now: float, weight: float, x: float, bets: Bets, half_life: float) -> None:
        """Count a request of this weight and conduct."""
        elapsed = max(0.0, now - self._time)
        volume.age(self.volumes, elapsed)
        for i in range(len(HALF_LIVES)):
            self.volumes[i] += weight
        keep = 2.0 ** (-elapsed / half_life)
        bets.detect(self.sums, x, keep)
        self.peak = max(self.peak, bets.grow(self.wealth, x, keep))
        self._count = keep * self._count + 1.0
        self._time = now
        self.requests += 1
        self.suspicion += x

    @property
    def due(self) -> bool:
        """Whether the worker looks at it now: at every request that it takes at first, then at every fourth."""
        return self.taken < OFTEN or self.taken % 4 == 0

    @property
    def run(self) -> float:
        """The e-detector's value M; `run_length` is its alarm."""
        return sum(self.sums) / len(self.sums)

    def watch_bounds(self, run_length: float, false_alarm: float) -> bool:
        """Return whether the conduct has just passed a bound: M ≥ `run_length`, or W ≥ 1 / `false_alarm` ever."""
        before, self.past_bound = self.past_bound, self.run >= run_length or self.peak * false_alarm >= 1
        return self.past_bound and not before

    @property
    def conduct(self) -> float:
        """E as an e-value: the mean of the e-process and of M / c."""
        if not self._count:
            return 1.0
        return (sum(self.wealth) / len(self.wealth) + self.run / self._count) / 2

    def reading(self, benign: tuple[float, ...]) -> Reading:
        """Return the raw scores, the volumes as of the last request."""
        excess, _ = volume.excess(self.volumes, benign)
        content = self.content
        if content is None:
            return Reading(0.0, (excess, math.nan, math.nan, math.nan, self.conduct, self.linkage))
        return Reading(
            content.n, (excess, content.share, content.coverage, content.drift, self.conduct, self.linkage)
        )

    def faded(self, now: float, half_life: float) -> float:
        """The score after what time has taken from it since the last request."""
        return float(self.score * 2.0 ** (-max(0.0, now - self._time) / half_life))

    def judged(self, evalues: Six, score: float) -> None:
        """Keep what the evidence came to."""
        self.evalues, self.score = evalues, score


class Cluster(Gauge):
    """A gauge of linked tenants, which also follows the rhythm of their requests."""

    __slots__ = ("look_next", "members", "rhythm")

    def __init__(self, members: tuple[str, ...], bets: Bets, now: float) -> None:
        super().__init__("cluster", members[0], members[0], bets, now)
        self.members = members
        self.rhythm = Rhythm()
        self.look_next = 0.0  # requests at which the worker looks at its members again

    def inherit(self, parts: list[Cluster], now: float, half_life: float) -> None:
        """Take over from the clusters that it grew out of; their evidence fades with `half_life`.

        The mean of e-processes is one, and so for e-detectors; which clusters merge was known before what follows.
        What one of them answers for, all do now: a stance is not lost by joining a large harmless group.
        """
        for name in ("sums", "wealth"):
            state = getattr(self, name)
            for i in range(len(state)):
                state[i] = sum(getattr(part, name)[i] for part in parts) / len(parts)
        self._count = sum(part._count for part in parts) / len(parts)
        self._time = max(now, *(part.seen for part in parts))
        largest = max(parts, key=lambda part: part.requests)
        self.rhythm, self.requests = largest.rhythm, largest.requests
        self.rungs = joined([part.rungs for part in parts])
        worst = max(parts, key=lambda part: part.faded(now, half_life))
        self.evalues, self.score = worst.evalues, worst.faded(now, half_life)

    def add_up(self, members: Sequence[Gauge], now: float) -> None:
        """Set the volumes to the sum of the members'."""
        self.volumes = array("d", [0.0] * len(HALF_LIVES))
        for member in members:
            aged = array("d", member.volumes)
            volume.age(aged, now - member.seen)
            for i, value in enumerate(aged):
                self.volumes[i] += value
        self._time = max(now, self._time)
