"""`detect`: how visible a defense is in a trace file, beside what two clean samples look like."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from azeotrope.cli.out import AsJson, emit, interval, say, table

if TYPE_CHECKING:
    from azeotrope.detect.compare import Row

DEFAULT = ("token_delta", "tfidf_cosine", "marker_rate", "ngram")
NO_CONTROL = (
    "No control: without it, sampling noise cannot be told from a defense; sample the clean teacher once more on "
    "the same problems (azeotrope traces ... --resample 1) and pass that file as --resample."
)
FILE = "Traces, as `azeotrope traces` writes them."


def detect(
    defended: Annotated[Path, typer.Argument(metavar="DEFENDED", help=f"Defended side. {FILE}")],
    clean: Annotated[Path, typer.Argument(metavar="CLEAN", help="Undefended traces of the same problems.")],
    resample: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A second undefended sample of the same problems: the control."),
    ] = None,
    detector: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND[:NAME=VALUE,…]",
            help="Detector, e.g. ngram:features=word (or JSON); repeat for several. Default: all built-in ones.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the split and of the intervals.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Measure how visible a defense is: paired statistics and trained detectors, beside a clean control."""
    from azeotrope.cli import methods, tracefile
    from azeotrope.detect.base import shared_problems, texts_of
    from azeotrope.detect.compare import compare

    detectors = [methods.parse("detectors", text) for text in detector or DEFAULT]
    paths = [defended, clean, *([resample] if resample else [])]
    sides = [texts_of(tracefile.read(path)) for path in paths]
    shared = len(shared_problems(*sides))
    rows = compare({defended.name: sides[0]}, sides[1], sides[2] if resample else None, detectors, seed)
    if any(len(side) > shared for side in sides):
        say(f"Comparing the {shared} problems that all files share; the others are left out.")
    if resample is None:
        say(NO_CONTROL)
    if as_json:
        emit({"defended": defended, "clean": clean, "resample": resample, "seed": seed, "problems": shared,
              "control": resample is not None, "rows": [row.as_dict() for row in rows]})  # fmt: skip
        return
    _tell(rows)


def _tell(rows: list[Row]) -> None:
    """Print the table, each control row before what it controls, and once what could not be measured."""
    columns = ("detector", "measure", "unit", "arm", "value [95 % interval]", "n", "problems")
    shown: list[list[Any]] = [
        [row.detector, row.measure, row.unit.replace("_", " "), row.arm,
         "not measurable" if row.value != row.value else interval(row.value, row.low, row.high),
         row.n, row.n_problems]
        for row in rows
    ]  # fmt: skip
    table("Detectability", columns, shown)
    for note in dict.fromkeys(f"{row.detector}, {row.measure} {row.unit.replace('_', ' ')}: {row.note}."
                              for row in rows if row.note):  # fmt: skip
        say(note)
