"""Prompts as draws from cells: how much of the space a sample covers.

Coverage of n draws from q is C_n = number of cells hit; E C_n = Σ_j [1 - (1 - q_j)^n]. Hits of different cells are
negatively associated, so Var C_n ≤ Σ_j (1 - q_j)^n (1 - (1 - q_j)^n), and z = (C - E C_n) / sqrt(that) errs
towards 0.

The cells are directions: spherical k-means (Dhillon and Modha 2001) on unit vectors.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def expected_coverage(profile: Floats, n: float) -> tuple[float, float]:
    """Return the mean and the bound on the variance of the number of cells that n draws hit."""
    missed = np.exp(n * np.log1p(-np.minimum(profile, 1 - 1e-12)))
    return float((1 - missed).sum()), float((missed * (1 - missed)).sum())


def coverage_z(covered: float, profile: Floats, n: float) -> float:
    """Return how many standard deviations the coverage lies above its mean; positive: broader than the profile."""
    mean, variance = expected_coverage(profile, n)
    return float((covered - mean) / max(variance, 1e-3) ** 0.5)


def directions(points: Floats, k: int, seed: int, rounds: int = 8) -> Floats:
    """Spherical k-means: return k unit vectors, shape (k, d). With fewer than k points, the points and noise.

    Empty clusters take the point that fits its center worst.
    """
    rng = np.random.default_rng(seed)
    points = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)
    if len(points) <= k:
        noise = rng.normal(size=(k - len(points), points.shape[1]))
        return np.vstack([points, noise / np.linalg.norm(noise, axis=1, keepdims=True)])
    centers = _far_apart(points, k, rng)
    for _ in range(rounds):
        fit = np.einsum("nd,kd->nk", points, centers)
        member = fit.argmax(axis=1)
        sums = np.zeros_like(centers)
        np.add.at(sums, member, points)
        empty = np.flatnonzero(np.bincount(member, minlength=k) == 0)
        if len(empty):
            sums[empty] = points[np.argsort(fit.max(axis=1), kind="stable")[: len(empty)]]
        centers = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    return centers


def _far_apart(points: Floats, k: int, rng: np.random.Generator) -> Floats:
    """First centers: each is drawn with a chance that grows with its distance from those before (k-means++)."""
    chosen = [int(rng.integers(len(points)))]
    nearest = np.full(len(points), -1.0)
    while len(chosen) < k:
        nearest = np.maximum(nearest, np.einsum("nd,d->n", points, points[chosen[-1]]))
        gap = np.maximum(0.0, 1.0 - nearest)
        total = float(gap.sum())
        odds = gap / total if total > 0 else np.full(len(points), 1 / len(points))
        chosen.append(int(rng.choice(len(points), p=odds)))
    return points[chosen]
