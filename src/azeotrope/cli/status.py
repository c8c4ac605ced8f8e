"""How far a run is: finished, running, stopped by an error, or interrupted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from azeotrope.core.errors import AzeotropeError, MissingError, RunError
from azeotrope.study.making import stored
from azeotrope.study.store import LOCK, Store


def status(folder: Path) -> dict[str, Any]:
    """Return the state of a run folder and its step counts (None where they cannot be known).

    Raises MissingError if the folder holds no study.
    """
    if not (folder / "study.yaml").is_file():
        raise MissingError(f"'{folder}' is not a run folder (it has no study.yaml); check the path.")
    finished = (folder / "manifest.json").is_file()
    failed = (folder / "error.txt").is_file()
    state = ("running" if locked(folder / LOCK) else "finished" if finished
             else "failed" if failed else "unfinished")  # fmt: skip
    steps, done, detail = _counts(folder)
    if failed:
        lines = (folder / "error.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        detail.append(f"last error: {lines[-1] if lines else 'none'} (all of it: {folder / 'error.txt'})")
    if state == "finished":
        page = folder / "report.html"
        detail.append(f"report: {page}" if page.is_file() else f"no report yet: azeotrope report {folder}")
    if state in ("failed", "unfinished"):
        detail.append(f"continue: azeotrope run {folder / 'study.yaml'} --runs {folder.parent}")
    return {"run": str(folder), "state": state, "steps": steps, "stored": done, "detail": detail}


def locked(path: Path) -> bool:
    """Whether a process holds the run's lock. Never blocks; False where locks cannot be asked."""
    try:
        import fcntl
    except ImportError:  # pragma: no cover - Windows
        return False
    try:
        with open(path, encoding="utf-8") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _counts(folder: Path) -> tuple[int | None, int | None, list[str]]:
    """Count the steps of a run and those that are stored: from its step list, or else by planning it."""
    store = Store(folder.parent)
    if (folder / "steps.json").is_file():
        try:
            listed = json.loads((folder / "steps.json").read_text(encoding="utf-8"))
            known: dict[str, str | None] = {}
            done = sum(stored(store, s["stage"], s["id"], s.get("needs", ()), known) for s in listed)
            return len(listed), done, []
        except RunError as error:
            return None, None, [f"the steps cannot be counted: {error}"]
        except (OSError, ValueError, TypeError, KeyError):
            return None, None, [f"{folder / 'steps.json'} cannot be read; run the study again"]
    try:
        from azeotrope.study.config import load_study
        from azeotrope.study.run import dry_run_of

        planned = dry_run_of(load_study(folder / "study.yaml"), runs=folder.parent)
        return planned.steps, planned.cached, [planned.summary]
    except AzeotropeError as error:
        return None, None, [f"the steps cannot be counted: {error}"]
