"""The detection table: per scenario what was raised, how soon and at what price, with intervals over seeds.

AUC           hostile keys against all benign keys of the same seed, by the day's largest score
days found    share of days on which any hostile key was raised (Wilson)
keys raised   share of hostile keys raised by the end of the day
before        requests of all hostile keys together, and minutes, until the first was raised; means over days found
false alarms  rises of the stance of a benign key from 0, per key-hour

Intervals are 95 %, Student t over seeds unless said otherwise; a rate with no event at all gets the exact Poisson
bound 3.69 / hours, a share or an AUC of 0 or 1 the Wilson interval of its keys (which are not independent: read it
as a sketch).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from azeotrope.gateway.signals.calibration import Calibration
from azeotrope.gateway.signals.simulate.scenarios import SCENARIOS, Scenario
from azeotrope.gateway.signals.simulate.thieves import Ask, made_up
from azeotrope.gateway.signals.simulate.trial import Day, Outcome, run
from azeotrope.maths.detection import auroc
from azeotrope.maths.stats import Interval, student_t, wilson

NO_EVENT: Final = -math.log(0.025)  # expected events that still leave a chance of 2.5 % to see none


@dataclass(frozen=True, slots=True)
class Row:
    """One scenario. Intervals are NaN where they do not apply; `codes` are reasons of first alarms."""

    scenario: str
    hostile: bool
    keys: int
    requests: int
    auc: Interval
    found: Interval
    raised: Interval
    requests_before: Interval
    minutes_before: Interval
    false_alarms: Interval
    top: int  # highest stance that was reached
    codes: tuple[tuple[str, int], ...]


def measure(
    calibration: Calibration,
    seeds: Sequence[int],
    *,
    scenarios: Sequence[Scenario] = SCENARIOS,
    ask: Ask = made_up,
    secret: bytes = b"",
    told: Callable[[str], None] = lambda _line: None,
) -> list[Row]:
    """Run every scenario once per seed; rows come in the order of the scenarios."""
    days: dict[str, list[Day]] = {}
    for scenario in scenarios:
        days[scenario.name] = [run(scenario, seed, calibration, ask=ask, secret=secret) for seed in seeds]
        told(scenario.name)
    # Benign keys of the same seed, whatever scenario they come from, are what hostile ones are told from.
    innocent = [
        [outcome.score for name in days for outcome in days[name][i].outcomes if not outcome.hostile]
        for i in range(len(seeds))
    ]
    return [_row(scenario, days[scenario.name], innocent) for scenario in scenarios]


def _row(scenario: Scenario, days: Sequence[Day], innocent: Sequence[Sequence[float]]) -> Row:
    mine = [
        [
            outcome
            for outcome in day.outcomes
            if outcome.group == scenario.group and outcome.hostile == scenario.hostile
        ]
        for day in days
    ]
    harmless = mine if not scenario.hostile else [[o for o in day.outcomes if not o.hostile] for day in days]
    codes: Counter[str] = Counter()
    for day in days:
        codes.update(day.codes)
    nothing = Interval(value=math.nan, low=math.nan, high=math.nan, n=0)
    found = [day for day in days if math.isfinite(day.minutes_before)]
    hostile = scenario.hostile
    areas = [_auc(outcomes, scores) for outcomes, scores in zip(mine, innocent, strict=True)]
    return Row(
        scenario=scenario.name, hostile=hostile, keys=sum(map(len, mine)),
        requests=sum(outcome.requests for outcomes in mine for outcome in outcomes),
        auc=_spread(areas, sum(map(len, mine))) if hostile else nothing,
        found=wilson(len(found), len(days)) if hostile else nothing,
        raised=_share(mine),
        requests_before=_at_least(student_t([day.requests_before for day in found]), 1) if hostile else nothing,
        minutes_before=_at_least(student_t([day.minutes_before for day in found]), 0) if hostile else nothing,
        false_alarms=_rate(harmless),
        top=max((outcome.level for outcomes in mine for outcome in outcomes), default=0),
        codes=tuple(codes.most_common()),
    )  # fmt: skip


def _auc(hostile: Sequence[Outcome], innocent: Sequence[float]) -> float:
    return auroc([outcome.score for outcome in hostile], innocent)


def _share(mine: Sequence[Sequence[Outcome]]) -> Interval:
    shares = [sum(outcome.level > 0 for outcome in outcomes) / len(outcomes) for outcomes in mine if outcomes]
    return _spread(shares, sum(map(len, mine)))


def _spread(values: Sequence[float], keys: int) -> Interval:
    """Student t over seeds within [0, 1]; where all seeds say 0 or all say 1, the Wilson interval of the keys."""
    if not values or set(values) in ({0.0}, {1.0}):
        return wilson(keys if values and values[0] else 0, keys)
    return _within_one(student_t(values))


def _rate(harmless: Sequence[Sequence[Outcome]]) -> Interval:
    hours = [sum(outcome.hours for outcome in outcomes) for outcomes in harmless]
    alarms = [sum(outcome.alarms for outcome in outcomes) for outcomes in harmless]
    if not sum(alarms):
        bound = NO_EVENT / sum(hours) if sum(hours) else math.nan
        return Interval(value=0.0, low=0.0, high=bound, n=len(hours))
    return _at_least(student_t([a / h for a, h in zip(alarms, hours, strict=True)]), 0)


def _within_one(found: Interval) -> Interval:
    low, high = max(0.0, found.low), min(1.0, found.high)
    return Interval(value=found.value, low=low, high=high, n=found.n, n_seeds=found.n_seeds)


def _at_least(found: Interval, least: float) -> Interval:
    low = max(least, found.low)
    return Interval(value=found.value, low=low, high=found.high, n=found.n, n_seeds=found.n_seeds)


def markdown(rows: Sequence[Row]) -> str:
    """Return the table; the legitimate batch customer is its first line because it is the first scenario."""
    head = (
        "scenario", "keys", "ROC AUC", "days found", "keys raised", "requests before", "minutes before",
        "false alarms per key-hour", "highest stance",
    )  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        cells = (
            row.scenario, str(row.keys), shown(row.auc, 3), shown(row.found, 2), shown(row.raised, 3),
            shown(row.requests_before, 0), shown(row.minutes_before, 0), shown(row.false_alarms, 5), str(row.top),
        )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def shown(found: Interval, digits: int) -> str:
    """Format an interval.

    >>> shown(Interval(value=0.5, low=0.25, high=0.75, n=4), 2)
    '0.50 [0.25, 0.75]'
    """
    if not math.isfinite(found.value):
        return ""
    if not math.isfinite(found.low) or not math.isfinite(found.high):
        return f"{found.value:.{digits}f}"
    return f"{found.value:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"
