"""Progress of a run: a live line with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from azeotrope.study.forecast import duration
from azeotrope.study.plan import Step


class Progress:
    """Shows which steps run and how long is left.

    `expected` is the forecast worker time per step id in seconds. The time left is the forecast for what is
    not finished, scaled by how the finished steps compare with theirs, over the number of workers.
    """

    def __init__(
        self, steps: Sequence[Step], expected: Mapping[str, float], *, workers: int, console: Console
    ) -> None:
        self.expected = dict(expected)
        self.total = len(steps)
        self.finished_steps = 0
        self.workers = max(1, workers)
        self.console = console
        self.running: dict[str, tuple[Step, float]] = {}
        self.spent, self.foreseen = 0.0, 0.0
        self.bars = (
            Bars(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[left]}"),
                console=console,
                transient=True,
            )
            if console.is_terminal
            else None
        )
        self.task = self.bars.add_task("starting", total=self.total, left="") if self.bars else None

    def __enter__(self) -> Self:
        if self.bars:
            self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bars:
            self.bars.stop()

    def started(self, step: Step) -> None:
        """Note that a step has started."""
        self.running[step.id] = (step, time.monotonic())
        self.refresh()

    def finished(self, step: Step, seconds: float) -> None:
        """Note that a step is stored."""
        self.running.pop(step.id, None)
        self.finished_steps += 1
        self.spent += seconds
        self.foreseen += self.expected.pop(step.id, 0.0)
        text = f"[{self.finished_steps}/{self.total}] {step.label}: {duration(seconds)}"
        if self.bars:
            self.console.print(text, markup=False, highlight=False)
            self.refresh()
        else:
            left = f", about {duration(self.left())} left" if self.finished_steps < self.total else ""
            self.console.print(text + left, markup=False, highlight=False, soft_wrap=True)

    def left(self) -> float:
        """Return the expected seconds until the last step is stored."""
        now = time.monotonic()
        rate = self.spent / self.foreseen if self.spent and self.foreseen else 1.0
        waiting = 0.0
        for step_id, seconds in self.expected.items():
            begun = self.running.get(step_id)
            waiting += max(0.0, seconds * rate - (now - begun[1] if begun else 0.0))
        return waiting / min(self.workers, max(1, len(self.expected)))

    def refresh(self) -> None:
        """Redraw the live line."""
        if self.bars and self.task is not None:
            names = ", ".join(step.label for step, _ in self.running.values()) or "waiting"
            room = max(20, self.console.width - 70)
            shown = names if len(names) <= room else names[: room - 1] + "…"
            self.bars.update(
                self.task,
                completed=self.finished_steps,
                description=shown.replace("[", r"\["),
                left=f"{duration(self.left())} left",
            )
