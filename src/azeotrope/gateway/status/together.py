"""The parts of several processes as one: what one process knows is what it served itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from azeotrope.gateway.status.view import COUNTED, MOST_ALARMS, Json

Join = Callable[[Any, Any], Any]
LARGEST = ("level", "seen", "replied_at")  # of which the larger holds; everything else is added up


def overviews(parts: list[Json]) -> Json:
    """One overview part of all; the first is the one that was asked, and says which minutes there are."""
    first = parts[0]
    tenants = _keyed(_sum, [one["tenants"] for one in parts])
    return {
        "now": first["now"],
        "began": min(one["began"] for one in parts),
        "server": {
            **first["server"],
            "policy_error": next((e for one in parts if (e := one["server"]["policy_error"])), ""),
            "active": sum(one["server"]["active"] for one in parts),
            "draining": any(one["server"]["draining"] for one in parts),
        },
        "minutes": _minutes(parts),
        "window": _fold(_sum, [one["window"] for one in parts]),
        "upstreams": _keyed(_upstream, [one["upstreams"] for one in parts]),
        "tenants": tenants,
        "forgotten": sum(one["forgotten"] for one in parts),
        "detection": _detections([one["detection"] for one in parts if one["detection"] is not None]),
    }


def timelines(parts: list[Json]) -> Json:
    """One tenant part of all."""
    first = parts[0]
    return {
        **first,
        "seen": max(one["seen"] for one in parts),
        "raised": _keyed(max, [one["raised"] for one in parts]),
        "stances": _fold(_sum, [one["stances"] for one in parts]),
        "minutes": _minutes(parts),
        "changes": _latest(one["changes"] for one in parts),
        "requests": _latest(one["requests"] for one in parts)[-first["kept"] :],
    }


def _sum(a: Any, b: Any) -> Any:
    """Numbers added up, also those in lists and under keys."""
    if isinstance(a, dict):
        return {k: _one(k, a.get(k), b.get(k)) for k in {**a, **b}}
    if isinstance(a, list):
        return [_sum(x, y) for x, y in zip(a, b, strict=True)]
    return a + b


def _one(key: str, a: Any, b: Any) -> Any:
    if a is None or b is None:
        return b if a is None else a
    return max(a, b) if key in LARGEST else _sum(a, b)


def _fold(join: Join, values: Iterable[Any]) -> Any:
    rest = iter(values)
    found = next(rest)
    for one in rest:
        found = join(found, one)
    return found


def _keyed(join: Join, values: list[Json]) -> Json:
    found: Json = {}
    for one in values:
        for key, value in one.items():
            found[key] = join(found[key], value) if key in found else value
    return found


def _minutes(parts: list[Json]) -> list[Json]:
    """Minutes added up by their time: one process may be a minute ahead."""
    rest = [{row["at"]: row for row in one["minutes"]} for one in parts[1:]]
    found = []
    for row in parts[0]["minutes"]:
        at = row["at"]
        found.append(_fold(_sum, [row, *(one[at] for one in rest if at in one)]) | {"at": at})
    return found


def _upstream(a: Json, b: Json) -> Json:
    later = max(a, b, key=lambda one: float(one["failed_at"]))
    return {**_sum({**a, "code": ""}, {**b, "code": ""}), "code": later["code"], "failed_at": later["failed_at"]}


def _detections(parts: list[Json]) -> Json | None:
    if not parts:
        return None
    raised: dict[tuple[str, int], int] = {}
    for one in parts:
        for row in one["raised"]:
            where = row["of"], row["level"]
            raised[where] = raised.get(where, 0) + row["count"]
    return {
        "calibrated": all(one["calibrated"] for one in parts),
        **{name: sum(one[name] for one in parts) for name in COUNTED},
        "raised": [{"of": of, "level": level, "count": n} for (of, level), n in sorted(raised.items())],
        "changes": _latest(one["changes"] for one in parts)[-MOST_ALARMS:],
    }


def _latest(lists: Iterable[list[Json]]) -> list[Json]:
    return sorted((row for rows in lists for row in rows), key=lambda row: float(row["time"]))
