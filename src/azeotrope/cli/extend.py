"""`doctor` and `new`: is this install sound, and the first file of a method of your own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from azeotrope.cli.out import AsJson, Runs, emit, say, show
from azeotrope.cli.studies import RUNS
from azeotrope.core.errors import MissingError


def doctor(runs: Runs = RUNS, as_json: AsJson = False) -> None:
    """Check the install: versions, machine, optional packages, embedded models, plugins, disk."""
    from azeotrope.cli.doctor import examine, lines

    say("Loading every method; this takes a few seconds.")
    found = examine(runs)
    if as_json:
        emit(found)
    else:
        show(*lines(found))
    if found["problems"]:
        raise typer.Exit(MissingError.exit_code)


def new_defense(
    name: Annotated[str, typer.Argument(metavar="NAME", help="name in lower case, e.g. my_idea")],
    stage: Annotated[str, typer.Option(metavar="STAGE", help="Where it acts: logits or trace.")] = "logits",
    dir_: Annotated[Path, typer.Option("--dir", metavar="DIR", help="Folder for the new file.")] = Path("."),
    as_json: AsJson = False,
) -> None:
    """Write a working defense (the identity at strength 0) to fill in, and say how to register it."""
    from azeotrope.cli.scaffold import write_defense

    path, entry = write_defense(name, stage, dir_)
    if as_json:
        emit({"file": path, "entry_point": entry, "name": name, "stage": stage})
        return
    show(f"Wrote {path}.", "", "Register it in the pyproject.toml of your package, and reinstall that:", "")
    show(entry, f"Then studies can use it, and so can you: azeotrope show {name}")
