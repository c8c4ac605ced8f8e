"""MiniLLM: the reverse KL of whole texts, by policy gradients on the student's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from azeotrope.attacks.distill import Distillation, TokenByToken, known_of, own_logprob
from azeotrope.attacks.following import Following, Source
from azeotrope.attacks.guide import Target
from azeotrope.core.types import Paper, Trace
from azeotrope.maths import divergences
from azeotrope.models.exposure import Exposure
from azeotrope.models.lm import LM
from azeotrope.models.scoring import token_nll

MIN_LOG = -20.0  # nats; a token that the teacher rules out would be an infinite reward


class MiniLLM(Distillation):
    """Minimize KL(q ‖ p) over texts y ~ q (arXiv 2306.08543, eqs. 2-7): on the student's own texts alone,

    D = KL(q_t ‖ p_t) − min(ρ_t·A_t, clip(ρ_t, 1 ± ε)·A_t), where A_t is the mean, discounted by γ, of
    r = log p − log q over the tokens *after* t (length-normalized; the token itself is in the exact first term),
    and ρ_t the student's probability of the token now against when it wrote it. Teacher's texts count by
    cross-entropy, in the place of the paper's pre-training loss. γ → `discount`, ε → `clip`. Left out: sampling
    from a mixture with the teacher, which a customer of a service cannot do.
    """

    kind: ClassVar[str] = "minillm"
    summary: ClassVar[str] = "distill logits by policy gradients of the reverse KL on own text"
    paper: ClassVar[Paper | None] = Paper(id="2306.08543", title="MiniLLM", equations=("2", "3", "5", "7"))

    softens: ClassVar[bool] = False

    on_policy: float = Field(default=0.5, ge=0, le=1, description="share of texts that the student writes itself")
    warmup: int = Field(default=2, ge=0, description="epochs on the teacher's text alone, before its own")
    discount: float = Field(default=1.0, gt=0, le=1, description="γ of later rewards")
    clip: float = Field(default=0.2, gt=0, description="ε, how far the probability ratio counts")

    @model_validator(mode="after")
    def _every_epoch_teaches(self) -> Self:
        if self.alpha == 1.0 and (self.warmup > 0 or self.on_policy == 0.0):
            raise ValueError(
                "at alpha 1 'minillm' learns from the student's own texts alone: set warmup to 0 and on_policy "
                "above 0, or alpha below 1"
            )
        return self

    def divergence(self, logp: Tensor, logq: Tensor, progress: float) -> Tensor:
        """The first term; see `Distillation.divergence`."""
        return divergences.reverse_kl(logp, logq)

    def follow(self, lm: LM, source: Source) -> Following:
        """See `Distilling.follow`."""
        super().follow(lm, source)  # checks
        return _Policy(self, source)


class _Policy(TokenByToken):
    """Remembers how likely its own texts were when they were written."""

    def __init__(self, attack: MiniLLM, source: Source) -> None:
        super().__init__(attack, source)
        self.clip, self.discount = attack.clip, attack.discount
        self.written: dict[int, Tensor] = {}

    def adopt(self, lm: LM, texts: Mapping[int, tuple[Trace, Exposure]]) -> None:
        super().adopt(lm, texts)
        written = token_nll(lm, [trace for trace, _ in texts.values()])
        self.written = dict(zip(texts, written, strict=True))

    def compare(self, logits_NV: Tensor, labels_N: Tensor, target: Target) -> Tensor:
        own_N = target.own_B[target.rows_N]
        exact_N = super().compare(logits_NV, labels_N, target)
        return torch.where(own_N, exact_N - self._gain(logits_NV, labels_N, target), 0.0)

    def _gain(self, logits_NV: Tensor, labels_N: Tensor, target: Target) -> Tensor:
        """The clipped policy objective per token, [N]; 0 on teacher's texts and without reward where not shown."""
        ours_N, shown_N = own_logprob(logits_NV, labels_N), known_of(labels_N, target).clamp(min=MIN_LOG)
        old_N, advantage_N = ours_N.detach().clone(), torch.zeros_like(shown_N)
        for row in torch.nonzero(target.own_B)[:, 0].tolist():
            where = torch.nonzero(target.rows_N == row)[:, 0]
            old_N[where] = -self.written[int(target.index_B[row])][: len(where)].to(ours_N)
            advantage_N[where] = later(torch.nan_to_num(shown_N[where] - old_N[where], nan=0.0), self.discount)
        ratio_N = (ours_N - old_N).exp()
        clipped_N = ratio_N.clamp(1.0 - self.clip, 1.0 + self.clip)
        return torch.minimum(ratio_N * advantage_N, clipped_N * advantage_N)


def later(reward_T: Tensor, discount: float) -> Tensor:
    """For each token the mean reward of the tokens after it, weighted by powers of `discount`; 0 at the end.

    >>> later(torch.tensor([5.0, 1.0, 3.0]), 1.0).tolist()
    [2.0, 3.0, 0.0]
    """
    rewards = reward_T.tolist()
    found, total, weight = [0.0] * len(rewards), 0.0, 0.0
    for t in range(len(rewards) - 2, -1, -1):
        total, weight = rewards[t + 1] + discount * total, 1.0 + discount * weight
        found[t] = total / weight
    return torch.tensor(found, dtype=reward_T.dtype)
