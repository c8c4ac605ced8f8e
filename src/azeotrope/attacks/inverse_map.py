"""Undoing a map of the logits that somebody else has learned, and distilling what it hid.

Shapes: N tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from azeotrope.attacks.base import AttackRun, Service
from azeotrope.attacks.distill import Distillation
from azeotrope.attacks.following import Material
from azeotrope.core.access import Access
from azeotrope.core.budget import Budget
from azeotrope.core.errors import ConfigError
from azeotrope.core.sampling import Sampling
from azeotrope.core.types import Paper, Trace
from azeotrope.maths import divergences, unmapping
from azeotrope.maths.unmapping import Unmapping
from azeotrope.models.exposure import Exposure
from azeotrope.models.gradients import completions
from azeotrope.models.lm import LM, load
from azeotrope.models.replay import replay

SAME = 1e-3  # nats; answers along a text that differ by less came through the same map


class InverseMap(Distillation):
    """Fit M with M z' ≈ z by least squares on pairs of shown and known logits, then distill M z' by forward KL.

    Aimed at arXiv 2602.03396, whose map E + AB is generically invertible. Known logits are the *undefended* ones
    along `pairs` texts of the release, recorded before the defense was there (a leak), which then are what is
    distilled along these texts (`leaked_kd` is that alone, the control); or, with `sibling`, those of a public
    model of the same vocabulary along all texts, which need not be the teacher's. The fit is of centered logits,
    drawn to the identity by `ridge`. Against a defense that serves each request through one of several maps,
    `maps` says how many the thief looks for: he tells them apart by what they add, and undoes a text by the map
    that leads back to where logits of this model can be (`maths/unmapping.py`). Or he asks for every text `asks`
    times in all and takes the mean of the answers that differ: the mean of linear maps is one linear map. Where
    fewer than all logits are shown there is nothing to invert: then it distils what there is.

    What is learned from N tokens of known logits takes 8·V·min(V, 2·N) bytes, and learning it a few times that.
    """

    kind: ClassVar[str] = "inverse_map"
    version: ClassVar[int] = 2
    summary: ClassVar[str] = "learn to undo the defense's map of the logits, then distill"
    paper: ClassVar[Paper | None] = Paper(
        id="2602.03396",
        title="Towards Distillation-Resistant Large Language Models",
        equations=("Z' = MZ, inverted",),
    )

    pairs: int = Field(default=64, ge=1, description="texts along which undefended logits are known")
    ridge: float = Field(default=1e-3, gt=0, description="pull towards the identity, in squared nats")
    maps: int = Field(default=1, ge=1, description="maps among which requests are dealt, as the thief believes")
    asks: int = Field(default=1, ge=1, description="times that each text is asked for, the release included")
    sibling: str | None = Field(default=None, min_length=1, description="a public model in place of the leak")

    @model_validator(mode="after")
    def _maps_can_be_told_apart(self) -> Self:
        if self.sibling is None and self.maps > self.pairs:
            raise ValueError(
                f"{self.pairs} texts cannot tell {self.maps} maps apart; set pairs to as many at least"
            )
        return self

    @model_validator(mode="after")
    def _own_texts_are_asked_for_once(self) -> Self:
        if self.asks > 1 and self.on_policy:
            raise ValueError("asks averages what is shown along the release; leave on_policy at 0, or asks at 1")
        return self

    @property
    def budget(self) -> Budget:
        """Further answers along the texts, and a leak of undefended logits unless a public model stands in."""
        again = super().budget.queries + self.asks - 1
        return Budget(queries=again, leaked=0 if self.sibling else self.pairs)

    def divergence(self, logp: Tensor, logq: Tensor, progress: float) -> Tensor:
        """See `Distillation.divergence`."""
        return divergences.forward_kl(logp, logq)

    def prepare(
        self, traces: Sequence[Trace], shown: Sequence[Exposure], run: AttackRun, service: Service
    ) -> Material:
        """See `Distilling.prepare`. Raises ConfigError if there are fewer texts than maps."""
        if not shown or min(one.access for one in shown) is not Access.FULL_LOGITS:
            return Material(traces, shown, {"inverse": "not tried: not all logits are shown"})
        shown, versions = self._averaged(traces, shown, service)
        chosen = range(len(traces) if self.sibling else min(self.pairs, len(traces)))
        known = self._known([traces[i] for i in chosen], service)
        seen = [shown[i].known_TK for i in chosen]
        found = unmapping.learn(seen, known, self.ridge, self.maps)

        def mend(exposures: Sequence[Exposure]) -> list[Exposure]:
            return [replace(one, known_TK=_undone(found, one.known_TK)) for one in exposures]

        notes = {"pairs": sum(map(len, known)), "texts": len(known), **self._quality(seen, known)}
        notes["owners"] = [found.owners.count(k) for k in range(self.maps)]
        if self.asks > 1:
            notes["answers"] = versions
        mended = mend(shown)
        if self.sibling is None:
            for i, known_TV in zip(chosen, known, strict=True):
                mended[i] = replace(mended[i], known_TK=torch.log_softmax(known_TV, -1))
        return Material(traces, mended, notes, mend)

    def _averaged(
        self, traces: Sequence[Trace], shown: Sequence[Exposure], service: Service
    ) -> tuple[Sequence[Exposure], float]:
        """The mean over the different answers along every text, and how many there were of a text."""
        answers = [[one.known_TK] for one in shown]
        for again in range(1, self.asks):
            for mine, other in zip(answers, service.logprobs_again(traces, again=again), strict=True):
                if all(_differ(other.known_TK, one_TV) for one_TV in mine):
                    mine.append(other.known_TK)
        merged = [replace(e, known_TK=torch.stack(a).mean(0)) for e, a in zip(shown, answers, strict=True)]
        return merged, sum(map(len, answers)) / len(answers)

    def _quality(self, seen: Sequence[Tensor], known: Sequence[Tensor]) -> dict[str, Any]:
        """Mean KL to the known distributions on a quarter of the texts, before and after a fit to the others."""
        held = max(1, len(seen) // 4)
        if len(seen) - held < self.maps:
            return {}
        found = unmapping.learn(seen[held:], known[held:], self.ridge, self.maps)
        told = {}
        for name, guesses in (("before", seen[:held]), ("after", [found.undo(z) for z in seen[:held]])):
            logs = (torch.log_softmax(torch.cat(list(z)).double(), -1) for z in (known[:held], guesses))
            told[f"kl_{name}"] = float(divergences.forward_kl(*logs).mean())
        return told

    def _known(self, traces: Sequence[Trace], service: Service) -> list[Tensor]:
        """Undefended (or public) logits along texts."""
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


def _differ(one_TV: Tensor, other_TV: Tensor) -> bool:
    """Whether two answers came through different maps; what both rule out says nothing."""
    gap_TV = (one_TV - other_TV).abs().nan_to_num(0.0)
    return bool(gap_TV.numel()) and float(gap_TV.max()) > SAME


def _undone(found: Unmapping, known_TV: Tensor) -> Tensor:
    return torch.log_softmax(found.undo(known_TV), -1).to(known_TV)
