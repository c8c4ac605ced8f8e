"""Uncertainty of trade-off curves: intervals, paired differences, equal-cost comparison, multiplicity.

The unit of all intervals is the unit of the metric; the unit of `n` is the problem (or recall probe) and of
`n_seeds` the trained student, one per (base, draw) pair.

A metric on problems is a matrix of shape (seed S, problem P). Seeds and problems are crossed: every student
answers the same problems. Both margins are resampled independently (the "pigeonhole" bootstrap: Owen 2007,
arXiv 0712.1111), and *one* set of resampling weights is used for both arms of a comparison, so that what is
common to the arms cancels. The crossed bootstrap counts the residual variance more than once and is therefore
conservative when the seed-by-problem noise dominates.

Few seeds: the plain bootstrap understates the seeds' variance by (S-1)/S and has Gaussian tails. With
`calibrate` the seed weights' deviations from 1/S are stretched by sqrt(S/(S-1)) t(.975, S-1)/z(.975), which
makes the seed component as wide as a Student-t interval (for S = 2 the factor of S = 3 is used, since t with
one degree of freedom is useless; treat two seeds as a sketch). With one seed nothing is said about seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

REPLICATES = 2000
CONFIDENCE = 0.95
ROUNDING = 1e-12  # below this a difference is floating-point noise (it depends on the number of threads)
REACHED_SHARE = 0.9  # of the replicates that must reach a teacher cost before a comparison is made there


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate with its interval; `low` and `high` are NaN where they cannot be computed."""

    value: float
    low: float
    high: float
    n: int
    n_seeds: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A paired difference (first arm minus second) with its interval and two-sided p-value."""

    difference: float
    low: float
    high: float
    p: float
    n: int
    n_seeds: int


@dataclass(frozen=True, slots=True)
class Weights:
    """Resampling weights, shared by every arm: `seeds` (R, S) sum to 1 per row, `items` (R, P) likewise."""

    seeds: Floats
    items: Floats


@dataclass(frozen=True, slots=True)
class Curve:
    """One defense's trade-off curve as replicates: row r of `utility` and `leakage` (R, K) belongs together.

    Row 0 is the point estimate, the others are bootstrap replicates. Column 0 is the undefended arm
    (strength 0) and the columns ascend in strength (see `curve`).
    """

    strengths: tuple[float, ...]
    utility: Floats
    leakage: Floats


def wilson(successes: float, n: int, confidence: float = CONFIDENCE) -> Interval:
    """Return the Wilson score interval of a proportion; value NaN and the interval [0, 1] for n = 0."""
    if n <= 0:
        return Interval(value=float("nan"), low=0.0, high=1.0, n=0)
    z = float(stats.norm.ppf(0.5 + confidence / 2))
    share = successes / n
    scale = 1 + z * z / n
    center = (share + z * z / (2 * n)) / scale
    half = z / scale * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At 0 and n the exact bounds are 0 and 1; rounding must not push the estimate out of its interval.
    low = 0.0 if successes <= 0 else max(0.0, float(center - half))
    high = 1.0 if successes >= n else min(1.0, float(center + half))
    return Interval(value=share, low=low, high=high, n=n)


def student_t(values: ArrayLike, confidence: float = CONFIDENCE, n: int | None = None) -> Interval:
    """Return the mean over seeds with a Student-t interval; for scalars per seed (recall, NLL).

    NaNs are dropped. With fewer than two seeds the bounds are NaN. `n` is carried through (default: seeds).
    """
    kept = _finite(values)
    size = len(kept)
    mean = float(kept.mean()) if size else float("nan")
    half = float("nan")
    if size >= 2:
        half = float(stats.t.ppf(0.5 + confidence / 2, size - 1) * kept.std(ddof=1) / np.sqrt(size))
    return Interval(value=mean, low=mean - half, high=mean + half, n=size if n is None else n, n_seeds=size)


def paired_t(first: ArrayLike, second: ArrayLike, confidence: float = CONFIDENCE) -> Difference:
    """Return first minus second, paired by seed, with a Student-t interval and the t test's p-value."""
    gaps = _finite(np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64))
    interval = student_t(gaps, confidence)
    p = float("nan")
    if len(gaps) >= 2:
        spread = float(gaps.std(ddof=1))
        p = (
            float(2 * stats.t.sf(abs(interval.value) / (spread / np.sqrt(len(gaps))), len(gaps) - 1))
            if spread > 0
            else float(interval.value == 0)
        )
    return Difference(
        difference=interval.value, low=interval.low, high=interval.high, p=p, n=len(gaps), n_seeds=len(gaps)
    )


@lru_cache(maxsize=32)
def resample(
    n_seeds: int, n_items: int, *, replicates: int = REPLICATES, seed: int = 0, calibrate: bool = True
) -> Weights:
    """Draw crossed bootstrap weights; row 0 is the original sample, so that replicate 0 is the estimate.

    The problem weights depend on (`seed`, `n_items`, `replicates`) only, so that arms with different numbers
    of students still share the resampled problems. `calibrate` is explained at the top of the module.
    """
    items_rng, seeds_rng = (np.random.default_rng([seed, stream]) for stream in (0, 1))
    items = _multinomial(items_rng, n_items, replicates)
    seeds = _multinomial(seeds_rng, n_seeds, replicates)
    if calibrate and n_seeds > 1:
        seeds = 1 / n_seeds + seed_stretch(n_seeds) * (seeds - 1 / n_seeds)
    seeds.flags.writeable = items.flags.writeable = False  # the result is cached
    return Weights(seeds, items)


def seed_stretch(n_seeds: int) -> float:
    """Return the factor that turns the bootstrap's seed component into a Student-t one (at 95 %)."""
    size = max(n_seeds, 3)
    return float(np.sqrt(size / (size - 1)) * stats.t.ppf(0.975, size - 1) / stats.norm.ppf(0.975))


def replicate(values: ArrayLike, weights: Weights) -> Floats:
    """Return the weighted mean of a (S, P) matrix under each row of `weights`: shape (R + 1,).

    NaN entries are left out of numerator and denominator alike (a ratio of sums), which is how accuracy
    given finished is computed. A matrix with one column (scalars per seed) is resampled over seeds only.
    """
    matrix = np.asarray(values, dtype=np.float64)
    there = np.isfinite(matrix)
    top = _weighted(np.where(there, matrix, 0.0), weights)
    if there.all():
        return top
    bottom = _weighted(there.astype(np.float64), weights)
    return np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 1e-9)


def bootstrap(values: ArrayLike, weights: Weights, confidence: float = CONFIDENCE) -> Interval:
    """Return the mean of a (S, P) matrix with its crossed-bootstrap percentile interval."""
    matrix = np.asarray(values, dtype=np.float64)
    draws = replicate(matrix, weights)
    low, high = _quantiles(draws[1:], confidence)
    return Interval(value=float(draws[0]), low=low, high=high, n=matrix.shape[1], n_seeds=matrix.shape[0])


def proportion(values: ArrayLike, weights: Weights, confidence: float = CONFIDENCE) -> Interval:
    """As `bootstrap` for shares in [0, 1]: bounds are clipped, and a constant 0 or 1 gets Wilson bounds.

    (A bootstrap of identical values has zero width; 200 of 200 is not certainty.)
    """
    matrix = np.asarray(values, dtype=np.float64)
    found = bootstrap(matrix, weights, confidence)
    value, low, high = found.value, max(0.0, found.low), min(1.0, found.high)
    kept = _finite(matrix)
    if len(kept) and kept.min() == kept.max() and kept[0] in (0.0, 1.0):
        bound = wilson(kept[0] * found.n, found.n, confidence)
        value, low, high = float(kept[0]), bound.low, bound.high
    return Interval(value=value, low=low, high=high, n=found.n, n_seeds=found.n_seeds)


def paired_bootstrap(
    first: ArrayLike, second: ArrayLike, weights: Weights, confidence: float = CONFIDENCE
) -> Difference:
    """Return mean(first) - mean(second) for two (S, P) matrices under the same resampled seeds and problems.

    Raises ValueError if the shapes differ.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"paired arms need the same seeds and problems, got shapes {a.shape} and {b.shape}")
    return from_replicates(
        replicate(a, weights) - replicate(b, weights), n=a.shape[1], n_seeds=a.shape[0], confidence=confidence
    )


def from_replicates(draws: Floats, *, n: int, n_seeds: int, confidence: float = CONFIDENCE) -> Difference:
    """Turn replicates of a difference (entry 0 = estimate) into an interval and a two-sided p-value.

    p = 2 min(share below 0, share above 0), each with one added to count and total, so never exactly 0.
    """
    low, high = _quantiles(draws[1:], confidence)
    kept = _finite(draws[1:])
    kept = np.where(np.abs(kept) < ROUNDING, 0.0, kept)
    p = float("nan")
    if len(kept) and np.isfinite(draws[0]):
        tail = min(int((kept <= 0).sum()), int((kept >= 0).sum()))
        p = min(1.0, 2 * (tail + 1) / (len(kept) + 1))
    return Difference(difference=float(draws[0]), low=low, high=high, p=p, n=n, n_seeds=n_seeds)


def curve(
    strengths: Sequence[float],
    utility: Sequence[Floats],
    leakage: Sequence[Floats],
    undefended: tuple[Floats, Floats],
) -> Curve:
    """Assemble a trade-off curve from per-arm replicates, sorted on strength, the undefended arm first.

    An arm at strength 0 is dropped: it is the undefended arm.
    """
    order = [i for i in sorted(range(len(strengths)), key=lambda i: strengths[i]) if strengths[i] > 0]
    return Curve(
        strengths=(0.0, *(float(strengths[i]) for i in order)),
        utility=np.stack([undefended[0], *(utility[i] for i in order)], axis=1),
        leakage=np.stack([undefended[1], *(leakage[i] for i in order)], axis=1),
    )


def at_teacher_cost(found: Curve, drop: float) -> Floats:
    """Return the leakage where the utility first falls to (undefended - `drop`), in every replicate: (R,).

    Linear interpolation between neighboring strengths, re-done in each replicate so that the uncertainty of
    the teacher's curve is part of the interval. A curve that is not monotone is cut at its first crossing in
    order of strength. NaN where the curve never drops that far ("not reached").
    """
    target = found.utility[:, 0] - drop
    below = found.utility <= target[:, None] + ROUNDING
    rows = np.arange(len(target))
    right = below.argmax(axis=1)
    left = np.maximum(right - 1, 0)
    u_left, u_right = found.utility[rows, left], found.utility[rows, right]
    gap = u_left - u_right
    share = np.clip(np.divide(u_left - target, gap, out=np.zeros_like(gap), where=gap > 0), 0.0, 1.0)
    at = found.leakage[rows, left] * (1 - share) + found.leakage[rows, right] * share
    return np.where(below.any(axis=1), at, np.nan)


def equal_cost(
    first: Curve, second: Curve, drop: float, *, n: int, n_seeds: int, confidence: float = CONFIDENCE
) -> Difference | None:
    """Compare two defenses' leakage at the same measured teacher cost; None if that cost is not reached.

    The cost counts as reached if the estimate and at least `REACHED_SHARE` of the replicates get there on
    both curves; the interval is over those replicates.
    """
    draws = at_teacher_cost(first, drop) - at_teacher_cost(second, drop)
    if not np.isfinite(draws[0]) or np.isfinite(draws[1:]).mean() < REACHED_SHARE:
        return None
    return from_replicates(draws, n=n, n_seeds=n_seeds, confidence=confidence)


def pareto_front(utility: ArrayLike, leakage: ArrayLike) -> Bools:
    """Mark the points that no other point beats (utility as high and leakage as low, one strictly better).

    Points with a NaN are never on the front; ties are all kept.
    """
    u, v = np.asarray(utility, dtype=np.float64), np.asarray(leakage, dtype=np.float64)
    no_worse = (u[:, None] >= u[None, :]) & (v[:, None] <= v[None, :])
    better = (u[:, None] > u[None, :]) | (v[:, None] < v[None, :])
    dominated = np.any(no_worse & better, axis=0)
    return np.asarray(~dominated & np.isfinite(u) & np.isfinite(v), dtype=np.bool_)


def pseudo_values(whole: float, without_one: ArrayLike) -> Floats:
    """Return n·θ − (n − 1)·θ₋ᵢ: what each of n units adds to a statistic θ that is not a mean (Tukey's jackknife).

    `without_one` (n,) holds θ with one unit left out. Of a mean they are the units' values; their standard error
    is the statistic's, up to O(1/n), also where a ratio of one unit alone has no value.
    """
    others = np.asarray(without_one, dtype=np.float64)
    return np.asarray(len(others) * whole - (len(others) - 1) * others, dtype=np.float64)


def student_p(estimate: float, units: Floats) -> float:
    """The two-sided p-value of a difference by Student's t over independent units. NaN with fewer than two.

    Resampling few units says too little about far tails, which adjustments for many claims ask about.
    """
    if len(units) < 2 or not np.isfinite(estimate):
        return float("nan")
    error = float(np.std(units, ddof=1)) / math.sqrt(len(units))
    if error == 0:
        return 0.0 if estimate else 1.0
    return float(2.0 * stats.t.sf(abs(estimate) / error, len(units) - 1))


def minimum_detectable(sd: float, n_seeds: int, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """Return the smallest true mean difference that a two-sided paired t test finds with this power.

    `sd` is the standard deviation over seeds of the paired differences, in the metric's unit. Solved
    numerically from the non-central t distribution (no normal approximation). NaN with fewer than two seeds.
    """
    if n_seeds < 2 or not np.isfinite(sd):
        return float("nan")
    if sd == 0:
        return 0.0
    dof = n_seeds - 1
    critical = float(stats.t.ppf(1 - alpha / 2, dof))
    # P(|T| > c) as a mean over quantiles of the sample SD; scipy's nct is NaN at large shifts with 1 dof.
    bounds = critical * np.sqrt(stats.chi2.ppf((np.arange(4000) + 0.5) / 4000, dof) / dof)

    def shortfall(shift: float) -> float:
        found = stats.norm.sf(bounds - shift) + stats.norm.cdf(-bounds - shift)
        return float(found.mean()) - power

    high = critical + 2.0
    while shortfall(high) < 0:
        high *= 2
    return float(optimize.brentq(shortfall, 0.0, high)) * sd / float(np.sqrt(n_seeds))


def holm(p_values: ArrayLike) -> Floats:
    """Return Holm-adjusted p-values (family-wise error), in the given order; NaNs stay NaN and uncounted."""
    p = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full_like(p, np.nan)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    factors = len(order) - np.arange(len(order))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * factors)) if len(order) else []
    return adjusted


def _multinomial(rng: np.random.Generator, size: int, replicates: int) -> Floats:
    counts = rng.multinomial(size, np.full(size, 1 / size), size=replicates) / size
    return np.vstack([np.full((1, size), 1 / size), counts])


def _weighted(matrix: Floats, weights: Weights) -> Floats:
    # einsum, not BLAS: the same bits whatever the number of threads, and faster at these sizes when shared.
    per_item = np.einsum("rs,sp->rp", weights.seeds, matrix)
    if matrix.shape[1] == 1:
        return np.asarray(per_item[:, 0], dtype=np.float64)
    return np.asarray(np.einsum("rp,rp->r", per_item, weights.items), dtype=np.float64)


def _finite(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    return array[np.isfinite(array)]


def _quantiles(draws: Floats, confidence: float) -> tuple[float, float]:
    kept = _finite(draws)
    if not len(kept):
        return float("nan"), float("nan")
    low, high = np.quantile(kept, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float(low), float(high)
