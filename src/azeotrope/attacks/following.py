"""What all distillation from a teacher's distributions has in common: the loss's shape, own texts, the bill.

Shapes: N labeled tokens, V vocabulary.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import ClassVar, Self

from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import cross_entropy

from azeotrope.attacks.base import AttackRun, Outcome, Service, StudentAttack
from azeotrope.attacks.guide import Guide, Target
from azeotrope.attacks.sft import SFT
from azeotrope.core.access import Access
from azeotrope.core.budget import Budget
from azeotrope.core.release import Release
from azeotrope.core.sampling import Sampling
from azeotrope.core.seeds import derive
from azeotrope.core.types import Problem, Trace
from azeotrope.models.exposure import Exposure
from azeotrope.models.lm import LM
from azeotrope.models.sample import generate


class Distilling(StudentAttack):
    """Minimize (1 − α)·cross-entropy + α·D(teacher, student) on the training texts; D is the subclass's.

    With `on_policy`, before every epoch that share of the texts is replaced by the student's own, along which the
    service is asked for its log-probabilities (and bills them); such texts count in D alone. Published
    implementations sample anew in every step; once an epoch is the affordable approximation here. They start from
    a student that has been fine-tuned on the data: `warmup` epochs do that.

    A defense may show less than the attack would read: it then uses the tokens that are shown, and fine-tunes on
    text alone where none are.
    """

    needs: ClassVar[Access] = Access.FULL_LOGITS
    softens: ClassVar[bool] = True  # whether D is defined at temperatures other than 1

    sft: SFT = Field(default=SFT(), description="how the student is trained")
    alpha: float = Field(default=0.5, ge=0, le=1, description="α, the divergence's share of the loss")
    temperature: float = Field(default=1.0, gt=0, description="τ of both distributions")
    on_policy: float = Field(default=0.0, ge=0, le=1, description="share of texts that the student writes itself")
    warmup: int = Field(default=0, ge=0, description="epochs on the teacher's text alone, before its own")

    @model_validator(mode="after")
    def _temperature_has_a_meaning(self) -> Self:
        if self.temperature != 1.0 and not self.softens:
            raise ValueError(f"'{self.kind}' compares log-probabilities as they are; leave temperature at 1")
        return self

    @model_validator(mode="after")
    def _own_texts_have_an_epoch(self) -> Self:
        if self.on_policy > 0.0 and self.warmup >= self.sft.epochs:
            raise ValueError(
                f"{self.warmup} epochs of warmup leave none of {self.sft.epochs} for the student's own texts; "
                "train longer (sft.epochs), lower warmup, or set on_policy to 0"
            )
        return self

    @property
    def budget(self) -> Budget:
        """Log-probabilities along the student's own texts are asked for, every epoch after the first `warmup`."""
        return Budget(queries=self.on_policy * max(0, self.sft.epochs - self.warmup))

    def check(self, lm: LM, service: Service) -> None:
        """Raise ConfigError if this student cannot follow this service."""

    def prepare(
        self, traces: Sequence[Trace], shown: Sequence[Exposure], run: AttackRun, service: Service
    ) -> Material:
        """What one student is trained on, from the release and what is shown along it; `run.seed` is its own.

        A subclass may buy more or mend what is shown, also along texts that the student is yet to write.
        """
        return Material(traces, shown)

    @abstractmethod
    def follow(self, lm: LM, source: Source) -> Following:
        """The loss of one student. Raises ConfigError if it cannot be matched with what is shown."""

    def train(self, bases: Sequence[LM], release: Release, run: AttackRun) -> Outcome:
        """Train every base; see `StudentAttack.train`. Raises ConfigError where `check` and `follow` do."""
        released = release.view(self.needs, reader=f"The attack '{self.kind}'").traces
        service = run.need_service(self.kind)
        outcome = Outcome(students=list(bases))
        before = service.queries, service.tokens
        for lm in bases:
            self.check(lm, service)
        shown = service.logprobs(released, access=self.needs, released=True) if released else []
        outcome.notes = {"shown": min((x.access for x in shown), default=Access.TEXT).name.lower(), "bases": []}
        for index, lm in enumerate(bases):
            own = replace(run, seed=derive(run.seed, "prepare", index))
            material = self.prepare(released, shown, own, service)
            guide = self.follow(lm, Source(self, material, run, service, index))
            self.sft.teach(lm, material.traces, run, index, outcome, guide=guide)
            outcome.own_tokens += guide.own_tokens
            taught = sum(bool(trace.text) for trace in material.traces)
            outcome.notes["bases"].append({"traces": taught, **material.notes, **guide.notes})
        outcome.queries, outcome.query_tokens = service.queries - before[0], service.tokens - before[1]
        return outcome


@dataclass(frozen=True, slots=True)
class Material:
    """Texts to train on, what is shown along each, and notes for the record; `mend` changes what is shown then."""

    traces: Sequence[Trace]
    shown: Sequence[Exposure]
    notes: dict[str, object] = field(default_factory=dict)
    mend: Callable[[Sequence[Exposure]], Sequence[Exposure]] = lambda shown: shown


class Source:
    """What one student learns from: texts, what is shown along them, and the service for more."""

    def __init__(
        self,
        attack: Distilling,
        material: Material,
        run: AttackRun,
        service: Service,
        index: int,
    ) -> None:
        self.attack, self.run, self.service, self.index = attack, run, service, index
        self.targets, self.traces, self.mend = material.shown, material.traces, material.mend

    @property
    def texts(self) -> list[int]:
        """Positions of the texts that are not empty: what is trained on, in this order."""
        return [i for i, trace in enumerate(self.traces) if trace.text]


class Following(Guide):
    """The loss of one base, and its own texts."""

    def __init__(self, source: Source) -> None:
        self.source, self.own_tokens = source, 0
        self.notes: dict[str, object] = {}  # for the record
        self.shown = min((target.access for target in source.targets), default=Access.TEXT)

    @abstractmethod
    def distance(self, logits_NV: Tensor, labels_N: Tensor, target: Target) -> Tensor | None:
        """The batch's mean D with gradient; None where nothing is shown."""

    @abstractmethod
    def adopt(self, lm: LM, texts: Mapping[int, tuple[Trace, Exposure]]) -> None:
        """Take the student's new texts, by position, with what the service shows along them."""

    def loss(self, logits_NV: Tensor, labels_N: Tensor, target: Target) -> Tensor:
        """See `Guide.loss`."""
        alpha = self.source.attack.alpha
        total = logits_NV[:0].sum()  # with a graph, where a batch has nothing to learn
        found = self.distance(logits_NV, labels_N, target) if alpha > 0.0 else None
        if found is None:
            alpha = 0.0
        else:
            total = total + alpha * found
        taught_N = ~target.own_B[target.rows_N]
        if alpha < 1.0 and taught_N.any():
            summed = cross_entropy(logits_NV[taught_N], labels_N[taught_N], reduction="sum")
            total = total + (1.0 - alpha) * summed / len(labels_N)
        return total

    def renew(self, lm: LM, epoch: int) -> Mapping[int, tuple[Trace, Exposure | None]]:
        """See `Guide.renew`: texts that show nothing are not learned from."""
        source = self.source
        attack, share = source.attack, source.attack.on_policy
        if share == 0.0 or epoch < attack.warmup or self.shown is Access.TEXT:
            return {}
        task, seed = source.run.need_task(attack.kind), derive(source.run.seed, "own", source.index, epoch)
        kept = source.texts
        chosen = sorted(Random(seed).sample(range(len(kept)), round(share * len(kept))))
        problems: list[Problem] = [source.run.problems[kept[i]] for i in chosen]
        texts = generate(lm, problems, task, Sampling(temperature=1.0), seed=seed)
        self.own_tokens += sum(text.n_tokens for text in texts)
        shown = source.mend(source.service.logprobs(texts, access=attack.needs))
        found = {i: (text, seen) for i, text, seen in zip(chosen, texts, shown, strict=True) if seen.tokens}
        self.adopt(lm, found)
        return {i: (text, seen if self.targets else None) for i, (text, seen) in found.items()}
