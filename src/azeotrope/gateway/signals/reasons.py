"""What a stance is based on, in words that a person can check."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from azeotrope.gateway.signals import volume
from azeotrope.gateway.signals.evidence import FLOOR, Signal
from azeotrope.gateway.signals.gauge import Cluster, Gauge

CODES: Final = {
    Signal.VOLUME: "volume",
    Signal.TEMPLATE: "template",
    Signal.COVERAGE: "coverage",
    Signal.DRIFT: "drift",
    Signal.CONDUCT: "conduct",
    Signal.LINKAGE: "linkage",
}
EXEMPT: Final = "exempt"


class Reason(NamedTuple):
    """A short code for machines, the level it was seen at, a sentence for people, and its e-value."""

    code: str
    level: str
    text: str
    evalue: float


class Stance(NamedTuple):
    """How to answer: 0 (log only) to 4 (hold or deny), why, and since when."""

    level: int = 0
    reasons: tuple[Reason, ...] = ()
    since: float = -math.inf


class Alarm(NamedTuple):
    """A change of a subject's rung."""

    time: float
    level: str
    name: str
    before: int
    after: int
    reasons: tuple[Reason, ...]


def reasons_of(gauge: Gauge, benign: tuple[float, ...]) -> tuple[Reason, ...]:
    """Return the signals that carry a gauge's score, the strongest first."""
    told = [
        Reason(code, gauge.level, _words(signal, gauge, benign), round(gauge.evalues[signal], 1))
        for signal, code in CODES.items()
        if gauge.evalues[signal] >= FLOOR
    ]
    return tuple(sorted(told, key=lambda reason: -reason.evalue))


def _words(signal: Signal, gauge: Gauge, benign: tuple[float, ...]) -> str:
    content = gauge.content
    if signal is Signal.VOLUME:
        excess, i = volume.excess(gauge.volumes, benign)
        return f"harvested {2**excess:.1f} times in {volume.NAMES[i]} what benign traffic peaks at"
    if signal is Signal.CONDUCT:
        bound = ", past its false-alarm bound" if gauge.past_bound else ""
        return f"suspicious requests beyond the benign rate (e-detector at {gauge.run:.3g}{bound})"
    if signal is Signal.LINKAGE:
        members = len(gauge.members) if isinstance(gauge, Cluster) else 0
        return f"shares one job with linked tenants{f' ({members} in all)' if members else ''}"
    if content is None:
        return ""
    if signal is Signal.TEMPLATE:
        return f"about {content.templates:.1f} templates over {content.bodies:.0f} different prompts"
    if signal is Signal.COVERAGE:
        return f"subjects broader than benign traffic of {content.n:.0f} prompts has (z = {content.coverage:.1f})"
    return f"prompts unlike benign traffic (MMD² = {content.drift:.3f} over {content.n:.0f} prompts)"
