"""The ceiling at matched tokens: undefended traces, no more of them than the defended release has text."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import ClassVar

from azeotrope.attacks.adaptive import AdaptiveSFT, Lessons
from azeotrope.attacks.base import AttackRun
from azeotrope.core.budget import Budget
from azeotrope.core.methods import Maturity
from azeotrope.core.seeds import derive
from azeotrope.core.types import Trace
from azeotrope.models.lm import LM


class CleanMatched(AdaptiveSFT):
    """Fine-tune on undefended traces of the same problems, cut to the tokens of the defended release.

    Control of every attack on a defense that deletes text, which also shortens the training set: what this
    student loses against `sft` on undefended traces is due to the shortening alone, not to what was deleted.
    Matched: the sum of tokens over all traces, as closely as whole traces allow and never above it. Traces
    come in random order; the first that would exceed the sum and all after it are left out. If the release is
    longer than the undefended traces, all of them are used. Tokens are the teacher's if known for every trace
    of both sides, else white-space separated words; the notes say which, and both sums. Not matched: the
    number of traces. No query, but a leak of all D problems.
    """

    kind: ClassVar[str] = "clean_matched"
    summary: ClassVar[str] = "fine-tune on undefended traces with as many tokens as the release (a control)"
    maturity: ClassVar[Maturity] = Maturity.CONTROL

    @property
    def budget(self) -> Budget:
        """Every problem's undefended trace must have leaked."""
        return Budget(leaks=1.0)

    def prepare(self, lm: LM, traces: Sequence[Trace], run: AttackRun) -> Lessons:
        """Take undefended traces until the release's tokens are reached."""
        clean = run.need_service(self.kind).leak(run.problems, seed=derive(run.seed, "leak"))
        unit, (released, sizes) = _count(traces, clean)
        order = list(range(len(clean)))
        Random(derive(run.seed, "order")).shuffle(order)
        chosen, total = set[int](), 0
        for i in order:
            if total + sizes[i] > sum(released):
                break
            chosen.add(i)
            total += sizes[i]
        kept = [trace for i, trace in enumerate(clean) if i in chosen]
        return Lessons(kept, notes={"counted": unit, "size": total, "size_of_release": sum(released)})


def _count(*sides: Sequence[Trace]) -> tuple[str, list[list[int]]]:
    """The unit in which all traces can be counted, and the size of each."""
    if all(trace.n_tokens or not trace.text for side in sides for trace in side):
        return "tokens", [[trace.n_tokens for trace in side] for side in sides]
    return "words", [[len(trace.text.split()) for trace in side] for side in sides]
