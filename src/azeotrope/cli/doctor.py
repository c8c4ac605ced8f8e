"""What `azeotrope doctor` looks at."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from azeotrope import __version__
from azeotrope.cli import embedded
from azeotrope.cli.entry import EXTRAS
from azeotrope.cli.out import usable_cores
from azeotrope.core.errors import MissingError
from azeotrope.core.plugins import GROUPS, catalogue, load

BASE = ("numpy", "polars", "pydantic", "pyyaml", "rich", "typer")
LOW_MEMORY_GB, LOW_DISK_GB = 2.0, 1.0


def examine(runs: Path) -> dict[str, Any]:
    """Return everything that was looked at. `problems` is what is broken, `advice` what is only absent."""
    problems, advice, plugins = [], [], {}
    for group in GROUPS:
        plugins[group] = {name: _try(group, name) for name in catalogue(group)}
        problems += [f"The {group[:-1]} '{name}' cannot be loaded: {state.removeprefix('broken: ')}"
                     for name, state in plugins[group].items() if state.startswith("broken")]  # fmt: skip
    models = embedded.models()
    problems += [f"The model '{m['name']}' is damaged: {m['problem']}." for m in models if m["problem"]]
    packages = {name: _version(name) for name in (*BASE, *sorted(map(_distribution, EXTRAS)))}
    missing = [name for name, found in packages.items() if found is None]
    if missing:
        advice.append(f"Not installed: {', '.join(missing)}; for everything: "
                      "pip install 'azeotrope[lab,procedural,hub]'.")  # fmt: skip
    if not models:
        advice.append("No embedded models; make them with: python -m azeotrope.models.build.")
    memory, disk = memory_gb(), _free_gb(runs)
    if memory is not None and memory < LOW_MEMORY_GB:
        advice.append(f"Only {memory} GB of memory is available; use --workers 1.")
    if disk is not None and disk < LOW_DISK_GB:
        advice.append(f"Only {disk} GB of disk is free for '{runs}'.")
    return {
        "azeotrope": __version__, "python": platform.python_version(), "platform": platform.platform(),
        "cores": usable_cores(), "memory_available_gb": memory, "disk_free_gb": disk, "packages": packages,
        "models": [model["name"] for model in models], "plugins": plugins, "problems": problems,
        "advice": advice,
    }  # fmt: skip


def lines(found: dict[str, Any]) -> list[str]:
    """Return the findings as text."""
    packages = ", ".join(f"{name} {version_ or '-'}" for name, version_ in found["packages"].items())
    text = [
        f"azeotrope {found['azeotrope']}, Python {found['python']}, {found['platform']}",
        f"machine   {found['cores']} cores, {found['memory_available_gb']} GB memory available, "
        f"{found['disk_free_gb']} GB disk free",
        f"packages  {packages}",
        f"models    {len(found['models'])} embedded",
    ]
    for group, entries in found["plugins"].items():
        shown = ", ".join(name if state == "ok" else f"{name} ({state})" for name, state in entries.items())
        text.append(f"{group:9} {shown}")
    text += [f"PROBLEM   {line}" for line in found["problems"]]
    text += [f"advice    {line}" for line in found["advice"]]
    return [*text, "Broken: see PROBLEM above." if found["problems"] else "Nothing is broken."]


def memory_gb() -> float | None:
    """Return the memory that is available now, in GiB; None where it cannot be asked."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return round(int(line.split()[1]) / 2**20, 1)
    except (OSError, ValueError, IndexError):
        pass
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        return None


def _try(group: str, name: str) -> str:
    try:
        load(group, name)
    except MissingError as error:
        package = str(error).partition("package '")[2].partition("'")[0]
        root = package.partition(".")[0]
        return f"needs {package}" if root in EXTRAS else f"broken: no module named '{package}'"
    except Exception as error:  # whatever a plugin does wrong, the others are still checked
        first = (str(error).splitlines() or [""])[0]
        return f"broken: {type(error).__name__}: {first}"
    return "ok"


def _free_gb(folder: Path) -> float | None:
    for place in (folder, *folder.resolve().parents):
        try:
            return round(shutil.disk_usage(place).free / 2**30, 1)
        except OSError:
            continue
    return None


def _distribution(module: str) -> str:
    """The name under which a module is installed."""
    return "scikit-learn" if module == "sklearn" else module.replace("_", "-")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
