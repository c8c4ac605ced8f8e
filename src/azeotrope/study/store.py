"""Where results live: content-addressed steps shared by all runs of a root, and one folder per run.

```
<runs>/steps/<stage>/<id>/   parquet and json files of one step, and done.json
<runs>/steps/.tmp/           steps in the making; leftovers of killed runs are removed
<runs>/<name>/               study.yaml, the result tables, manifest.json (written last)
```
A step is written in `.tmp`, synced, and renamed: a folder under `steps/<stage>` with a `done.json` is done. One
that was restored from an archive holds what was measured, but not the texts (`Store.whole`).
"""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import polars as pl

from azeotrope.core.errors import AzeotropeError, RunError

DONE = "done.json"
LOCK = ".lock"
READ = "read"  # in done.json: the texts that a step read (`making`)


class Store:
    """The step store under a runs root."""

    MEASURED_ONLY = "measured_only"  # a file in the folder of a step without its texts

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.steps = self.root / "steps"

    def folder(self, stage: str, step_id: str) -> Path:
        """Return where the finished step lives."""
        return self.steps / stage / step_id

    def done(self, stage: str, step_id: str) -> bool:
        """Whether the step is finished (its folder has a done.json)."""
        return (self.folder(stage, step_id) / DONE).is_file()

    def whole(self, stage: str, step_id: str) -> bool:
        """Whether the step is finished and its texts are here, for steps that read them."""
        return self.done(stage, step_id) and not (self.folder(stage, step_id) / self.MEASURED_ONLY).exists()

    def begin(self, stage: str, step_id: str) -> Path:
        """Return a new, empty temporary folder for a step; its name ends in the process id."""
        folder = self.steps / ".tmp" / f"{stage}-{step_id}.{os.getpid()}"
        with disk(folder):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        return folder

    def finish(
        self, temporary: Path, stage: str, step_id: str, record: Mapping[str, Any], *, measured_only: bool = False
    ) -> None:
        """Write done.json, sync everything, and move the folder to its place.

        An unfinished folder in the way is replaced, and so is one without its texts, or one that read other texts
        (`making`). If another process finished the same step first, its result stays (the two are equal by
        construction) and ours is dropped.
        """
        final = self.folder(stage, step_id)
        with disk(final):
            if measured_only:
                (temporary / self.MEASURED_ONLY).touch()
            write_json(temporary / DONE, record)
            for path in sorted(temporary.rglob("*")):
                if path.is_file():
                    _sync(path)
            final.parent.mkdir(parents=True, exist_ok=True)
            if final.exists() and not self._stays(stage, step_id, record, measured_only):
                shutil.rmtree(final)
            try:
                os.rename(temporary, final)
            except OSError:
                if not self.done(stage, step_id):
                    raise
                shutil.rmtree(temporary, ignore_errors=True)
            _sync_folder(final.parent)

    def _stays(self, stage: str, step_id: str, record: Mapping[str, Any], measured_only: bool) -> bool:
        """Whether what is stored of a step is worth as much as what would replace it."""
        if not self.whole(stage, step_id):
            return False
        return measured_only or self.record(stage, step_id).get(READ) == record.get(READ)

    def clean(self) -> None:
        """Remove temporary folders whose process is gone."""
        for folder in (self.steps / ".tmp").glob("*.*"):
            owner = folder.name.rpartition(".")[2]
            if owner.isdigit() and not _alive(int(owner)):
                shutil.rmtree(folder, ignore_errors=True)

    def discard(self, pid: int) -> None:
        """Remove the temporary folders of one process, which must have ended."""
        for folder in (self.steps / ".tmp").glob(f"*.{pid}"):
            shutil.rmtree(folder, ignore_errors=True)

    def record(self, stage: str, step_id: str) -> dict[str, Any]:
        """Return the done.json of a finished step. Raises RunError if it cannot be read."""
        return dict(read_json(self.folder(stage, step_id) / DONE))

    def records(self, stage: str) -> list[dict[str, Any]]:
        """Return the done.json of every finished step of a stage (unreadable ones are skipped)."""
        found = []
        for path in sorted((self.steps / stage).glob(f"*/{DONE}")):
            with suppress(OSError, ValueError):
                found.append(dict(json.loads(path.read_text(encoding="utf-8"))))
        return found


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the run folder for this process; released by the operating system however the process ends.

    Raises RunError if another process holds it.
    """
    with disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = open(folder / LOCK, "a+", encoding="utf-8")  # noqa: SIM115
    with handle:
        if not _try_lock(handle):
            handle.seek(0)
            owner = handle.read().strip()
            raise RunError(
                f"The run {folder} is in use by another process{f' ({owner})' if owner else ''}; "
                "wait for it, stop it, or give this study another name."
            )
        handle.truncate(0)
        handle.write(f"pid {os.getpid()}")
        handle.flush()
        yield


@contextmanager
def disk(where: Path) -> Iterator[None]:
    """Turn file-system trouble into a RunError that says what to do."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, where) from error


def disk_error(error: OSError, where: Path) -> AzeotropeError:
    """Return the sentence for an OSError while writing at `where`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RunError(f"The disk is full at {where}; free space and run again (finished steps are kept).")
    reason = error.strerror or str(error) or type(error).__name__
    return RunError(f"Cannot write {where} ({reason}); check the path and its permissions.")


def write_parquet(frame: pl.DataFrame, path: Path) -> None:
    """Write a table atomically; the same table always gives the same bytes. Raises RunError."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd")
    write_bytes(path, buffer.getvalue())


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically. Raises RunError."""
    write_bytes(path, (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file or nothing: temporary file, sync, rename. Raises RunError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with disk(path):
            with open(temporary, "wb") as handle:
                handle.write(data)
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink()


def read_parquet(path: Path) -> pl.DataFrame:
    """Read a step's table. Raises RunError naming the folder to delete if it is missing or corrupt."""
    try:
        return pl.read_parquet(path.read_bytes())
    except (OSError, pl.exceptions.PolarsError) as error:
        raise _corrupt(path, error) from None
    except BaseException as error:  # polars panics on some damaged files
        if type(error).__name__ != "PanicException":
            raise
        raise _corrupt(path, error) from None


def read_json(path: Path) -> Any:
    """Read a step's JSON file. Raises RunError naming the folder to delete if it is missing or corrupt."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _corrupt(path, error) from None


def _corrupt(path: Path, error: BaseException) -> RunError:
    what = "is missing" if isinstance(error, FileNotFoundError) else "is damaged or truncated"
    return RunError(f"{path} {what}; delete the folder {path.parent} and run again to redo that step.")


def _sync(path: Path) -> None:
    with open(path, "rb") as handle, suppress(OSError):
        os.fsync(handle.fileno())


def _sync_folder(path: Path) -> None:
    with suppress(OSError):  # not possible on every platform
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _try_lock(handle: Any) -> bool:
    try:
        if os.name == "nt":  # pragma: no cover
            import msvcrt

            handle.seek(0)
            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
