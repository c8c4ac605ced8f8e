"""Mixing in undefended traces: an insider, a careless endpoint, an older release.

Source: arXiv 2603.15500 (replication: a quarter to a half of public reasoning defeats hindsight rewriting).
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import ClassVar

from pydantic import Field

from azeotrope.attacks.adaptive import AdaptiveSFT, Lessons
from azeotrope.attacks.base import AttackRun
from azeotrope.core.budget import Budget
from azeotrope.core.seeds import derive
from azeotrope.core.types import Paper, Trace
from azeotrope.models.lm import LM


class CleanMix(AdaptiveSFT):
    """Replace a share of the release by undefended traces of the same problems, then fine-tune.

    The data budget stays D; the assumption is a leak of `share`·D undefended traces.
    """

    kind: ClassVar[str] = "clean_mix"
    summary: ClassVar[str] = "replace a share of the release by undefended traces, then fine-tune"
    paper: ClassVar[Paper | None] = Paper(id="2603.15500", title="Hindsight rewriting", equations=())

    share: float = Field(default=0.1, ge=0, le=1, description="share of the release that is replaced")

    @property
    def budget(self) -> Budget:
        """The share of the release that is replaced must have leaked."""
        return Budget(leaks=self.share)

    def prepare(self, lm: LM, traces: Sequence[Trace], run: AttackRun) -> Lessons:
        """Replace random traces; which ones is the same for every base only if their seeds are."""
        run.need_task(self.kind)
        service = run.need_service(self.kind)
        chosen = sorted(
            Random(derive(run.seed, "mix")).sample(range(len(traces)), round(self.share * len(traces)))
        )
        mixed = list(traces)
        fresh = service.leak([run.problems[i] for i in chosen], seed=derive(run.seed, "leak"))
        for i, trace in zip(chosen, fresh, strict=True):
            mixed[i] = trace
        return Lessons(mixed, notes={"leaked": len(chosen)})
