"""Reconstructing the reasoning from question and answer.

Source: arXiv 2603.07267 (an inversion model trained on other traces supplies the hidden ones).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import ClassVar, Literal

from pydantic import Field

from azeotrope.attacks.adaptive import AdaptiveSFT, Lessons, write
from azeotrope.attacks.base import AttackRun
from azeotrope.attacks.self_generated import SelfGenerated
from azeotrope.core.budget import Budget
from azeotrope.core.seeds import derive
from azeotrope.core.types import THINK_CLOSE, Paper, Problem, Trace, split_answer
from azeotrope.models.lm import LM
from azeotrope.tasks.base import Task


class TraceInversion(AdaptiveSFT):
    """Train a copy of the base to write the reasoning given question and answer; train on what it writes.

    The inverter learns from undefended traces of a share of the problems (`source: leak`) or from the base's
    own traces that reach the released answers (`source: self`). Of `samples` reconstructions of a problem the
    first is kept that comes to its end and to the released answer; problems without one are left out.
    """

    kind: ClassVar[str] = "trace_inversion"
    version: ClassVar[int] = 2  # 1: one reconstruction, wherever it led
    summary: ClassVar[str] = "reconstruct the reasoning from question and answer, then fine-tune"
    paper: ClassVar[Paper | None] = Paper(id="2603.07267", title="Trace inversion", equations=())

    source: Literal["leak", "self"] = Field(default="self", description="what the inverter learns from")
    share: float = Field(default=0.1, gt=0, le=1, description="share of problems leaked, for source=leak")
    temperature: float = Field(default=0.6, ge=0, description="temperature of the reconstruction")
    samples: int = Field(default=4, ge=1, description="reconstructions of a problem")

    @property
    def budget(self) -> Budget:
        """With `source: leak` at least one trace must have leaked, whatever the share."""
        return Budget(leaks=self.share if self.source == "leak" else 0.0)

    def prepare(self, lm: LM, traces: Sequence[Trace], run: AttackRun) -> Lessons:
        """Train the inverter and let it write every trace."""
        task = run.need_task(self.kind)
        known, tokens = self._known(lm, traces, run)
        if not known:
            return Lessons((), notes={"known": 0}, own_tokens=tokens)
        inverter = self.pupil(lm, [_inverted(trace) for trace in known], run, self.sft.epochs)
        asked = [(p, t) for p, t in zip(run.problems, traces, strict=True) if split_answer(t.text)[1].strip()]
        kept: dict[int, Trace] = {}
        for k in range(self.samples):
            left = [i for i in range(len(asked)) if i not in kept]
            if not left:
                break
            posed = [replace(asked[i][0], prompt=_question(asked[i][1])) for i in left]
            written = write(inverter, task, posed, self.temperature, derive(run.seed, "invert", k))
            tokens += sum(own.n_tokens for own in written)
            for i, own in zip(left, written, strict=True):
                problem, trace = asked[i]
                if own.finished and _agrees(task, problem, own, trace):
                    text = split_answer(own.text)[0] + split_answer(trace.text)[1]
                    kept[i] = replace(own, prompt=problem.prompt, text=text, token_ids=None, n_tokens=0)
        lessons = [kept[i] for i in sorted(kept)]
        return Lessons(lessons, notes={"known": len(known), "asked": len(asked)}, own_tokens=tokens)

    def _known(self, lm: LM, traces: Sequence[Trace], run: AttackRun) -> tuple[Sequence[Trace], int]:
        if self.source == "self":
            found = SelfGenerated(rounds=1, sft=self.sft).prepare(lm, traces, run)
            return found.traces, found.own_tokens
        rng, n = Random(derive(run.seed, "known")), max(1, round(self.share * len(traces)))
        chosen = rng.sample(range(len(traces)), n)
        service = run.need_service(self.kind)
        return service.leak([run.problems[i] for i in chosen], seed=derive(run.seed, "leak")), 0


def _agrees(task: Task, problem: Problem, own: Trace, trace: Trace) -> bool:
    """Whether a reconstruction has reasoned, and to the released answer."""
    found, released = (task.grade(problem, one.text).answer for one in (own, trace))
    return THINK_CLOSE in own.text and found is not None and found == released


def _question(trace: Trace) -> str:
    return f"{trace.prompt}{split_answer(trace.text)[1]}\nWhy?"


def _inverted(trace: Trace) -> Trace:
    return replace(trace, prompt=_question(trace), token_ids=None)
