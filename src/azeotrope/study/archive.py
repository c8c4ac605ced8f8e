"""What a run measured, without the texts it was measured on: small enough to commit, enough to decide and extend.

```
<archive>/                    the tables of the run folder, study.yaml, manifest.json
<archive>/measured/TABLE.parquet     the rows of one kind of file of all steps, with the step's id in front
<archive>/measured/records.parquet   the JSON files of all steps: step, stage, file, text
```
A step that is restored counts as done; where a step that is not yet done needs its texts (an attack, those of its
release), it is done once more, which gives the same texts and costs no new students.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import polars as pl

from azeotrope.core.errors import MissingError, RunError
from azeotrope.study.run import MANIFEST, STEPS
from azeotrope.study.store import (
    DONE,
    Store,
    disk,
    read_json,
    read_parquet,
    write_bytes,
    write_json,
    write_parquet,
)

MEASURED = "measured"
RECORDS = "records.parquet"
STEP_FILES_LEFT = frozenset(
    {"traces.parquet", "holdout.parquet", "resample.parquet", "diffs.json", "losses.parquet", "fitted.safetensors"}
)
RUN_FILES_LEFT = frozenset({"report.html", "diffs.json", "losses.parquet", ".lock", "error.txt", STEPS})
RECORD = pl.Schema({"step": pl.String, "stage": pl.String, "file": pl.String, "text": pl.String})
_PART = re.compile(r"[a-z][a-z_]{0,40}\Z")
_ID = re.compile(r"[0-9a-f]{8,64}\Z")


@dataclass(frozen=True, slots=True)
class Restored:
    """How many steps an archive holds, and how many of them were not in the store before."""

    steps: int
    new: int


def archive(run: Path, out: Path) -> Path:
    """Write the archive of a run, or of a trial (its verdicts alone), as `out`/<name>; replace an old one.

    Of an unfinished run it holds the steps that are stored. Raises MissingError if `run` is none, RunError for a
    damaged step.
    """
    if not any((run / name).is_file() for name in (STEPS, "claims.json")):
        raise MissingError(f"'{run}' is no run or trial; name its folder.")
    target, making = out / run.name, out / f".{run.name}.tmp"
    with disk(making):
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        for path in sorted(run.iterdir()):
            if path.is_file() and path.name not in RUN_FILES_LEFT and not path.name.startswith("."):
                shutil.copyfile(path, making / path.name)
    if (run / STEPS).is_file():
        listed = {(step["stage"], step["id"]) for step in read_json(run / STEPS)}
        store = Store(run.parent)
        _pack([step for step in sorted(listed) if store.done(*step)], store, making / MEASURED)
    with disk(target):
        shutil.rmtree(target, ignore_errors=True)
        making.rename(target)
    return target


def restore(source: Path, runs: Path) -> Restored:
    """Put an archive's steps into the store of `runs`, and its tables into `runs`/<name>; what is there stays.

    Raises MissingError if `source` holds no measurements, RunError if they are damaged.
    """
    folder = source / MEASURED
    if not (folder / RECORDS).is_file():
        raise MissingError(f"'{source}' holds no '{MEASURED}/{RECORDS}'; name a folder that 'archive' wrote.")
    store = Store(runs)
    stages, texts = _records(folder / RECORDS)
    wanted = [step for step, stage in stages.items() if not store.done(stage, step)]
    making = {step: store.begin(stages[step], step) for step in wanted}
    try:
        for step in wanted:
            for file, text in texts[step].items():
                if file != DONE:
                    write_bytes(making[step] / file, text.encode())
        for path in sorted(folder.glob("*.parquet")):
            if path.name != RECORDS:
                _spread(path, making)
        for step in wanted:
            store.finish(making[step], stages[step], step, json.loads(texts[step][DONE]), measured_only=True)
    finally:
        for temporary in making.values():
            shutil.rmtree(temporary, ignore_errors=True)
    _copy_tables(source, runs / source.name)
    return Restored(len(stages), len(wanted))


def _pack(steps: Sequence[tuple[str, str]], store: Store, out: Path) -> None:
    """Stack the files of all steps, those of one name and one set of columns in one table."""
    records: list[dict[str, str]] = []
    tables: dict[tuple[str, tuple[tuple[str, str], ...]], list[pl.DataFrame]] = {}
    for stage, step in steps:
        for path in sorted(store.folder(stage, step).iterdir()):
            if path.name in STEP_FILES_LEFT or path.name == store.MEASURED_ONLY:
                continue
            if path.suffix == ".json":
                text = json.dumps(read_json(path), ensure_ascii=False, separators=(",", ":"))
                records.append({"step": step, "stage": stage, "file": path.name, "text": text})
            elif path.suffix == ".parquet":
                frame = read_parquet(path)
                kind = (path.stem, tuple((name, str(dtype)) for name, dtype in frame.schema.items()))
                tables.setdefault(kind, []).append(frame.select(pl.lit(step).alias("step"), pl.all()))
    with disk(out):
        out.mkdir(parents=True)
    write_parquet(pl.DataFrame(records, schema=RECORD), out / RECORDS)
    numbers: dict[str, int] = {}
    for (stem, _), frames in tables.items():
        numbers[stem] = numbers.get(stem, 0) + 1
        write_parquet(pl.concat(frames), out / f"{stem}-{numbers[stem]}.parquet")


def _records(path: Path) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Stages and JSON texts by step. Raises RunError for what is no plain name, or without a done.json."""
    stages: dict[str, str] = {}
    texts: dict[str, dict[str, str]] = {}
    for row in _rows(path):
        step, stage, file = (str(row.get(key)) for key in ("step", "stage", "file"))
        name = PurePosixPath(file)
        if not (_ID.match(step) and _PART.match(stage) and _PART.match(name.stem) and name.suffix == ".json"):
            raise RunError(f"{path} names a step or a file that no run writes ('{step}', '{file}').")
        stages[step] = stage
        texts.setdefault(step, {})[file] = str(row["text"])
    for step, files in texts.items():
        try:
            complete = json.loads(files[DONE])["id"] == step
        except (KeyError, ValueError, TypeError):
            complete = False
        if not complete:
            raise RunError(f"{path} does not say what the step {step} was; restore from an undamaged archive.")
    return stages, texts


def _rows(path: Path) -> Iterable[dict[str, Any]]:
    frame = read_parquet(path)
    if set(frame.columns) != set(RECORD):
        raise RunError(f"{path} has the columns {', '.join(frame.columns)}; expected {', '.join(RECORD)}.")
    return frame.iter_rows(named=True)


def _spread(path: Path, making: dict[str, Path]) -> None:
    """Write the rows of each step that is being made to its own file, as the step had written it."""
    stem = path.stem.rpartition("-")[0]
    frame = read_parquet(path)
    if "step" not in frame.columns or not _PART.match(stem):
        raise RunError(f"{path} is not a table of an archive; restore from an undamaged one.")
    for (step,), rows in frame.group_by("step", maintain_order=True):
        if str(step) in making:
            write_parquet(rows.drop("step"), making[str(step)] / f"{stem}.parquet")


def _copy_tables(source: Path, run: Path) -> None:
    """Make the run folder, where there is none, from the archive's files, with a list of its steps."""
    if run.exists():
        return
    with disk(run):
        run.mkdir(parents=True)
    frame = read_parquet(source / MEASURED / RECORDS).filter(pl.col("file") == DONE)
    write_json(
        run / STEPS,
        [{"stage": r["stage"], "id": r["step"], "label": r["stage"]} for r in frame.iter_rows(named=True)],
    )
    with disk(run):
        files = [path for path in sorted(source.iterdir()) if path.is_file()]
        for path in sorted(files, key=lambda path: path.name == MANIFEST):  # last: it says "finished"
            shutil.copyfile(path, run / path.name)
