"""The score of one trace: by hand, against the measurement of collections, and while the trace is cut."""

from __future__ import annotations

from math import log
from random import Random

import pytest
from detect_drive import guarded, sample
from hypothesis import given, settings
from hypothesis import strategies as st

from azeotrope.core.types import split_answer
from azeotrope.detect.base import RunningScore, TraceScorer
from azeotrope.detect.marker_rate import MarkerRate
from azeotrope.detect.ngram import Ngram
from azeotrope.detect.tfidf_cosine import TfidfCosine
from azeotrope.detect.token_delta import TokenDelta
from azeotrope.text.segment import boundaries

SCORERS: tuple[TraceScorer, ...] = (
    TokenDelta(),
    TfidfCosine(),
    TfidfCosine(shortest=2, longest=4),
    MarkerRate(),
    MarkerRate(markers=("so", "hmm")),
)
PARTS = [
    *("The road leads to Oslen. ", "Wait, no. ", "Hmm.\n\n", "So x is $5.\n", "1. ", "e.g. ", "Wait, it is $6.$ "),
    *("<think>", "a-b_c ", "```\nx.\n", "\\[\nx = 5.\n\\]\n", "oslen", "No, it is 7.\n", " ", "x = 3. "),
]
bodies = st.lists(st.sampled_from(PARTS), max_size=25).map("".join)
texts = st.tuples(bodies, st.sampled_from(["", "</think> Wait, it is C.", "</think>5"])).map("".join)
scorers = st.sampled_from(SCORERS)


def spans(text: str, rng: Random, whole: bool) -> list[tuple[int, int]]:
    """Some sentences of the reasoning that are no tags, or any spans of such; in random order."""
    ends, found, start = boundaries(split_answer(text)[0]), [], 0
    for end in ends:
        if "<" not in text[start:end]:
            cut = (start, end) if whole else tuple(sorted(rng.choices(range(start, end + 1), k=2)))
            found.append((cut[0], cut[1]))
        start = end
    rng.shuffle(found)
    return [(low, high) for low, high in found if low < high]


def test_by_hand() -> None:
    assert TokenDelta().score("one two three", "one two three four") == 0.25
    assert TokenDelta().score("a b c", "a b") == 0.5
    assert TokenDelta().score("", " ") == 0
    assert TokenDelta().score("a", "") == float("inf")
    marked = "<think>One. Wait, two. Hmm, three. Four.</think> Wait."
    assert MarkerRate().score("<think>One. Wait, two. Four.</think>", marked) == pytest.approx(50 - 100 / 3)
    assert MarkerRate().score("<think>Wait, one.</think>", marked) == 0, (
        "above the original's rate is not below it"
    )
    assert MarkerRate().score("<think></think> Wait.", marked) == 50
    rare = log(3 / 2) + 1  # of three words, one is in one text only
    assert TfidfCosine(longest=1).score("a b", "a b c") == pytest.approx(1 - 2 / (2 * (2 + rare**2)) ** 0.5)
    assert TfidfCosine(longest=1).score("b a", "a b") == 0
    assert TfidfCosine().score("a", "b") == 1
    assert TfidfCosine().score("", "a") == 1
    assert TfidfCosine().score(" ", "") == 0


@settings(max_examples=200, deadline=None)
@given(texts, texts, scorers)
def test_no_change_is_zero_and_any_other_a_number(edited: str, original: str, scorer: TraceScorer) -> None:
    assert scorer.score(original, original) == 0
    assert scorer.score(edited, original) >= 0


@pytest.mark.parametrize("longest", [1, 3])
def test_the_cosine_of_a_pair_is_that_of_a_collection_of_one_pair(longest: int) -> None:
    detector = TfidfCosine(longest=longest)
    for name, clean in sample(12, 1).items():
        for edited in (clean[0], sample(12, 1, guarded)[name][0], "It is 5."):
            (cosine,) = detector._cosines([name], {name: [edited]}, {name: clean[:1]})
            assert detector.score(edited, clean[0]) == pytest.approx(1 - cosine, abs=1e-12)


@settings(max_examples=600, deadline=None)
@given(texts, scorers, st.integers(0, 99), st.booleans())
def test_the_running_score_is_the_score(text: str, scorer: TraceScorer, seed: int, whole: bool) -> None:
    """Bit for bit: a cut is made at a limit of its score, and refused just below."""
    rng, running, gone = Random(seed), scorer.running(text), [False] * len(text)
    for start, end in spans(text, rng, whole):
        after = [*gone[:start], *[True] * (end - start), *gone[end:]]
        edited = "".join(sign for sign, cut in zip(text, after, strict=True) if not cut)
        if split_answer(edited)[1] != split_answer(text)[1]:
            continue  # a cut inside a word made a think tag
        score = scorer.score(edited, text)
        assert not running.try_cut(start, end, score - 1e-9)
        if rng.random() < 0.7:
            assert running.try_cut(start, end, score)
            gone = after


def test_what_has_no_faster_form_is_measured_again() -> None:
    class Letters(TraceScorer):
        def score(self, edited: str, original: str) -> float:
            return float(len(original) - len(edited))

    running: RunningScore = Letters().running("abcdef")
    assert [running.try_cut(*span, 3) for span in ((1, 3), (3, 6), (5, 6), (0, 1))] == [True, False, True, False]


def test_what_needs_training_has_no_score_for_one_trace() -> None:
    assert not isinstance(Ngram(), TraceScorer)
