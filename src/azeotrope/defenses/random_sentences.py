"""Control for TraceGuard: remove *random* sentences, as many tokens as TraceGuard would remove.

Source: the control of TraceGuard, arXiv 2604.23238, App. G.1. Whatever a trace loses by being shorter, this
loses too; only the difference between the two can be due to *which* sentences went.

Sentences of the pool are put in random order and a prefix is removed. With ``match="traceguard"`` it is the
prefix whose token count is nearest to what `guard` removes from the same trace at the same budget (nearest,
not at most: an upper bound would remove less on average and flatter TraceGuard); with ``match="share"`` the
longest prefix within `budget` times the tokens of the reasoning. Both are nested in `budget` for a fixed
random state. Tokens are white-space separated words, and the same spans are protected as by TraceGuard.
"""

from __future__ import annotations

from random import Random
from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from azeotrope.core.methods import Maturity, TraceDefense
from azeotrope.core.types import Paper, Trace, split_answer
from azeotrope.defenses.traceguard import SLACK, Removal, TraceGuard, count_tokens, is_protected, without
from azeotrope.text.markers import marker_set
from azeotrope.text.segment import boundaries
from azeotrope.text.taxonomy import Category, categorize

_COMPUTATION = frozenset({Category.ACTIVE_COMPUTATION, Category.FACT_RETRIEVAL})


class RandomSentences(TraceDefense):
    """Remove random sentences at matched token count.

    `guard` is the TraceGuard to match (its unit, order and markers; its own budget is ignored in favor of
    `budget`). `pool` "any" draws from all sentences, "computation" from those that compute or recall and
    carry no marker.
    """

    kind: ClassVar[str] = "random_sentences"
    summary: ClassVar[str] = "removes random sentences, matched in tokens to TraceGuard (a control)"
    paper: ClassVar[Paper | None] = Paper(
        id="2604.23238",
        title="Hiding in Plain Sight: Detectability-Aware Antidistillation of Reasoning Models",
        equations=("App. G.1",),
    )
    maturity: ClassVar[Maturity] = Maturity.CONTROL
    dial: ClassVar[str] = "budget"
    sweep: ClassVar[tuple[float, ...]] = TraceGuard.sweep

    budget: float = Field(default=0.1, ge=0, description="TraceGuard's budget, or a share of tokens")
    match: Literal["traceguard", "share"] = Field(
        default="traceguard", description="remove as many tokens as TraceGuard would, or the budget's share"
    )
    pool: Literal["any", "computation"] = Field(default="any", description="which sentences may go")
    guard: TraceGuard = Field(default=TraceGuard(budget=0), description="the TraceGuard to match")

    @field_validator("guard", mode="after")
    @classmethod
    def _without_budget(cls, guard: TraceGuard) -> TraceGuard:
        return guard.at(0)  # so that an ignored number is not part of the method's identity

    @model_validator(mode="after")
    def _share_is_a_share(self) -> Self:
        if self.budget > 1 and (self.match == "share" or self.guard.unit != "count"):
            raise ValueError("the budget is a share between 0 and 1, unless 'guard.unit' is 'count'")
        return self

    def rewrite(self, trace: Trace, rng: Random) -> Trace:
        """Return `trace` without the drawn sentences; `meta` and `n_tokens` as in `TraceGuard.rewrite`."""
        if self.budget == 0:
            return trace
        return without(trace, self.choose(trace.text, rng))

    def choose(self, text: str, rng: Random) -> list[Removal]:
        """Return the sentences of `text` to leave out, in the order of the text."""
        reasoning, _ = split_answer(text)
        target = self._target(text, reasoning, rng)
        drawn = self._pool(reasoning)
        rng.shuffle(drawn)
        size = _nearest(drawn, target) if self.match == "traceguard" else _within(drawn, target)
        return sorted(drawn[:size], key=lambda item: item.start)

    def _target(self, text: str, reasoning: str, rng: Random) -> float:
        """How many tokens to remove. The matched TraceGuard sees the random state this one was given."""
        if self.match == "share":
            return self.budget * count_tokens(reasoning)
        same = Random()
        same.setstate(rng.getstate())
        return float(sum(item.tokens for item in self.guard.at(self.budget).choose(text, same)))

    def _pool(self, text: str) -> list[Removal]:
        found, start, find = [], 0, marker_set(self.guard.markers).find
        for end in boundaries(text):
            if not is_protected(text, start, end) and (
                self.pool == "any"
                or (find(text, start, end) is None and categorize(text[start:end]) in _COMPUTATION)
            ):
                found.append(Removal(start, end, "random", count_tokens(text[start:end])))
            start = end
        return found


def _nearest(drawn: list[Removal], target: float) -> int:
    """How many of `drawn` from the front come nearest to `target` tokens (the fewer on a tie)."""
    best, gap, total = 0, target, 0
    for index, item in enumerate(drawn, 1):
        total += item.tokens
        if abs(total - target) < gap:
            best, gap = index, abs(total - target)
        if total >= target:
            break
    return best


def _within(drawn: list[Removal], target: float) -> int:
    """How many of `drawn` from the front fit in `target` tokens."""
    total = 0
    for index, item in enumerate(drawn):
        total += item.tokens
        if total > target + SLACK:
            return index
    return len(drawn)
