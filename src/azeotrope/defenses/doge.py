"""Defensive output generation: a head trained to say what a student's proxies would not, while it reasons.

Shapes: N reasoning tokens, V vocabulary.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, field_validator

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
    α → `alpha`, θ_P → `proxies`, C → `cap`; m_t is 1 between the think tags and 0 on tags, answer and end of
    sequence (where a trace has no closing tag, its whole text is reasoning; `reasoning_share` is recorded).

    λ is stated per token. The reference code (v1) sums the KL over the positions T of a sequence while its
    CE is a mean: λ = λ_ref·T, so 3e-5 there is about 0.03 to 0.06 here for T of 1,000 to 2,000. Other known
    deviations of that code: its token mask is never filled, so that prompts and answers are repelled as well; the
    KL is not bounded, and an early checkpoint is used. Here `cap` bounds it: the objective is at least −λC.
    Decay pulls ΔW to 0 here, not W.

    Assumes that the proxies share the teacher's vocabulary (the reference cuts both to the shorter one). Costs one
    pass of the models over the traces and a training of the head; nothing at decode time.
    """

    kind: ClassVar[str] = "doge"
    summary: ClassVar[str] = "train the head away from what proxies say while reasoning"
    paper: ClassVar[Paper | None] = Paper(
        id="2505.19504",
        title="DOGe: Defensive Output Generation for LLM Protection Against Knowledge Distillation",
        equations=("L_SFT + λ L_adv",),
    )
    maturity: ClassVar[Maturity] = Maturity.EXPERIMENTAL

    lam: float = Field(default=0.1, ge=0, description="λ per reasoning token; 0 is the control, plain training")
    alpha: float = Field(default=2.0, gt=0, description="α, temperature of both sides of the KL")
    cap: float = Field(default=5.0, gt=0, description="C in nats: a token's KL counts up to here")
    proxies: tuple[str, ...] = Field(
        default=("embedded/proxy",), min_length=1, description="models that stand in for the student"
    )

    @field_validator("proxies")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError("a proxy is named twice")
        return value

    def told(self, name: str) -> str:
        """See `Settings.told`."""
        return "+".join(self.proxies) if name == "proxies" else super().told(name)

    @property
    def others(self) -> tuple[str, ...]:
        """See `TrainedHead.others`."""
        return self.proxies

    def objective(self, bench: Bench, corpus: Corpus, head: Learnable, seed: int) -> Repulsion:
        """See `TrainedHead.objective`."""
        return Repulsion(corpus, head, alpha=self.alpha, cap=self.cap)
