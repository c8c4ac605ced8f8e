"""Undoing a map of the logits that somebody else has learned, and distilling what it hid.

Shapes: N tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from azeotrope.attacks.base import AttackRun, Service
from azeotrope.attacks.distill import Distillation
from azeotrope.attacks.following import Material
from azeotrope.core.access import Access
from azeotrope.core.budget import Budget
from azeotrope.core.errors import ConfigError
from azeotrope.core.sampling import Sampling
from azeotrope.core.types import Paper, Trace
from azeotrope.maths import divergences, lowrank
from azeotrope.models.exposure import Exposure
from azeotrope.models.gradients import completions
from azeotrope.models.lm import LM, load
from azeotrope.models.replay import replay


class InverseMap(Distillation):
    """Fit M with M z' ≈ z by least squares on pairs of shown and known logits, then distil M z' by forward KL.

    Aimed at arXiv 2602.03396, whose map E + AB is generically invertible. Known logits are the *undefended* ones
    along `pairs` texts of the release, recorded before the defense was there (a leak); or, with `sibling`, those
    of a public model of the same vocabulary along all texts, which need not be the teacher's. The fit is of
    centered logits, drawn to the identity by `ridge`. Where fewer than all logits are shown there is nothing to
    invert: then it distils what there is.
    """

    kind: ClassVar[str] = "inverse_map"
    summary: ClassVar[str] = "learn to undo the defense's map of the logits, then distil"
    paper: ClassVar[Paper | None] = Paper(
        id="2602.03396",
        title="Towards Distillation-Resistant Large Language Models",
        equations=("Z' = MZ, inverted",),
    )

    pairs: int = Field(default=64, ge=1, description="texts along which undefended logits are known")
    ridge: float = Field(default=1e-3, gt=0, description="pull towards the identity, in squared nats")
    sibling: str | None = Field(default=None, description="a public model in place of the leak")

    @property
    def budget(self) -> Budget:
        """A leak of undefended logits along some texts, unless a public model stands in."""
        return Budget(queries=super().budget.queries, leaked=0 if self.sibling else self.pairs)

    def divergence(self, logp: Tensor, logq: Tensor, progress: float) -> Tensor:
        """See `Distillation.divergence`."""
        return divergences.forward_kl(logp, logq)

    def prepare(
        self, traces: Sequence[Trace], shown: Sequence[Exposure], run: AttackRun, service: Service
    ) -> Material:
        """See `Distilling.prepare`."""
        if not shown or min(one.access for one in shown) is not Access.FULL_LOGITS:
            return Material(traces, shown, {"inverse": "not tried: not all logits are shown"})
        chosen = range(len(traces) if self.sibling else min(self.pairs, len(traces)))
        known = self._known([traces[i] for i in chosen], service)
        seen_NV, known_NV = torch.cat([shown[i].known_TK for i in chosen]), torch.cat(known)
        map_VV = lowrank.fit_map(seen_NV, known_NV, self.ridge)
        recovered = [replace(one, known_TK=_apply(map_VV, one.known_TK)) for one in shown]
        notes: dict[str, object] = {"pairs": len(seen_NV)}
        for name, logits_NV in (
            ("before", seen_NV),
            ("after", torch.cat([recovered[i].known_TK for i in chosen])),
        ):
            logs = torch.log_softmax(known_NV.double(), -1), torch.log_softmax(logits_NV.double(), -1)
            notes[f"kl_{name}"] = float(divergences.forward_kl(*logs).mean())
        return Material(traces, recovered, notes)

    def _known(self, traces: Sequence[Trace], service: Service) -> list[Tensor]:
        if self.sibling is None:
            return [one.known_TK for one in service.leak_logprobs(traces)]
        lm = load(self.sibling)
        if lm.tokenizer.get_vocab() != service.tokenizer.get_vocab():
            raise ConfigError(
                f"The public model '{lm.ref}' has another vocabulary than the teacher; inverse_map needs the same."
            )
        return _along(lm, traces)


def _along(lm: LM, traces: Sequence[Trace]) -> list[Tensor]:
    prompts = lm.encode_many([trace.prompt for trace in traces])
    return replay(lm, list(zip(prompts, completions(lm, traces), strict=True)), Sampling(temperature=1.0))


def _apply(map_VV: Tensor, known_TV: Tensor) -> Tensor:
    centered_TV = known_TV.double() - known_TV.double().mean(-1, keepdim=True)
    return torch.log_softmax(centered_TV @ map_VV.T, -1).to(known_TV)
