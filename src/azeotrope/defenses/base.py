"""What logit defenses stand on: the bench that gives them models and data, and their composition."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from azeotrope.core.errors import ConfigError
from azeotrope.core.methods import Defense, Stage, SurfaceDefense, TraceDefense
from azeotrope.core.sampling import Sampling
from azeotrope.core.seeds import derive
from azeotrope.core.types import Problem, Trace
from azeotrope.models.decode import LogitRule
from azeotrope.models.lm import LM, load
from azeotrope.models.teacher import LocalTeacher, Teacher, check_defenses
from azeotrope.tasks.base import Task


class Bench:
    """The defender's workplace: the teacher on a task, other models by reference, holdout traces.

    `writer` is the teacher as what writes traces, wherever it runs. `notes` collects what a defense measured
    while it was being set up (cosines, scales), for the record; `memory` is what defenses keep between arms
    (gradients), `fitted` what they have learned: tensors by method and settings, stored with a release.
    """

    def __init__(
        self,
        teacher: LM | Teacher,
        task: Task,
        sampling: Sampling,
        seed: int = 0,
        load: Callable[[str], LM] = load,
        other_task: Callable[[str], Task] | None = None,
    ) -> None:
        self.writer: Teacher = LocalTeacher(teacher) if isinstance(teacher, LM) else teacher
        self.task, self.sampling, self.seed = task, sampling, seed
        self.load, self.other_task = load, other_task
        self.notes: dict[str, Any] = {}
        self.memory: dict[str, Any] = {}
        self.fitted: dict[str, dict[str, Tensor]] = {}
        self.used: set[str] = set()  # keys of `fitted` that the arm at hand runs on
        self._models: dict[str, LM] = {}
        self._traces: dict[tuple[str, str], list[Trace]] = {}

    @property
    def teacher(self) -> LM:
        """The teacher's weights. Raises ConfigError if it is behind an endpoint."""
        return self.writer.weights()

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
            problems, seed = self.holdout_problems(n, task)
            if source == "gold":
                found += chosen.gold_traces(problems[len(found) :], self.seed)
            else:
                found += self.writer.write(problems[len(found) :], chosen, self.sampling, seed=seed)
        if not found:
            raise ConfigError(f"The task '{chosen.kind}' has no gold traces; use `source: teacher` with a proxy.")
        return found[:n]

    def holdout_problems(self, n: int, task: str | None = None) -> tuple[list[Problem], int]:
        """The problems of `n` holdout traces, and the seed with which the teacher answers them."""
        problems = self.task_named(task).problems("holdout", n, derive(self.seed, "holdout"))
        return problems, derive(self.seed, "ho")


class LogitDefense(Defense):
    """Acts on every decoding step. Hyper-parameters only; `bind` brings in models and data."""

    stage: ClassVar[Stage] = Stage.LOGITS

    @abstractmethod
    def bind(self, bench: Bench) -> LogitRule:
        """Load models, take gradients, calibrate; return the rule the decoder runs. Never called at 0."""

    def merge(self, bench: Bench) -> LM | None:
        """Return a teacher with the defense folded into its weights, or None if it acts at decode time."""
        return None

    def fold(self, bench: Bench) -> LM:
        """Return such a teacher also where a study would decode with a rule, for other engines to serve.

        Raises ConfigError for a defense, or settings of it, that no weights can stand for.
        """
        found = self.merge(bench)
        if found is None:
            raise ConfigError(
                f"'{self.label}' acts while the model writes and has no form in its weights; trained heads "
                "(cmi, doge, cmim, mcmi) and ads with merged=true have one."
            )
        return found


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A composition ready to run: the (possibly edited) teacher, logit rules, text defenses, then surfaces."""

    writer: Teacher
    rules: tuple[LogitRule, ...]
    text: tuple[TraceDefense, ...]
    surfaces: tuple[SurfaceDefense, ...] = ()

    @property
    def teacher(self) -> LM:
        """The teacher's weights. Raises ConfigError if it is behind an endpoint."""
        return self.writer.weights()


def assemble(defenses: Sequence[Defense], bench: Bench) -> Pipeline:
    """Sort a composition into stages and bind it; strength 0 is dropped: it is the identity.

    Raises ConfigError for a stage that this assembly or the teacher does not serve, and for two merged edits:
    each would be an edit of the original teacher, and the second would undo the first.
    """
    check_defenses(bench.writer.ref, defenses)
    writer = bench.writer
    rules: list[LogitRule] = []
    text: list[TraceDefense] = []
    surfaces: list[SurfaceDefense] = []
    for defense in defenses:
        if defense.strength == 0.0:
            continue
        if isinstance(defense, LogitDefense):
            merged = defense.merge(bench)
            if merged is not None:
                if writer is not bench.writer:
                    raise ConfigError(
                        f"Only one defense can be merged; set merged: false on the second ('{defense.kind}')."
                    )
                writer = LocalTeacher(merged)
            else:
                rules.append(defense.bind(bench))
        elif isinstance(defense, TraceDefense):
            text.append(defense)
        elif isinstance(defense, SurfaceDefense):
            surfaces.append(defense)
        else:
            raise ConfigError(
                f"The defense '{defense.kind}' acts at stage '{defense.stage}', which is not supported here."
            )
    return Pipeline(writer, tuple(rules), tuple(text), tuple(surfaces))
