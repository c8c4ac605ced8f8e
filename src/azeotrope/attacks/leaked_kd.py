"""What a leak of undefended logits is worth by itself: the control of learning an inverse from it.

Shapes: T tokens of a text, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from azeotrope.attacks.base import AttackRun, Service
from azeotrope.attacks.distill import Distillation
from azeotrope.attacks.following import Material
from azeotrope.core.budget import Budget
from azeotrope.core.types import Paper, Trace
from azeotrope.maths import divergences
from azeotrope.models.exposure import Exposure


class LeakedKD(Distillation):
    """Forward KL to the *undefended* distributions along `pairs` texts of the release, and text alone elsewhere.

    The loss is that of arXiv 1503.02531. What is shown is not read. With the `pairs` of `inverse_map` this is that
    attack without its inverse; with as many as there are texts it is the most that any inverse could give: the
    undefended distributions along the defended text.
    """

    kind: ClassVar[str] = "leaked_kd"
    summary: ClassVar[str] = "distill leaked undefended logits where there are some, text elsewhere"
    paper: ClassVar[Paper | None] = Paper(
        id="1503.02531", title="Distilling the Knowledge in a Neural Network", equations=("L = (1 − α)CE + ατ²KL",)
    )

    pairs: int = Field(default=64, ge=1, description="texts along which undefended logits are known")

    @model_validator(mode="after")
    def _release_only(self) -> Self:
        if self.on_policy:
            raise ValueError("leaked_kd knows logits along the release only; leave on_policy at 0")
        return self

    @property
    def budget(self) -> Budget:
        """The leak."""
        return Budget(leaked=self.pairs)

    def divergence(self, logp: Tensor, logq: Tensor, progress: float) -> Tensor:
        """See `Distillation.divergence`; to a distribution that is sure of the word said it is cross-entropy."""
        return divergences.forward_kl(logp, logq)

    def prepare(
        self, traces: Sequence[Trace], shown: Sequence[Exposure], run: AttackRun, service: Service
    ) -> Material:
        """See `Distilling.prepare`."""
        leaked = service.leak_logprobs(traces[: self.pairs])
        size = leaked[0].known_TK.shape[-1] if leaked else 0
        rest = [_sure(one, size) for one in shown[len(leaked) :]]
        return Material(traces, [*leaked, *rest], {"leaked": len(leaked)})


def _sure(one: Exposure, size: int) -> Exposure:
    """All mass on the words of the text."""
    said_T1 = torch.tensor(one.tokens, dtype=torch.long)[:, None]
    known_TV = torch.full((len(one.tokens), size), float("-inf")).scatter(-1, said_T1, 0.0)
    return replace(one, known_TK=known_TV, ids_TK=None)
