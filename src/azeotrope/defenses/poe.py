"""Product of experts: sample from the teacher pulled towards what the student already says.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from azeotrope.core.methods import Maturity
from azeotrope.core.types import Paper
from azeotrope.defenses.base import Bench, LogitDefense
from azeotrope.models.decode import Batch, LogitRule, Session, StepView
from azeotrope.models.lm import LM, check_pair
from azeotrope.models.stepper import Stepper
from azeotrope.models.walking import WalkingSession


class ProductOfExperts(LogitDefense):
    """Sample from softmax([(1 − γ) log p_T + γ log p_P] / τ) (arXiv 2605.22737, value v_gap).

    The teacher's best answer to a student that reweights traces by v = log π_ref − log π_stu: what the proxy
    finds likely teaches it little. γ → `gamma`, p_P → `proxy`. One proxy pass a token, no gradient. With greedy
    decoding τ counts as 1. The proxy must share the teacher's vocabulary.
    """

    kind: ClassVar[str] = "poe"
    summary: ClassVar[str] = "mix the teacher's log-probabilities with a proxy's"
    paper: ClassVar[Paper | None] = Paper(
        id="2605.22737", title="The Distillation Game", equations=("π_rel ∝ π_ref exp(−λ v_gap)",)
    )
    maturity: ClassVar[Maturity] = Maturity.EXPERIMENTAL
    dial: ClassVar[str] = "gamma"
    sweep: ClassVar[tuple[float, ...]] = (0.2, 0.4, 0.6)

    gamma: float = Field(default=0.4, ge=0, lt=1, description="γ, the proxy's share of the exponent")
    proxy: str = Field(default="embedded/proxy", min_length=1, description="model that stands in for the student")

    def bind(self, bench: Bench) -> LogitRule:
        """Load the proxy. Raises ConfigError unless it shares the teacher's vocabulary."""
        proxy = bench.model(self.proxy)
        check_pair(bench.teacher, proxy)
        return _Rule(proxy, self.gamma, bench.sampling.divisor)


class _Rule(LogitRule):
    def __init__(self, proxy: LM, gamma: float, temperature: float) -> None:
        self.proxy, self.gamma, self.temperature = proxy, gamma, temperature

    def open(self, batch: Batch) -> Session:
        return _Session(self, batch)


class _Session(WalkingSession):
    joins: ClassVar[bool] = True

    def __init__(self, rule: _Rule, batch: Batch) -> None:
        super().__init__(batch)
        self.rule = rule
        self.steppers = [Stepper(rule.proxy)]

    def step(self, view: StepView) -> Tensor:
        """Constants of a row cancel in the softmax, so the teacher's logits serve as its log-probabilities."""
        own_BV = self.walk(self.steppers[0], view).logits_BV / self.rule.temperature
        return (1.0 - self.rule.gamma) * view.logits_BV + self.rule.gamma * own_BV
