"""Run a study: plan, execute what is not stored, aggregate. Running it again continues it."""

from __future__ import annotations

import importlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from rich.console import Console

from azeotrope.core.errors import AzeotropeError, ConfigError, MissingError
from azeotrope.study import aggregate
from azeotrope.study.config import Study, dump_study, load_study
from azeotrope.study.detectability import detectability_table
from azeotrope.study.edits import edits_table
from azeotrope.study.equal_cost import equal_cost_table
from azeotrope.study.executor import execute
from azeotrope.study.forecast import Forecast, duration, forecast, stage_rate
from azeotrope.study.gains import gains_table
from azeotrope.study.governance import governance_table
from azeotrope.study.manifest import LOGIT_ORDER, build_manifest
from azeotrope.study.matrix import matrix_table
from azeotrope.study.plan import Plan, Step, make_plan, remaining
from azeotrope.study.predictors import predictors_table
from azeotrope.study.progress import Progress
from azeotrope.study.recovery import recovery_table
from azeotrope.study.specs import STAGES, Stages
from azeotrope.study.store import Store, disk, run_lock, write_bytes, write_json, write_parquet
from azeotrope.study.tables import load_task
from azeotrope.study.utility import utility_table

MANIFEST = "manifest.json"
STEPS = "steps.json"


class InterruptedRunError(AzeotropeError):
    """The user pressed Ctrl-C; finished steps are stored."""

    exit_code = 130


def run(
    study: Study | Path,
    *,
    runs: Path = Path("runs"),
    workers: int = 1,
    threads: int = 1,
    dry_run: bool = False,
    stages: Stages | None = None,
    console: Console | None = None,
    command: str | None = None,
    logit_order: Sequence[str] = LOGIT_ORDER,
) -> Path:
    """Run a study (or continue it) and return its run folder, `runs`/<name>.

    `workers` processes of `threads` threads each do the steps; 0 workers means in this process. With
    `dry_run` the forecast is printed and nothing is written. The tables are always computed from all stored
    steps, so a run that was killed and repeated ends with the same `results.parquet`, byte for byte.

    Raises ConfigError, MissingError, RunError (with the failing step named) and InterruptedRunError (130).
    """
    output = console or Console(stderr=True)
    try:
        parsed = load_study(study) if isinstance(study, Path) else study
        working = stages or default_stages()
        if dry_run:
            output.print(dry_run_of(parsed, runs=runs, workers=workers, stages=working).table())
            return runs / parsed.name
        return _run(parsed, Store(runs), working, workers, threads, output, command, logit_order)
    except KeyboardInterrupt:
        raise InterruptedRunError(
            "Interrupted; finished steps are stored, and the same command continues from them."
        ) from None


def dry_run_of(
    study: Study, *, runs: Path = Path("runs"), workers: int = 1, stages: Stages | None = None
) -> Forecast:
    """Return what running the study would do, without writing anything (`.table()`, `.as_dict()`)."""
    return forecast(make_plan(study, stages or default_stages()), Store(runs), workers)


def default_stages() -> Stages:
    """Return the stages that work on real models. Raises MissingError without the optional packages."""
    try:
        module = importlib.import_module("azeotrope.study.stages")
    except ModuleNotFoundError as error:
        raise MissingError(
            f"Running a study needs the package '{error.name}', which is not installed; "
            "run: pip install 'azeotrope[lab]'."
        ) from None
    return cast(Stages, module.ModelStages())


def _run(
    study: Study,
    store: Store,
    stages: Stages,
    workers: int,
    threads: int,
    console: Console,
    command: str | None,
    logit_order: Sequence[str],
) -> Path:
    if workers < 0 or threads < 1:
        raise ConfigError(f"workers must be 0 or more and threads 1 or more (got {workers} and {threads}).")
    start = time.monotonic()
    plan = make_plan(study, stages)
    folder = store.root / study.name
    with run_lock(folder):
        store.clean()
        write_bytes(folder / "study.yaml", dump_study(study).encode())
        write_json(
            folder / STEPS,
            [{"stage": s.stage, "id": s.id, "label": s.label, "needs": list(s.needs)} for s in plan.steps],
        )
        _execute(plan, store, stages, workers, threads, console, folder)
        write_tables(plan, store, folder, command=command, logit_order=logit_order, started=start)
    console.print(
        f"Done in {duration(time.monotonic() - start)}: {folder}", markup=False, highlight=False, soft_wrap=True
    )
    return folder


def _execute(
    plan: Plan, store: Store, stages: Stages, workers: int, threads: int, console: Console, folder: Path
) -> None:
    todo = remaining(plan.work, store)
    if len(todo) < len(plan.work):
        console.print(
            f"{len(plan.work) - len(todo)} of {len(plan.work)} steps are stored already.", highlight=False
        )
    _do(todo, store, stages, workers, threads, console, folder)
    again = remaining(plan.work, store)
    if again:
        console.print(
            f"{len(again)} steps had read other texts of a release that was made again here; they are done again.",
            highlight=False,
        )
        _do(again, store, stages, workers, threads, console, folder)


def _do(
    todo: Sequence[Step],
    store: Store,
    stages: Stages,
    workers: int,
    threads: int,
    console: Console,
    folder: Path,
) -> None:
    rates = {stage: stage_rate(store, stage) or 1.0 for stage in STAGES}
    expected = {step.id: step.estimate["seconds"] * rates[step.stage] for step in todo}
    with Progress(todo, expected, workers=workers, console=console) as progress:
        execute(todo, stages, store, workers=workers, threads=threads, progress=progress, folder=folder)


def write_tables(
    plan: Plan,
    store: Store,
    folder: Path,
    *,
    command: str | None = None,
    logit_order: Sequence[str] = LOGIT_ORDER,
    started: float | None = None,
) -> None:
    """Compute every table of a run folder from the stored steps; the manifest comes last.

    The old manifest is removed first, so that a folder with a manifest is always consistent.
    """
    tasks = {task.label: load_task(plan, store, task.label) for task in plan.expansion.tasks}
    edits = edits_table(plan, store)
    tables = {
        "results": aggregate.results_table(plan, tasks),
        "equal_cost": equal_cost_table(plan, tasks),
        "samples": aggregate.samples_table(plan, store),
        "losses": aggregate.losses_table(plan, store),
        "costs": aggregate.costs_table(plan, store),
        "recovery": recovery_table(plan, tasks, store),
        "gains": gains_table(plan, tasks),
        "edits": edits,
        "predictors": predictors_table(plan, tasks, edits),
        "utility": utility_table(plan, tasks),
        "governance": governance_table(plan, tasks),
        "matrix": matrix_table(plan, tasks),
        "detectability": detectability_table(plan, store),
    }
    differences = aggregate.diffs(plan, store)
    with disk(folder):
        (folder / MANIFEST).unlink(missing_ok=True)
        (folder / "error.txt").unlink(missing_ok=True)
    for name, table in tables.items():
        write_parquet(table, folder / f"{name}.parquet")
    write_json(folder / "diffs.json", differences)
    wall = time.monotonic() - started if started is not None else 0.0
    write_json(
        folder / MANIFEST,
        build_manifest(plan, store, tasks, command=command, logit_order=logit_order, wall_seconds=wall),
    )
