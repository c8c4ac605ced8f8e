"""What adaptive attacks share: they change the training data first and then fine-tune as `sft` does."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import Field

from azeotrope.attacks.base import AttackRun, Outcome, Service, StudentAttack
from azeotrope.attacks.sft import SFT
from azeotrope.core.errors import ConfigError
from azeotrope.core.release import Release
from azeotrope.core.sampling import Sampling
from azeotrope.core.seeds import derive
from azeotrope.core.types import Problem, Trace
from azeotrope.models.lm import LM
from azeotrope.models.sample import generate
from azeotrope.tasks.base import Task


@dataclass(slots=True)
class Lessons:
    """What the student is taught: traces, a weight each (mean 1) or none, and notes for the record."""

    traces: Sequence[Trace]
    weights: Sequence[float] | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    own_tokens: int = 0


class AdaptiveSFT(StudentAttack):
    """Prepares lessons from the release for each base, then trains the base on them."""

    sft: SFT = Field(default=SFT(), description="how the student is trained in the end")

    def train(self, bases: Sequence[LM], release: Release, run: AttackRun) -> Outcome:
        """Prepare and train every base; see `StudentAttack.train`."""
        traces = release.view(self.needs, reader=f"The attack '{self.kind}'").traces
        outcome = Outcome(students=list(bases))
        before = _spent(run.service)
        notes: list[dict[str, Any]] = []
        if run.problems and len(run.problems) != len(traces):
            raise ConfigError(
                f"The run names {len(run.problems)} problems, but the release has {len(traces)} traces; "
                "both must be in the same order."
            )
        for index, lm in enumerate(bases):
            if not any(trace.text for trace in traces):
                break  # nothing was released: nothing to learn
            lessons = self.prepare(lm, traces, replace(run, seed=derive(run.seed, "prepare", index)))
            self.sft.teach(lm, lessons.traces, run, index, outcome, lessons.weights)
            outcome.own_tokens += lessons.own_tokens
            notes.append({"traces": sum(bool(t.text) for t in lessons.traces), **lessons.notes})
        after = _spent(run.service)
        outcome.queries, outcome.query_tokens = after[0] - before[0], after[1] - before[1]
        outcome.notes = {"bases": notes}
        return outcome

    @abstractmethod
    def prepare(self, lm: LM, traces: Sequence[Trace], run: AttackRun) -> Lessons:
        """Turn the release into lessons for `lm`, which must not be modified.

        `run.seed` differs between bases. Raises ConfigError if the run lacks what the attack needs.
        """

    def pupil(self, lm: LM, traces: Sequence[Trace], run: AttackRun, epochs: int) -> LM:
        """A copy of `lm` trained briefly on `traces`: the thief's own judge or writer."""
        twin = LM(copy.deepcopy(lm.model), lm.tokenizer, lm.ref, lm.revision)
        quick = self.sft.model_copy(update={"epochs": epochs, "curve_points": 0})
        quick.teach(twin, traces, replace(run, holdout=()), 0, Outcome(students=[twin]))
        return twin


def write(
    lm: LM, task: Task, problems: Sequence[Problem], temperature: float, seed: int, limit: int | None = None
) -> list[Trace]:
    """Completions by one of the thief's own models."""
    return generate(lm, problems, task, Sampling(temperature=temperature), seed=seed, max_new_tokens=limit)


def _spent(service: Service | None) -> tuple[int, int]:
    return (0, 0) if service is None else (service.queries, service.tokens)
