"""Forcing the first words of the reply: a defense that acts along the model's own path may lose it.

Source: arXiv 2606.25059 (one-word assistant prefill).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from azeotrope.attacks.adaptive import AdaptiveSFT, Lessons
from azeotrope.attacks.base import AttackRun
from azeotrope.core.budget import Budget
from azeotrope.core.seeds import derive
from azeotrope.core.types import THINK_OPEN, Paper, Trace
from azeotrope.models.lm import LM


class Prefill(AdaptiveSFT):
    """Ask every problem again with the reply's first words given, and train on those traces only.

    Needs an interface that continues a started reply. Q = D further queries. Its control is `sft`: as many traces
    of the same service, but for the first words.
    """

    kind: ClassVar[str] = "prefill"
    summary: ClassVar[str] = "force the first words of every reply, then fine-tune"
    paper: ClassVar[Paper | None] = Paper(
        id="2606.25059", title="What Does It Mean to Break a Distillation Defense?", equations=()
    )

    prefix: str = Field(default=f"{THINK_OPEN} First", min_length=1, description="first words of every reply")

    @property
    def budget(self) -> Budget:
        """Every problem is asked once more."""
        return Budget(queries=1.0)

    def prepare(self, lm: LM, traces: Sequence[Trace], run: AttackRun) -> Lessons:
        """Ask again."""
        run.need_task(self.kind)
        service = run.need_service(self.kind)
        return Lessons(service.ask(run.problems, seed=derive(run.seed, "prefill"), prefix=self.prefix))
