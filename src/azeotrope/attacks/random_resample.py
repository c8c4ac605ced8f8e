"""The control of `resampled_sft`: as many queries, but any of the answers."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import ClassVar

from pydantic import Field

from azeotrope.attacks.adaptive import AdaptiveSFT, Lessons
from azeotrope.attacks.base import AttackRun
from azeotrope.attacks.resampled_sft import ask_again
from azeotrope.core.budget import Budget
from azeotrope.core.methods import Maturity
from azeotrope.core.seeds import derive
from azeotrope.core.types import Trace
from azeotrope.models.lm import LM


class RandomResample(AdaptiveSFT):
    """Ask every problem `queries` times in all, keep a random trace of each, then fine-tune.

    Control of `resampled_sft` at the same `queries`: what that brings beyond this is due to choosing the best
    trace, not to having asked again. Matched exactly: the completions asked (in one study the very same ones)
    and one trace kept per problem. Not matched: their tokens. Q = `queries`·D, as there.
    """

    kind: ClassVar[str] = "random_resample"
    summary: ClassVar[str] = "ask as often as resampled_sft, keep a random trace of each problem (a control)"
    maturity: ClassVar[Maturity] = Maturity.CONTROL

    queries: int = Field(default=3, ge=1, description="completions asked per problem, the release included")

    @property
    def budget(self) -> Budget:
        """As that of `resampled_sft`."""
        return Budget(queries=self.queries - 1)

    def prepare(self, lm: LM, traces: Sequence[Trace], run: AttackRun) -> Lessons:
        """Ask `queries` − 1 more times and draw."""
        rounds = ask_again(run.need_service(self.kind), traces, run, self.queries)
        drawn = Random(derive(run.seed, "draw")).choices(range(len(rounds)), k=len(traces))
        chosen = [rounds[k][i] for i, k in enumerate(drawn)]
        return Lessons(chosen, notes={"from_the_release": drawn.count(0)})
