"""Distilling logits with a share of clean words: leaked undefended texts, and what is shown along them."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from azeotrope.attacks.base import AttackRun, Service
from azeotrope.attacks.distill import Distillation
from azeotrope.attacks.following import Material
from azeotrope.core.budget import Budget
from azeotrope.core.seeds import derive
from azeotrope.core.types import Paper, Trace
from azeotrope.maths import divergences
from azeotrope.models.exposure import Exposure


class CleanKD(Distillation):
    """Replace `share` of the release by leaked undefended texts of the same problems, then distill by forward KL.

    The loss is that of arXiv 1503.02531. Along the leaked texts, too, the service shows its *defended*
    distributions, and bills for them. A small α trusts the words more: with `share` 0 this is the test of α alone.
    """

    kind: ClassVar[str] = "clean_kd"
    summary: ClassVar[str] = "replace a share of the texts by undefended ones, then distill logits"
    paper: ClassVar[Paper | None] = Paper(
        id="1503.02531", title="Distilling the Knowledge in a Neural Network", equations=("L = (1 − α)CE + ατ²KL",)
    )

    alpha: float = Field(default=0.2, ge=0, le=1, description="α, the divergence's share of the loss")
    share: float = Field(default=0.1, ge=0, le=1, description="share of the release that is replaced")

    @property
    def budget(self) -> Budget:
        """The leak, and log-probabilities along it."""
        own = super().budget
        return Budget(queries=own.queries + self.share, leaks=self.share)

    def divergence(self, logp: Tensor, logq: Tensor, progress: float) -> Tensor:
        """See `Distillation.divergence`."""
        return divergences.forward_kl(logp, logq)

    def prepare(
        self, traces: Sequence[Trace], shown: Sequence[Exposure], run: AttackRun, service: Service
    ) -> Material:
        """See `Distilling.prepare`."""
        rng = Random(derive(run.seed, "mix"))
        chosen = sorted(rng.sample(range(len(traces)), round(self.share * len(traces))))
        fresh = service.leak([run.problems[i] for i in chosen], seed=derive(run.seed, "leak")) if chosen else []
        along = service.logprobs(fresh, access=self.needs) if fresh else []
        mixed, targets = list(traces), list(shown)
        for i, trace, exposure in zip(chosen, fresh, along, strict=True):
            mixed[i], targets[i] = trace, exposure
        return Material(mixed, targets, {"leaked": len(chosen)})
