"""Making a calibration from benign traffic, in three parts that share no tenant (split conformal prediction).

1. The profile: cells and reference of the projections, at most 40 prompts a key so that nobody dominates; what
   volumes peak at; and p0, the conformal 1 - alpha quantile over keys of their mean suspicion, times a margin of
   1.5.
2. The nulls: the largest score of every key and tenant in a day, by signal and size.
3. The rises of the ladder: the largest corroborated score of every key in a day; the first rung is the conformal
   quantile that at most a share `alpha` of benign key-days exceeds in *every* group, the others are twice, four
   and eight times that. A group of fewer than 1/alpha - 1 key-days is pooled with others.

Groups are what callers are alike: chat, batch, ... as the traffic is labeled. Traffic of one day gives key-days;
the promise is about days like these.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final

import numpy as np
from numpy.typing import NDArray

from azeotrope.core.errors import ConfigError
from azeotrope.gateway.signals.calibration import SIZED, SIZES, Calibration, Null, pack, size_of, weigh
from azeotrope.gateway.signals.evidence import Reading, Signal
from azeotrope.gateway.signals.gauge import Gauge
from azeotrope.gateway.signals.imprint import CELL_COUNT, waves
from azeotrope.gateway.signals.prompts import Reader
from azeotrope.gateway.signals.seen import Seen
from azeotrope.gateway.signals.settings import DAY, WatchSettings
from azeotrope.gateway.signals.volume import HALF_LIVES
from azeotrope.gateway.signals.watch import Watch
from azeotrope.maths.cells import directions
from azeotrope.maths.detection import calibration_needed, threshold
from azeotrope.maths.mmd import reference

PER_KEY: Final = 40
PROMPTS: Final = 8000  # in the profile
MARGIN: Final = 1.5
LOWEST_P0: Final = 0.02
FEWEST: Final = 20  # requests of a key before its mean suspicion counts
LEAST_RISE: Final = 2.0
OWN_GROUP: Final = 20
LINKED, OTHERS = "linked", "others"
UNKNOWN: Final = ""  # the group of traffic that is only background: it is seen, but nothing is learned from it
_PLACEHOLDER: Final = (1e300, 1e300, 1e300, 1e300)


@dataclass(frozen=True, slots=True)
class Labeled:
    """A request and the group of its caller ("" for background)."""

    seen: Seen
    group: str


@dataclass
class _Peaks:
    """Largest values by subject and day."""

    values: dict[tuple[object, ...], float] = field(default_factory=dict)

    def put(self, value: float, *where: object) -> None:
        if not math.isnan(value) and value > self.values.get(where, -math.inf):
            self.values[where] = value


def fit(
    parts: Sequence[Iterable[Labeled]],
    settings: WatchSettings | None = None,
    secret: bytes = b"",
    alpha: float = 0.01,
) -> Calibration:
    """Return a calibration from three parts of benign traffic, each in order of time.

    Raises ConfigError if there is too little of it.
    """
    if len(parts) != 3:
        raise ConfigError("A calibration needs benign traffic in three parts that share no tenant.")
    settings = settings or WatchSettings()
    first = _profile(parts[0], secret, alpha, settings)
    second = _nulls(first, parts[1], secret, settings)
    return _rises(second, parts[2], secret, settings)


def _profile(traffic: Iterable[Labeled], secret: bytes, alpha: float, settings: WatchSettings) -> Calibration:
    reader, sample, peaks = Reader(secret), _Sample(), _Peaks()
    keys: dict[str, Gauge] = {}

    def record(gauge: Gauge, now: float) -> None:
        if gauge.level == "key":
            keys[gauge.name] = gauge
        for i, value in enumerate(gauge.volumes):
            peaks.put(value, i, gauge.level, gauge.name, int(now // DAY))

    watch = Watch(settings, secret=secret, on_judged=record)
    for item in traffic:
        if item.group != UNKNOWN:
            watch.observe(item.seen)
            watch.drain()
            if (features := item.seen.features or reader.read(item.seen.prompt)) is not None:
                sample.put(item.seen.key, features.unit())
    points = sample.points()
    centers = directions(points, CELL_COUNT, seed=1)
    cells = np.bincount(np.einsum("nd,kd->nk", points, centers).argmax(axis=1), minlength=CELL_COUNT) + 0.5
    mean, square = reference(np.array([waves()(point.astype(np.float32)) for point in points], dtype=np.float64))
    return Calibration(
        secret=reader.fingerprint, settings=settings.meaning, p0=_bound(keys.values(), alpha),
        volumes=_benign_volumes(peaks), shares=pack(cells / cells.sum()), centers=pack(centers), mean=pack(mean),
        square=square, nulls=(), rises=_PLACEHOLDER, alpha=alpha, key_days=0,
    )  # fmt: skip


class _Sample:
    """At most `PER_KEY` prompts of every key, each with the same chance (reservoir sampling)."""

    def __init__(self) -> None:
        self._rng = Random(0)
        self._kept: dict[str, list[NDArray[np.float32]]] = defaultdict(list)
        self._seen: Counter[str] = Counter()

    def put(self, key: str, unit: NDArray[np.float32]) -> None:
        self._seen[key] += 1
        kept = self._kept[key]
        if len(kept) < PER_KEY:
            kept.append(unit)
        elif (at := self._rng.randrange(self._seen[key])) < PER_KEY:
            kept[at] = unit

    def points(self) -> NDArray[np.float64]:
        """Return at most `PROMPTS` of them. Raises ConfigError if they are too few for the cells."""
        units = [unit for kept in self._kept.values() for unit in kept]
        if len(units) < 2 * CELL_COUNT:
            raise ConfigError(
                f"The first part of the benign traffic has {len(units)} prompts to learn from; "
                f"{2 * CELL_COUNT} are needed."
            )
        return np.array(self._rng.sample(units, min(PROMPTS, len(units))), dtype=np.float64)


def _bound(keys: Iterable[Gauge], alpha: float) -> float:
    """p0: what the mean suspicion of all but a share `alpha` of benign keys stays below, with a margin."""
    means = [key.suspicion / key.requests for key in keys if key.requests >= FEWEST]
    limit = threshold(means, alpha)
    if not math.isfinite(limit):
        raise ConfigError(
            f"p0 needs {calibration_needed(alpha)} benign keys with {FEWEST} requests each; "
            f"the first part of the traffic has {len(means)}."
        )
    return min(0.9, max(LOWEST_P0, MARGIN * limit))


def _benign_volumes(peaks: _Peaks) -> tuple[float, ...]:
    found: list[list[float]] = [[] for _ in HALF_LIVES]
    for where, value in peaks.values.items():
        found[int(str(where[0]))].append(value)
    return tuple(max(1.0, float(np.quantile(values, 0.99))) for values in found)


def _nulls(base: Calibration, traffic: Iterable[Labeled], secret: bytes, settings: WatchSettings) -> Calibration:
    peaks = _Peaks()
    group_of: dict[str, str] = {}

    def record(gauge: Gauge, now: float) -> None:
        group = group_of.get(gauge.tenant, UNKNOWN)
        if group == UNKNOWN:
            return
        if gauge.level == "cluster":
            group = LINKED
        reading: Reading = gauge.reading(base.volumes)
        for signal in Signal:
            if signal is not Signal.CONDUCT:
                size = size_of(reading.n) if signal in SIZED else 0
                value = reading.scores[signal]
                if signal is Signal.LINKAGE and gauge.level == "tenant" and math.isnan(value):
                    value = 0.0  # most tenants are linked with nobody, and that is their null
                label = group if signal is Signal.VOLUME else ""
                peaks.put(value, gauge.level, int(signal), label, size, gauge.name, int(now // DAY))

    watch = Watch(settings, base, secret=secret, on_judged=record)
    for item in traffic:
        group_of[item.seen.tenant] = item.group
        watch.observe(item.seen)
        watch.drain()
    return _with(base, nulls=nulls_of(peaks.values))


def nulls_of(peaks: Mapping[tuple[object, ...], float]) -> tuple[Null, ...]:
    """Sum up peaks by (level, signal, group, size, name, day).

    Of a size class a subject takes its largest score at that size or above; if it never got there, what it had at
    the largest size that it reached. Groups of fewer than `OWN_GROUP` subjects are taken together.
    """
    subjects: dict[tuple[str, int, str, object, object], dict[int, float]] = defaultdict(dict)
    for (level, signal, group, size, name, day), value in peaks.items():
        subjects[str(level), int(str(signal)), str(group), name, day][int(str(size))] = value
    large = {where for where, count in Counter(where[:3] for where in subjects).items() if count >= OWN_GROUP}
    sums: dict[tuple[str, int, str, int], tuple[int, float]] = {}
    for (level, signal, group, _, _), by_size in subjects.items():
        label = group if not group or (level, signal, group) in large else OTHERS
        for size in range(SIZES) if signal in SIZED else (0,):
            reached = [value for at, value in by_size.items() if at >= size]
            value = max(reached) if reached else by_size[max(by_size)]
            count, total = sums.get((level, signal, label, size), (0, 0.0))
            sums[level, signal, label, size] = (count + 1, total + weigh(Signal(signal), value))
    return tuple(Null(*where, *found) for where, found in sorted(sums.items()))


def _rises(base: Calibration, traffic: Iterable[Labeled], secret: bytes, settings: WatchSettings) -> Calibration:
    watch = Watch(settings, base, secret=secret)
    peaks = _Peaks()
    for item in traffic:
        seen = item.seen
        watch.observe(seen)
        watch.drain()
        if item.group != UNKNOWN:
            peaks.put(score_of(watch, seen.key, seen.tenant), item.group, seen.key, int(seen.time // DAY))
    by_group: dict[str, list[float]] = defaultdict(list)
    for where, value in peaks.values.items():
        by_group[str(where[0])].append(value)
    groups = pooled(list(by_group.values()), calibration_needed(base.alpha))
    total = sum(map(len, groups))
    if not groups:
        raise ConfigError(
            f"A share of {base.alpha:g} needs {calibration_needed(base.alpha)} benign key-days in the third part "
            f"of the traffic; it has {sum(map(len, by_group.values()))}. Give more traffic or a larger share."
        )
    first = max(LEAST_RISE, *(threshold(scores, base.alpha) for scores in groups)) * (1 + 1e-9)
    return _with(base, rises=(first, 2 * first, 4 * first, 8 * first), key_days=total)


def score_of(watch: Watch, key: str, tenant: str) -> float:
    """Return the largest score of a key, its tenant and its cluster: what its stance follows."""
    subjects = (watch.subject("key", key), watch.subject("tenant", tenant), watch.subject("cluster", tenant))
    return max(subject.score for subject in subjects if subject is not None)


def pooled(groups: list[list[float]], least: int) -> list[list[float]]:
    """Merge the smallest groups until each has `least` members; empty if all together have fewer.

    >>> pooled([[1.0], [2.0, 3.0], [4.0, 5.0, 6.0]], 3)
    [[4.0, 5.0, 6.0], [2.0, 3.0, 1.0]]
    """
    groups = sorted(groups, key=len)
    while groups and len(groups[0]) < least:
        if len(groups) == 1:
            return []
        groups = sorted([groups[1] + groups[0], *groups[2:]], key=len)
    return groups


def _with(base: Calibration, **changes: object) -> Calibration:
    fields = {name: getattr(base, name) for name in base.__struct_fields__}
    return Calibration(**{**fields, **changes})
