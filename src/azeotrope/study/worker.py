"""Doing one step, in this process or in a worker process."""

from __future__ import annotations

import errno
import gc
import os
import shutil
import signal
import threading
import time
import traceback
from dataclasses import dataclass
from multiprocessing import connection, parent_process
from multiprocessing.connection import Connection
from pathlib import Path

from azeotrope.core.errors import AzeotropeError, ConfigError, MissingError, RunError
from azeotrope.study.making import making
from azeotrope.study.origin import origin, place
from azeotrope.study.plan import Step
from azeotrope.study.specs import RELEASE, AttackSpec, DetectSpec, ReleaseSpec, Stages
from azeotrope.study.store import Store, disk_error, write_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a step: `seconds` of wall time, or a one-sentence `error` with its exit code."""

    step_id: str
    seconds: float = 0.0
    error: str = ""
    exit_code: int = 0
    trace: str = ""


def run_step(step: Step, stages: Stages, store: Store) -> float:
    """Do one step and store it; return its wall seconds. Nothing of a failed step is kept."""
    temporary = store.begin(step.stage, step.id)
    try:
        place()
        start = time.perf_counter()
        _dispatch(step, stages, store, temporary)
        seconds = time.perf_counter() - start
        record = {
            "id": step.id,
            "stage": step.stage,
            "seconds": round(seconds, 3),
            "cells": step.cells,
            "estimate": dict(step.estimate),
            "identity": step.identity,
            "made": origin(),
            **making(store, temporary, step.needs),
        }
        store.finish(temporary, step.stage, step.id, record)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return seconds


def attempt(step: Step, stages: Stages, store: Store) -> Outcome:
    """As `run_step`, with every exception (but not Ctrl-C) turned into an outcome."""
    try:
        return Outcome(step_id=step.id, seconds=run_step(step, stages, store))
    except AzeotropeError as error:
        return Outcome(step_id=step.id, error=str(error), exit_code=error.exit_code)
    except MemoryError:
        return Outcome(
            step_id=step.id,
            exit_code=RunError.exit_code,
            error="it ran out of memory; use fewer workers or smaller batches.",
        )
    except Exception as error:
        full = _disk_full(error, store.root)
        if full:
            return Outcome(step_id=step.id, error=str(full), exit_code=full.exit_code)
        first = (str(error).strip().splitlines() or ["no message"])[0]
        return Outcome(
            step_id=step.id,
            error=f"{type(error).__name__}: {first}",
            exit_code=RunError.exit_code,
            trace=traceback.format_exc(),
        )


def failure(step: Step, outcome: Outcome, folder: Path | None) -> AzeotropeError:
    """Return the error to raise for a failed step; an unexpected one leaves its trace in error.txt."""
    kinds = {kind.exit_code: kind for kind in (ConfigError, MissingError, RunError)}
    kind = kinds.get(outcome.exit_code, RunError)
    if outcome.trace and folder is not None:
        write_bytes(folder / "error.txt", outcome.trace.encode())
        return kind(
            f"The step '{step.label}' failed: {outcome.error} (details in {folder / 'error.txt'}; "
            "finished steps are kept)."
        )
    return kind(f"The step '{step.label}' failed: {outcome.error}")


def worker_main(pipe: Connection, stages: Stages, root: Path) -> None:
    """The life of a worker process: take steps from the pipe until it closes.

    Ctrl-C is the parent's to handle. If the parent is killed, the worker ends at once: two generations of
    workers must not share the machine.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()
    store = Store(root)
    place()  # before the code on the disk can have changed
    while True:
        try:
            step: Step | None = pipe.recv()
        except EOFError:
            return
        if step is None:
            return
        pipe.send(attempt(step, stages, store))
        if gc.get_freeze_count() == 0:  # what the first step imported stays; looking through it again costs 6 %
            gc.collect()
            gc.freeze()


def _dispatch(step: Step, stages: Stages, store: Store, out: Path) -> None:
    if isinstance(step.spec, ReleaseSpec):
        stages.release(step.spec, out)
    elif isinstance(step.spec, AttackSpec):
        stages.attack(step.spec, store.folder(RELEASE, step.needs[0]), out)
    elif isinstance(step.spec, DetectSpec):
        stages.detect(step.spec, store.folder(RELEASE, step.needs[0]), store.folder(RELEASE, step.needs[-1]), out)
    else:
        stages.undistilled(step.spec, out)


def _disk_full(error: BaseException, where: Path) -> AzeotropeError | None:
    """Whether an error, or one of its causes, is the disk's; libraries wrap it or only mention it."""
    chain: BaseException | None = error
    while chain is not None:
        full = isinstance(chain, OSError) and chain.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or "No space left on device" in str(chain):
            return disk_error(OSError(errno.ENOSPC, ""), where)
        chain = chain.__cause__ or chain.__context__
    return None


def _follow_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
