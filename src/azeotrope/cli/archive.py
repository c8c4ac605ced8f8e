"""`archive` and `restore`: what runs measured, in a form that can be committed and continued elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from azeotrope.cli.out import AsJson, Runs, emit, show

RUNS = Path("runs")


def archive_(
    run: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="run or trial folders, or their names under --runs")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where to write; one folder a run.")] = Path("results"),
    texts: Annotated[
        bool,
        typer.Option("--texts", help="Keep releases too (texts and trained maps), to continue them elsewhere."),
    ] = False,
    runs: Runs = RUNS,
    as_json: AsJson = False,
) -> None:
    """Write what runs measured, without the texts: enough to decide claims again, and to add seeds elsewhere."""
    from azeotrope.cli.studies import run_folder
    from azeotrope.study.archive import archive

    written = [archive(run_folder(given, runs), out, texts=texts) for given in run]
    if as_json:
        emit({"archives": written})
    else:
        show(*(str(path) for path in written))


def restore_(
    archives: Annotated[list[Path], typer.Argument(metavar="ARCHIVE...", help="folders that `archive` wrote")],
    runs: Runs = RUNS,
    as_json: AsJson = False,
) -> None:
    """Put archived measurements back under --runs; what was made there stays, and the same study continues."""
    from azeotrope.study.archive import restore

    found = {str(path): restore(path, runs) for path in archives}
    if as_json:
        emit([{"archive": path, "steps": one.steps, "new": one.new} for path, one in found.items()])
    else:
        show(*(f"{path}: {one.steps} steps, {one.new} of them new under {runs}" for path, one in found.items()))
