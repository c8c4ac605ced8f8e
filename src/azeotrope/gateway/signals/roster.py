"""Who is remembered inline: a bounded number of gauges, and a sketch of the volumes of those that were forgotten.

When a place is needed, of the eight that were silent longest the one with the least volume of the day goes, those
on a raised rung last. What it had harvested stays in two count-mins (a day and thirty days), so that a key which
comes back, or is driven out on purpose by many others, does not start from zero. A sketch never says too
little, at most what all who share its cells harvested together; who comes and goes is not counted twice.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from itertools import islice
from typing import Final

import numpy as np

from azeotrope.gateway.signals.gauge import Gauge
from azeotrope.gateway.signals.volume import HALF_LIVES
from azeotrope.maths.sketches import CountMin

CANDIDATES: Final = 8
_KEPT: Final = (2, 3)  # the half-lives that outlive being forgotten


class Roster:
    """Gauges by name, at most `capacity`. `hashed` gives a keyed hash of a name. One thread adds to it.

    `dropped` is told of a gauge that is forgotten.
    """

    def __init__(
        self, capacity: int, hashed: Callable[[str], int], dropped: Callable[[Gauge], None] = lambda _: None
    ) -> None:
        self._capacity, self._hashed, self._dropped = capacity, hashed, dropped
        self._gauges: OrderedDict[str, Gauge] = OrderedDict()
        self._attic = {i: CountMin(2, 8192, HALF_LIVES[i], stream=8 + i) for i in _KEPT}
        self.forgotten = 0

    def __len__(self) -> int:
        return len(self._gauges)

    def get(self, name: str) -> Gauge | None:
        """Return the gauge of a name without counting that as use."""
        return self._gauges.get(name)

    def all(self) -> list[Gauge]:
        """Return all gauges."""
        return list(self._gauges.values())

    def use(self, name: str, make: Callable[[], Gauge], now: float) -> Gauge:
        """Return the gauge of a name, the most recently used one from now on; `make` it if it is not known."""
        gauge = self._gauges.get(name)
        if gauge is not None:
            self._gauges.move_to_end(name)
            return gauge
        if len(self._gauges) >= self._capacity:
            self._forget(now)
        gauge = self._gauges[name] = make()
        if self.forgotten:
            self._restore(gauge, now)
        return gauge

    def _forget(self, now: float) -> None:
        oldest = islice(self._gauges.values(), CANDIDATES)
        victim = min(oldest, key=lambda gauge: (gauge.rungs.level, gauge.volumes[_KEPT[0]]))
        del self._gauges[victim.name]
        self._dropped(victim)
        self.forgotten += 1
        word = self._word(victim.name)
        for i, sketch in self._attic.items():
            sketch.lift(word, now, victim.volumes[i] * 2.0 ** (-max(0.0, now - victim.seen) / HALF_LIVES[i]))

    def _restore(self, gauge: Gauge, now: float) -> None:
        word = self._word(gauge.name)
        for i, sketch in self._attic.items():
            gauge.volumes[i] = float(sketch.estimate(word, now)[0])

    def _word(self, name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint64]]:
        return np.array([self._hashed(name)], dtype=np.uint64)
