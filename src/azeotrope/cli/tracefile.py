"""Trace files: Parquet or JSON lines with problem_id, prompt, text, seed, finished, n_tokens. No torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from azeotrope.core.errors import ConfigError, MissingError, RunError
from azeotrope.core.types import Trace
from azeotrope.study.store import disk, write_bytes, write_parquet

SUFFIXES = (".parquet", ".jsonl")
COLUMNS = {"problem_id": pl.String, "prompt": pl.String, "text": pl.String, "seed": pl.Int64,
           "finished": pl.Boolean, "n_tokens": pl.Int64}  # fmt: skip
NEEDED = ("prompt", "text")


def check_name(path: Path) -> None:
    """Raise ConfigError unless the file name says which of the two formats is meant."""
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"'{path}' should end in {' or '.join(SUFFIXES)}.")


def write(traces: Sequence[Trace], path: Path) -> None:
    """Write traces as text; token ids never leave the building. Raises ConfigError and RunError."""
    check_name(path)
    with disk(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{name: getattr(trace, name) for name in COLUMNS} for trace in traces]
    if path.suffix == ".parquet":
        write_parquet(pl.DataFrame(rows, schema=COLUMNS), path)
    else:
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_bytes(path, "".join(lines).encode("utf-8", "backslashreplace"))


def read(path: Path) -> list[Trace]:
    """Read traces; only `prompt` and `text` must be there.

    Raises MissingError without the file, ConfigError for a wrong format or missing columns, RunError for a
    damaged file.
    """
    check_name(path)
    if not path.is_file():
        raise MissingError(f"There is no release file '{path}'; check the path.")
    rows = _parquet(path) if path.suffix == ".parquet" else _lines(path)
    if not rows:
        raise ConfigError(f"'{path}' holds no traces.")
    return [_trace(row, f"'{path}', row {i}") for i, row in enumerate(rows, 1)]


def _parquet(path: Path) -> list[dict[str, Any]]:
    try:
        return pl.read_parquet(path).to_dicts()
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException):
        raise RunError(f"'{path}' is damaged or not a Parquet file; write it again.") from None


def _lines(path: Path) -> list[dict[str, Any]]:
    rows = []
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise RunError(f"'{path}' cannot be read as UTF-8 text.") from None
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except ValueError:
                raise RunError(f"'{path}', line {number}, is not JSON; write the file again.") from None
    return rows


def _trace(row: Any, where: str) -> Trace:
    if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in NEEDED):
        raise ConfigError(f"{where}: a trace needs the texts {' and '.join(NEEDED)}.")
    seed, finished, n_tokens = row.get("seed"), row.get("finished"), row.get("n_tokens")
    return Trace(
        problem_id=str(row.get("problem_id") or where), prompt=row["prompt"], text=row["text"],
        seed=seed if isinstance(seed, int) else 0, finished=finished is not False,
        n_tokens=n_tokens if isinstance(n_tokens, int) else 0,
    )  # fmt: skip
