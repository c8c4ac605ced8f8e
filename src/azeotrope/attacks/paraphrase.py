"""Rewriting every trace in the student's own words before training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import ClassVar

from pydantic import Field

from azeotrope.attacks.adaptive import AdaptiveSFT, Lessons, write
from azeotrope.attacks.base import AttackRun
from azeotrope.core.seeds import derive
from azeotrope.core.types import Trace
from azeotrope.models.lm import LM


class Paraphrase(AdaptiveSFT):
    """A copy of the base learns to restore traces from drafts with missing words, and rewrites each of them.

    Quirks of single tokens that the writer finds unlikely do not survive; what the sentences say mostly
    does. A rewriting counts only if it ends and keeps the answer; otherwise the original stays. The writer
    learns from the release itself: no query, no other model.
    """

    kind: ClassVar[str] = "paraphrase"
    summary: ClassVar[str] = "rewrite every trace with the student's own model, then fine-tune"

    missing: float = Field(default=0.3, ge=0, lt=1, description="share of words missing from a draft")
    epochs: int = Field(default=2, ge=1, description="epochs of the writer's training")
    temperature: float = Field(default=0.6, ge=0, description="temperature of the rewriting")

    def prepare(self, lm: LM, traces: Sequence[Trace], run: AttackRun) -> Lessons:
        """Train the writer, rewrite, and keep what still has the answer."""
        task = run.need_task(self.kind)
        pairs = [replace(t, prompt=self._draft(t, run, "train"), token_ids=None) for t in traces]
        writer = self.pupil(lm, pairs, run, self.epochs)
        posed = [
            replace(p, prompt=self._draft(t, run, "write")) for p, t in zip(run.problems, traces, strict=True)
        ]
        written = write(writer, task, posed, self.temperature, derive(run.seed, "paraphrase"))
        lessons, changed = [], 0
        for problem, trace, own in zip(run.problems, traces, written, strict=True):
            same = task.grade(problem, own.text).answer == task.grade(problem, trace.text).answer
            keep = own.finished and same
            changed += keep and own.text != trace.text
            lessons.append(replace(own, prompt=trace.prompt, token_ids=None) if keep else trace)
        return Lessons(lessons, notes={"rewritten": changed}, own_tokens=sum(t.n_tokens for t in written))

    def _draft(self, trace: Trace, run: AttackRun, stream: str) -> str:
        rng = Random(derive(run.seed, stream, trace.problem_id))
        words = [word for word in trace.text.split() if rng.random() >= self.missing]
        return f"{trace.prompt} {' '.join(words)}\nAgain:"
