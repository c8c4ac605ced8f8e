"""What a task is: problems, grading, and (where the task allows it) step checks and recall probes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from azeotrope.core.methods import Settings
from azeotrope.core.types import Problem, Trace

SPLITS = ("release", "holdout", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """The verdict on one completion. `answer` is what was extracted, None if nothing was."""

    correct: bool
    answer: str | None
    refused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StepVerdict:
    """One sentence of a trace, judged: `start:end` are character offsets into the trace text.

    `kind` is one of plan, statement, correction, check, uncertainty, consolidation, answer, other.
    `follows` says whether the sentence follows from the problem and the earlier *kept* sentences: a
    statement is true and about the current value; a correction comes after a wrong statement; a
    consolidation names the value actually reached. Sentences that claim nothing always follow.
    `true` is the bare truth of what is claimed (None where nothing is claimed). `dangling`: the sentence
    refers to something that neither the problem nor the kept sentences before it state (a value that nothing
    led to, a correction of nothing), be it true or not.
    """

    start: int
    end: int
    kind: str
    follows: bool
    true: bool | None = None
    dangling: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A teacher-forced recall question: after `prefix`, a model that holds the content writes `target`.

    `hidden` marks content that the undistilled students lack; `content` names the fact, so that several
    probes of one fact can be averaged. `position` says where in a trace the content is asked for: a release
    that is poisoned at one place may give the content away at another.
    """

    content: str
    prefix: str
    target: str
    hidden: bool
    position: str = "statement"


class Task(Settings, ABC):
    """A source of problems with a grader. Settings are fields; subclasses are found by entry point."""

    kind: ClassVar[str]
    summary: ClassVar[str] = ""
    version: ClassVar[int] = 1
    max_new_tokens: ClassVar[int] = 512

    @abstractmethod
    def problems(self, split: str, n: int, seed: int = 0) -> list[Problem]:
        """Return `n` problems of a split (one of `SPLITS`); the splits never share a problem.

        Deterministic in (`split`, `n`, `seed`) and nested: the first k of n problems are those of n=k.
        """

    @abstractmethod
    def grade(self, problem: Problem, text: str) -> Grade:
        """Grade a completion (the text after the prompt)."""

    def check_steps(self, problem: Problem, text: str) -> list[StepVerdict] | None:
        """Judge every sentence of a trace, or return None if the task has no step checker."""
        return None

    def probes(self) -> list[Probe]:
        """Recall probes on the task's content; empty if the task has none."""
        return []

    def beyond(self, n: int, seed: int = 0) -> list[Problem]:
        """Return `n` problems that need more steps than any of the release; empty if the task has none."""
        return []

    def restricted_problems(self, n: int, seed: int = 0) -> list[Problem]:
        """Return `n` requests that the task's policy refuses; empty if the task has no policy."""
        return []

    def perturbed(self, problem: Problem, seed: int = 0) -> Problem | None:
        """Return the same question in another wording; None if the task has only one."""
        return None

    def gold_traces(self, problems: Sequence[Problem], seed: int = 0) -> list[Trace]:
        """Reference traces that were not written by the teacher; empty if the task has none."""
        return []
