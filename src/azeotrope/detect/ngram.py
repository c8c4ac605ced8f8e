"""N-grams: TF-IDF of word and character n-grams, and logistic regression.

The plainest detector that learns: it needs labeled samples of both sides (of a published defense, or of an older
release) but no language model. It sees words, signs and their neighborhoods; it cannot see whether a step follows
from the one before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline, make_union

from azeotrope.detect.classifier import Classifier, Scorer
from azeotrope.detect.tfidf_cosine import WORDS
from azeotrope.maths.detection import Floats


class Ngram(Classifier):
    """Logistic regression on n-grams, trained and tested on different problems."""

    kind: ClassVar[str] = "ngram"
    summary: ClassVar[str] = "n-gram TF-IDF and logistic regression, split by problem"

    features: Literal["word", "char", "both"] = Field(default="both", description="what the n-grams are made of")
    words: int = Field(default=2, ge=1, le=5, description="words of the longest word n-gram")
    chars: int = Field(default=4, ge=1, le=8, description="characters of the longest character n-gram")
    size: int = Field(default=20_000, ge=1, description="most frequent n-grams of each kind that are kept")
    inverse_penalty: float = Field(default=10.0, gt=0, description="C of the L2 penalty; larger fits closer")

    def fit(self, defended: Sequence[str], clean: Sequence[str], seed: int) -> Scorer:
        """Fit vectorizers and weights on these texts only; the score is the log-odds of `defended`."""
        texts = [*defended, *clean]
        if not any(text.split() for text in texts):  # nothing to learn from: every text scores the same
            return lambda asked: np.zeros(len(asked))
        labels = np.repeat([1, 0], [len(defended), len(clean)])
        model = make_pipeline(
            make_union(*self._vectorizers()),
            LogisticRegression(C=self.inverse_penalty, class_weight="balanced", solver="liblinear",
                               max_iter=1000, random_state=seed % 2**32),
        )  # fmt: skip
        model.fit(texts, labels)

        def score(asked: Sequence[str]) -> Floats:
            return np.asarray(model.decision_function(list(asked)), dtype=np.float64)

        return score

    def _vectorizers(self) -> list[TfidfVectorizer]:
        common = {"max_features": self.size, "lowercase": False, "sublinear_tf": True, "dtype": np.float64}
        found = []
        if self.features != "char":
            found.append(TfidfVectorizer(ngram_range=(1, self.words), token_pattern=WORDS, **common))
        if self.features != "word":
            found.append(TfidfVectorizer(analyzer="char_wb", ngram_range=(1, self.chars), **common))
        return found
