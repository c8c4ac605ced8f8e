"""What a run measured, without the texts it was measured on: small enough to commit, enough to decide and extend.

```
<archive>/                    the tables of the run folder, study.yaml, manifest.json
<archive>/measured/TABLE.parquet     the rows of one kind of file of all steps, with the step's id in front
<archive>/measured/records.parquet   the JSON files of all steps: step, stage, file, text
<out>/releases/STEP/         if asked for: a release's texts, and what was trained for it
```
A step that is restored counts as done; where a step that is not yet done needs its texts (an attack, those of its
release), it is done once more. If they come out otherwise (on another machine, where a map is trained), whatever
had read the former ones is done again as well; so keep the texts of what is to be continued.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import polars as pl

from azeotrope.core.errors import MissingError, RunError
from azeotrope.study.making import TEXTS, TRACES, texts_of
from azeotrope.study.run import MANIFEST, STEPS
from azeotrope.study.specs import RELEASE
from azeotrope.study.store import (
    DONE,
    READ,
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
RELEASES = "releases"
TEXT_FILES = (TRACES, "holdout.parquet", "resample.parquet", "fitted.safetensors")
TEXTS_BYTES = 4_000_000  # the most that is kept of one release: a dozen maps are left out
STEP_FILES_LEFT = frozenset({*TEXT_FILES, "diffs.json", "losses.parquet"})
RUN_FILES_LEFT = frozenset({"report.html", "diffs.json", "losses.parquet", ".lock", "error.txt", STEPS})
RECORD = pl.Schema({"step": pl.String, "stage": pl.String, "file": pl.String, "text": pl.String})
Record = Mapping[str, Any]
_PART = re.compile(r"[a-z][a-z_]{0,40}\Z")
_ID = re.compile(r"[0-9a-f]{8,64}\Z")


@dataclass(frozen=True, slots=True)
class Restored:
    """How many steps an archive holds, and how many of them were put into the store."""

    steps: int
    new: int


def archive(run: Path, out: Path, *, texts: bool = False) -> Path:
    """Write the archive of a run, or of a trial (its verdicts alone), as `out`/<name>; replace an old one.

    Of an unfinished run it holds the steps that are stored. With `texts`, releases are kept beside it, up to 4 MB
    each, unless the same texts are there already. Raises MissingError if `run` is none, RunError for a
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
        if texts:
            _keep([step for stage, step in sorted(listed) if stage == RELEASE], store, out / RELEASES)
    with disk(target):
        shutil.rmtree(target, ignore_errors=True)
        making.rename(target)
    return target


def restore(source: Path, runs: Path) -> Restored:
    """Put an archive's steps into the store of `runs`, and its tables into `runs`/<name>; what is there stays.

    Of a step that was itself restored, the archive's is taken where only that tells which texts it was, or read,
    and the store's releases have these: what was archived before texts were told of gives way.

    Raises MissingError if `source` holds no measurements, RunError if they are damaged.
    """
    folder = source / MEASURED
    if not (folder / RECORDS).is_file():
        raise MissingError(f"'{source}' holds no '{MEASURED}/{RECORDS}'; name a folder that 'archive' wrote.")
    store = Store(runs)
    stages, texts = _records(folder / RECORDS)
    records = {step: json.loads(files[DONE]) for step, files in texts.items()}
    kept = _kept(source.parent / RELEASES, stages, records)
    wanted = _wanted(store, stages, records, kept)
    making = {step: store.begin(stages[step], step) for step in wanted}
    try:
        for step in wanted:
            for path in kept.get(step, ()):
                with disk(making[step]):
                    shutil.copyfile(path, making[step] / path.name)
            for file, text in texts[step].items():
                if file != DONE:
                    write_bytes(making[step] / file, text.encode())
        for path in sorted(folder.glob("*.parquet")):
            if path.name != RECORDS:
                _spread(path, making)
        for step in wanted:
            store.finish(making[step], stages[step], step, records[step], measured_only=step not in kept)
    finally:
        for temporary in making.values():
            shutil.rmtree(temporary, ignore_errors=True)
    _copy_tables(source, runs / source.name, stages, records)
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


def _keep(releases: Sequence[str], store: Store, out: Path) -> None:
    """Copy the texts of releases that have them, each to a folder of its own."""
    for step in releases:
        if not store.whole(RELEASE, step) or TEXTS not in store.record(RELEASE, step):
            continue
        files = [path for path in (store.folder(RELEASE, step) / name for name in TEXT_FILES) if path.is_file()]
        same = (out / step).is_dir() and texts_of(out / step) == texts_of(store.folder(RELEASE, step))
        if same or sum(path.stat().st_size for path in files) > TEXTS_BYTES:
            continue
        making = out / f".{step}.tmp"
        with disk(making):
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir(parents=True)
            for path in files:
                shutil.copyfile(path, making / path.name)
            shutil.rmtree(out / step, ignore_errors=True)
            making.rename(out / step)


def _kept(folder: Path, stages: Mapping[str, str], records: Mapping[str, Record]) -> dict[str, list[Path]]:
    """The files of those releases whose kept texts are the ones that their record speaks of."""
    found = {}
    for step, stage in stages.items():
        told = records[step].get(TEXTS) if stage == RELEASE else None
        if told is not None and texts_of(folder / step) == told:
            found[step] = [path for path in (folder / step / name for name in TEXT_FILES) if path.is_file()]
    return found


def _wanted(
    store: Store, stages: Mapping[str, str], records: Mapping[str, Record], kept: Mapping[str, Sequence[Path]]
) -> list[str]:
    """The steps that are not stored, and those of which the archive has more than the store: releases first.

    Of a release, its texts, or which they were; of what reads one, that it read the very texts of the store.
    """
    releases = [
        step
        for step, stage in stages.items()
        if stage == RELEASE and (not store.done(stage, step) or _lacks(store, step, records[step], kept))
    ]
    told = {step: records[step].get(TEXTS) for step in releases}
    others = [
        step
        for step, stage in stages.items()
        if stage != RELEASE and (not store.done(stage, step) or _fits_better(store, stage, records[step], told))
    ]
    return releases + others


def _lacks(store: Store, step: str, record: Record, kept: Mapping[str, Sequence[Path]]) -> bool:
    """Whether a stored release lacks what the archive has: the texts, or their fingerprint."""
    if store.whole(RELEASE, step) or TEXTS not in record:
        return False
    own = store.record(RELEASE, step).get(TEXTS)
    return own is None or (own == record[TEXTS] and step in kept)


def _fits_better(store: Store, stage: str, record: Record, told: Mapping[str, str | None]) -> bool:
    """Whether the archived step read what the store's releases (then) hold, and the stored one is not known to."""
    if store.whole(stage, record["id"]):
        return False
    read, own = record.get(READ) or {}, store.record(stage, record["id"]).get(READ) or {}
    here = {need: store.record(RELEASE, need).get(TEXTS) for need in {*read, *own} if store.done(RELEASE, need)}
    now = {**here, **told}
    if own and all(now.get(need) == texts for need, texts in own.items()):
        return False
    return read.keys() >= own.keys() and bool(read) and all(now.get(n) == texts for n, texts in read.items())


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


def _copy_tables(source: Path, run: Path, stages: Mapping[str, str], records: Mapping[str, Record]) -> None:
    """Make the run folder, where there is none, from the archive's files, with a list of its steps."""
    if run.exists():
        return
    with disk(run):
        run.mkdir(parents=True)
    listed = [
        {"stage": stage, "id": step, "label": stage, "needs": list(records[step].get(READ) or ())}
        for step, stage in stages.items()
    ]
    write_json(run / STEPS, listed)
    with disk(run):
        files = [path for path in sorted(source.iterdir()) if path.is_file()]
        for path in sorted(files, key=lambda path: path.name == MANIFEST):  # last: it says "finished"
            shutil.copyfile(path, run / path.name)
