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
from azeotrope.models.gradients import completions
from azeotrope.models.lm import LM
from azeotrope.models.sample import generate


class Distillation(StudentAttack):
    """Minimize the mean over tokens of (1 − α)·cross-entropy + α·D(teacher, student) on the training texts.

    D is the subclass's divergence, of log-probabilities at temperature τ, multiplied by τ². With `on_policy`,
    before every epoch that share of the texts is replaced by the student's own, along which the service is asked
    for its log-probabilities (and bills them); such texts count in D alone. Published implementations sample anew
    in every step; once an epoch is the affordable approximation here.

    A defense may show less than the attack would read: it then uses the tokens that are shown, and fine-tunes on
    text alone where none are.
    """

    needs: ClassVar[Access] = Access.FULL_LOGITS
    may_ignore: ClassVar[bool] = False  # whether missing mass may be left out of D

    sft: SFT = Field(default=SFT(), description="how the student is trained")
    alpha: float = Field(default=0.5, ge=0, le=1, description="α, the divergence's share of the loss")
    temperature: float = Field(default=1.0, gt=0, description="τ of both distributions")
    on_policy: float = Field(default=0.0, ge=0, le=1, description="share of texts that the student writes itself")
    missing: Missing = Field(default="rest", description="where not all are shown")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.missing == "ignore" and not self.may_ignore:
            raise ValueError(f"missing: ignore is for the forward KL; the minimum of '{self.kind}' would move")
        return self

    @property
    def budget(self) -> Budget:
        """Log-probabilities along the student's own texts are asked for, every epoch."""
        return Budget(queries=self.on_policy * self.sft.epochs)

    @abstractmethod
    def divergence(self, logp: Tensor, logq: Tensor, progress: float) -> Tensor:
        """D per token from the teacher's and the student's log-probabilities; `progress` of training in [0, 1]."""

    def pair(self, logits_NV: Tensor, target: Target) -> tuple[Tensor, Tensor]:
        """Log-probabilities at τ, teacher's and student's, over the same tokens.

        What is not shown is treated by `missing`, at τ ≠ 1 by renormalizing: the rest is not known there.
        """
        logq_NV = torch.log_softmax(logits_NV / self.temperature, -1)
        logp = target.known_NK / self.temperature
        if target.ids_NK is not None:
            missing = self.missing if self.temperature == 1.0 else "renormalize"
            return truncated.pair(logp, target.ids_NK, logq_NV, missing)
        return logp if self.temperature == 1.0 else torch.log_softmax(logp, -1), logq_NV

    def train(self, bases: Sequence[LM], release: Release, run: AttackRun) -> Outcome:
        """Train every base; see `StudentAttack.train`. Raises ConfigError for another vocabulary."""
        traces = release.view(self.needs, reader=f"The attack '{self.kind}'").traces
        service = run.need_service(self.kind)
        outcome = Outcome(students=list(bases))
        before = service.queries, service.tokens
        for lm in bases:
            check_vocabulary(lm, service, self.kind)
        targets: Sequence[Exposure] = service.logprobs(traces, access=self.needs, released=True) if traces else ()
        for index, lm in enumerate(bases):
            check_alignment(lm, traces, targets, self.kind)
            guide = _Guide(self, targets, traces, run, service, index)
            self.sft.teach(lm, traces, run, index, outcome, guide=guide)
            outcome.own_tokens += guide.own_tokens
            outcome.notes["shown"] = guide.shown.name.lower()
        outcome.queries, outcome.query_tokens = service.queries - before[0], service.tokens - before[1]
        return outcome


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
        self.shown = min((target.access for target in targets), default=Access.TEXT)

    def loss(self, logits_NV: Tensor, labels_N: Tensor, target: Target) -> Tensor:
        attack = self.attack
        total = logits_NV[:0].sum()  # with a graph, where a batch has nothing to learn
        shown = target.known_NK.shape[-1] > 0
        alpha = attack.alpha if shown else 0.0
        if alpha > 0.0:
            logp, logq = attack.pair(logits_NV, target)
            found_N = attack.divergence(logp, logq, self.progress)
            total = total + alpha * attack.temperature**2 * found_N.mean()
        taught_N = ~target.own_B[target.rows_N]
        if alpha < 1.0 and taught_N.any():
            summed = cross_entropy(logits_NV[taught_N], labels_N[taught_N], reduction="sum")
            total = total + (1.0 - alpha) * summed / len(labels_N)
        return total

    def renew(self, lm: LM, epoch: int) -> Mapping[int, tuple[Trace, Exposure]]:
        share = self.attack.on_policy
        if share == 0.0 or self.shown is Access.TEXT:
            return {}
        task, seed = self.run.need_task(self.attack.kind), derive(self.run.seed, "own", self.index, epoch)
        kept = [i for i, trace in enumerate(self.traces) if trace.text]
        chosen = sorted(Random(seed).sample(range(len(kept)), round(share * len(kept))))
        problems: list[Problem] = [self.run.problems[kept[i]] for i in chosen]
        texts = generate(lm, problems, task, Sampling(temperature=1.0), seed=seed)
        self.own_tokens += sum(text.n_tokens for text in texts)
        shown = self.service.logprobs(texts, access=self.attack.needs)
        check_alignment(lm, texts, shown, self.attack.kind)
        rows = zip(chosen, texts, shown, strict=True)
        return {i: (text, exposure) for i, text, exposure in rows if exposure.tokens}


def check_vocabulary(lm: LM, service: Service, attack: str) -> None:
    """Raise ConfigError unless the student numbers its tokens as the teacher does."""
    if lm.tokenizer.get_vocab() != service.tokenizer.get_vocab():
        raise ConfigError(
            f"The attack '{attack}' compares distributions token by token, but the student '{lm.ref}' has another "
            "vocabulary than the teacher; use an attack across tokenizers or another student."
        )


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
