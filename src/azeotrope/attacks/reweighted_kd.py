"""Reweighting texts by what the logits shown along them teach (weights: arXiv 2605.22737).

Shapes: N labeled tokens, V vocabulary, T tokens of one text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import cross_entropy

from azeotrope.attacks.distill import Distillation, TokenByToken
from azeotrope.attacks.following import Following, Source
from azeotrope.attacks.guide import Target
from azeotrope.attacks.reweighted_sft import ReweightedSFT
from azeotrope.core.budget import Budget
from azeotrope.core.sampling import Sampling
from azeotrope.core.seeds import derive
from azeotrope.core.types import Paper
from azeotrope.maths import divergences
from azeotrope.models.exposure import Exposure
from azeotrope.models.gradients import completions
from azeotrope.models.lm import LM
from azeotrope.models.replay import replay

_AT_ONCE = 64  # texts


class ReweightedKD(Distillation):
    """Weight each text by exp(η v), v the help of a step on its *whole* loss; then distill by forward KL.

    v is that of `reweighted_sft`, with (1 − α)·cross-entropy + α·D in place of cross-entropy alone: a text whose
    shown distributions push the student away from what the thief trusts is weighted down. η = 0 is `fkl`.
    """

    kind: ClassVar[str] = "reweighted_kd"
    summary: ClassVar[str] = "weight texts by the help of their logits for a trusted loss, then distill"
    paper: ClassVar[Paper | None] = Paper(
        id="2605.22737", title="The Distillation Game", equations=("w ∝ exp(η v)",)
    )

    eta: float = Field(default=0.3, ge=0, description="η: how strongly weights follow v (in SDs of v)")
    trusted: Literal["answers", "leak"] = Field(default="answers", description="what the thief trusts")
    leaked: int = Field(default=64, ge=2, description="undefended texts, for trusted=leak")

    @model_validator(mode="after")
    def _release_only(self) -> Self:
        if self.on_policy:
            raise ValueError("reweighted_kd weighs the texts of the release; leave on_policy at 0")
        return self

    @property
    def budget(self) -> Budget:
        """With `trusted: leak` a number of undefended texts must have leaked."""
        return self._weighing.budget

    @property
    def _weighing(self) -> ReweightedSFT:
        return ReweightedSFT(sft=self.sft, eta=self.eta, trusted=self.trusted, leaked=self.leaked)

    def divergence(self, logp: Tensor, logq: Tensor, progress: float) -> Tensor:
        """See `Distillation.divergence`."""
        return divergences.forward_kl(logp, logq)

    def follow(self, lm: LM, source: Source) -> Following:
        """See `Distilling.follow`; the weights are measured here."""
        super().follow(lm, source)  # checks
        guide = Weighted(self, source)
        if not source.texts:  # nothing was released: nothing to learn
            guide.weight_K = torch.empty(0)
            return guide
        run = replace(source.run, seed=derive(source.run.seed, "weigh", source.index))
        lessons = self._weighing.weigh(lm, source.traces, run, guide.costs, self.kind)
        weights = lessons.weights or []
        guide.weight_K = torch.tensor([weights[i] for i in source.texts])
        guide.notes = lessons.notes
        return guide


class Weighted(TokenByToken):
    """The loss of every token, times the weight of its text."""

    weight_K: Tensor  # of the texts that are not empty

    def loss(self, logits_NV: Tensor, labels_N: Tensor, target: Target) -> Tensor:
        """See `Guide.loss`."""
        weight_N = self.weight_K.to(logits_NV)[target.index_B[target.rows_N]]
        return (weight_N * self.each(logits_NV, labels_N, target)).mean()

    def each(self, logits_NV: Tensor, labels_N: Tensor, target: Target) -> Tensor:
        """(1 − α)·cross-entropy + α·τ²·D of every token, [N]; cross-entropy alone where nothing is shown."""
        alpha = self.attack.alpha if target.known_NK.shape[-1] else 0.0
        found_N = (1.0 - alpha) * cross_entropy(logits_NV, labels_N, reduction="none")
        if alpha:
            found_N = found_N + alpha * self.attack.temperature**2 * self.compare(logits_NV, labels_N, target)
        return found_N

    def costs(self, lm: LM, rows: Sequence[int]) -> list[float]:
        """A student's loss per token on the texts in some rows; 0 on an empty one."""
        found: list[float] = []
        for start in range(0, len(rows), _AT_ONCE):
            chosen = rows[start : start + _AT_ONCE]
            traces = [self.source.traces[i] for i in chosen]
            pairs = list(zip(lm.encode_many([t.prompt for t in traces]), completions(lm, traces), strict=True))
            logits = replay(lm, pairs, Sampling(temperature=1.0))
            found += [self._cost(own_TV, self.targets[i]) for own_TV, i in zip(logits, chosen, strict=True)]
        return found

    def _cost(self, logits_TV: Tensor, shown: Exposure) -> float:
        if not shown.tokens:
            return 0.0
        none_T = torch.zeros(len(shown.tokens), dtype=torch.long)
        target = Target(shown.known_TK, shown.ids_TK, none_T, none_T[:1].bool(), none_T[:1])
        return float(self.each(logits_TV, torch.tensor(shown.tokens), target).mean())
