"""The control of `reweighted_sft`: the same weights, but on any of the traces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import ClassVar

from azeotrope.attacks.adaptive import Lessons
from azeotrope.attacks.base import AttackRun
from azeotrope.attacks.reweighted_sft import ReweightedSFT, refusals
from azeotrope.core.methods import Maturity
from azeotrope.core.seeds import derive
from azeotrope.core.types import Paper, Trace
from azeotrope.models.lm import LM


class RandomWeights(ReweightedSFT):
    """Weigh traces as `reweighted_sft` does, deal the weights out at random, then fine-tune.

    Control of `reweighted_sft`: where both do as well, weights change what is learned by their spread (fewer
    effective traces), not by what they prefer. Give both the same settings. Matched exactly: the weights, per
    base; refusals keep weight 1 in both. It costs what the attack costs.
    """

    kind: ClassVar[str] = "random_weights"
    version: ClassVar[int] = 1
    summary: ClassVar[str] = "deal the weights of reweighted_sft out at random, then fine-tune (a control)"
    paper: ClassVar[Paper | None] = None
    maturity: ClassVar[Maturity] = Maturity.CONTROL

    def prepare(self, lm: LM, traces: Sequence[Trace], run: AttackRun) -> Lessons:
        """Weigh, and shuffle the weights of what is no refusal."""
        lessons = super().prepare(lm, traces, run)
        weights = list(lessons.weights or ())
        refused = refusals(run.need_task(self.kind), run.problems, traces)
        judged = [row for row, no in enumerate(refused) if traces[row].text and not no]
        dealt = [weights[row] for row in judged]
        Random(derive(run.seed, "deal")).shuffle(dealt)
        for row, weight in zip(judged, dealt, strict=True):
            weights[row] = weight
        return replace(lessons, weights=weights)
