"""Training on the answers alone: what a thief gets where the reasoning is worthless. The floor of recovery."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from azeotrope.attacks.adaptive import AdaptiveSFT, Lessons
from azeotrope.attacks.base import AttackRun
from azeotrope.core.types import THINK_CLOSE, THINK_OPEN, Trace, split_answer
from azeotrope.models.lm import LM


class AnswersOnly(AdaptiveSFT):
    """Replace every reasoning by an empty think block and keep the answer span.

    No assumption, no query. Traces without a closing think tag have no answer and are dropped.
    """

    kind: ClassVar[str] = "answers_only"
    summary: ClassVar[str] = "fine-tune on the answers without any reasoning (the floor)"

    def prepare(self, lm: LM, traces: Sequence[Trace], run: AttackRun) -> Lessons:
        """Keep answers only."""
        kept = []
        for trace in traces:
            _, answer = split_answer(trace.text)
            if answer.strip():
                kept.append(replace(trace, text=f"{THINK_OPEN}{THINK_CLOSE}{answer}", n_tokens=0))
        return Lessons(kept)
