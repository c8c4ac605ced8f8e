"""Group arms into lines: one line is one defense with one set of parameters, ordered by strength."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from azeotrope.report.measures import UNDISTILLED

UNDEFENDED = "none"


@dataclass(frozen=True, slots=True)
class Arm:
    """One defense at one strength on one task."""

    arm: str
    kind: str
    strength: float
    is_control: bool
    params: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Line:
    """The arms of one defense that differ only in strength, weakest first."""

    label: str
    kind: str
    is_control: bool
    variant: int
    arms: tuple[Arm, ...]


def arms_of(results: pl.DataFrame, task: str) -> list[Arm]:
    """Return the arms of `task`, leaving out rows that only hold undistilled students."""
    rows = (
        results.filter((pl.col("task") == task) & (pl.col("attack") != UNDISTILLED))
        .unique(subset="arm", keep="first", maintain_order=True)
        .iter_rows(named=True)
    )
    return [
        Arm(
            arm=row["arm"],
            kind=row["defense"],
            strength=row["strength"] or 0.0,
            is_control=bool(row["is_control"]),
            params=_params(row["params"]),
        )
        for row in rows
    ]


def undefended(arms: Sequence[Arm]) -> str | None:
    """Return the label of the undefended arm, if the run has one."""
    return next((arm.arm for arm in arms if arm.kind == UNDEFENDED), None)


def lines_of(arms: Sequence[Arm]) -> list[Line]:
    """Return the lines of one task: defenses first, then controls, each sorted by name."""
    lines: list[Line] = []
    for kind in sorted({arm.kind for arm in arms} - {UNDEFENDED}):
        members = [arm for arm in arms if arm.kind == kind]
        keys = _variant_keys(members)
        groups: dict[str, list[Arm]] = {}
        for arm in members:
            groups.setdefault(_variant_name(arm, keys), []).append(arm)
        for index, (name, group) in enumerate(sorted(groups.items())):
            ordered = tuple(sorted(group, key=lambda arm: abs(arm.strength)))
            label = f"{kind} ({name})" if name else kind
            lines.append(Line(label, kind, all(arm.is_control for arm in group), index, ordered))
    return sorted(lines, key=lambda line: (line.is_control, line.kind, line.variant))


def _params(text: str | None) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _variant_keys(arms: Sequence[Arm]) -> list[str]:
    """The parameters that differ between the arms of one defense and are not its strength dial."""
    keys = sorted({key for arm in arms for key in arm.params})
    varying = [key for key in keys if len({_short(arm.params.get(key)) for arm in arms}) > 1]
    return [key for key in varying if not all(_is_dial(arm, key) for arm in arms)]


def _is_dial(arm: Arm, key: str) -> bool:
    value = arm.params.get(key)
    return isinstance(value, int | float) and not isinstance(value, bool) and float(value) == arm.strength


def _variant_name(arm: Arm, keys: Sequence[str]) -> str:
    return ", ".join(f"{key}={_short(arm.params.get(key))}" for key in keys)


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
