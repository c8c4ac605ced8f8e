"""The book as JSON values: an overview, and one tenant's timeline.

A process makes its part of them; `together` adds the parts of several up; `overview` and `timeline` finish them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from azeotrope.gateway.metrics import SECONDS
from azeotrope.gateway.status.book import Asking, Book
from azeotrope.gateway.status.minutes import LEVELS, OUTCOMES, Minute, quantile

if TYPE_CHECKING:
    from azeotrope.gateway.signals.watch import Snapshot

Json = dict[str, Any]
HOUR: Final = 60  # minutes
MOST_ALARMS: Final = 50
MOST_TEXT: Final = 200
COUNTED: Final = ("requests", "dropped", "queued", "keys", "tenants", "clusters")


class Watched(Protocol):
    """Whoever has the detection's state."""

    def __call__(self) -> Snapshot:
        """The state in numbers."""
        ...


@dataclass(frozen=True, slots=True)
class Server:
    """What the page says of the server itself."""

    policy: str
    policy_error: str
    active: int
    draining: bool
    processes: int


def part(book: Book, server: Server, watched: Watched | None, now: float) -> Json:
    """Everything but single requests, of one process. The `window` and tenants are of the last hour."""
    minutes = book.minutes.last(len(book.minutes), int(now // 60))
    return {
        "now": now,
        "began": book.began,
        "server": msgspec.to_builtins(server),
        "minutes": [_minute(one) for one in minutes],
        "window": _window(minutes[-HOUR:]),
        "upstreams": {name: _upstream(one) for name, one in book.upstreams.items()},
        "tenants": _tenants(book, now),
        "forgotten": book.forgotten,
        "detection": None if watched is None else _detection(watched()),
    }


def overview(found: Json, answering: int = 1) -> Json:
    """What the page is told, of a part, or of the parts of so many processes together."""
    window, tenants = found["window"], found["tenants"]
    counts = window["overhead"]
    total = sum(counts)
    overhead = {
        "bounds": SECONDS,
        "counts": counts,
        "mean": window["work"] / total if total else None,
        **{name: quantile(counts, share) for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))},
    }
    ordered = {name: _ordered(window[name]) for name in ("stances", "codes")}
    return {
        **found,
        "server": {**found["server"], "answering": answering},
        "window": {**window, **ordered, "overhead": overhead},
        "upstreams": [{"name": n, "state": _state(one), **one} for n, one in found["upstreams"].items()],
        "tenants": [{"name": n, **one} for n, one in sorted(tenants.items(), key=lambda item: -item[1]["seen"])],
    }


def tenant_part(book: Book, name: str, now: float) -> Json | None:
    """One tenant, of one process: minutes, stances, changes of level and requests, each list the latest last."""
    found = book.tenants.get(name)
    if found is None:
        return None
    lane = found.lane.last(book.settings.minutes, int(now // 60))
    keys = ("at", "requests", "errors", "tokens", "level")
    return {
        "now": now,
        "name": name,
        "seen": found.seen,
        "raised": dict(found.raised),
        "stances": dict(found.stances),
        "minutes": [{**dict(zip(keys, one, strict=True)), "at": one[0] * 60} for one in lane],
        "changes": [msgspec.to_builtins(one) for one in found.changes],
        "requests": [msgspec.to_builtins(one) for one in found.entries],
        "kept": book.settings.requests,
    }


def timeline(found: Json) -> Json:
    """What the page is told of a tenant."""
    return {**found, "stances": _ordered(found["stances"])}


def _minute(one: Minute) -> Json:
    return {
        "at": one.at * 60,
        **one.outcomes,
        "prompt": one.prompt,
        "completion": one.completion,
        "work": one.work,
    }


def _window(minutes: list[Minute]) -> Json:
    return {
        "outcomes": {name: sum(one.outcomes[name] for one in minutes) for name in OUTCOMES},
        "prompt": sum(one.prompt for one in minutes),
        "completion": sum(one.completion for one in minutes),
        "stances": _added(one.stances for one in minutes),
        "codes": _added(one.codes for one in minutes),
        "levels": [sum(one.levels[n] for one in minutes) for n in range(LEVELS)],
        "overhead": [sum(column) for column in zip(*(one.overhead for one in minutes), strict=True)],
        "work": sum(one.work for one in minutes),
    }


def _upstream(one: Asking) -> Json:
    return {
        "replies": one.replies,
        "failures": one.failures,
        "failed": one.failed,
        "replied_at": one.replied_at,
        "failed_at": one.failed_at,
        "code": one.code,
    }


def _state(one: Json) -> str:
    """How an upstream is, by what came last."""
    if one["failed_at"] > one["replied_at"]:
        return "failing"
    return "answers" if one["replied_at"] else "not asked yet"


def _tenants(book: Book, now: float) -> Json:
    found = {}
    for name, one in book.tenants.items():
        requests, errors, tokens = one.lane.totals(HOUR, int(now // 60))
        found[name] = {
            "requests": requests,
            "errors": errors,
            "tokens": tokens,
            "level": max(one.raised.values(), default=0),
            "seen": one.seen,
        }
    return found


def _detection(state: Snapshot) -> Json:
    """The detection: what it follows, who is raised, and its latest changes, the latest last."""
    return {
        "calibrated": state.calibrated,
        **{name: getattr(state, name) for name in COUNTED},
        "raised": [{"of": of, "level": rung, "count": n} for (of, rung), n in sorted(state.stances.items())],
        "changes": [
            {
                "time": one.time, "of": one.level, "name": one.name[:MOST_TEXT], "before": one.before,
                "after": one.after,
                "reasons": [{"code": why.code, "text": why.text[:MOST_TEXT]} for why in one.reasons],
            }
            for one in state.recent[-MOST_ALARMS:]
        ],
    }  # fmt: skip


def _added(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in counts:
        for name, many in one.items():
            found[name] = found.get(name, 0) + many
    return found


def _ordered(counts: dict[str, int]) -> list[Json]:
    """Counts, the largest first."""
    return [{"name": n, "count": c} for n, c in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
