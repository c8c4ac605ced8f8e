"""The catalogue: defenses, attacks, tasks and detectors found by entry point. Built-ins use the same door."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from azeotrope.core.errors import ConfigError, MissingError, nearest

GROUPS = ("defenses", "attacks", "tasks", "detectors")


@cache
def catalogue(group: str) -> dict[str, EntryPoint]:
    """Return name → entry point for one of `GROUPS`, sorted by name."""
    found = entry_points(group=f"azeotrope.{group}")
    return {point.name: point for point in sorted(found, key=lambda point: point.name)}


def load(group: str, name: str) -> Any:
    """Import and return the class registered as `name`.

    Raises ConfigError for an unknown name and MissingError when an optional package is not installed.
    """
    points = catalogue(group)
    if name not in points:
        raise ConfigError(f"There is no {group[:-1]} '{name}'.{nearest(name, points)}")
    try:
        return points[name].load()
    except ModuleNotFoundError as error:
        raise MissingError(
            f"The {group[:-1]} '{name}' needs the package '{error.name}', which is not installed; "
            f"run: pip install 'azeotrope[lab]'."
        ) from None
