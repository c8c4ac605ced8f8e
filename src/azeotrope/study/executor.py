"""Running a graph of steps on local processes.

Each worker is a fresh ("spawn") process with its own number of threads, set in its environment before it
imports anything numerical. One step is sent at a time; a step is sent when everything it needs is stored.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from azeotrope.core.errors import RunError
from azeotrope.study.allocator import preloaded
from azeotrope.study.plan import Step, remaining
from azeotrope.study.progress import Progress
from azeotrope.study.specs import Stages
from azeotrope.study.store import Store
from azeotrope.study.worker import Outcome, attempt, failure, worker_main

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "POLARS_MAX_THREADS",
    "RAYON_NUM_THREADS",
)
POLL_SECONDS = 0.5
PATIENCE_SECONDS = 2.0  # between asking a worker to stop and killing it


def execute(
    steps: Sequence[Step],
    stages: Stages,
    store: Store,
    *,
    workers: int = 1,
    threads: int = 1,
    progress: Progress,
    folder: Path | None = None,
) -> None:
    """Do every step that is not stored yet, in an order that respects `needs`.

    `workers` = 0 runs in this process. The first failure stops the run: it is raised as a one-sentence error
    naming the step (its trace goes to `folder`/error.txt), and finished steps stay. KeyboardInterrupt passes
    through after the workers have stopped.
    """
    todo = remaining(steps, store)
    if not todo:
        return
    if workers <= 0:
        for step in todo:
            progress.started(step)
            outcome = attempt(step, stages, store)
            if outcome.error:
                raise failure(step, outcome, folder)
            progress.finished(step, outcome.seconds)
        return
    pool = Pool(stages, store, progress, folder)
    try:
        pool.start(min(workers, len(todo)), threads)
        pool.run(todo)
    finally:
        with _no_interrupts():
            pool.stop()


@dataclass(slots=True)
class Worker:
    """A worker process, our end of its pipe, and the step it is doing."""

    process: SpawnProcess
    pipe: Connection
    step: Step | None = None


class Pool:
    """A fixed set of worker processes fed from one queue."""

    def __init__(self, stages: Stages, store: Store, progress: Progress, folder: Path | None) -> None:
        self.stages, self.store, self.progress, self.folder = stages, store, progress, folder
        self.workers: list[Worker] = []

    def start(self, count: int, threads: int) -> None:
        """Start the worker processes; they never see Ctrl-C."""
        context = multiprocessing.get_context("spawn")
        for number in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=worker_main,
                args=(theirs, self.stages, self.store.root),
                name=f"azeotrope-{number}",
                daemon=False,
            )
            with _environment(threads), _no_interrupts():
                process.start()
                self.workers.append(Worker(process, ours))
            theirs.close()

    def run(self, todo: Sequence[Step]) -> None:
        """Hand out steps until all are stored. Raises the first failure."""
        waiting = list(todo)
        pending = {step.id for step in todo}
        while pending:
            for worker in self.workers:
                ready = next((s for s in waiting if pending.isdisjoint(s.needs)), None)
                if worker.step is None and ready is not None:
                    waiting.remove(ready)
                    self.send(worker, ready)
            if not any(worker.step for worker in self.workers):
                raise RunError(f"The steps wait for each other in a circle, first '{waiting[0].label}'.")
            for worker, outcome in self.results():
                step = worker.step
                if step is None:
                    continue
                if outcome.error:
                    raise failure(step, outcome, self.folder)
                worker.step = None
                pending.discard(step.id)
                self.progress.finished(step, outcome.seconds)

    def send(self, worker: Worker, step: Step) -> None:
        """Give an idle worker a step."""
        worker.step = step
        self.progress.started(step)
        with suppress(OSError):  # a dead worker is reported by results()
            worker.pipe.send(step)

    def results(self) -> Iterator[tuple[Worker, Outcome]]:
        """Wait a moment and yield what the workers report; a dead one yields a failure."""
        busy = [worker for worker in self.workers if worker.step is not None]
        wait([*(w.pipe for w in busy), *(w.process.sentinel for w in busy)], timeout=POLL_SECONDS)
        self.progress.refresh()
        for worker in busy:
            assert worker.step is not None
            try:
                if worker.pipe.poll():
                    yield worker, worker.pipe.recv()
                elif not worker.process.is_alive():
                    raise EOFError
            except (EOFError, OSError):
                worker.process.join(PATIENCE_SECONDS)
                yield (
                    worker,
                    Outcome(
                        step_id=worker.step.id,
                        exit_code=RunError.exit_code,
                        error=_obituary(worker.process.exitcode),
                    ),
                )

    def stop(self) -> None:
        """End the workers: idle ones by closing their pipe, busy ones by force, and drop unfinished steps."""
        for worker in self.workers:
            with suppress(OSError):
                worker.pipe.close()
            if worker.step is not None:
                worker.process.terminate()
        for worker in self.workers:
            worker.process.join(PATIENCE_SECONDS)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            if worker.process.pid is not None:
                self.store.discard(worker.process.pid)
        self.workers = []


def _obituary(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
        hint = ", probably because memory ran out; use fewer workers" if name == "SIGKILL" else ""
        return f"its worker process was killed by {name}{hint} (finished steps are kept)."
    return f"its worker process ended unexpectedly with exit code {code} (finished steps are kept)."


@contextmanager
def _environment(threads: int) -> Iterator[None]:
    """Set the thread counts and the allocator that a child inherits, and restore ours."""
    wanted = {**dict.fromkeys(THREAD_VARIABLES, str(max(1, threads))), "TOKENIZERS_PARALLELISM": "false"}
    library = preloaded()
    if library is not None:
        wanted["LD_PRELOAD"] = library
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Ignore Ctrl-C for a moment (children started meanwhile inherit that)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
