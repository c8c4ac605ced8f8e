"""What an attack is given and what it returns."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from azeotrope.core.methods import Attack
from azeotrope.core.release import Release
from azeotrope.core.types import Trace
from azeotrope.models.lm import LM


@dataclass(frozen=True, slots=True)
class LossPoint:
    """One point of a training curve; `split` is train or holdout, `loss` in nats per token."""

    base: int
    step: int
    split: str
    loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackRun:
    """What surrounds an attack and is not the thief's: a seed and clean traces for the holdout curve."""

    seed: int
    holdout: Sequence[Trace] = ()


@dataclass(slots=True)
class Outcome:
    """The trained students (same order as the bases), their curves, and the tokens trained on."""

    students: list[LM]
    losses: list[LossPoint] = field(default_factory=list)
    tokens: int = 0


class StudentAttack(Attack):
    """An attack that trains students. It reads the release only through `Release.view(needs)`."""

    @abstractmethod
    def train(self, bases: Sequence[LM], release: Release, run: AttackRun) -> Outcome:
        """Train every base on the release; the bases are consumed (modified in place).

        Raises ConfigError if the release exposes less than `needs`, RunError on a NaN loss.
        """
