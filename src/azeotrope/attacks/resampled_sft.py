"""Asking more often than needed and keeping the best: the query budget Q exceeds the data budget D.

Source: arXiv 2606.25059 (Q = 1.5–4 D with best-of-k resampling).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from azeotrope.attacks.adaptive import AdaptiveSFT, Lessons
from azeotrope.attacks.base import AttackRun, Service
from azeotrope.core.budget import Budget
from azeotrope.core.seeds import derive
from azeotrope.core.types import Paper, Problem, Trace
from azeotrope.models.lm import LM
from azeotrope.models.scoring import trace_nll
from azeotrope.tasks.base import Task

Check = Literal["gold", "majority", "none"]


class ResampledSFT(AdaptiveSFT):
    """Ask every problem `queries` times in all, keep the best trace of each, then fine-tune.

    Best is: right by the answer check first, most likely under a judge second. `check: majority` compares
    with the most frequent answer of the problem's own samples; `gold` assumes that the thief knows the
    answers; `none` goes by likelihood alone. The judge is a copy of the base trained for an epoch on the
    release: never the teacher, never a proxy. Having read the released traces, it prefers them a little to fresh
    ones that pass the same check. With `greedy` the likeliest text is asked for in every further round: the
    answers then differ only where the defense treats requests apart (`drawn_map`, several maps of `cmi`), and the
    majority is aimed at just that.
    """

    kind: ClassVar[str] = "resampled_sft"
    summary: ClassVar[str] = "ask several times, keep the best trace of each problem, then fine-tune"
    paper: ClassVar[Paper | None] = Paper(
        id="2606.25059", title="What Does It Mean to Break a Distillation Defense?", equations=()
    )

    queries: int = Field(default=3, ge=1, description="completions asked per problem, the release included")
    check: Check = Field(default="majority", description="how the thief recognizes a right answer")
    greedy: bool = Field(default=False, description="ask for the likeliest text in the further rounds")

    def identity(self) -> dict[str, Any]:
        """As everywhere; `greedy` counts where it is set, so that steps stored before it was there are found."""
        told = super().identity()
        if not self.greedy:
            del told["greedy"]
        return told

    @property
    def budget(self) -> Budget:
        """The release is the first of the completions; one of each problem is kept."""
        return Budget(queries=self.queries - 1)

    def prepare(self, lm: LM, traces: Sequence[Trace], run: AttackRun) -> Lessons:
        """Ask `queries` − 1 more times and choose."""
        task = run.need_task(self.kind)
        rounds = ask_again(run.need_service(self.kind), traces, run, self.queries, greedy=self.greedy)
        judge = self.pupil(lm, traces, run, epochs=1)
        scores = [trace_nll(judge, samples) for samples in rounds]
        chosen, right = [], 0
        for i, problem in enumerate(run.problems):
            samples = [samples[i] for samples in rounds]
            good = judged(task, problem, samples, self.check)
            best = min(range(len(samples)), key=lambda k, i=i, good=good: (not good[k], scores[k][i]))  # type: ignore[misc]
            chosen.append(samples[best])
            right += good[best]
        return Lessons(chosen, notes={"passed_the_check": right})


def ask_again(
    service: Service, traces: Sequence[Trace], run: AttackRun, queries: int, *, greedy: bool = False
) -> list[list[Trace]]:
    """The release and `queries` − 1 further completions of all its problems."""
    rounds = [list(traces)]
    for k in range(1, queries):
        rounds.append(service.ask(run.problems, seed=derive(run.seed, "resample", k), greedy=greedy))
    return rounds


def judged(task: Task, problem: Problem, samples: Sequence[Trace], check: Check) -> list[bool]:
    """Whether each sample passes the thief's answer check."""
    grades = [task.grade(problem, sample.text) for sample in samples]
    if check == "none":
        return [True] * len(samples)
    if check == "gold":
        return [grade.correct for grade in grades]
    counts = Counter(grade.answer for grade in grades if grade.answer is not None)
    top = counts.most_common(1)[0][0] if counts else None
    return [grade.answer is not None and grade.answer == top for grade in grades]
