"""The manifest: what was run, with what, on what. Written last; a run without one is not finished."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from azeotrope.core.sampling import LOGIT_ORDER as LOGIT_ORDER
from azeotrope.study.aggregate import infos
from azeotrope.study.origin import code_revision, made, memory_gb, package_version, processor
from azeotrope.study.plan import Plan
from azeotrope.study.specs import RELEASE
from azeotrope.study.store import Store
from azeotrope.study.tables import TaskData

PACKAGES = ("numpy", "polars", "pydantic", "scipy", "torch", "transformers", "tokenizers", "peft", "accelerate")


def portable(words: Sequence[str]) -> str:
    """A command line without the folders of one machine: of an absolute path the name is kept.

    >>> portable(["azeotrope", "run", "/data/study.yaml", "--runs=/data/runs", "--workers", "2"])
    'azeotrope run study.yaml --runs=runs --workers 2'
    """
    found = []
    for word in words:
        head, sign, path = word.rpartition("=")
        found.append(f"{head}{sign}{Path(path).name}" if path.startswith("/") else word)
    return shlex.join(found)


def build_manifest(
    plan: Plan,
    store: Store,
    tasks: Mapping[str, TaskData],
    *,
    command: str | None,
    logit_order: Sequence[str],
    wall_seconds: float,
) -> dict[str, Any]:
    """Return the manifest of a finished run. `wall_seconds` is of this invocation; steps hold their own."""
    study = plan.study
    details = infos(plan, store)
    return {
        "name": study.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "azeotrope_version": package_version("azeotrope"),
        "code_rev": code_revision(),
        "study_hash": study.hash,
        "config": study.model_dump(mode="json"),
        "command": command or portable([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "hardware": {"cpu": processor(), "cores": os.cpu_count(), "memory_gb": memory_gb()},
        "made": made(store.record(step.stage, step.id) for step in plan.steps),
        "packages": {
            "python": platform.python_version(),
            **{name: found for name in PACKAGES if (found := package_version(name))},
        },
        "logit_order": list(logit_order),
        "wall_seconds": round(wall_seconds, 3),
        "headline": headline(plan, tasks),
        "notes": notes(plan, details),
        "problems": {
            task: {"test": len(data.problems), "release": study.release.n} for task, data in tasks.items()
        },
        "diagnostics": [
            {"task": item["task"], "arm": item["arm"], "draw": item["draw"], **_extra(item["info"])}
            for item in details
            if item["stage"] == RELEASE and _extra(item["info"])
        ],
    }


def headline(plan: Plan, tasks: Mapping[str, TaskData]) -> dict[str, str]:
    """Return what the report leads with: an attack, and recall of hidden content if all tasks have it."""
    wanted = plan.study.analysis.headline
    cells = [cell for data in tasks.values() for cell in data.students.values()]
    recall = all("recall_hidden" in cell.scalars for cell in cells)
    return {
        "metric": wanted.metric or ("recall_hidden" if recall else "student_accuracy"),
        "attack": wanted.attack or plan.expansion.attacks[0].label,
    }


def notes(plan: Plan, details: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what a reader must know before trusting the numbers: our own caveats, then the stages'."""
    study = plan.study
    found = []
    draws = {study.draws_of(task.label) for task in plan.expansion.tasks}
    for student in study.students:
        seeds = student.bases * min(draws)
        if seeds == 1:
            found.append(f"{student.family}: one seed; its intervals cover the choice of problems only.")
        elif seeds < 5:
            found.append(f"{student.family}: {seeds} seeds; intervals across seeds are rough.")
        if student.bases > 1 and max(draws) > 1 and study.analysis.unit == "pair":
            found.append(
                f"{student.family}: intervals treat (base, draw) pairs as independent; "
                "they are too narrow if bases differ much (analysis.unit: base is conservative)."
            )
    if not any(arm.defense == "temperature" for arm in plan.expansion.arms):
        found.append("No temperature arm: defenses are not compared at equal teacher cost.")
    stage_notes = [str(note) for item in details for note in item["info"].get("notes", [])]
    return [*found, *dict.fromkeys(stage_notes)]


def _extra(info: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in info.items() if key not in ("seconds", "tokens", "notes")}
