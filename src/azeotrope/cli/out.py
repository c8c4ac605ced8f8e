"""Output: JSON or tables on stdout, everything said along the way on stderr."""

from __future__ import annotations

import json
import math
import os
import sys
import webbrowser
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Runs = Annotated[Path, typer.Option(metavar="DIR", help="Folder that holds runs and their shared steps.")]
Workers = Annotated[
    int | None,
    typer.Option(min=0, metavar="N", help="Worker processes (default: one per core; 0: in this process)."),
]
Open = Annotated[bool, typer.Option("--open", help="Open the report in a browser.")]
PIPE_WIDTH = 160  # columns of a table that is not shown in a terminal


def emit(value: Any) -> None:
    """Print one JSON value on stdout."""
    print(json.dumps(_plain(value), ensure_ascii=False, indent=1, allow_nan=False))


def say(*lines: str) -> None:
    """Print lines for people on stderr, unwrapped."""
    for line in lines:
        print(line, file=sys.stderr)


def show(*lines: str) -> None:
    """Print lines on stdout, unwrapped."""
    for line in lines:
        print(line)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, stderr: bool = False) -> None:
    """Print a table; numbers are right-aligned, text is never read as markup."""
    from rich.table import Table
    from rich.text import Text

    cells = [list(row) for row in rows]
    grid = Table(title=Text(title) if title else None, title_justify="left", box=_box())
    for i, name in enumerate(columns):
        numeric = bool(cells) and all(isinstance(row[i], int | float) or row[i] is None for row in cells)
        grid.add_column(Text(name), justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        grid.add_row(*(Text(_shown(cell)) for cell in row))
    console(stderr=stderr).print(grid)


def console(*, stderr: bool = False) -> Any:
    """Return a rich console; wide when its output is not a terminal, so that pipes lose nothing."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else PIPE_WIDTH)


def default_workers(wanted: int | None) -> tuple[int, int]:
    """Return (workers, threads per worker): as many workers as usable cores, at most eight, unless asked."""
    cores = usable_cores()
    workers = min(cores, 8) if wanted is None else wanted
    return workers, max(1, cores // max(1, workers))


def usable_cores() -> int:
    """Return the number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def open_page(path: Path) -> None:
    """Open a local page in the browser; without one, say where the page is."""
    if not webbrowser.open(path.resolve().as_uri()):
        say(f"No browser could be opened; the page is {path}.")


def interval(value: float | None, low: float | None, high: float | None) -> str:
    """Format a number with its interval.

    >>> interval(0.5, 0.4, 0.6), interval(0.5, None, None), interval(None, None, None)
    ('0.500 [0.400, 0.600]', '0.500', '')
    """
    if value is None:
        return ""
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _box() -> Any:
    from rich import box

    return box.SIMPLE_HEAD


def _shown(cell: Any) -> str:
    if cell is None:
        return ""
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def _plain(value: Any) -> Any:
    """Reduce to JSON values: paths to text, NaN to null, sets and tuples to lists."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
