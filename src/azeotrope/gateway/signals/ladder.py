"""The response ladder: a pure state machine from a score to a stance of 0 to 4.

    0  log only                      3  training value reduced (the policy's strong settings)
    1  coarser log-probabilities     4  hold or deny
    2  summary in place of reasoning

Rung l is taken when the score reaches `rises[l-1]`. It is supported while the score stays at or above `hold` ·
rises[l-1], and given up `dwell` · (5 - l) after the last moment of support: the way down is one rung a dwell.

What holds (and is tested): more evidence never gives a lower stance; a rung is never left within a dwell of being
taken; without support everything is given up after four dwells; exempt subjects stay where they are, at 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

TOP: Final = 4
NEVER: Final = float("-inf")


class Rules(NamedTuple):
    """When a rung is taken and how long it is kept; `rises` ascends."""

    rises: tuple[float, float, float, float]
    hold: float
    dwell: float


class Rungs(NamedTuple):
    """The state of one ladder: the last support of every rung that is taken, -inf for the others."""

    supported: tuple[float, float, float, float] = (NEVER, NEVER, NEVER, NEVER)
    since: float = NEVER  # when the present level was entered

    @property
    def level(self) -> int:
        """The highest rung that is taken; 0 for none."""
        return max((i + 1 for i, time in enumerate(self.supported) if time > NEVER), default=0)


GROUND: Final = Rungs()


def joined(several: Sequence[Rungs]) -> Rungs:
    """Return the state of one subject that was several: of every rung the latest support."""
    best = max(rungs.level for rungs in several)
    if not best:
        return GROUND
    supported = [max(rungs.supported[i] for rungs in several) for i in range(TOP)]
    since = min(rungs.since for rungs in several if rungs.level == best)
    return Rungs((supported[0], supported[1], supported[2], supported[3]), since)


def advance(rungs: Rungs, score: float, now: float, rules: Rules) -> Rungs:
    """Return the state after `score` was seen at `now`. Support never lies in the future of the clock."""
    if rungs.supported[0] == NEVER and score < rules.rises[0]:
        return rungs
    supported = []
    for i, rise in enumerate(rules.rises):
        last = min(rungs.supported[i], now)
        taken = last > NEVER
        if score >= rise or (taken and score >= rise * rules.hold):
            last = now
        elif taken and now - last >= rules.dwell * (TOP - i):
            last = NEVER
        supported.append(last)
    found = Rungs((supported[0], supported[1], supported[2], supported[3]))
    return found._replace(since=rungs.since if found.level == rungs.level else now)
