"""Defensive output generation: a head trained to say what a student's proxies would not, while it reasons.

Shapes: N reasoning tokens, V vocabulary.
"""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator

from azeotrope.core.methods import Maturity
from azeotrope.core.types import Paper
from azeotrope.defenses.base import Bench
from azeotrope.defenses.trained_head import TrainedHead
from azeotrope.models.corpus import Corpus
from azeotrope.models.learnable import Learnable
from azeotrope.models.repel import Repulsion


class DOGe(TrainedHead):
    """A head trained by CE − λ·mean over reasoning tokens of min(KL(teacher ‖ proxy), C) (arXiv 2505.19504).

    The backbone is frozen, W becomes W + `scale`·ΔW (`rank` above 0: a map of the logits of that rank). CE is on
    the teacher's own traces, prompt masked, at the temperature at which they were drawn; KL compares
    softmax(z_T/α) with softmax(z_P/α), a mean over the tokens with m_t = 1 and over proxies. Symbols: λ → `lam`,
    α → `alpha`, θ_P → `proxy` and `more_proxies`, C → `cap`; m_t is 1 between the think tags, 0 on tags, answer
    and end of sequence (a trace without a closing tag is reasoning to its end; `reasoning_share` is recorded).

    λ is stated per token. The published code sums the KL over the T positions of a sequence while its CE is a
    mean: λ = λ_ref·T, so 3e-5 there is about 0.03 to 0.06 here for T of 1,000 to 2,000. Other known deviations of
    that code: its token mask is never filled, so that prompts, answers and padding are repelled as well; the KL
    is not bounded, and an early checkpoint is used. Here `cap` bounds it: the objective is at least −λC. Its
    optional projector (V → 512 → V with a ReLU) is not linear and is left out. Decay pulls ΔW to 0 here, not W.

    Assumes that the proxies share the teacher's vocabulary (the published code cuts both to the shorter one).
    Costs one pass of the models over the traces and a training of the head; nothing at decode time.
    """

    kind: ClassVar[str] = "doge"
    summary: ClassVar[str] = "train the head away from what proxies say while reasoning"
    paper: ClassVar[Paper | None] = Paper(
        id="2505.19504",
        title="DOGe: Defensive Output Generation for LLM Protection Against Knowledge Distillation",
        equations=("L_SFT + λ L_adv",),
    )
    maturity: ClassVar[Maturity] = Maturity.EXPERIMENTAL

    lam: float = Field(default=0.03, ge=0, description="λ per reasoning token; 0 is the control, plain training")
    epochs: int = Field(default=10, ge=1)
    lr: float = Field(default=1e-3, gt=0)
    alpha: float = Field(default=2.0, gt=0, description="α, temperature of both sides of the KL")
    cap: float = Field(default=5.0, gt=0, description="C in nats: a token's KL counts up to here")
    proxy: str = Field(default="embedded/proxy", min_length=1, description="model that stands in for the student")
    more_proxies: tuple[str, ...] = Field(default=(), description="further ones; the KL is averaged over all")

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len(set(self.others)) < len(self.others):
            raise ValueError("a proxy is named twice")
        return self

    def told(self, name: str) -> str:
        """See `Settings.told`."""
        return "+".join(self.more_proxies) if name == "more_proxies" else super().told(name)

    @property
    def others(self) -> tuple[str, ...]:
        """See `TrainedHead.others`."""
        return (self.proxy, *self.more_proxies)

    def objective(self, bench: Bench, corpus: Corpus, head: Learnable, seed: int) -> Repulsion:
        """See `TrainedHead.objective`."""
        return Repulsion(corpus, head, alpha=self.alpha, cap=self.cap)
