"""Distillation from a teacher's next-token distributions: one trainer, a divergence per method.

Shapes: N labeled tokens, V vocabulary, K known tokens.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from random import Random
from typing import ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import cross_entropy

from azeotrope.attacks.base import AttackRun, Outcome, Service, StudentAttack
from azeotrope.attacks.guide import Guide, Target
from azeotrope.attacks.sft import SFT
from azeotrope.core.access import Access
from azeotrope.core.budget import Budget
from azeotrope.core.errors import ConfigError
from azeotrope.core.release import Release
from azeotrope.core.sampling import Sampling
from azeotrope.core.seeds import derive
from azeotrope.core.types import Problem, Trace
from azeotrope.maths import truncated
from azeotrope.maths.truncated import Missing
from azeotrope.models.exposure import Exposure
from azeotrope.models.lm import LM
from azeotrope.models.sample import generate


class Distillation(StudentAttack):
    """Minimize (1 − α)·cross-entropy + α·D(teacher, student) at every token of the training texts.

    D is the subclass's divergence, of log-probabilities at temperature τ, multiplied by τ². With `on_policy`,
    before every epoch that share of the texts is replaced by the student's own, along which the service is asked
    for its log-probabilities (and bills them); such texts count in D alone. Published implementations sample anew
    in every step; once an epoch is the affordable approximation here.
    """

    needs: ClassVar[Access] = Access.FULL_LOGITS

    sft: SFT = Field(default=SFT(), description="how the student is trained")
    alpha: float = Field(default=0.5, ge=0, le=1, description="α, the divergence's share of the loss")
    temperature: float = Field(default=1.0, gt=0, description="τ of both distributions")
    on_policy: float = Field(default=0.0, ge=0, le=1, description="share of texts that the student writes itself")

    @property
    def budget(self) -> Budget:
        """Log-probabilities along the student's own texts are asked for, every epoch."""
        return Budget(queries=self.on_policy * self.sft.epochs)

    @abstractmethod
    def divergence(self, logp: Tensor, logq: Tensor, progress: float) -> Tensor:
        """D per token from the teacher's and the student's log-probabilities; `progress` of training in [0, 1]."""

    def pair(self, logits_NV: Tensor, target: Target) -> tuple[Tensor, Tensor]:
        """Log-probabilities at τ, teacher's and student's, over the same tokens."""
        logp = target.known_NK
        if self.temperature != 1.0:
            logp = torch.log_softmax(logp / self.temperature, -1)
        return logp, torch.log_softmax(logits_NV / self.temperature, -1)

    def train(self, bases: Sequence[LM], release: Release, run: AttackRun) -> Outcome:
        """Train every base; see `StudentAttack.train`. Raises ConfigError for another vocabulary."""
        traces = release.view(self.needs, reader=f"The attack '{self.kind}'").traces
        service = run.need_service(self.kind)
        outcome = Outcome(students=list(bases))
        before = service.queries, service.tokens
        targets: Sequence[Exposure] = service.logprobs(traces, released=True) if traces else ()
        for index, lm in enumerate(bases):
            check_vocabulary(lm, service, self.kind)
            guide = _Guide(self, targets, traces, run, service, index)
            self.sft.teach(lm, traces, run, index, outcome, guide=guide)
            outcome.own_tokens += guide.own_tokens
        outcome.queries, outcome.query_tokens = service.queries - before[0], service.tokens - before[1]
        return outcome


class TopKDistillation(Distillation):
    """Distillation from the k largest log-probabilities a token; what to do with the rest is `missing`."""

    needs: ClassVar[Access] = Access.TOPK_LOGPROBS

    missing: Missing = Field(default="rest", description="one bucket for all others, renormalize, or ignore")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.temperature != 1.0 and self.missing != "renormalize":
            raise ValueError(
                "a temperature other than 1 needs missing: renormalize, as the rest is not known at it"
            )
        return self

    def pair(self, logits_NV: Tensor, target: Target) -> tuple[Tensor, Tensor]:
        """See `Distillation.pair`; with all tokens known there is nothing missing."""
        if target.ids_NK is None:
            return super().pair(logits_NV, target)
        known_NK = target.known_NK / self.temperature
        logq_NV = torch.log_softmax(logits_NV / self.temperature, -1)
        return truncated.pair(known_NK, target.ids_NK, logq_NV, self.missing)


class _Guide(Guide):
    """The loss of one base, and its own texts."""

    def __init__(
        self,
        attack: Distillation,
        targets: Sequence[Exposure],
        traces: Sequence[Trace],
        run: AttackRun,
        service: Service,
        index: int,
    ) -> None:
        self.attack, self.targets, self.traces, self.run, self.service = attack, targets, traces, run, service
        self.index, self.own_tokens = index, 0

    def loss(self, logits_NV: Tensor, labels_N: Tensor, target: Target) -> Tensor:
        attack = self.attack
        total = logits_NV.new_zeros(())
        if attack.alpha > 0.0:
            logp, logq = attack.pair(logits_NV, target)
            found_N = attack.divergence(logp, logq, self.progress)
            total = total + attack.alpha * attack.temperature**2 * found_N.mean()
        taught_N = ~target.own_B[target.rows_N]
        if attack.alpha < 1.0 and taught_N.any():
            total = total + (1.0 - attack.alpha) * cross_entropy(logits_NV[taught_N], labels_N[taught_N])
        return total

    def renew(self, lm: LM, epoch: int) -> Mapping[int, tuple[Trace, Exposure]]:
        share = self.attack.on_policy
        if share == 0.0:
            return {}
        task, seed = self.run.need_task(self.attack.kind), derive(self.run.seed, "own", self.index, epoch)
        kept = [i for i, trace in enumerate(self.traces) if trace.text]
        chosen = sorted(Random(seed).sample(range(len(kept)), round(share * len(kept))))
        problems: list[Problem] = [self.run.problems[kept[i]] for i in chosen]
        texts = generate(lm, problems, task, Sampling(temperature=1.0), seed=seed)
        self.own_tokens += sum(text.n_tokens for text in texts)
        shown = self.service.logprobs(texts)
        rows = zip(chosen, texts, shown, strict=True)
        return {i: (text, exposure) for i, text, exposure in rows if exposure.tokens}


def check_vocabulary(lm: LM, service: Service, attack: str) -> None:
    """Raise ConfigError unless the student numbers its tokens as the teacher does."""
    if lm.tokenizer.get_vocab() != service.tokenizer.get_vocab():
        raise ConfigError(
            f"The attack '{attack}' compares distributions token by token, but the student '{lm.ref}' has another "
            "vocabulary than the teacher; use an attack across tokenizers or another student."
        )
