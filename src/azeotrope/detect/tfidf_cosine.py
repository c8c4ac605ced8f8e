"""TF-IDF cosine: how alike the two versions of a problem read, word for word.

Source: the TF-IDF metric of arXiv 2604.23238 (20,000 features, L2 norm, one vectorizer for both sides, mean over
pairs; there as a distance, 1 - cosine). The n-gram range is a parameter because the paper's is not recoverable.

Two samples of the same teacher are not identical, so there is no absolute scale: read it beside the control. A
trace that was *edited* is usually closer to its original than two clean samples are to each other.
"""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np
from pydantic import Field, model_validator
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer

from azeotrope.core.types import Paper
from azeotrope.detect.base import Measurement, Texts, Unit, count_texts, measurement
from azeotrope.detect.paired import Paired
from azeotrope.maths.detection import Floats, interval, ratio

WORDS = r"\w+|[^\w\s]"  # words and single signs; case and punctuation can give an edit away


class TfidfCosine(Paired):
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

    def _cosines(self, ids: list[str], defended: Texts, clean: Texts) -> Floats:
        vectorizer = TfidfVectorizer(
            ngram_range=(self.shortest, self.longest), max_features=self.features, token_pattern=WORDS,
            lowercase=False,
        )  # fmt: skip
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


def _averaging(sizes: list[int]) -> sparse.csr_array:
    """The matrix that turns rows of samples into means of problems."""
    columns = np.arange(sum(sizes))
    rows = np.repeat(np.arange(len(sizes)), sizes)
    return sparse.csr_array((1 / np.repeat(sizes, sizes), (rows, columns)), shape=(len(sizes), len(columns)))
