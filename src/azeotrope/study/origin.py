"""Where measurements come from: the machine, the code and the day of every step.

A study may be run in parts, on several machines: what its manifest says of the last invocation is not true of all.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PLACE = ("cpu", "code_rev", "torch")


@cache
def place() -> dict[str, str | None]:
    """The machine and the code of this process, as they were when it was first asked."""
    return {"cpu": processor(), "code_rev": code_revision(), "torch": package_version("torch")}


def origin() -> dict[str, str | None]:
    """What the record of a step that ends now says of its making."""
    return {**place(), "day": datetime.now(UTC).date().isoformat()}


def made(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """How many steps were made where, by which code, from which day to which; those that do not say come last."""
    days: dict[tuple[str | None, ...], list[str]] = {}
    for record in records:
        told = record.get("made") or {}
        days.setdefault(tuple(told.get(key) for key in PLACE), []).append(str(told.get("day") or ""))
    found = [
        {**dict(zip(PLACE, where, strict=True)), "first": min(seen), "last": max(seen), "steps": len(seen)}
        for where, seen in days.items()
    ]
    return sorted(found, key=lambda one: (not one["first"], one["first"], one["last"]))


def code_revision() -> str | None:
    """Return the git revision of the installed source, with `+dirty` if modified; None outside a checkout."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(here), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
        return done.stdout.strip()

    try:
        if not git("ls-files", "--", Path(__file__).name):  # inside somebody else's repository
            return None
        return git("rev-parse", "HEAD") + ("+dirty" if git("status", "--porcelain", "--", "..") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def package_version(package: str) -> str | None:
    """The installed version of a package, if it is installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def processor() -> str:
    """The processor's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def memory_gb() -> float | None:
    """The machine's memory, if the system says."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        return None
