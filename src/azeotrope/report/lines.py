"""Group arms into lines: one line is one defense with one set of parameters, ordered by strength."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from azeotrope.study.vocabulary import UNDEFENDED, UNDISTILLED


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
        dials = _dials(members)
        groups: dict[str, list[Arm]] = {}
        for arm in members:
            groups.setdefault(_rest(arm, dials), []).append(arm)
        names = _names(kind, list(groups.values()), dials)
        for index, (label, group) in enumerate(sorted(zip(names, groups.values(), strict=True))):
            ordered = tuple(sorted(group, key=lambda arm: abs(arm.strength)))
            lines.append(Line(label, kind, all(arm.is_control for arm in group), index, ordered))
    return sorted(lines, key=lambda line: (line.is_control, line.kind, line.variant))


def kind_of(name: str) -> str:
    """Return the kind in a curve's name as it stands in the comparison at equal cost.

    >>> kind_of("ads(proxy=a) + traceguard")
    'ads+traceguard'
    """
    return re.sub(r"\([^()]*\)", "", name).replace(" + ", "+").strip()


def _params(text: str | None) -> dict[str, Any]:
    """Read the parameters; those of a composition (a list) are told apart by their position."""
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    if isinstance(value, list):
        members = [item for item in value if isinstance(item, dict)]
        return {f"{i}.{key}": item for i, member in enumerate(members) for key, item in member.items()}
    return value if isinstance(value, dict) else {}


def _dials(arms: Sequence[Arm]) -> list[str]:
    """The parameters that are the strength in every arm."""
    keys = sorted({key for arm in arms for key in arm.params})
    return [key for key in keys if all(_is_dial(arm, key) for arm in arms)]


def _is_dial(arm: Arm, key: str) -> bool:
    value = arm.params.get(key)
    return isinstance(value, int | float) and not isinstance(value, bool) and float(value) == arm.strength


def _rest(arm: Arm, dials: Sequence[str]) -> str:
    """Everything but the strength, as one comparable string."""
    return json.dumps({key: value for key, value in arm.params.items() if key not in dials}, sort_keys=True)


def _names(kind: str, groups: Sequence[Sequence[Arm]], dials: Sequence[str]) -> list[str]:
    """The kind if there is one line; otherwise the arms' label without the dial, made unique."""
    if len(groups) == 1:
        return [kind]
    found = [_without_dials(group[0].arm, dials) for group in groups]
    return [name if found.count(name) == 1 else f"{name} #{i + 1}" for i, name in enumerate(found)]


def _without_dials(label: str, dials: Sequence[str]) -> str:
    for dial in dials:
        label = re.sub(rf"\b{re.escape(dial.split('.')[-1])}=[^,)]*(, )?", "", label)
    return label.replace(", )", ")").replace("()", "").strip()
