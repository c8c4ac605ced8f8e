"""Asking for the likeliest text: what a defense that moves the distribution leaves of the words themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from azeotrope.attacks.adaptive import AdaptiveSFT, Lessons
from azeotrope.attacks.base import AttackRun
from azeotrope.core.budget import Budget
from azeotrope.core.types import Paper, Trace
from azeotrope.models.lm import LM


class GreedySFT(AdaptiveSFT):
    """Ask every problem again at temperature 0 and fine-tune on those texts alone.

    Aimed at defenses that keep the likeliest token and move the rest (arXiv 2602.03396 keeps the teacher's argmax
    at nearly all tokens): a text sampled from the moved distribution has slips that the likeliest one has not. The
    release is paid for too and not read, but for its problems.
    """

    kind: ClassVar[str] = "greedy_sft"
    summary: ClassVar[str] = "ask for the likeliest text of every problem, then fine-tune"
    paper: ClassVar[Paper | None] = None

    @property
    def budget(self) -> Budget:
        """Every problem is asked once more."""
        return Budget(queries=1.0)

    def prepare(self, lm: LM, traces: Sequence[Trace], run: AttackRun) -> Lessons:
        """Ask greedily; how many of the texts differ from the released ones is noted."""
        fresh = run.need_service(self.kind).ask(run.problems, seed=run.seed, greedy=True)
        differ = sum(new.text != old.text for new, old in zip(fresh, traces, strict=True))
        return Lessons(fresh, notes={"differ": differ})
