"""Which sentences may go without a detector noticing: what a text defense with a detector shares.

A detector judges a trace beside the trace as it came in (`azeotrope.detect.base.TraceScorer`). It is loaded by
name when it is used, because it may need packages that a text defense does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from azeotrope.core import plugins
from azeotrope.core.errors import ConfigError

if TYPE_CHECKING:
    from azeotrope.defenses.traceguard import Removal
    from azeotrope.detect.base import TraceScorer


def trace_scorer(kind: str) -> TraceScorer:
    """Return the detector `kind` with its default settings.

    Raises ConfigError if there is none or it cannot judge a single trace, MissingError if it needs a package.
    """
    cls = plugins.load("detectors", kind)
    from azeotrope.detect.base import TraceScorer

    if not issubclass(cls, TraceScorer):
        raise ConfigError(
            f"The detector '{kind}' cannot limit a defense, because it compares collections of traces and has no "
            "score for one; choose token_delta, tfidf_cosine or marker_rate."
        )
    scorer: TraceScorer = cls()
    return scorer


class Unseen:
    """The candidates whose removal, after that of those before them, keeps the score at most `most`.

    A candidate is tried when it is asked for. `skipped` counts those passed over so far.
    """

    def __init__(self, candidates: list[Removal], text: str, kind: str, most: float) -> None:
        self.skipped = 0
        self._candidates, self._text, self._kind, self._most = candidates, text, kind, most
        self._scorer = trace_scorer(kind)

    def __iter__(self) -> Iterator[Removal]:
        running = self._scorer.running(self._text)
        for item in self._candidates:
            if running.try_cut(item.start, item.end, self._most):
                yield item
            else:
                self.skipped += 1

    def score(self, edited: str) -> float:
        """Return the score of `edited`, measured from its text alone."""
        return self._scorer.score(edited, self._text)

    def record(self, score: float) -> dict[str, Any]:
        """Return the plain JSON form that a trace's `meta` keeps."""
        return {"kind": self._kind, "score": score, "skipped": self.skipped}
