"""Reading all log-probabilities of a service that shows a few and lets its customers bias tokens, then distilling.

Shapes: T tokens of a text, V vocabulary, G groups of K tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from azeotrope.attacks.base import AttackRun, Service
from azeotrope.attacks.following import Material
from azeotrope.attacks.inverse_map import InverseMap
from azeotrope.core.access import Access
from azeotrope.core.budget import Budget
from azeotrope.core.errors import ConfigError
from azeotrope.core.seeds import derive
from azeotrope.core.types import Paper, Trace
from azeotrope.maths import extraction
from azeotrope.models.exposure import Exposure
from azeotrope.models.lm import LM


class ExtractedKD(InverseMap):
    """Recover whole distributions along the release by `logit_bias`, then distill them, their map undone.

    Where K of V log-probabilities are shown, (V − 1)/(K − 1) replies a token, each with K − 1 tokens and one
    reference biased upward together, show all of them (arXiv 2403.06634, `azeotrope extract` over HTTP): the bias
    cancels in z_i − z_R = lp_i − lp_R. Where numbers are rounded to `step` nats, `dither` readings with biases
    that differ by fractions of the step average to the number between; at 1 the rounding stays. `invert` then
    learns the inverse of a map of the logits, as `inverse_map` does. Assumes that the service accepts
    `logit_bias`; where it shows one log-probability or none, this is what `inverse_map` makes of it: fine-tuning
    on what is shown.
    """

    kind: ClassVar[str] = "extracted_kd"
    version: ClassVar[int] = 2
    summary: ClassVar[str] = "read all logits through logit_bias, undo their map, then distill"
    paper: ClassVar[Paper | None] = Paper(
        id="2403.06634", title="Stealing Part of a Production Language Model", equations=("§5",)
    )
    needs: ClassVar[Access] = Access.TOPK_LOGPROBS

    dither: int = Field(default=1, ge=1, description="readings of every group, to see through rounding")
    step: float = Field(default=1.0, gt=0, description="nats to which the service rounds, for dither above 1")
    invert: bool = Field(default=True, description="whether a map of the recovered logits is undone")

    @model_validator(mode="after")
    def _release_only(self) -> Self:
        if self.on_policy:
            raise ValueError("extracted_kd reads logits along the release; leave on_policy at 0")
        if self.asks > 1:
            raise ValueError("every probe of extracted_kd is a request of its own already; leave asks at 1")
        return self

    @property
    def budget(self) -> Budget:
        """The probes, and the leak from which the inverse is learned."""
        leaked = super().budget.leaked if self.invert else 0
        return Budget(leaked=leaked, probes=True)

    def check(self, lm: LM, service: Service) -> None:
        """See `Distilling.check`. A padded head is refused before a probe is paid for."""
        super().check(lm, service)
        if lm.vocab_size != _ids(service):
            raise ConfigError(
                f"extracted_kd can ask for the {_ids(service)} ids of the tokenizer, and the head of the student "
                f"'{lm.ref}' has {lm.vocab_size} rows; resize it (resize_token_embeddings)."
            )

    def prepare(
        self, traces: Sequence[Trace], shown: Sequence[Exposure], run: AttackRun, service: Service
    ) -> Material:
        """See `Distilling.prepare`. Raises ConfigError where `Service.biased` does."""
        k = min((one.known_TK.shape[-1] for one in shown), default=0)
        if k < 2:
            return Material(traces, shown, {"probes": 0})
        size = _ids(service)
        groups_GK = grouped(size, min(k, size))
        before = service.queries
        read = self._read(traces, groups_GK, size, run, service)
        whole = [replace(one, known_TK=known_TV, ids_TK=None) for one, known_TV in zip(shown, read, strict=True)]
        notes: dict[str, object] = {"probes": service.queries - before}
        if not self.invert:
            return Material(traces, whole, notes)
        made = super().prepare(traces, whole, run, service)
        return replace(made, notes={**made.notes, **notes})

    def _read(
        self, traces: Sequence[Trace], groups_GK: Tensor, size: int, run: AttackRun, service: Service
    ) -> list[Tensor]:
        """All log-probabilities along every text, [T, V] each: the mean of `dither` readings.

        Over the readings, the bias of every token takes all fractions of the step, in an order of its own: what is
        shown depends on how far biases differ, so that all of them in one order would move nothing.
        """
        generator = torch.Generator().manual_seed(derive(run.seed, "dither") % 2**63)
        order_SV = torch.rand(self.dither, size, generator=generator).argsort(0)
        sums: list[Tensor] = []
        for reading in range(self.dither):
            offset_V = order_SV[reading] * (self.step / self.dither)
            found = []
            for one in service.biased(traces, groups_GK, offset_V[groups_GK] if self.dither > 1 else None):
                assert one.ids_TK is not None
                plain = replace(one, known_TK=one.known_TK - offset_V[one.ids_TK])
                found.append(assembled(plain, len(one.tokens) // len(groups_GK), size))
            sums = [a + b for a, b in zip(sums, found, strict=True)] if sums else found
        return [torch.log_softmax(total_TV / self.dither, -1) for total_TV in sums]

    def _known(self, traces: Sequence[Trace], service: Service) -> list[Tensor]:
        """See `InverseMap._known`; without the rows of a padded head."""
        return [one_TV[:, : _ids(service)] for one_TV in super()._known(traces, service)]


def _ids(service: Service) -> int:
    return 1 + int(max(service.tokenizer.get_vocab().values()))


def grouped(size: int, k: int) -> Tensor:
    """Groups of `k` token ids that together hold all `size`, each with token 0 as its reference. int64 [G, K].

    >>> grouped(6, 3).tolist()
    [[0, 1, 2], [0, 3, 4], [0, 5, 1]]
    """
    count = extraction.queries_needed(size, k)
    others = 1 + torch.arange(count * (k - 1)) % (size - 1)
    return torch.cat([torch.zeros(count, 1, dtype=torch.long), others.reshape(count, k - 1)], -1)


def assembled(found: Exposure, length: int, size: int) -> Tensor:
    """The log-probabilities [T, V] of a text from what was shown of every group along it (T·G rows).

    A group whose reference is not shown tells nothing; tokens that no reply told are ruled out (−inf).
    """
    assert found.ids_TK is not None
    known_NK, ids_NK = found.known_TK.double(), found.ids_TK
    reference_N1 = known_NK.masked_fill(ids_NK != 0, float("-inf")).amax(-1, keepdim=True)
    told_NK = known_NK.isfinite() & reference_N1.isfinite()
    gaps_NK = torch.where(told_NK, known_NK - reference_N1, float("-inf"))
    rows_NK = torch.arange(len(known_NK))[:, None] // max(1, len(known_NK) // max(1, length))
    whole_F = torch.full((length * size,), float("-inf"), dtype=torch.float64)
    whole_F = whole_F.scatter_reduce(0, (rows_NK * size + ids_NK).flatten(), gaps_NK.flatten(), "amax")
    return torch.log_softmax(whole_F.reshape(length, size), -1).to(found.known_TK)
