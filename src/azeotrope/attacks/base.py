"""What an attack is given and what it returns.

The thief's world: a release (through its access level), a task's public side (how problems are worded and
answers read), a paid service, and student models. Nothing of the defender's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from azeotrope.core.access import Access
from azeotrope.core.errors import ConfigError
from azeotrope.core.methods import Attack
from azeotrope.core.release import Release
from azeotrope.core.types import Problem, Trace
from azeotrope.models.exposure import Exposure
from azeotrope.models.lm import LM
from azeotrope.tasks.base import Task


@dataclass(frozen=True, slots=True)
class LossPoint:
    """One point of a training curve; `split` is train or holdout, `loss` in nats per token."""

    base: int
    step: int
    split: str
    loss: float


class Service(ABC):
    """The defended teacher as its customers see it. Every completion is billed."""

    def __init__(self) -> None:
        self.queries = 0
        self.tokens = 0

    @abstractmethod
    def ask(
        self, problems: Sequence[Problem], *, seed: int, prefix: str = "", greedy: bool = False
    ) -> list[Trace]:
        """One defended completion a problem, each beginning with `prefix`; a fresh one for every seed.

        `greedy`: the likeliest token of the defended distribution at every step, whatever the seed.
        """

    def logprobs(
        self, traces: Sequence[Trace], *, access: Access = Access.FULL_LOGITS, released: bool = False
    ) -> list[Exposure]:
        """What the service shows of the next-token distributions along texts, one exposure a trace.

        Never more than `access`, which is what the attack reads.
        `released`: the texts are those of the release, whose log-probabilities came with it: nothing is billed.
        Raises ConfigError if the service shows none.
        """
        raise ConfigError("This service returns text only; release logprobs or choose another attack.")

    def logprobs_again(
        self, traces: Sequence[Trace], *, again: int, access: Access = Access.FULL_LOGITS
    ) -> list[Exposure]:
        """The same along the same texts, asked for once more: another answer where requests are treated apart.

        `again` numbers the requests from 1 on. Billed. Raises ConfigError if the service shows none.
        """
        return self.logprobs(traces, access=access)

    def leak_logprobs(self, traces: Sequence[Trace]) -> list[Exposure]:
        """The *undefended* distributions along texts: what somebody recorded before the defense was there.

        Whole, however few the service shows now. Billed. Raises ConfigError if the service shows none.
        """
        raise ConfigError("This service returns text only; release logprobs or choose another attack.")

    def biased(
        self, traces: Sequence[Trace], groups_GK: Tensor, offsets_GK: Tensor | None = None
    ) -> list[Exposure]:
        """What is shown along texts where the tokens of a group are biased upward together, beyond all others.

        One exposure a trace, with a row for every token of the text and, within it, for every group of token ids
        (T·G rows). Each row is a billed reply of one token. `offsets_GK` are nats by which the biases of a group's
        tokens differ. Raises ConfigError if the service shows no log-probabilities or takes no `logit_bias`.
        """
        raise ConfigError("This service takes no logit_bias; choose another attack.")

    @property
    def tokenizer(self) -> Any:
        """The teacher's tokenizer, which is public. Raises ConfigError if it is not known."""
        raise ConfigError("The tokenizer of this service is not known.")

    @abstractmethod
    def leak(self, problems: Sequence[Problem], *, seed: int) -> list[Trace]:
        """One *undefended* completion a problem: what an insider, or a careless endpoint, would give away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackRun:
    """What surrounds an attack: a seed, the task, the problems of the release in its order, the service.

    `holdout` (clean traces for the holdout curve) is the defender's, not the thief's: an attack must not
    train on it.
    """

    seed: int
    holdout: Sequence[Trace] = ()
    task: Task | None = None
    problems: Sequence[Problem] = ()
    service: Service | None = None

    def need_task(self, attack: str) -> Task:
        """The task. Raises ConfigError if the run has none."""
        if self.task is None:
            raise ConfigError(f"The attack '{attack}' needs the release's task; run it inside a study.")
        return self.task

    def need_service(self, attack: str) -> Service:
        """The service. Raises ConfigError if the run has none."""
        if self.service is None:
            raise ConfigError(f"The attack '{attack}' needs to query the teacher; run it inside a study.")
        return self.service


@dataclass(slots=True)
class Outcome:
    """The trained students (same order as the bases), their curves, and what the attack cost.

    `tokens` counts tokens trained on, `queries` and `query_tokens` what was asked of the service beyond the
    release, `own_tokens` what the thief's own models generated; `notes` what an attack did to its data.
    """

    students: list[LM]
    losses: list[LossPoint] = field(default_factory=list)
    tokens: int = 0
    queries: int = 0
    query_tokens: int = 0
    own_tokens: int = 0
    notes: dict[str, Any] = field(default_factory=dict)


class StudentAttack(Attack):
    """An attack that trains students. It reads the release only through `Release.view(needs)`."""

    shares_vocabulary: ClassVar[bool] = False  # whether its students must number their tokens as the teacher does

    @property
    def hired(self) -> tuple[str, int] | None:
        """An endpoint that writes for the thief (a reply a trace, for all students), and the limit of a reply."""
        return None

    @abstractmethod
    def train(self, bases: Sequence[LM], release: Release, run: AttackRun) -> Outcome:
        """Train every base on the release; the bases are consumed (modified in place).

        Raises ConfigError if the release exposes less than `needs`, RunError on a NaN loss.
        """
