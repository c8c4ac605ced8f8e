"""How well scores separate two samples: AUROC, detection rate at a false-alarm rate, groups, intervals.

Scores are oriented: larger means "more likely defended". *Positive* are the defended texts, *negative* the clean
ones. A classifier is tested in folds of problems; scores of different folds come from different models, so pairs
are compared within a fold only and then pooled.

Intervals are percentiles over resampled *problems* (within each fold, so that the folds keep their sizes), because
the traces of one problem are not independent. The classifiers are not trained again: an interval is about the
problems that were scored, given the models. The threshold of a detection rate is set again in every replicate from
the resampled calibration traces, so its uncertainty is part of the interval.

Shapes: R replicates + 1 (row 0 is the sample itself), P problems, N scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from azeotrope.maths.stats import CONFIDENCE, Interval, wilson

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

REPLICATES = 1000
GROUP_REPLICATES = 400
PARTITIONS = 10  # ways of cutting a sample into groups that are averaged
PAIRS = 2_000_000  # group pairs that are compared at a time, which bounds the memory
DRAWS = 20_000  # simulated groups behind a threshold
DRAWS_REPLICATE = 500
CALIBRATION_GROUPS = 3  # a group threshold needs this many groups' worth of calibration traces
_SLACK = 1e-9  # so that 1 % of 100 is 1


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores and the index of the problem that each belongs to."""

    values: Floats
    problems: Ints


@dataclass(frozen=True, slots=True)
class Fold:
    """What one model scored: test traces of both sides, and clean traces of other problems for the threshold."""

    positive: Scores
    negative: Scores
    calibration: Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """AUROC, detection rate at the wanted false-alarm rate, and the false-alarm rate that was in fact measured.

    `rate` and `alarms` are NaN where `missing` says what the threshold lacks.
    """

    auroc: Interval
    rate: Interval
    alarms: Interval
    missing: str = ""


def auroc(positive: ArrayLike, negative: ArrayLike) -> float:
    """Return P(positive > negative) + P(equal) / 2; NaN if a side is empty."""
    wins, pairs = concordance(positive, negative)
    return wins / pairs if pairs else float("nan")


def concordance(positive: ArrayLike, negative: ArrayLike) -> tuple[float, int]:
    """Return (wins of the positive side with ties as ½, number of pairs): the two parts of an AUROC."""
    up, down = np.asarray(positive, dtype=np.float64), np.sort(np.asarray(negative, dtype=np.float64))
    below = np.searchsorted(down, up, side="left") + np.searchsorted(down, up, side="right")
    return float(below.sum()) / 2, len(up) * len(down)


def weighted_concordance(positive: Floats, negative: Floats, up_RN: Floats, down_RN: Floats) -> Floats:
    """`concordance` under every row of weights: shape (2, R), wins and pairs."""
    order = np.argsort(negative, kind="stable")
    sums = np.concatenate([np.zeros((len(down_RN), 1)), np.cumsum(down_RN[:, order], axis=1)], axis=1)
    left, right = (np.searchsorted(negative[order], positive, side=side) for side in ("left", "right"))
    wins = np.einsum("rn,rn->r", up_RN, (sums[:, left] + sums[:, right]) / 2)
    return np.stack([wins, up_RN.sum(axis=1) * down_RN.sum(axis=1)])


def calibration_needed(fpr: float) -> int:
    """Return the fewest calibration scores from which a threshold at `fpr` can be set without assumptions.

    >>> calibration_needed(0.01), calibration_needed(0.05)
    (99, 19)
    """
    return int(np.ceil(1 / fpr - 1 - _SLACK))


def threshold(calibration: ArrayLike, fpr: float) -> float:
    """Return t such that P(new clean score > t) ≤ `fpr`, whatever the distribution (a conformal quantile).

    It is the ⌈(1 - fpr)(n + 1)⌉-th smallest of n scores; infinite with fewer than `calibration_needed`.
    """
    scores = np.asarray(calibration, dtype=np.float64)
    return float(weighted_thresholds(scores, np.ones((1, len(scores))), fpr)[0])


def weighted_thresholds(calibration: Floats, weights_RN: Floats, fpr: float) -> Floats:
    """`threshold` under every row of whole-number weights: shape (R,)."""
    order = np.argsort(calibration, kind="stable")
    sums = np.cumsum(weights_RN[:, order], axis=1)
    reached = sums >= (1 - fpr) * (weights_RN.sum(axis=1, keepdims=True) + 1) - _SLACK
    found = np.where(reached.any(axis=1), calibration[order][reached.argmax(axis=1)], np.inf)
    return np.asarray(found, dtype=np.float64)


def group_means(scores: ArrayLike, size: int, rng: np.random.Generator, partitions: int = 1) -> Floats:
    """Cut `scores` at random into disjoint groups of `size` and return their means: (partitions, groups).

    What is left over after the last whole group is dropped.
    """
    values = np.asarray(scores, dtype=np.float64)
    groups = len(values) // size
    mixed = rng.permuted(np.broadcast_to(values, (partitions, len(values))), axis=1)
    return np.asarray(mixed[:, : groups * size].reshape(partitions, groups, size).mean(axis=2))


def group_threshold(
    calibration: ArrayLike, size: int, fpr: float, rng: np.random.Generator, draws: int = DRAWS
) -> float:
    """Return t such that the mean of `size` new clean scores exceeds t with probability about `fpr`.

    Disjoint groups of 10 would need 990 calibration scores for 1 %. Instead groups are drawn from the calibration
    scores, each compared with the mean of a resample of all of them: the quantile of that difference covers the
    noise of the group and of the calibration mean alike. With few and very skewed scores the rate is exceeded (40
    exponential ones: 8 % instead of 5 %), which is why the measured rate is reported beside it.
    """
    scores = np.asarray(calibration, dtype=np.float64)
    groups = scores[rng.integers(len(scores), size=(draws, size))].mean(axis=1)
    centers = rng.normal(scores.mean(), scores.std() / np.sqrt(len(scores)), draws)
    rank = min(draws - 1, int(np.ceil((1 - fpr) * draws - _SLACK)))
    return float(scores.mean() + np.partition(groups - centers, rank)[rank])


def problem_weights(folds: ArrayLike, replicates: int, seed: int) -> Floats:
    """Draw how often each problem is in each resample, separately within each fold: (replicates + 1, P)."""
    member = np.asarray(folds)
    rng = np.random.default_rng(seed)
    weights = np.ones((replicates + 1, len(member)))
    for fold in np.unique(member):
        here = np.flatnonzero(member == fold)
        weights[1:, here] = rng.multinomial(len(here), np.full(len(here), 1 / len(here)), replicates)
    return weights


def ratio(top: ArrayLike, bottom: ArrayLike, weights_RP: Floats) -> Floats:
    """Return sum(top) / sum(bottom) over problems under every row of weights; NaN where the bottom is 0."""
    # einsum, not BLAS: the same bits whatever the number of threads.
    above, below = (np.einsum("rp,p->r", weights_RP, np.asarray(x, dtype=np.float64)) for x in (top, bottom))
    found = np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
    return np.asarray(found, dtype=np.float64)


def interval(draws: Floats, n: int, confidence: float = CONFIDENCE) -> Interval:
    """Turn replicates (entry 0 = estimate) into an interval that contains the estimate.

    (The percentiles of a coarse or biased statistic, such as an AUROC of few groups, may miss it.)
    """
    kept = draws[1:][np.isfinite(draws[1:])]
    value = float(draws[0])
    if not len(kept) or not np.isfinite(value):
        return Interval(value=value, low=float("nan"), high=float("nan"), n=n)
    low, high = np.quantile(kept, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Interval(value=value, low=min(float(low), value), high=max(float(high), value), n=n)


def share(draws: Floats, n: int, units: int) -> Interval:
    """As `interval`, in [0, 1]; where all replicates are 0 or all 1 the bounds are those of `units` trials."""
    found = interval(draws, n)
    if found.low == found.high and found.value in (0.0, 1.0):
        bound = wilson(found.value * units, units)
        return Interval(value=found.value, low=bound.low, high=bound.high, n=n)
    return found


def detect_traces(folds: Sequence[Fold], fpr: float, weights_RP: Floats) -> Detection:
    """Measure the detection of single traces."""
    wins = np.sum([_wins(fold, weights_RP) for fold in folds], axis=0)
    n_up, n_down = (sum(len(side) for side in sides) for sides in _sides(folds))
    units = _problems(folds)
    area = share(wins[0] / wins[1], n_up + n_down, units)
    need, least = calibration_needed(fpr), min(len(fold.calibration.values) for fold in folds)
    if least < need:
        return _unthresholded(area, f"the threshold needs {need} clean calibration traces, a fold has {least}")
    above = np.sum([_above(fold, fpr, weights_RP) for fold in folds], axis=0)
    return Detection(
        auroc=area,
        rate=share(above[0] / above[1], n_up, units),
        alarms=share(above[2] / above[3], n_down, units),
    )


def detect_groups(
    folds: Sequence[Fold], size: int, fpr: float, weights_RP: Floats, rng: np.random.Generator
) -> Detection:
    """Measure the detection of groups: the mean score of `size` traces of one side of one fold.

    The groups of a partition are disjoint; the figures are means over `PARTITIONS` random partitions, which only
    takes out the luck of the draw. A replicate resamples the problems and then cuts groups anew.
    """
    n_up, n_down = (sum(len(side) // size for side in sides) for sides in _sides(folds))
    smallest = min(len(side) for sides in _sides(folds) for side in sides)
    if smallest < 2 * size:
        missing = f"groups of {size} need {2 * size} test traces of each side in a fold, one has {smallest}"
        return _unthresholded(Interval(value=float("nan"), low=float("nan"), high=float("nan"), n=0), missing)
    need, least = CALIBRATION_GROUPS * size, min(len(fold.calibration.values) for fold in folds)
    units = min(n_up, n_down)
    counts = np.rint(weights_RP[: GROUP_REPLICATES + 1]).astype(np.int64)
    thresholded = least >= need
    rows = np.array(
        [
            _group_row(folds, size, fpr if thresholded else None, row, DRAWS_REPLICATE if i else DRAWS, rng)
            for i, row in enumerate(counts)
        ]
    )
    area = share(rows[:, 0], n_up + n_down, units)
    if not thresholded:
        return _unthresholded(area, f"the threshold needs {need} clean calibration traces, a fold has {least}")
    return Detection(auroc=area, rate=share(rows[:, 1], n_up, units), alarms=share(rows[:, 2], n_down, units))


def _sides(folds: Sequence[Fold]) -> tuple[list[Floats], list[Floats]]:
    return [fold.positive.values for fold in folds], [fold.negative.values for fold in folds]


def _problems(folds: Sequence[Fold]) -> int:
    return len(np.unique(np.concatenate([fold.positive.problems for fold in folds])))


def _unthresholded(area: Interval, missing: str) -> Detection:
    nothing = Interval(value=float("nan"), low=float("nan"), high=float("nan"), n=0)
    return Detection(auroc=area, rate=nothing, alarms=nothing, missing=missing)


def _wins(fold: Fold, weights_RP: Floats) -> Floats:
    up, down = fold.positive, fold.negative
    return weighted_concordance(up.values, down.values, weights_RP[:, up.problems], weights_RP[:, down.problems])


def _above(fold: Fold, fpr: float, weights_RP: Floats) -> Floats:
    """Weight above the threshold and total weight, of the positive and of the negative side: (4, R)."""
    limits = weighted_thresholds(fold.calibration.values, weights_RP[:, fold.calibration.problems], fpr)
    parts = []
    for side in (fold.positive, fold.negative):
        weights = weights_RP[:, side.problems]
        parts += [(weights * (side.values > limits[:, None])).sum(axis=1), weights.sum(axis=1)]
    return np.stack(parts)


def _group_row(
    folds: Sequence[Fold], size: int, fpr: float | None, counts_P: Ints, draws: int, rng: np.random.Generator
) -> tuple[float, float, float]:
    """AUROC, detection rate and false-alarm rate of groups in one resample of the problems."""
    wins = pairs = hits = ups = alarms = downs = 0.0
    for fold in folds:
        drawn = [np.repeat(s.values, counts_P[s.problems]) for s in (fold.positive, fold.negative)]
        up, down = (group_means(values, size, rng, PARTITIONS) for values in drawn)
        wins, pairs = wins + _wins_of_groups(up, down), pairs + up.size * down.shape[1]
        if fpr is not None:
            clean = np.repeat(fold.calibration.values, counts_P[fold.calibration.problems])
            limit = group_threshold(clean, size, fpr, rng, draws)
            hits, ups = hits + float((up > limit).sum()), ups + up.size
            alarms, downs = alarms + float((down > limit).sum()), downs + down.size
    return _over(wins, pairs), _over(hits, ups), _over(alarms, downs)


def _wins_of_groups(up: Floats, down: Floats) -> float:
    """`concordance` of every partition with its counterpart, summed."""
    if up.size * down.shape[1] > PAIRS:
        return sum(concordance(above, below)[0] for above, below in zip(up, down, strict=True))
    return float((np.sign(up[:, :, None] - down[:, None, :]) + 1).sum()) / 2


def _over(top: float, bottom: float) -> float:
    return top / bottom if bottom else float("nan")
