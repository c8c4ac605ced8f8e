"""What logit defenses stand on: the bench that gives them models and data, and their composition."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from azeotrope.core.errors import ConfigError
from azeotrope.core.methods import Defense, Stage, TraceDefense
from azeotrope.core.sampling import Sampling
from azeotrope.core.seeds import derive
from azeotrope.core.types import Trace
from azeotrope.models.decode import LogitRule
from azeotrope.models.lm import LM, load
from azeotrope.models.sample import generate
from azeotrope.tasks.base import Task


@dataclass
class Bench:
    """The defender's workplace: the teacher on a task, other models by reference, holdout traces.

    `notes` collects what a defense measured while it was being set up (cosines, scales), for the record.
    """

    teacher: LM
    task: Task
    sampling: Sampling
    seed: int = 0
    load: Callable[[str], LM] = load
    other_task: Callable[[str], Task] | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    memory: dict[str, Any] = field(default_factory=dict)  # what defenses keep between arms (gradients)
    _models: dict[str, LM] = field(default_factory=dict)
    _traces: dict[tuple[str, str], list[Trace]] = field(default_factory=dict)

    def model(self, ref: str) -> LM:
        """Load a model once."""
        if ref not in self._models:
            self._models[ref] = self.load(ref)
        return self._models[ref]

    def task_named(self, kind: str | None) -> Task:
        """The bench's task, or another one by name (for protecting one capability among several)."""
        if kind is None or kind == self.task.kind:
            return self.task
        if self.other_task is None:
            raise ConfigError(f"This bench knows only the task '{self.task.kind}', not '{kind}'.")
        return self.other_task(kind)

    def holdout(self, n: int, source: str = "teacher", task: str | None = None) -> list[Trace]:
        """Return `n` holdout traces: the teacher's own undefended samples, or the task's gold traces.

        Raises ConfigError if the task has no gold traces.
        """
        chosen = self.task_named(task)
        found = self._traces.setdefault((source, chosen.kind), [])
        if len(found) < n:  # problems are nested and seeds are per row: only the missing ones are made
            problems = chosen.problems("holdout", n, derive(self.seed, "holdout"))[len(found) :]
            if source == "gold":
                found += chosen.gold_traces(problems, self.seed)
            else:
                found += generate(self.teacher, problems, chosen, self.sampling, seed=derive(self.seed, "ho"))
        if not found:
            raise ConfigError(f"The task '{chosen.kind}' has no gold traces; use `source: teacher` with a proxy.")
        return found[:n]


class LogitDefense(Defense):
    """Acts on every decoding step. Hyper-parameters only; `bind` brings in models and data."""

    stage: ClassVar[Stage] = Stage.LOGITS

    @abstractmethod
    def bind(self, bench: Bench) -> LogitRule:
        """Load models, take gradients, calibrate; return the rule the decoder runs. Never called at 0."""

    def merge(self, bench: Bench) -> LM | None:
        """Return a teacher with the defense folded into its weights, or None if it acts at decode time."""
        return None


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A composition ready to run: the (possibly edited) teacher, logit rules, then text defenses."""

    teacher: LM
    rules: tuple[LogitRule, ...]
    text: tuple[TraceDefense, ...]


def assemble(defenses: Sequence[Defense], bench: Bench) -> Pipeline:
    """Sort a composition into stages and bind it; strength 0 is dropped: it is the identity.

    Raises ConfigError for a stage that this assembly does not serve, and for two merged edits: each would
    be an edit of the original teacher, and the second would undo the first.
    """
    teacher = bench.teacher
    rules: list[LogitRule] = []
    text: list[TraceDefense] = []
    for defense in defenses:
        if defense.strength == 0.0:
            continue
        if isinstance(defense, LogitDefense):
            merged = defense.merge(bench)
            if merged is not None:
                if teacher is not bench.teacher:
                    raise ConfigError(
                        f"Only one defense can be merged; set merged: false on the second ('{defense.kind}')."
                    )
                teacher = merged
            else:
                rules.append(defense.bind(bench))
        elif isinstance(defense, TraceDefense):
            text.append(defense)
        else:
            raise ConfigError(
                f"The defense '{defense.kind}' acts at stage '{defense.stage}', which is not supported here."
            )
    return Pipeline(teacher, tuple(rules), tuple(text))
