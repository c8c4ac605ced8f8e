"""Rejection sampling by the student itself: no trace of the teacher is needed, only answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from azeotrope.attacks.adaptive import AdaptiveSFT, Lessons, write
from azeotrope.attacks.base import AttackRun
from azeotrope.core.seeds import derive
from azeotrope.core.types import Trace
from azeotrope.models.lm import LM


class SelfGenerated(AdaptiveSFT):
    """Sample the student's own traces, keep those that reach the released answer, train, and repeat.

    Uses the release for its answers alone. A problem is kept once a round (its first hit); later rounds
    sample from the student trained on the hits so far. Right answers by wrong reasoning slip in.
    """

    kind: ClassVar[str] = "self_generated"
    summary: ClassVar[str] = "train on the student's own traces that reach the released answers"

    rounds: int = Field(default=2, ge=1, description="rounds of sampling and training")
    samples: int = Field(default=4, ge=1, description="own completions per problem and round")
    temperature: float = Field(default=0.8, gt=0, description="temperature of the student's own traces")

    def prepare(self, lm: LM, traces: Sequence[Trace], run: AttackRun) -> Lessons:
        """Collect own traces with released answers; the last round's are the lessons."""
        task = run.need_task(self.kind)
        answers = [task.grade(p, t.text).answer for p, t in zip(run.problems, traces, strict=True)]
        writer, hits, tokens = lm, dict[str, Trace](), 0
        notes = []
        for turn in range(self.rounds):
            for k in range(self.samples):
                own = write(writer, task, run.problems, self.temperature, derive(run.seed, "own", turn, k))
                tokens += sum(t.n_tokens for t in own)
                for problem, answer, trace in zip(run.problems, answers, own, strict=True):
                    if answer is not None and task.grade(problem, trace.text).answer == answer and trace.finished:
                        hits.setdefault(problem.id, trace)
            notes.append(len(hits))
            if turn + 1 < self.rounds and hits:
                writer = self.pupil(lm, list(hits.values()), run, self.sft.epochs)
        return Lessons(list(hits.values()), notes={"hits_by_round": notes}, own_tokens=tokens)
