"""Services that show a tiny teacher's distributions, as they are or mapped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from azeotrope.attacks.base import AttackRun, Service
from azeotrope.core.access import Access
from azeotrope.core.sampling import Sampling
from azeotrope.core.types import Problem, Trace
from azeotrope.maths import lowrank
from azeotrope.models.exposure import Exposure
from azeotrope.models.gradients import completions
from azeotrope.models.lm import LM
from azeotrope.models.replay import replay
from tiny import Toy


class Shown(Service):
    """A teacher that shows its distributions."""

    def __init__(self, lm: LM) -> None:
        super().__init__()
        self.lm = lm
        self.leaks: Sequence[Trace] = ()

    def ask(
        self, problems: Sequence[Problem], *, seed: int, prefix: str = "", greedy: bool = False
    ) -> list[Trace]:
        raise AssertionError("distillation asks for no further texts")

    def leak(self, problems: Sequence[Problem], *, seed: int) -> list[Trace]:
        self.queries += len(problems)
        known = {trace.problem_id: trace for trace in self.leaks}
        return [known[problem.id] for problem in problems]

    @property
    def tokenizer(self) -> Any:
        return self.lm.tokenizer

    def logprobs(
        self, traces: Sequence[Trace], *, access: Access = Access.FULL_LOGITS, released: bool = False
    ) -> list[Exposure]:
        if not released:
            self.queries += len(traces)
        prompts = self.lm.encode_many([t.prompt for t in traces])
        pairs = list(zip(prompts, completions(self.lm, traces), strict=True))
        shown = replay(self.lm, pairs, Sampling())
        return [Exposure(tuple(ids), known) for (_, ids), known in zip(pairs, shown, strict=True)]

    def leak_logprobs(self, traces: Sequence[Trace]) -> list[Exposure]:
        return Shown.logprobs(self, traces)

    def biased(
        self, traces: Sequence[Trace], groups_GK: torch.Tensor, offsets_GK: torch.Tensor | None = None
    ) -> list[Exposure]:
        """By biasing for real: 50 nats, and the largest shown of all."""
        found = []
        more_GK = (torch.zeros(groups_GK.shape) if offsets_GK is None else offsets_GK).double()
        for one in self.logprobs(traces, released=True):
            rows = []
            for logits_V in one.known_TK:
                for group_K, offset_K in zip(groups_GK, more_GK, strict=True):
                    biased_V = logits_V.double().index_add(0, group_K, 50.0 + offset_K)
                    rows.append(torch.log_softmax(biased_V, -1).topk(len(group_K)))
            none = torch.empty(0, groups_GK.shape[1])
            known = torch.stack([row.values for row in rows]) if rows else none
            ids = torch.stack([row.indices for row in rows]) if rows else none.long()
            tokens = tuple(token for token in one.tokens for _ in range(len(groups_GK)))
            found.append(Exposure(tokens, known.float(), ids))
            self.queries += len(rows)
            self.tokens += len(rows)
        return found


class Mapped(Shown):
    """One that shows z + A(Bz)."""

    def __init__(self, lm: LM, rank: int) -> None:
        super().__init__(lm)
        generator = torch.Generator().manual_seed(0)
        self.a_VR = torch.randn(lm.vocab_size, rank, generator=generator) / rank**0.5
        self.b_RV = lowrank.centered(torch.randn(rank, lm.vocab_size, generator=generator)) / lm.vocab_size**0.5

    def logprobs(
        self, traces: Sequence[Trace], *, access: Access = Access.FULL_LOGITS, released: bool = False
    ) -> list[Exposure]:
        found = super().logprobs(traces, access=access, released=released)
        return [
            replace(e, known_TK=torch.log_softmax(lowrank.transform(e.known_TK, self.a_VR, self.b_RV), -1))
            for e in found
        ]


def lesson(n: int) -> list[Trace]:
    return [Trace(problem_id=p.id, prompt=p.prompt, text="xyzzy") for p in Toy().problems("release", n)]


def world(service: Shown, n: int) -> AttackRun:
    return AttackRun(seed=0, task=Toy(), problems=Toy().problems("release", n), service=service)
