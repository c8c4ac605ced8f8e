"""Extractive summary: keep the sentences of the reasoning that say most, in their order.

What several providers show instead of the reasoning is a summary of it. This one only leaves sentences out, so
that nothing in it is invented and no model is needed; a summary written by a model is a different defense. The
score follows SumBasic (Nenkova and Vanderwende, MSR-TR-2005-101: words that are frequent in the text carry its
topic) and the two oldest cues of extraction, position and cue phrases (Edmundson, J. ACM 16:264, 1969):

=================  =========================================================================================
symbol             argument, or how it is computed
=================  =========================================================================================
compression        `share`: the largest share, in [0, 1], of the reasoning's tokens that is left out
n(w)               how often the content word w occurs in the reasoning. A content word has four letters or a
                   digit, in lower case: short words are mostly function words, and a list would be English
centrality c       the mean of n(w) over the distinct content words of a sentence, over the largest such mean
score              c + 0.5 if it has a digit + 0.5 if it concludes or states the answer + 0.25 if it is the
                   first or the last sentence
=================  =========================================================================================

Guarantees. Share 0 is the identity. The output is the input with whole sentences left out, each with the white
space after it. The think tags, everything after the last ``</think>`` and any sentence with ``\\boxed`` stay.
A larger share removes a superset, and no share is exceeded: sentences are put in one order, lowest score first
(the earlier first on a tie), and the longest prefix that fits is removed. No random numbers are used.

Assumptions and cost. A token is a white-space separated word. The score rewards repetition and does not
penalize redundancy between kept sentences. The weights are round numbers, fitted to nothing. It needs the
whole trace, so it does not stream. Linear time, but for the sort of the sentences.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from itertools import accumulate
from random import Random
from typing import ClassVar, Final

from pydantic import Field

from azeotrope.core.methods import TraceDefense
from azeotrope.core.types import Trace, split_answer
from azeotrope.defenses.traceguard import SLACK, Removal, count_tokens, is_protected, is_tag, without
from azeotrope.text.segment import boundaries
from azeotrope.text.taxonomy import Category, categorize

NUMBER: Final = 0.5
CONCLUSION: Final = 0.5
POSITION: Final = 0.25

_WORDS: Final = re.compile(r"\w+").findall
_DIGIT: Final = re.compile(r"\d").search
_CONCLUDING: Final = frozenset({Category.RESULT_CONSOLIDATION, Category.FINAL_ANSWER_EMISSION})


class Summary(TraceDefense):
    """Leave out the lowest-scoring sentences up to a share of the tokens; see the module's text."""

    kind: ClassVar[str] = "summary"
    summary: ClassVar[str] = "keeps the sentences that say most (an extractive summary of the reasoning)"
    dial: ClassVar[str] = "share"
    sweep: ClassVar[tuple[float, ...]] = (0.25, 0.5, 0.75, 0.9)

    share: float = Field(default=0.5, ge=0, le=1, description="largest share of the tokens left out a trace")

    def rewrite(self, trace: Trace, rng: Random) -> Trace:
        """Return the summary of `trace`; `meta` and `n_tokens` as in `TraceGuard.rewrite`."""
        if self.share == 0:
            return trace
        return without(trace, self.choose(trace.text))

    def choose(self, text: str) -> list[Removal]:
        """Return the sentences of `text` to leave out, in the order of the text."""
        reasoning, _ = split_answer(text)
        spans = _sentences(reasoning)
        scores = score([reasoning[start:end] for start, end in spans])
        ranked = sorted(zip(scores, spans, strict=True))
        found = [
            Removal(start, end, "summary", count_tokens(reasoning[start:end]))
            for _, (start, end) in ranked
            if not is_protected(reasoning, start, end)
        ]
        spent = list(accumulate(item.tokens for item in found))
        fits = bisect_right(spent, self.share * count_tokens(reasoning) + SLACK)
        return sorted(found[:fits], key=lambda item: item.start)


def score(sentences: list[str]) -> list[float]:
    """Score every sentence of a reasoning by the table in the module's text.

    >>> score(["The bridge leads north. ", "Hmm. ", "So the bridge costs 5."])
    [1.25, 0.0, 2.25]
    """
    words = [_content(sentence) for sentence in sentences]
    count = Counter(word for sentence in words for word in sentence)
    means = [sum(map(count.__getitem__, kinds)) / len(kinds) if kinds else 0.0 for kinds in map(set, words)]
    largest = max(means, default=0.0) or 1.0
    last = len(sentences) - 1
    return [
        mean / largest
        + NUMBER * (_DIGIT(sentence) is not None)
        + CONCLUSION * (categorize(sentence) in _CONCLUDING)
        + POSITION * (place in (0, last))
        for place, (sentence, mean) in enumerate(zip(sentences, means, strict=True))
    ]


def _content(sentence: str) -> list[str]:
    return [word for word in _WORDS(sentence.lower()) if len(word) >= 4 or _DIGIT(word)]


def _sentences(reasoning: str) -> list[tuple[int, int]]:
    """The offsets of the sentences of `reasoning` other than tags."""
    spans, start = [], 0
    for end in boundaries(reasoning):
        if not is_tag(reasoning[start:end]):
            spans.append((start, end))
        start = end
    return spans
