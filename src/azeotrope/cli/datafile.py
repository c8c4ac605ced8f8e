"""Text defenses on files: JSON lines, Parquet and plain text, in constant memory. No torch.

The output is written beside its final name and renamed when it is complete. Rows that stay as they are keep
their bytes (JSON lines), so a defense of strength 0 copies the file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from azeotrope.core.errors import AzeotropeError, ConfigError, MissingError, RunError
from azeotrope.core.methods import TraceDefense
from azeotrope.study.store import disk
from azeotrope.text.rows import CHAT, RowDefender, Tally, UnreadableRowError, find_column

if TYPE_CHECKING:
    import polars as pl

LINES: Final = (".jsonl", ".ndjson")
SUFFIXES: Final = (*LINES, ".parquet", ".txt")
BATCH: Final = 256  # rows of a Parquet file that are in memory at a time, beside the reader's row groups
ROW_GROUP: Final = 2048  # rows of a row group that is written
PATIENCE: Final = 1000  # rows that may come before the first that has a column to defend
BOM: Final = b"\xef\xbb\xbf"

Complain = Callable[[int, str], None]


@dataclass
class Counts(Tally):
    """What was done to a file. A row is changed, unchanged, or skipped: not understood, and left out."""

    rows: int = 0
    changed: int = 0
    without_reasoning: int = 0  # of the unchanged: rows in which there was nothing to change
    skipped: int = 0
    complain: Complain = field(default=lambda _number, _why: None, repr=False)

    @property
    def unchanged(self) -> int:
        """Rows that are in the output as they were."""
        return self.rows - self.changed - self.skipped

    def skip(self, number: int, why: str) -> None:
        """Count a row that is left out, and say why."""
        self.skipped += 1
        self.complain(number, why)


@dataclass(frozen=True)
class Job:
    """A composition of text defenses and the file to apply it to."""

    source: Path
    out: Path
    defenses: Sequence[TraceDefense]
    column: str | None = None
    seed: int = 0

    def rows(self, names: Sequence[str], where: str) -> RowDefender:
        """Return what defends rows with these columns. Raises ConfigError."""
        found = find_column(names, self.column, where)
        return RowDefender(self.defenses, found, chosen=self.column is not None, seed=self.seed)


def check(job: Job, force: bool) -> None:
    """Raise the fitting error for paths that cannot be read or must not be written."""
    source, out = job.source, job.out
    if not source.is_file():
        raise MissingError(f"There is no file '{source}'; check the path.")
    kind = source.suffix.lower()
    if kind not in SUFFIXES:
        raise ConfigError(f"'{source}' should end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}.")
    if out.suffix.lower() != kind and not {out.suffix.lower(), kind} <= {*LINES}:
        raise ConfigError(f"'{out}' should end in {kind}, as the input does: the format is not converted.")
    if kind == ".txt" and job.column is not None:
        raise ConfigError("A .txt file is one trace and has no columns; leave out --field.")
    if out.is_dir():
        raise ConfigError(f"'{out}' is a folder; name a file.")
    if out.exists() and out.samefile(source):
        raise ConfigError("The output is the input; choose another --out.")
    if out.exists() and not force:
        raise ConfigError(f"'{out}' exists; choose another --out, or add --force to replace it.")


def defend_file(job: Job, complain: Complain) -> Counts:
    """Write the defended file and return what was done; `complain` hears of every row that is left out.

    Raises ConfigError for a file without the column, and RunError for one that cannot be read at all; nothing
    is written then. Call `check` first.
    """
    counts = Counts(complain=complain)
    work = {".parquet": _parquet, ".txt": _text}.get(job.source.suffix.lower(), _lines)
    with _replacing(job.out) as temporary:
        work(job, counts, temporary)
        if counts.rows == 0:
            raise ConfigError(f"'{job.source}' holds no rows.")
        if counts.skipped == counts.rows:
            raise RunError(f"No row of '{job.source}' could be read; nothing was written.")
    return counts


@contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    """A path to write to that becomes `out` if all goes well, and disappears if not."""
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    made = [folder for folder in (out.parent, *out.parent.parents) if not folder.exists()]
    try:
        with disk(out):
            out.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with disk(out):
            with open(temporary, "rb+") as handle:
                os.fsync(handle.fileno())
            os.replace(temporary, out)
    finally:
        with suppress(OSError):
            temporary.unlink()
        with suppress(OSError):  # folders made for nothing; one that holds something stays
            for folder in made:
                folder.rmdir()


def _open(path: Path) -> IO[bytes]:
    try:
        return open(path, "rb")
    except OSError as error:
        raise RunError(f"'{path}' cannot be read ({error.strerror}).") from None


def _defend(rows: RowDefender, counts: Counts, row: dict[str, Any], number: int) -> dict[str, Any] | None:
    """Return the defended row, counted; None for one that is left out."""
    try:
        new, tally = rows.defend(row, number)
    except UnreadableRowError as error:
        counts.skip(number, str(error))
        return None
    counts.add(tally)
    if new != row:
        counts.changed += 1
    elif tally.with_reasoning == 0:
        counts.without_reasoning += 1
    return new


# JSON lines


def _lines(job: Job, counts: Counts, temporary: Path) -> None:
    """Rows before the first that has the column are left out like any that cannot be read.

    The first of them says why, if none has it; after `PATIENCE` rows none is expected to.
    """
    rows: RowDefender | None = None
    lacking: list[tuple[int, ConfigError]] = []
    with _open(job.source) as source, disk(job.out), open(temporary, "wb") as out:
        for number, line in enumerate(source, 1):
            if not line.strip():
                out.write(line)
                continue
            counts.rows += 1
            try:
                row = _parse(line.removeprefix(BOM) if number == 1 else line)
            except UnreadableRowError as error:
                counts.skip(number, str(error))
                continue
            if rows is None:
                try:
                    rows = job.rows(list(row), f"'{job.source}', line {number},")
                except ConfigError as error:
                    lacking.append((number, error))
                    if len(lacking) == PATIENCE:
                        break
                    continue
                for earlier, _ in lacking:
                    counts.skip(earlier, "it has no column that later rows have")
            new = _defend(rows, counts, row, number)
            if new is not None:
                out.write(line if new == row else _line(new, line))
    if rows is None and lacking:
        raise lacking[0][1]


def _parse(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8"), parse_constant=_refuse, parse_float=_finite)
    except UnicodeDecodeError:
        raise UnreadableRowError("it is not UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise UnreadableRowError(f"it is not JSON ({error.msg} at column {error.colno})") from None
    except (ValueError, RecursionError):
        raise UnreadableRowError("it is JSON with a number or a depth that cannot be read") from None
    if not isinstance(row, dict):
        raise UnreadableRowError("it is not a JSON object")
    return row


def _refuse(name: str) -> float:
    raise ValueError(name)


def _finite(text: str) -> float:
    value = float(text)
    return value if abs(value) != float("inf") else _refuse(text)


def _line(row: dict[str, Any], old: bytes) -> bytes:
    """Write a row in the manner of its old line: plain ASCII if it was, with the same end."""
    text = json.dumps(row, ensure_ascii=old.isascii(), allow_nan=False)
    end = old[len(old.rstrip(b"\r\n")) :]
    return text.encode("utf-8", "backslashreplace") + end  # a lone surrogate becomes its JSON escape


# Plain text


def _text(job: Job, counts: Counts, temporary: Path) -> None:
    with _open(job.source) as source:
        data = source.read()
    try:
        row = {"text": data.decode("utf-8")}
    except UnicodeDecodeError:
        raise RunError(f"'{job.source}' cannot be read as UTF-8 text.") from None
    counts.rows += bool(data)
    new = _defend(job.rows(["text"], ""), counts, row, 1)
    with disk(job.out), open(temporary, "wb") as out:
        out.write((new or row)["text"].encode("utf-8"))


# Parquet


def _parquet(job: Job, counts: Counts, temporary: Path) -> None:
    import polars as pl
    from polars.io.plugins import register_io_source

    trouble: list[BaseException] = []

    def batches(*_: object) -> Iterator[pl.DataFrame]:
        try:
            for frame in table.collect_batches(chunk_size=BATCH, maintain_order=True):
                yield _batch(rows, counts, frame)
        except BaseException as error:  # the engine would turn it into an error of its own
            trouble.append(error)
            raise

    damaged = f"'{job.source}' is damaged or not a Parquet file; write it again."
    try:
        table = pl.scan_parquet(job.source)
        schema = table.collect_schema()
        notes = {k: v for k, v in pl.read_parquet_metadata(job.source).items() if k != "ARROW:schema"}
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException):
        raise RunError(damaged) from None
    rows = job.rows(schema.names(), f"'{job.source}'")
    _check_types(schema, rows.column, job)
    try:
        source = register_io_source(batches, schema=schema)
        source.sink_parquet(temporary, row_group_size=ROW_GROUP, maintain_order=True, metadata=notes or None)
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        cause = trouble[0] if trouble else None
        if isinstance(cause, AzeotropeError | KeyboardInterrupt | MemoryError):
            raise cause from None
        if isinstance(cause, OSError | pl.exceptions.PolarsError | pl.exceptions.PanicException):
            raise RunError(damaged) from None
        if cause is not None:
            raise cause from error
        raise RunError(f"Cannot write {job.out} ({str(error).splitlines()[0]}); check the disk.") from None


def _check_types(schema: pl.Schema, column: str, job: Job) -> None:
    import polars as pl

    kind = schema[column]
    if column in CHAT and job.column is None:
        if not (isinstance(kind, pl.List) and isinstance(kind.inner, pl.Struct)):
            raise ConfigError(f"'{job.source}': '{column}' is not a list of messages but {kind}.")
    elif kind != pl.String:
        raise ConfigError(f"'{job.source}': the column '{column}' is not text but {kind}.")


def _batch(rows: RowDefender, counts: Counts, frame: pl.DataFrame) -> pl.DataFrame:
    """Defend a batch; columns that no row needed changed are passed on as they are."""
    import polars as pl

    names = [name for name in rows.reads if name in frame.columns]
    kept: list[bool] = []
    values: dict[str, list[Any]] = {name: [] for name in names}
    for row in frame.select(names).iter_rows(named=True):
        counts.rows += 1
        new = _defend(rows, counts, row, counts.rows)
        kept.append(new is not None)
        for name in names:
            values[name].append((new or row)[name])
    columns = [pl.Series(name, values[name], dtype=frame.schema[name]) for name in names]
    return frame.with_columns(columns).filter(pl.Series(kept, dtype=pl.Boolean))
