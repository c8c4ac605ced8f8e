"""Running simulated days through a calibrated watch, and what came of it for every key."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Final

from azeotrope.gateway.signals.calibration import Calibration
from azeotrope.gateway.signals.exempt import BatchProfile
from azeotrope.gateway.signals.fit import UNKNOWN, Labeled, fit, score_of
from azeotrope.gateway.signals.prompts import Reader
from azeotrope.gateway.signals.reasons import Stance
from azeotrope.gateway.signals.settings import DAY, HOUR, MINUTE, WatchSettings
from azeotrope.gateway.signals.simulate.people import Half
from azeotrope.gateway.signals.simulate.scenarios import Scenario
from azeotrope.gateway.signals.simulate.thieves import Ask, made_up
from azeotrope.gateway.signals.simulate.world import STRANGERS, day, population
from azeotrope.gateway.signals.watch import Watch

SETTINGS: Final = WatchSettings(keys=4096, tenants=2048)  # small memory: a day has some hundred tenants
# Tenants behind the profile, the nulls and the rises. Of the last, every group has enough for 1 % of key-days.
Sizes = dict[str, int]
CALIBRATED_ON: Final[tuple[Sizes, Sizes, Sizes]] = (
    {"chat": 90, "batch": 12, "developer": 18, "customers": 18, "firm": 2},
    {"chat": 150, "batch": 40, "developer": 30, "customers": 30, "firm": 24},
    {"chat": 100, "batch": 100, "developer": 100, "customers": 100, "firm": 12},
)

QUICK_SIZES: Final[tuple[Sizes, Sizes, Sizes]] = (
    {"chat": 20, "batch": 2, "developer": 2, "customers": 4},
    {"chat": 20, "batch": 4, "developer": 4, "customers": 4},
    {"chat": 10, "batch": 10, "developer": 10, "customers": 10},
)
QUICK_ALPHA: Final = 0.1


@dataclass(frozen=True, slots=True)
class Outcome:
    """One key's day. `alarms` counts rises of its stance from 0; `when` is the time of the first, NaN for none."""

    key: str
    group: str
    hostile: bool
    requests: int
    hours: float
    score: float  # the day's largest
    level: int  # the day's highest stance
    alarms: int
    when: float


@dataclass(frozen=True, slots=True)
class Day:
    """All outcomes of a day; for the hostile keys together, what was seen before their first alarm."""

    outcomes: tuple[Outcome, ...]
    requests_before: float  # NaN where no alarm came
    minutes_before: float
    codes: dict[str, int]  # reason codes of first alarms of hostile keys


def calibrate(
    *, seed: int = 0, half: Half = "a", sizes: tuple[Sizes, Sizes, Sizes] = CALIBRATED_ON, alpha: float = 0.01,
    settings: WatchSettings = SETTINGS, secret: bytes = b"",
) -> Calibration:  # fmt: skip
    """Return a calibration on simulated benign days of one half of the phrase lists."""
    reader = Reader(secret)
    parts: list[Iterator[Labeled]] = []
    for part, cast in enumerate(sizes):
        rng = Random(f"calibrate {seed} {part} {half}")
        actors = population(rng, half, cast)
        parts.append(day(actors, reader, rng, STRANGERS if part else 0))
    return fit(parts, settings, secret, alpha)


def run(
    scenario: Scenario, seed: int, calibration: Calibration, *, half: Half = "b", ask: Ask = made_up,
    settings: WatchSettings = SETTINGS, secret: bytes = b"",
) -> Day:  # fmt: skip
    """Run one day of a scenario; deterministic in `seed`."""
    rng = Random(f"{scenario.name} {seed}")
    actors = scenario.cast(rng, half, ask)
    profiles = [BatchProfile(tenant=actor.tenant, until=10 * DAY) for actor in actors if scenario.declared]
    watch = Watch(settings, calibration, secret=secret, profiles=profiles)
    hostile = {actor.tenant for actor in actors if actor.hostile}
    book = _Book(watch, hostile)
    for item in day(actors, Reader(secret), rng):
        book.take(item)
    return book.close()


@dataclass(slots=True)
class _Tally:
    """What one key has come to so far."""

    group: str
    hostile: bool
    first: float
    requests: int = 0
    score: float = 0.0
    level: int = 0
    now: int = 0
    alarms: int = 0
    when: float = math.nan


class _Book:
    """Follows a watch request by request."""

    def __init__(self, watch: Watch, hostile: set[str]) -> None:
        self._watch, self._hostile = watch, hostile
        self._keys: dict[str, _Tally] = {}
        self._harvest = 0
        self._begin = self._caught = self._requests_before = math.nan
        self._codes: Counter[str] = Counter()

    def take(self, item: Labeled) -> None:
        """Let the watch see a request, then ask for the stance that the next one would meet."""
        seen = item.seen
        self._watch.observe(seen)
        self._watch.drain()
        if item.group == UNKNOWN:
            return
        tally = self._keys.get(seen.key)
        if tally is None:
            tally = self._keys[seen.key] = _Tally(item.group, seen.tenant in self._hostile, seen.time)
        if tally.hostile:
            self._harvest += 1
            self._begin = seen.time if math.isnan(self._begin) else self._begin
        tally.requests += 1
        tally.score = max(tally.score, score_of(self._watch, seen.key, seen.tenant))
        self._respond(tally, self._watch.stance(seen.key, seen.time), seen.time)

    def _respond(self, tally: _Tally, stance: Stance, now: float) -> None:
        tally.level = max(tally.level, stance.level)
        if stance.level and not tally.now:
            tally.alarms += 1
            if math.isnan(tally.when):
                tally.when = now
                if tally.hostile:
                    self._codes.update({reason.code for reason in stance.reasons})
            if tally.hostile and math.isnan(self._caught):
                self._caught, self._requests_before = now, float(self._harvest)
        tally.now = stance.level

    def close(self) -> Day:
        """Return the day's outcomes."""
        outcomes = tuple(
            Outcome(
                key, one.group, one.hostile, one.requests, (DAY - one.first) / HOUR, one.score, one.level,
                one.alarms, one.when,
            )
            for key, one in self._keys.items()
        )  # fmt: skip
        return Day(outcomes, self._requests_before, (self._caught - self._begin) / MINUTE, dict(self._codes))
