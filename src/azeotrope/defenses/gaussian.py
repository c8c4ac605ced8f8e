"""Gaussian noise on the logits of at most k chosen tokens of a trace."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from azeotrope.core.methods import Maturity
from azeotrope.core.types import Paper
from azeotrope.defenses.base import Bench, LogitDefense
from azeotrope.maths import hashrng
from azeotrope.models.decode import Batch, LogitRule, Session, StepView

_NOISE_STREAM, _CHOICE_STREAM = 21, 22


class Gaussian(LogitDefense):
    """z̃_t = z_t + ξ_t with ξ_t ~ N(0, σ²I) on a mask of at most `tokens` positions (arXiv 2604.23238, §3).

    σ is `sigma` (in logits). `choose` decides online where the budget of positions is spent: `entropy`
    takes positions whose undefended entropy exceeds `threshold` nats, `random` takes each with
    probability `rate`. E KL(p‖p̃) ≤ σ²/2 per masked position, whatever the vocabulary (Jensen).
    Costs no forward pass.
    """

    kind: ClassVar[str] = "gaussian"
    summary: ClassVar[str] = "Gaussian logit noise on k chosen tokens"
    paper: ClassVar[Paper | None] = Paper(
        id="2604.23238", title="TraceGuard", equations=("Gaussian case study (reconstructed)",)
    )
    maturity: ClassVar[Maturity] = Maturity.CONTROL
    dial: ClassVar[str] = "sigma"
    sweep: ClassVar[tuple[float, ...]] = (1.0, 2.0, 3.0)

    sigma: float = Field(default=1.0, ge=0, description="standard deviation of the noise, in logits")
    tokens: int = Field(default=16, ge=1, description="most positions of a trace that are perturbed (k)")
    choose: Literal["entropy", "random"] = "random"
    threshold: float = Field(default=0.5, ge=0, description="nats; for choose=entropy")
    rate: float = Field(default=0.25, gt=0, le=1, description="for choose=random")

    def bind(self, bench: Bench) -> LogitRule:
        """No models, no data."""
        return _Rule(self)


class _Rule(LogitRule):
    def __init__(self, settings: Gaussian) -> None:
        self.settings = settings

    def open(self, batch: Batch) -> Session:
        return _Session(self.settings, batch.seeds_B)


class _Session(Session):
    joins: ClassVar[bool] = True

    def __init__(self, settings: Gaussian, seeds_B: Tensor) -> None:
        self.settings = settings
        self.left_B = torch.full_like(seeds_B, settings.tokens)

    def step(self, view: StepView) -> Tensor:
        chosen_B = self._choose(view) & (self.left_B > 0)
        self.left_B = self.left_B - chosen_B.long()
        keys_B = hashrng.row_keys(view.seeds_B, _NOISE_STREAM, view.t_B)
        noise_BV = hashrng.normals(keys_B, view.logits_BV.shape[-1]).to(view.logits_BV.dtype)
        return torch.where(chosen_B[:, None], view.logits_BV + self.settings.sigma * noise_BV, view.logits_BV)

    def _choose(self, view: StepView) -> Tensor:
        if self.settings.choose == "random":
            keys_B = hashrng.row_keys(view.seeds_B, _CHOICE_STREAM, view.t_B)
            return hashrng.uniforms(keys_B, 1)[:, 0] < self.settings.rate
        log_p = torch.log_softmax(view.logits_BV, -1)
        entropy_B = -torch.where(log_p.isneginf(), 0.0, log_p.exp() * log_p).sum(-1)
        return entropy_B > self.settings.threshold

    def select(self, rows: Tensor) -> None:
        self.left_B = self.left_B[rows]

    def join(self, other: Session) -> None:
        assert isinstance(other, _Session)
        self.left_B = torch.cat([self.left_B, other.left_B])
