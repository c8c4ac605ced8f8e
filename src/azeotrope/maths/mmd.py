"""Maximum mean discrepancy of two samples by random Fourier features: linear time, fixed memory.

The kernel is the mean of Gaussian kernels exp(-|x - y|² / (2σ²)) over bandwidths σ. By Bochner's theorem
k(x, y) = E cos(w·(x - y)) with w ~ N(0, σ^-2 I); with D/2 frequencies, φ(x) = sqrt(2/D) [cos Wx, sin Wx] has
|φ(x)|² = 1 exactly and φ(x)·φ(y) ≈ k(x, y) with error O(1/sqrt(D)) (Rahimi and Recht 2007).

For a sample with weights w_i, S = Σ w_i φ(x_i), n1 = Σ w_i, n2 = Σ w_i², and the mean embedding μ of a reference
with m² = its own squared norm without the diagonal:

    MMD²_u = (|S|² - n2) / (n1² - n2) + m² - 2 <S / n1, μ>

(Gretton et al. 2012, unbiased; it can be negative). S, n1 and n2 are sums, so samples merge and decay by scaling.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

SCALES: Final = (0.5, 1.0, 2.0, 4.0)  # bandwidths as multiples of the typical distance (2606.05725)


class Fourier:
    """A fixed draw of random frequencies for `dimensions` inputs and `features` outputs (a multiple of 8)."""

    __slots__ = ("_W", "_scale", "features")

    def __init__(self, dimensions: int, features: int, distance: float, seed: int) -> None:
        if features % (2 * len(SCALES)):
            raise ValueError(f"the number of features must be a multiple of {2 * len(SCALES)}")
        half = features // 2
        widths = np.repeat([scale * distance for scale in SCALES], half // len(SCALES))
        W = np.random.default_rng(seed).normal(size=(dimensions, half)) / widths
        self._W = W.astype(np.float32)
        self._scale = np.float32((2.0 / features) ** 0.5)
        self.features = features

    def __call__(self, x: Singles) -> Singles:
        """Return φ(x), unit vectors of float32; `x` [..., dimensions]."""
        # einsum, not BLAS: the same bits whatever the number of threads, and no threads for a small product.
        angle = np.einsum("...d,dk->...k", x, self._W)
        return np.concatenate([np.cos(angle), np.sin(angle)], axis=-1) * self._scale


def mmd2(S: Singles | Floats, n1: float, n2: float, mean: Singles | Floats, square: float) -> float:
    """Return the unbiased squared discrepancy of a weighted sample from a reference; NaN for one point or none.

    `mean` is the reference's mean embedding, `square` its squared norm without the diagonal (`reference` gives
    both).
    """
    pairs = n1 * n1 - n2
    if n1 <= 0 or pairs <= 1e-9 * n1 * n1:
        return float("nan")
    own = (float(np.einsum("k,k->", S, S)) - n2) / pairs
    return own + square - 2.0 * float(np.einsum("k,k->", S, mean)) / n1


def reference(features: Floats) -> tuple[Floats, float]:
    """Return the mean embedding of rows of φ and its squared norm without the diagonal."""
    n = len(features)
    if n < 2:
        raise ValueError("a reference needs at least two points")
    total = features.sum(axis=0)
    return total / n, float((total @ total - n) / (n * (n - 1)))
