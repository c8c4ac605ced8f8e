"""TF-IDF cosine: how alike the two versions of a problem read, word for word.

Source: the TF-IDF metric of arXiv 2604.23238 (20,000 features, L2 norm, one vectorizer for both sides, mean over
pairs; there as a distance, 1 - cosine). The n-gram range is a parameter because the paper's is not recoverable.

Two samples of the same teacher are not identical, so there is no absolute scale: read it beside the control. A
trace that was *edited* is usually closer to its original than two clean samples are to each other.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from math import log, sqrt
from typing import ClassVar, Final, Self

import numpy as np
from pydantic import Field, model_validator
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer

from azeotrope.core.types import Paper
from azeotrope.detect.base import (
    Measurement,
    RunningScore,
    Texts,
    TraceScorer,
    Unit,
    count_texts,
    measurement,
)
from azeotrope.detect.paired import Paired
from azeotrope.maths.detection import Floats, interval, ratio
from azeotrope.text.cuts import CutText

WORDS = r"\w+|[^\w\s]"  # words and single signs; case and punctuation can give an edit away
_words: Final = re.compile(WORDS).findall
_RARE: Final = (1 + log(3 / 2)) ** 2  # squared idf of what one of two texts has; what both have weighs 1


class TfidfCosine(Paired, TraceScorer):
    """Mean cosine between defended and clean traces of the same problem; 1 is the same bag of n-grams."""

    kind: ClassVar[str] = "tfidf_cosine"
    summary: ClassVar[str] = "mean TF-IDF cosine of the two versions of a problem"
    paper: ClassVar[Paper | None] = Paper(
        id="2604.23238",
        title="Hiding in Plain Sight: Detectability-Aware Antidistillation of Reasoning Models",
    )

    shortest: int = Field(default=1, ge=1, le=10, description="words of the shortest n-gram")
    longest: int = Field(default=2, ge=1, le=10, description="words of the longest n-gram")
    features: int = Field(default=20_000, ge=1, description="most frequent n-grams that are kept")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.shortest > self.longest:
            raise ValueError("'shortest' is longer than 'longest'")
        return self

    def measure(self, defended: Texts, clean: Texts, seed: int = 0) -> list[Measurement]:
        """Return `tfidf_cosine`; with several samples a problem's cosine is the mean over all pairs."""
        ids = self.problems(defended, clean)
        cosines = self._cosines(ids, defended, clean)
        draws = ratio(cosines, np.ones(len(ids)), self.weights(len(ids), seed))
        found = interval(draws, count_texts(ids, defended, clean))
        return [measurement("tfidf_cosine", Unit.PROBLEM, found, len(ids))]

    def score(self, edited: str, original: str) -> float:
        """Return 1 - the cosine of the two texts, in [0, 1].

        The idf is that of a collection of these two texts, by the formula of `measure`: an n-gram that both have
        weighs 1, one that only one of them has ln(3/2) + 1 = 1.41, so what was taken out counts for more than its
        share. How rare an n-gram is elsewhere is not known from one pair. `features` is not applied.
        """
        return _distance(_sums(*(Counter(self.ngrams()(text)) for text in (original, edited))))

    def running(self, original: str) -> RunningScore:
        """Return the score of `original` while it is cut, in time linear in what is cut."""
        return _Running(self, original)

    def ngrams(self) -> Callable[[str], list[str]]:
        """Return the function that lists the n-grams of a text."""
        found: Callable[[str], list[str]] = self._vectorizer().build_analyzer()
        return found

    def _vectorizer(self) -> TfidfVectorizer:
        return TfidfVectorizer(
            ngram_range=(self.shortest, self.longest), max_features=self.features, token_pattern=WORDS,
            lowercase=False,
        )  # fmt: skip

    def _cosines(self, ids: list[str], defended: Texts, clean: Texts) -> Floats:
        vectorizer = self._vectorizer()
        sides = (defended, clean)
        corpora = [[text for name in ids for text in side[name]] for side in sides]
        if not any(text.split() for corpus in corpora for text in corpus):
            return np.ones(len(ids))  # blank on both sides: nothing differs
        vectorizer.fit([*corpora[0], *corpora[1]])
        # The mean over all pairs is the product of the mean vectors.
        one, other = (
            _averaging([len(side[name]) for name in ids]) @ vectorizer.transform(corpus)
            for side, corpus in zip(sides, corpora, strict=True)
        )
        return np.asarray(one.multiply(other).sum(axis=1), dtype=np.float64).ravel()


class _Running(RunningScore):
    """Counts n-grams around a cut only: what is farther away than the longest n-gram stays as it was."""

    def __init__(self, detector: TfidfCosine, original: str) -> None:
        self._reach = detector.longest
        self._ngrams = detector.ngrams()
        self._text = CutText(original)
        self._before = Counter(self._ngrams(original))
        self._now = self._before.copy()
        self._sums = _sums(self._before, self._now)

    def try_cut(self, start: int, end: int, most: float) -> bool:
        left = _context(lambda size: self._text.before(start, size), self._reach)
        right = _context(lambda size: self._text.after(end, size), self._reach)
        change = Counter(self._ngrams(left + right))
        change.subtract(self._ngrams(left + self._text.original[start:end] + right))
        keys = [key for key, by in change.items() if by]
        before, old = ({key: counts[key] for key in keys} for counts in (self._before, self._now))
        new = {key: old[key] + change[key] for key in keys}
        moved = zip(self._sums, _sums(before, old), _sums(before, new), strict=True)
        sums = [total - gone + come for total, gone, come in moved]
        if _distance(sums) > most:
            return False
        self._text.cut(start, end)
        self._now.update(change)
        self._sums = sums
        return True


def _context(side: Callable[[int], str], reach: int) -> str:
    """As much text as has more than `reach` words, so that no n-gram has both its far end and the cut in it."""
    size = 16 * reach
    while len(text := side(size)) == size and len(_words(text)) <= reach:
        size *= 2
    return text


def _sums(original: Mapping[str, int], edited: Mapping[str, int]) -> list[int]:
    """Products of the counts, in whole numbers, so that adding and taking away leaves no rounding error.

    In this order: original times edited, the squares of both where both have the n-gram, and where only one has.
    """
    found = [0] * 5
    for key in {**original, **edited}:
        one, other = original.get(key, 0), edited.get(key, 0)
        at = 1 if one and other else 3
        found[0] += one * other
        found[at] += one * one
        found[at + 1] += other * other
    return found


def _distance(sums: list[int]) -> float:
    """1 - the cosine of the two texts' TF-IDF vectors; 0 if both are blank."""
    product, shared_original, shared_edited, only_original, only_edited = sums
    squares = (shared_original + _RARE * only_original) * (shared_edited + _RARE * only_edited)
    if squares == 0:
        return float(only_original + only_edited > 0)
    return max(0.0, 1 - product / sqrt(squares))


def _averaging(sizes: list[int]) -> sparse.csr_array:
    """The matrix that turns rows of samples into means of problems."""
    columns = np.arange(sum(sizes))
    rows = np.repeat(np.arange(len(sizes)), sizes)
    return sparse.csr_array((1 / np.repeat(sizes, sizes), (rows, columns)), shape=(len(sizes), len(columns)))
