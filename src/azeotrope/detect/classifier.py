"""Classifiers: anything that learns a score on some problems and is tested on others.

The split. Problems are dealt at random into folds. In turn, each fold is tested, the next `calibration` folds give
the clean traces from which the threshold is set, and the rest train. So no problem is ever both trained on and
scored, and no threshold has seen what it is applied to. The deal depends on the number of problems and the seed
only: a control on the same problems has the same split.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Self

import numpy as np
from pydantic import Field, model_validator

from azeotrope.core.errors import ConfigError
from azeotrope.core.seeds import derive
from azeotrope.detect.base import Detector, Measurement, Texts, Unit, measurement, shared_problems
from azeotrope.maths.detection import (
    REPLICATES,
    Detection,
    Floats,
    Fold,
    Ints,
    Scores,
    detect_groups,
    detect_traces,
    problem_weights,
)

Scorer = Callable[[Sequence[str]], Floats]  # larger means more likely defended

PER_FOLD = 4  # the fewest problems of a fold


class Classifier(Detector):
    """A detector that is trained. A subclass says how (`fit`); the split and the figures are the same for all."""

    folds: int = Field(default=5, ge=3, le=100, description="parts that the problems are dealt into")
    calibration: int = Field(default=1, ge=1, description="folds whose clean traces set the threshold")
    group: int = Field(default=10, ge=2, le=10_000, description="traces of a group (mean score)")
    fpr: float = Field(default=0.01, gt=0, lt=0.5, description="false-alarm rate of `tpr_at_fpr`")

    @model_validator(mode="after")
    def _a_fold_trains(self) -> Self:
        if self.calibration > self.folds - 2:
            raise ValueError(f"'calibration' leaves no fold to train on; the most is {self.folds - 2}")
        return self

    @abstractmethod
    def fit(self, defended: Sequence[str], clean: Sequence[str], seed: int) -> Scorer:
        """Learn to tell the two sides apart; return the score. Deterministic given `seed`."""

    def measure(self, defended: Texts, clean: Texts, seed: int = 0) -> list[Measurement]:
        """Return `auroc`, `tpr_at_fpr` and `fpr` (as measured at that threshold), per trace and per group."""
        ids = shared_problems(defended, clean)
        if len(ids) < self.folds * PER_FOLD:
            raise ConfigError(
                f"The detector '{self.kind}' needs at least {self.folds * PER_FOLD} problems that both sides have "
                f"({PER_FOLD} in each of {self.folds} folds), because it is tested on problems it was not trained "
                f"on; there are {len(ids)}."
            )
        parts = deal(len(ids), self.folds, derive(seed, "folds"))
        folds = [self._score(ids, parts, k, defended, clean, seed) for k in range(self.folds)]
        weights = problem_weights(parts, REPLICATES, derive(seed, "problems"))
        rng = np.random.default_rng(derive(seed, "groups"))
        single = detect_traces(folds, self.fpr, weights)
        groups = detect_groups(folds, self.group, self.fpr, weights, rng)
        return [*_figures(Unit.TRACE, single, len(ids)), *_figures(Unit.GROUP, groups, len(ids))]

    def _score(self, ids: list[str], parts: Ints, test: int, defended: Texts, clean: Texts, seed: int) -> Fold:
        """Train without the fold `test` and the calibration folds after it, and score them."""
        turn = (parts - test) % self.folds
        tested, calibrating = turn == 0, (turn > 0) & (turn <= self.calibration)
        rest = np.flatnonzero(~tested & ~calibrating)
        scorer = self.fit(_take(ids, rest, defended), _take(ids, rest, clean), derive(seed, "fit", test))

        def scores(side: Texts, where: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Scores:
            chosen = np.flatnonzero(where)
            sizes = [len(side[ids[i]]) for i in chosen]
            return Scores(scorer(_take(ids, chosen, side)), np.repeat(chosen, sizes))

        return Fold(scores(defended, tested), scores(clean, tested), scores(clean, calibrating))


def deal(n: int, folds: int, seed: int) -> Ints:
    """Return a fold for each of `n` problems: at random, sizes within one of each other."""
    parts = np.arange(n, dtype=np.int64) % folds
    return np.random.default_rng(seed).permutation(parts)


def _take(ids: list[str], chosen: Ints, side: Texts) -> list[str]:
    return [text for i in chosen for text in side[ids[i]]]


def _figures(unit: Unit, found: Detection, n_problems: int) -> list[Measurement]:
    note = "" if np.isfinite(found.auroc.value) else found.missing
    return [
        measurement("auroc", unit, found.auroc, n_problems, note),
        measurement("tpr_at_fpr", unit, found.rate, n_problems, found.missing),
        measurement("fpr", unit, found.alarms, n_problems, found.missing),
    ]
