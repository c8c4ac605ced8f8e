"""TraceGuard: remove the branching sentences from a reasoning trace, within a budget.

Source: arXiv 2604.23238 (v2), Algorithm 1. The paper removes up to a budget of *anchor* sentences, found by
keyword at the start of the sentence, and never touches the answer. Its formulas and keyword list are not
fully recoverable and no code was published; what it leaves open is a parameter here:

=================  =========================================================================================
symbol             argument
=================  =========================================================================================
budget b           `budget` with `unit`. "count": the most sentences removed per trace (the paper's
                   definition; a fraction is rounded down). "sentences", "tokens": a share in [0, 1] of the
                   reasoning's sentences or tokens (the percentages in the paper's tables are consistent
                   with shares of tokens).
keywords K         `markers`, matched at the start of a sentence
selection order    `order` (not stated in the paper)
tags               `categories`: sentences with these functions are candidates too (App. D)
admissible set U   `detector` and `max_score` (the paper's equations 2 and 3): only edits that this detector, with
                   its default settings, scores at most `max_score` against the trace as it came in
=================  =========================================================================================

Guarantees. Budget 0 is the identity. The output is the input with whole sentences left out, each with the
white space after it. The think tags, everything after the last ``</think>`` and any sentence with ``\\boxed``
stay. For a fixed random state a larger budget removes a superset, and no budget is ever exceeded: candidates
are put in one order and the longest prefix that fits is removed. The price is that a long candidate early in
the order can leave part of a share unspent, which matters for traces of a few dozen words.

With a detector, a candidate is skipped if cutting it, after those taken before it, would bring the score above
`max_score`; of the others the longest prefix that fits the budget is removed. What is skipped does not depend on
the budget, so budgets still nest. Limits of the score do not: a larger one can admit a long sentence early that
leaves no room for shorter ones. The score is measured once more on the finished text; one above the limit is not
released, the trace stays as it was. With ``max_score=inf`` the same sentences go as without a detector. Units:
token_delta, relative change in words; tfidf_cosine, 1 - cosine; marker_rate, markers per 100 sentences below the
original's. The limit holds for each trace, which does not hide a collection: small changes of one sign add up.

Assumptions and cost. A token is a white-space separated word; no tokenizer is needed. Nothing in the method
makes the remaining text coherent, and whether removing markers hurts a distiller more than removing random
sentences is unproven: always run it beside `random_sentences`. Linear time; `benchmarks/segmentation.py`
prints the speed (`categories` cost most of it, because every sentence is then matched against eight rules). The
built-in detectors look only at the text around a cut, so time stays linear: on real traces of 1,400 words with 18
candidates, 0.4 ms of processor time a trace without a detector, 0.7 with token_delta, 2 with marker_rate, 6 with
tfidf_cosine (2 ms a candidate where thousands of formulas are opened and none is closed).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from random import Random
from typing import Any, ClassVar, Final, Literal, Self

from pydantic import Field, SerializationInfo, SerializerFunctionWrapHandler, model_serializer, model_validator

from azeotrope.core.errors import ConfigError
from azeotrope.core.methods import Buffered, TextStream, TraceDefense
from azeotrope.core.types import THINK_CLOSE, THINK_OPEN, Paper, Trace, split_answer
from azeotrope.defenses.unseen import Unseen, trace_scorer
from azeotrope.text.markers import DEFAULT_MARKERS, marker_set
from azeotrope.text.segment import Segmenter, boundaries
from azeotrope.text.taxonomy import Category, categorize

Unit = Literal["count", "sentences", "tokens"]
Order = Literal["first", "last", "random", "longest"]

SLACK: Final = 1e-9  # so that a share of .29 of 100 allows 29 and not 28


@dataclass(frozen=True, slots=True)
class Removal:
    """A sentence that may be, or was, left out: offsets in the original text, why, and its size in tokens."""

    start: int
    end: int
    marker: str
    tokens: int

    def record(self) -> dict[str, int | str]:
        """Return the plain JSON form that a trace's `meta` keeps."""
        return {"start": self.start, "end": self.end, "marker": self.marker, "tokens": self.tokens}


class TraceGuard(TraceDefense):
    """Remove branching sentences up to a budget; see the module's text for the guarantees."""

    kind: ClassVar[str] = "traceguard"
    summary: ClassVar[str] = "removes sentences that open with a branching marker (Wait, Alternatively, ...)"
    paper: ClassVar[Paper | None] = Paper(
        id="2604.23238",
        title="Hiding in Plain Sight: Detectability-Aware Antidistillation of Reasoning Models",
        equations=("Algorithm 1",),
    )
    dial: ClassVar[str] = "budget"
    sweep: ClassVar[tuple[float, ...]] = (0.1, 0.175, 0.25, 0.35)

    budget: float = Field(default=0.1, ge=0, description="most sentences, or largest share, removed a trace")
    unit: Unit = Field(default="tokens", description="what the budget counts; sentences and tokens are shares")
    order: Order = Field(default="first", description="which candidates go first when not all fit")
    markers: tuple[str, ...] = Field(
        default=DEFAULT_MARKERS, description="openings that make a sentence a candidate"
    )
    categories: tuple[Category, ...] = Field(
        default=(), description="sentence functions that make a sentence a candidate too"
    )
    detector: str | None = Field(
        default=None,
        description="detector that must not see the edit: token_delta, tfidf_cosine, marker_rate, ...",
    )
    max_score: float | None = Field(
        default=None,
        ge=0,  # infinity is a limit that nothing reaches; the bound refuses what is no number
        allow_inf_nan=True,
        description="largest score that `detector` may give an edited trace, in its own unit",
    )

    @model_validator(mode="after")
    def _share_is_a_share(self) -> Self:
        if self.unit != "count" and self.budget > 1:
            raise ValueError(f"a budget in {self.unit} is a share between 0 and 1; use unit 'count' for a number")
        return self

    @model_validator(mode="after")
    def _detector_has_a_limit(self) -> Self:
        if (self.detector is None) != (self.max_score is None):
            raise ValueError("'detector' and 'max_score' belong together; set both or neither")
        if self.detector is not None:
            trace_scorer(self.detector)
        return self

    @model_serializer(mode="wrap")
    def _plain(self, settings: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        """Leave out an absent detector, so that the identity of what has none is what it always was."""
        found: dict[str, Any] = settings(self)
        if self.detector is None:
            return {key: value for key, value in found.items() if key not in ("detector", "max_score")}
        if info.mode == "json" and self.max_score == float("inf"):
            found["max_score"] = "inf"  # JSON has no such number
        return found

    def rewrite(self, trace: Trace, rng: Random) -> Trace:
        """Return `trace` without the chosen sentences.

        ``meta["removed"]`` lists them (offsets in the original text, marker, tokens); ``meta["undefended"]``
        is true when nothing was removed, and the text is then unchanged. A changed trace has
        ``n_tokens = 0`` (not known: count it with the tokenizer that reads it), no token ids and no `moved`,
        because these described the original. Budget 0 returns `trace` itself. With a detector,
        ``meta["detector"]`` holds its kind, the score of the text that is returned, and how many candidates were
        skipped because of it.
        """
        if self.budget == 0:
            return trace
        removals, verdict = self._choose(trace.text, rng)
        noted = {} if verdict is None else {"detector": verdict}
        return without(replace(trace, meta={**trace.meta, **noted}), removals)

    def choose(self, text: str, rng: Random) -> list[Removal]:
        """Return the sentences of `text` to leave out, in the order of the text."""
        return self._choose(text, rng)[0]

    def _choose(self, text: str, rng: Random) -> tuple[list[Removal], dict[str, Any] | None]:
        """The sentences to leave out, and what the detector says of the text without them."""
        reasoning, _ = split_answer(text)
        ends = boundaries(reasoning)
        found = self._candidates(reasoning, ends)
        self._arrange(found, rng)
        limit = self._limit(reasoning, ends)
        if self.detector is None or self.max_score is None:
            return sorted(_prefix(found, limit, self.unit), key=_start), None
        unseen = Unseen(found, text, self.detector, self.max_score)
        chosen = sorted(_prefix(unseen, limit, self.unit), key=_start)
        score = unseen.score(cut_out(text, chosen))
        if not score <= self.max_score:  # the running score was wrong, or the text is suspicious as it is
            chosen, score = [], unseen.score(text)
        return chosen, unseen.record(score)

    def incremental(self, rng: Random) -> TextStream:
        """The streaming form where there is one; otherwise one that waits."""
        return self.stream() if self.order == "first" and self.detector is None else Buffered(self, rng)

    def stream(self) -> TraceGuardStream:
        """Return the streaming form. Raises ConfigError unless `order` is "first" and there is no detector."""
        return TraceGuardStream(self)

    def reason(self, text: str, start: int = 0, end: int | None = None) -> str | None:
        """Return why the sentence ``text[start:end]`` is a candidate (its marker or category), or None."""
        end = len(text) if end is None else end
        found = marker_set(self.markers).find(text, start, end)
        if found is None and self.categories:
            category = categorize(text[start:end])
            found = category.value if category in self.categories else None
        return found if found is not None and not is_protected(text, start, end) else None

    def _candidates(self, text: str, ends: list[int]) -> list[Removal]:
        found: list[Removal] = []
        start, opens = 0, marker_set(self.markers).could_open
        for end in ends:
            if self.categories or opens(text, start):  # the quick test spares most sentences a call
                why = self.reason(text, start, end)
                if why is not None:
                    found.append(Removal(start, end, why, count_tokens(text[start:end])))
            start = end
        return found

    def _arrange(self, found: list[Removal], rng: Random) -> None:
        if self.order == "last":
            found.reverse()
        elif self.order == "random":
            rng.shuffle(found)
        elif self.order == "longest":
            found.sort(key=lambda item: (-item.tokens, item.start))

    def _limit(self, text: str, ends: list[int]) -> float:
        if self.unit == "count":
            return float(int(self.budget))
        if self.unit == "tokens":
            return self.budget * count_tokens(text)
        return self.budget * (len(ends) - text.count(THINK_OPEN) - text.count(THINK_CLOSE))


class TraceGuardStream:
    """TraceGuard on text that is still being written, for `order` "first".

    The output does not depend on how the text was cut. With `unit` "count" it equals the offline form. With a
    share it is a different policy, because the length of the trace is not known yet: a candidate goes when
    the share of what has been *seen so far* allows it. No prefix of the trace, and so not the whole, exceeds
    the budget; but early candidates are spared, and larger budgets need not remove a superset.

    The first ``</think>`` starts the answer (offline it is the last one: a reply with several is the only
    case in which "count" differs).

    Look-ahead: text passes as soon as it cannot be removed any more. A sentence that opens without a marker
    is released as it arrives, once its first `MarkerSet.reach` characters (often two) show it; one that opens
    with a marker (or any, if `categories` are set) waits for its end. When the budget of a "count" is spent,
    and in the answer, nothing waits.
    """

    def __init__(self, guard: TraceGuard) -> None:
        if guard.order != "first":
            raise ConfigError(
                f"TraceGuard cannot stream with order '{guard.order}', because it needs the whole trace; "
                "set order to 'first' or do not stream."
            )
        if guard.detector is not None:
            raise ConfigError(
                f"TraceGuard cannot stream with the detector '{guard.detector}', because its score needs the "
                "whole trace; remove detector and max_score or do not stream."
            )
        self._guard = guard
        self._segmenter = Segmenter()
        self._markers = marker_set(guard.markers)
        self._passing = guard.budget == 0  # from here on nothing can be removed
        self._early = 0  # characters of the open sentence that were released before its end
        self._at = 0
        self._seen = 0  # sentences or tokens so far
        self._spent = 0
        self.removed: list[Removal] = []

    def feed(self, chunk: str) -> str:
        """Take more of the trace; return the text that can be released now (often empty)."""
        if self._passing:
            return chunk
        return self._release(self._segmenter.feed(chunk)) + self._release_early()

    def close(self) -> str:
        """Declare the trace finished; return the rest."""
        return "" if self._passing else self._release(self._segmenter.close())

    def _release(self, sentences: list[str]) -> str:
        kept: list[str] = []
        for index, sentence in enumerate(sentences):
            if self._exhausted or sentence.lstrip().startswith(THINK_CLOSE):
                return "".join(kept) + self._pass_on(sentences[index:])
            if not self._drops(sentence):
                kept.append(sentence[self._early :])
            self._early = 0
            self._at += len(sentence)
        return "".join(kept) + (self._pass_on([]) if self._exhausted else "")

    @property
    def _exhausted(self) -> bool:
        return self._guard.unit == "count" and self._spent >= int(self._guard.budget)

    def _pass_on(self, sentences: list[str]) -> str:
        """Release all that is held, and from now on whatever comes."""
        self._passing = True
        return "".join([*sentences, *self._segmenter.close()])[self._early :]

    def _release_early(self) -> str:
        """Return what has arrived of the open sentence if it is certain to stay."""
        if self._passing or self._guard.categories:
            return ""
        settled = self._segmenter.settled
        if not self._early and not self._stays(settled):
            return ""
        text, self._early = settled[self._early :], len(settled)
        return text

    def _stays(self, opening: str) -> bool:
        """Whether the sentence that starts with `opening` cannot carry a marker."""
        if len(opening) < 2 or self._markers.could_open(opening, 0):
            return len(opening) >= self._markers.reach and self._markers.find(opening) is None
        return True

    def _drops(self, sentence: str) -> bool:
        """Count `sentence`, and decide whether it goes."""
        guard, tokens = self._guard, count_tokens(sentence)
        cost = tokens if guard.unit == "tokens" else 1
        self._seen += 0 if is_tag(sentence) else cost
        limit = float(int(guard.budget)) if guard.unit == "count" else guard.budget * self._seen
        if self._spent + cost > limit + SLACK or (why := guard.reason(sentence)) is None:
            return False
        self._spent += cost
        self.removed.append(Removal(self._at, self._at + len(sentence), why, tokens))
        return True


def without(trace: Trace, removals: list[Removal]) -> Trace:
    """Return `trace` with `removals` (in text order) cut out and recorded, as `TraceGuard.rewrite` says."""
    meta: dict[str, Any] = {**trace.meta, "removed": [item.record() for item in removals]}
    if not removals:
        return replace(trace, meta={**meta, "undefended": True})
    meta["undefended"] = False
    text = cut_out(trace.text, removals)
    return replace(trace, text=text, n_tokens=0, token_ids=None, moved=None, meta=meta)


def cut_out(text: str, removals: list[Removal]) -> str:
    """Return `text` without `removals`, which are in text order."""
    parts, at = [], 0
    for item in removals:
        parts.append(text[at : item.start])
        at = item.end
    return "".join([*parts, text[at:]])


def count_tokens(text: str) -> int:
    """Count white-space separated words; think tags are not words and do not join what they touch."""
    if THINK_OPEN in text or THINK_CLOSE in text:
        text = text.replace(THINK_OPEN, " ").replace(THINK_CLOSE, " ")
    return len(text.split())


def is_tag(sentence: str) -> bool:
    """Whether `sentence` is a think tag (with the white space around it)."""
    return sentence.lstrip().startswith((THINK_OPEN, THINK_CLOSE))


def is_protected(text: str, start: int, end: int) -> bool:
    """Whether the sentence ``text[start:end]`` may never be removed: a tag, a boxed answer, or blank."""
    sentence = text[start:end]
    return "\\boxed" in sentence or is_tag(sentence) or sentence.isspace()


def _prefix(found: Iterable[Removal], limit: float, unit: Unit) -> list[Removal]:
    """The longest prefix of `found` whose cost is within `limit`: nested in `limit` by construction."""
    chosen, spent = [], 0
    for item in found:
        spent += item.tokens if unit == "tokens" else 1
        if spent > limit + SLACK:
            break
        chosen.append(item)
    return chosen


def _start(item: Removal) -> int:
    return item.start
