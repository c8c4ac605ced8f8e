"""Distillation token by token: teacher and student share a vocabulary; a divergence per method.

Shapes: N labeled tokens, V vocabulary, K known tokens.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from azeotrope.attacks.base import Service
from azeotrope.attacks.following import Distilling, Following, Source
from azeotrope.attacks.guide import Target
from azeotrope.core.errors import ConfigError
from azeotrope.core.types import Trace
from azeotrope.maths import truncated
from azeotrope.maths.truncated import Missing
from azeotrope.models.exposure import Exposure
from azeotrope.models.gradients import completions
from azeotrope.models.lm import LM


class Distillation(Distilling):
    """D is the mean over tokens of the subclass's divergence of log-probabilities at temperature τ, times τ².

    See `Distilling` for the rest of the loss and for the student's own texts.
    """

    shares_vocabulary: ClassVar[bool] = True
    may_ignore: ClassVar[bool] = False  # whether missing mass may be left out of D

    missing: Missing = Field(
        default="rest",
        description="where not all are shown; at τ ≠ 1 always renormalize, as the rest is not known",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.missing == "ignore" and not self.may_ignore:
            raise ValueError(f"missing: ignore is for the forward KL; the minimum of '{self.kind}' would move")
        return self

    @abstractmethod
    def divergence(self, logp: Tensor, logq: Tensor, progress: float) -> Tensor:
        """D per token from the teacher's and the student's log-probabilities; `progress` of training in [0, 1]."""

    def pair(self, logits_NV: Tensor, target: Target) -> tuple[Tensor, Tensor]:
        """Log-probabilities at τ, teacher's and student's, over the same tokens.

        What is not shown is treated by `missing`, at τ ≠ 1 by renormalizing: the rest is not known there. Whole
        distributions are normalized: rounded ones do not sum to 1.
        """
        logq_NV = torch.log_softmax(logits_NV / self.temperature, -1)
        logp = target.known_NK / self.temperature
        if target.ids_NK is not None:
            missing = self.missing if self.temperature == 1.0 else "renormalize"
            return truncated.pair(logp, target.ids_NK, logq_NV, missing)
        return torch.log_softmax(logp, -1), logq_NV

    def check(self, lm: LM, service: Service) -> None:
        """Raise ConfigError unless the student numbers its tokens as the teacher does."""
        if lm.tokenizer.get_vocab() != service.tokenizer.get_vocab():
            raise ConfigError(
                f"The attack '{self.kind}' compares distributions token by token, but the student '{lm.ref}' has "
                "another vocabulary than the teacher; use uld, gold or alm, or another student."
            )

    def follow(self, lm: LM, source: Source) -> Following:
        """See `Distilling.follow`."""
        check_alignment(lm, source.traces, source.targets, self.kind)
        return TokenByToken(self, source)


class TokenByToken(Following):
    """Compares teacher and student at every labeled token."""

    def __init__(self, attack: Distillation, source: Source) -> None:
        super().__init__(source)
        self.attack, self.targets = attack, source.targets

    def distance(self, logits_NV: Tensor, labels_N: Tensor, target: Target) -> Tensor | None:
        """See `Following.distance`."""
        if target.known_NK.shape[-1] == 0:
            return None
        return self.attack.temperature**2 * self.compare(logits_NV, labels_N, target).mean()

    def compare(self, logits_NV: Tensor, labels_N: Tensor, target: Target) -> Tensor:
        """D per token, [N]."""
        return self.attack.divergence(*self.attack.pair(logits_NV, target), self.progress)

    def adopt(self, lm: LM, texts: Mapping[int, tuple[Trace, Exposure]]) -> None:
        """See `Following.adopt`."""
        check_alignment(lm, [t for t, _ in texts.values()], [e for _, e in texts.values()], self.attack.kind)


def check_alignment(lm: LM, traces: Sequence[Trace], targets: Sequence[Exposure], attack: str) -> None:
    """Raise ConfigError unless student and teacher cut the texts into the same tokens and know equally many."""
    for ids, target in zip(completions(lm, traces), targets, strict=True):
        if tuple(ids) != target.tokens:
            raise ConfigError(
                f"The attack '{attack}' compares distributions token by token, but the student '{lm.ref}' and the "
                "teacher cut the same text into different tokens; use a student with the teacher's tokenizer."
            )
        if target.ids_TK is None and target.known_TK.shape[-1] != lm.vocab_size:
            raise ConfigError(
                f"The teacher shows {target.known_TK.shape[-1]} logits a token and the student '{lm.ref}' has "
                f"{lm.vocab_size}; resize the student's head to the teacher's."
            )


def known_of(labels_N: Tensor, target: Target) -> Tensor:
    """The teacher's log-probability of each label, [N]; NaN where it is not shown."""
    if target.ids_NK is None:
        return target.known_NK.gather(-1, labels_N[:, None])[:, 0]
    here_NK = (target.ids_NK == labels_N[:, None]) & ~target.known_NK.isneginf()
    found_N: Tensor = target.known_NK.masked_fill(~here_NK, float("-inf")).amax(-1)
    return found_N.masked_fill(~here_NK.any(-1), float("nan"))


def own_logprob(logits_NV: Tensor, labels_N: Tensor) -> Tensor:
    """The student's log-probability of each label, [N]."""
    return torch.log_softmax(logits_NV, -1).gather(-1, labels_N[:, None])[:, 0]
