"""What a plan will cost and what is stored already: the dry run."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from azeotrope.models.endpoint_settings import is_endpoint
from azeotrope.study.plan import Plan, Step, remaining
from azeotrope.study.specs import STAGES, Spec
from azeotrope.study.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the dry run: the steps of a stage on one task and arm (or attack), over draws."""

    stage: str
    task: str
    arm: str
    attack: str
    student: str
    steps: int
    cached: int
    cells: int
    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What running a plan would do; `seconds` and `tokens` count only what is not stored yet.

    `seconds` per line is worker time, `wall_seconds` the total divided by the number of workers. `measured`
    names the stages whose estimate is scaled by the timings of stored steps; the others are heuristics.
    `requests` is how many a teacher behind an endpoint would still be sent, `cost` the most they can cost
    (currency units; None without prices), and `asking` says both.
    """

    name: str
    lines: tuple[Line, ...]
    steps: int
    cached: int
    cells: int
    tokens: int
    wall_seconds: float
    workers: int
    measured: tuple[str, ...]
    requests: int = 0
    cost: float | None = None
    asking: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for `--json`."""
        return asdict(self)

    def table(self) -> Table:
        """Return the table that `run --dry-run` prints."""
        table = Table(
            title=f"Study {self.name}", title_justify="left", caption=self.summary, caption_justify="left"
        )
        for name in ("stage", "task", "arm", "attack", "student"):
            table.add_column(name)
        for name in ("steps", "stored", "cells", "tokens to do", "time to do"):
            table.add_column(name, justify="right")
        for line in self.lines:
            table.add_row(
                line.stage,
                line.task,
                line.arm,
                line.attack,
                line.student,
                str(line.steps),
                str(line.cached),
                str(line.cells),
                f"{line.tokens:,}",
                duration(line.seconds),
            )
        return table

    @property
    def summary(self) -> str:
        """One sentence: steps, cells, tokens and time; with an endpoint, another one about requests."""
        basis = f"the timings of stored {', '.join(self.measured)} steps" if self.measured else "heuristics"
        told = (
            f"{self.steps} steps ({self.cached} stored), {self.cells} cells, {self.tokens:,} tokens "
            f"to do, about {duration(self.wall_seconds)} on {max(1, self.workers)} worker(s) by {basis}."
        )
        return f"{told} {self.asking}".strip()


def forecast(plan: Plan, store: Store, workers: int = 1) -> Forecast:
    """Summarize what a plan will cost and what is stored already."""
    rates = {stage: stage_rate(store, stage) for stage in STAGES}
    groups: dict[tuple[str, ...], list[Step]] = {}
    for step in plan.work:
        groups.setdefault((step.stage, step.task, step.arm, step.attack, step.student), []).append(step)
    left = {step.id for step in remaining(plan.work, store)}
    lines, missing = [], []
    for (stage, task, arm, attack, student), steps in groups.items():
        todo = [step for step in steps if step.id in left]
        missing += [step.spec for step in todo]
        lines.append(
            Line(
                stage=stage,
                task=task,
                arm=arm,
                attack=attack,
                student=student,
                steps=len(steps),
                cached=len(steps) - len(todo),
                cells=sum(step.cells for step in steps),
                tokens=sum(step.estimate["tokens"] for step in todo),
                seconds=(rates[stage] or 1.0) * sum(step.estimate["seconds"] for step in todo),
            )
        )
    return Forecast(
        name=plan.study.name,
        lines=tuple(lines),
        steps=len(plan.work),
        cached=sum(line.cached for line in lines),
        cells=sum(line.cells for line in lines),
        tokens=sum(line.tokens for line in lines),
        workers=workers,
        wall_seconds=sum(line.seconds for line in lines) / max(1, workers),
        measured=tuple(stage for stage in STAGES if rates[stage]),
        **_asking(plan, missing),
    )


def _asking(plan: Plan, specs: Sequence[Spec]) -> dict[str, Any]:
    """What the steps to do would ask of a teacher behind an endpoint, and of writers that attacks hire."""
    hiring = any(attack.settings.get("writer") for attack in plan.expansion.attacks)
    if not hiring and not is_endpoint(plan.study.teacher):
        return {}
    from azeotrope.study.asking import quote, writers  # imports torch

    sentences = writers(specs) if hiring else []
    if not is_endpoint(plan.study.teacher):
        return {"asking": " ".join(sentences)}
    found = quote(plan.study.teacher, specs)
    return {"requests": found.requests, "cost": found.cost, "asking": " ".join([found.sentence, *sentences])}


def stage_rate(store: Store, stage: str) -> float | None:
    """Return the median of measured over heuristic seconds of the stored steps; None without any."""
    ratios = [
        record["seconds"] / record["estimate"]["seconds"]
        for record in store.records(stage)
        if record.get("seconds") and record.get("estimate", {}).get("seconds")
    ]
    return statistics.median(ratios) if ratios else None


def duration(seconds: float) -> str:
    """Return a length of time as people say it: `40 s`, `12 min`, `3.5 h`.

    >>> duration(40), duration(720), duration(12600)
    ('40 s', '12 min', '3.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
