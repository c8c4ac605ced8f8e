"""Signal F, first half: which tenants belong together (spec 4.2 F).

A tenant shows items: keyed hashes of metadata, and template keys that recur. An item that df of N tenants show in
a period is worth log(N / (df + 1)) to two of them. A pair counts its most telling item of each kind (the keys of
one template are not independent, so they are not added up), at most `KIND` · log N of it, and is linked at
`strength` · log N: one kind alone never links. Among N² / 2 pairs coincidences worth up to 2 log N are to be
expected (independent items), hence the default of 2. Links fade with a half-life; every quarter of an hour the
clusters are taken anew from what is left (union-find).

Memory. Up to 65,536 items, the least recently shown forgotten first, each with its last 16 tenants; 32,768 pairs;
two Bloom filters of 512 KB that tell a tenant's first showing in a period; a count-min of 1 MB that keeps
templates that never recur from becoming items. About 85 MB in all, whatever comes.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from azeotrope.gateway.signals.settings import DAY, HOUR
from azeotrope.maths.sketches import MASK, CountMin, PeriodSet

KINDS: Final = ("template", "ip", "asn", "tls", "payment", "agent")
KIND: Final = 0.8  # most that one kind adds, in units of log N
TELLING: Final = 0.25  # least worth of an item that is kept, in units of log N
RING: Final = 16  # tenants that an item remembers
ITEMS: Final = 1 << 16
PAIRS: Final = 1 << 15
FILTER_BITS: Final = 1 << 22
RECURS: Final = 3.0  # showings before a template key becomes an item
LARGEST: Final = 256  # members of a cluster
FEWEST: Final = 64  # tenants that are assumed at least, so that a young gateway does not see ties everywhere
_SPREAD: Final = 0x9E3779B97F4A7C15

Clusters = tuple[tuple[str, ...], ...]


class _Item:
    """An item, the tenants that showed it in the current and the last period, and the most recent of them."""

    __slots__ = ("before", "count", "kind", "period", "recent")

    def __init__(self, kind: int, period: int) -> None:
        self.kind, self.period = kind, period
        self.count = self.before = 0
        self.recent: deque[str] = deque(maxlen=RING)

    def show(self, tenant: str, period: int) -> int:
        """Count a tenant; return df."""
        if period != self.period:
            self.before = self.count if period == self.period + 1 else 0
            self.count, self.period = 0, period
        self.count += 1
        if tenant not in self.recent:
            self.recent.append(tenant)
        return max(self.count, self.before)


class _Pairs:
    """Worth by kind of up to `capacity` pairs, the least recently tied given away first."""

    def __init__(self, capacity: int, half_life: float) -> None:
        self._half_life = half_life
        self._slots: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._names: list[tuple[str, str]] = []  # by slot
        self._capacity = capacity
        self._worth = np.zeros((capacity, len(KINDS)), dtype=np.float32)
        self._times = np.zeros(capacity)

    def __len__(self) -> int:
        return len(self._slots)

    def tie(self, name: tuple[str, str], kind: int, worth: float, now: float) -> None:
        slot = self._slots.get(name)
        if slot is not None:
            self._slots.move_to_end(name)
            self._worth[slot] *= 2.0 ** (-max(0.0, now - float(self._times[slot])) / self._half_life)
        else:
            if len(self._slots) < self._capacity:
                slot = len(self._slots)
                self._names.append(name)
            else:
                _, slot = self._slots.popitem(last=False)
                self._names[slot] = name
            self._slots[name] = slot
            self._worth[slot] = 0.0
        self._times[slot] = now
        self._worth[slot, kind] = max(float(self._worth[slot, kind]), worth)

    def strengths(self, unit: float, now: float) -> NDArray[np.float64]:
        """Return the strength of every slot, in multiples of `unit`."""
        used = len(self._slots)
        keep = np.exp2(np.minimum(0.0, self._times[:used] - now) / self._half_life) / unit
        capped: NDArray[np.float64] = np.minimum(KIND, self._worth[:used] * keep[:, None])
        return np.asarray(capped.sum(axis=1), dtype=np.float64)

    def above(self, least: float, unit: float, now: float) -> list[tuple[str, str]]:
        """Return the pairs at least this strong."""
        return [self._names[slot] for slot in np.flatnonzero(self.strengths(unit, now) >= least)]

    def of(self, name: tuple[str, str], unit: float, now: float) -> float:
        """Return the strength of one pair; 0 if it is not known."""
        slot = self._slots.get(name)
        return 0.0 if slot is None else float(self.strengths(unit, now)[slot])


class Linker:
    """Links tenants by what they share. One thread uses it."""

    def __init__(self, strength: float, half_life: float) -> None:
        self._strength = strength
        self._items: OrderedDict[int, _Item] = OrderedDict()
        self._pairs = _Pairs(PAIRS, half_life)
        self._shown = PeriodSet(FILTER_BITS, half_life / 2)
        self._tenants = PeriodSet(FILTER_BITS, half_life / 2)
        self._now_and_before = [0, 0]
        self._often = CountMin(2, 1 << 16, DAY, stream=7)
        self._taken = float("-inf")
        self.clusters: Clusters = ()

    @property
    def population(self) -> int:
        """The number of tenants of the current or the last period, whichever is larger."""
        return max(2, *self._now_and_before)

    @property
    def unit(self) -> float:
        """log N, of at least `FEWEST` tenants."""
        return math.log(max(FEWEST, self.population))

    @property
    def items(self) -> int:
        """The number of items that are remembered."""
        return len(self._items)

    @property
    def pairs(self) -> int:
        """The number of pairs that share something."""
        return len(self._pairs)

    def see(self, tenant: str, mark: int, links: dict[str, int], templates: Iterable[int], now: float) -> bool:
        """Take what a tenant shows (`mark` is a hash of its name); return whether the clusters changed."""
        self._count(mark, now)
        for kind, name in enumerate(KINDS[1:], 1):
            if (value := links.get(name)) is not None:
                self._show(tenant, mark, kind, value & MASK, now)
        keys = np.fromiter(templates, dtype=np.uint64)
        if len(keys):
            for key, often in zip(keys.tolist(), self._often.add(keys, now).tolist(), strict=True):
                if often >= RECURS:
                    self._show(tenant, mark, 0, key, now)
        return self._regroup(now)

    def strength(self, one: str, other: str, now: float) -> float:
        """Return how strongly two tenants are tied, in units of log N; 0 for strangers."""
        name = (one, other) if one < other else (other, one)
        return self._pairs.of(name, self.unit, now)

    def _count(self, mark: int, now: float) -> None:
        period = self._tenants.number
        turned = self._tenants.turn(now) - period
        if turned:
            self._now_and_before = [0, self._now_and_before[0] if turned == 1 else 0]
        self._now_and_before[0] += self._tenants.add(mark, now)

    def _show(self, tenant: str, mark: int, kind: int, value: int, now: float) -> None:
        value = (value + kind * _SPREAD) & MASK  # the same number of another kind is another item
        item = self._items.get(value)
        if item is None:
            item = self._items[value] = _Item(kind, self._shown.turn(now))
            if len(self._items) > ITEMS:
                self._items.popitem(last=False)
        else:
            self._items.move_to_end(value)
        if not self._shown.add((mark * _SPREAD ^ value) & MASK, now):
            return
        others = [other for other in item.recent if other != tenant]
        worth = math.log(max(1.0, self.population / (1 + item.show(tenant, self._shown.number))))
        if worth >= TELLING * self.unit:
            for other in others:
                self._pairs.tie((tenant, other) if tenant < other else (other, tenant), item.kind, worth, now)

    def _regroup(self, now: float) -> bool:
        if 0 <= now - self._taken < HOUR / 4:
            return False
        self._taken = now
        before = self.clusters
        self.clusters = components(self._pairs.above(self._strength, self.unit, now))
        return self.clusters != before


def components(edges: Iterable[tuple[str, str]], largest: int = LARGEST) -> Clusters:
    """Return the connected components of at least two, sorted; an edge that would exceed `largest` is left out."""
    parent: dict[str, str] = {}
    size: dict[str, int] = {}

    def root(name: str) -> str:
        parent.setdefault(name, name)
        while parent[name] != name:
            parent[name] = name = parent[parent[name]]
        return name

    for one, other in edges:
        a, b = root(one), root(other)
        if a != b and size.get(a, 1) + size.get(b, 1) <= largest:
            parent[a] = b
            size[b] = size.pop(a, 1) + size.get(b, 1)
    groups: dict[str, list[str]] = {}
    for name in parent:
        groups.setdefault(root(name), []).append(name)
    return tuple(sorted(tuple(sorted(group)) for group in groups.values() if len(group) > 1))
