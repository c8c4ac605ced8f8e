"""`demo`, `run`, `status`, `report`, `compare`: whole studies and their results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from azeotrope.cli.out import (
    AsJson,
    Open,
    Runs,
    Workers,
    console,
    default_workers,
    emit,
    interval,
    open_page,
    say,
    show,
    table,
)
from azeotrope.core.errors import MissingError

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="a run folder, or its name under --runs")]
RUNS = Path("runs")


def demo(
    quick: Annotated[bool, typer.Option("--quick", help="A smaller grid, for a first look.")] = False,
    runs: Runs = RUNS,
    workers: Workers = None,
    open_: Open = False,
    as_json: AsJson = False,
) -> None:
    """Run the whole loop on the embedded models and write a report; no download, no GPU."""
    from importlib.resources import files

    study = Path(str(files("azeotrope.study") / ("demo_quick.yaml" if quick else "demo.yaml")))
    _study(study, (), runs, workers, open_, as_json, grid=True)


def run_(
    study: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="the study file")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and stop.")] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B.0=VALUE", help="Replace one value of the study; repeatable."),
    ] = None,
    workers: Workers = None,
    runs: Runs = RUNS,
    as_json: AsJson = False,
) -> None:
    """Run a study, or continue it, and write its report."""
    if not dry_run:
        _study(study, tuple(set_ or ()), runs, workers, False, as_json, grid=False)
        return
    from azeotrope.study.config import load_study
    from azeotrope.study.run import dry_run_of

    count, _ = default_workers(workers)
    planned = dry_run_of(load_study(study, set_ or ()), runs=runs, workers=count)
    if as_json:
        emit(planned.as_dict())
    else:
        console().print(planned.table())


def status_(run: RunFolder, runs: Runs = RUNS, as_json: AsJson = False) -> None:
    """Say how far a run is, and what stopped it."""
    from azeotrope.cli.status import status

    found = status(run_folder(run, runs))
    if as_json:
        emit(found)
        return
    steps = f", {found['stored']} of {found['steps']} steps stored" if found["steps"] is not None else ""
    show(f"{found['run']}: {found['state']}{steps}.")
    show(*(f"  {line}" for line in found["detail"]))


def report_(
    run: RunFolder,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The page to write (default: in the run folder).")
    ] = None,
    open_: Open = False,
    runs: Runs = RUNS,
    as_json: AsJson = False,
) -> None:
    """Write the report of a finished run: one HTML file that needs no network."""
    _report(run_folder(run, runs), out, open_, as_json)


def compare_(
    run_a: Annotated[Path, typer.Argument(metavar="RUN_A", help="a run folder, or its name under --runs")],
    run_b: Annotated[Path, typer.Argument(metavar="RUN_B", help="the run to compare it with")],
    metric: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Only this metric; repeatable.")] = None,
    runs: Runs = RUNS,
    as_json: AsJson = False,
) -> None:
    """Set the rows that two runs share side by side: same task, arm, attack, student and metric."""
    from azeotrope.cli.compare import compare

    found = compare(run_folder(run_a, runs), run_folder(run_b, runs), metric)
    if as_json:
        emit(found)
        return
    rows = [
        [r["task"], r["arm"], r["attack"], r["student"], r["metric"],
         interval(*(r["a"][k] for k in ("value", "low", "high"))),
         interval(*(r["b"][k] for k in ("value", "low", "high"))),
         "" if r["difference"] is None else f"{r['difference']:+.3f}", r["remark"]]
        for r in found["rows"]
    ]  # fmt: skip
    columns = ("task", "arm", "attack", "student", "metric", "A", "B", "B - A", "intervals")
    table(f"A = {found['a']}   B = {found['b']}", columns, rows)
    show(found["summary"])


def run_folder(given: Path, runs: Path) -> Path:
    """Return the run folder that `given` means: itself, or that name under `runs`. Raises MissingError."""
    for folder in (given, runs / given):
        if folder.is_dir():
            return folder
    near = ""
    if runs.is_dir():
        from azeotrope.core.errors import nearest

        names = [path.name for path in runs.iterdir() if (path / "study.yaml").is_file()]
        near = nearest(given.name, names)
    raise MissingError(f"There is no run folder '{given}', here or in '{runs}'.{near}")


def _study(study: Path, overrides: tuple[str, ...], runs: Path, workers: int | None, open_: bool,
           as_json: bool, *, grid: bool) -> None:  # fmt: skip
    """Run a study file, build its report, and tell the verdict."""
    from azeotrope.study.config import load_study
    from azeotrope.study.run import dry_run_of, run

    count, threads = default_workers(workers)
    parsed = load_study(study, overrides)
    said = console(stderr=True)
    if grid:
        said.print(dry_run_of(parsed, runs=runs, workers=count).table())
    folder = run(parsed, runs=runs, workers=count, threads=threads, console=said)
    _report(folder, None, open_, as_json)


def _report(folder: Path, out: Path | None, open_: bool, as_json: bool) -> None:
    from azeotrope.report import build
    from azeotrope.report.load import load_run
    from azeotrope.report.verdict import verdict

    page = build(folder, out)
    said = verdict(load_run(folder))
    findings = [{"task": finding.task, "sentence": finding.sentence} for finding in said.findings]
    adapting = [{"task": one.task, "defense": one.defense, "sentence": one.sentence} for one in said.adapting]
    told: dict[str, Any] = {
        "lead": said.lead, "adapting": adapting, "findings": findings, "caution": said.caution,
    }  # fmt: skip
    if as_json:
        emit({"run": folder, "report": page, "verdict": told})
    else:
        show(
            said.lead, *(f"  {item['task']}: {item['sentence']}" for item in [*adapting, *findings]), said.caution
        )
        show(f"Report: {page}")
    if open_:
        open_page(page)
        say(f"Opened {page}.")
