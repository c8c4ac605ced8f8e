"""E-values: betting against a bounded mean, detecting that it changed, and combining evidence.

An e-value is a random number ≥ 0 whose mean is at most 1 when nothing is wrong. P(e ≥ 1/α) ≤ α (Markov).

Bets. Observations x_t lie in [0, 1]; nothing is wrong as long as E[x_t | past] ≤ p0. A stake λ in [0, 1/p0] that
was chosen before x_t was seen multiplies by L_t = 1 + λ (x_t - p0), whose mean is at most 1 then.

e-process    W_t = k_t W_(t-1) L_t, W_0 = 1. P(W ever reaches 1/α) ≤ α at whatever time one looks (Ville).
e-detector   M_t = (k_t M_(t-1) + 1) L_t, M_0 = 0 (Shiryaev-Roberts; Shin, Ramdas, Rinaldo, arXiv 2203.03532).
             M_t - t is a supermartingale, so an alarm at M ≥ A comes after at least A observations on average.

Both are averaged over a fixed grid of stakes, which keeps the guarantees. k_t in [0, 1] forgets: as it is known
before x_t is, it only makes M and W smaller. With c_t = k_t c_(t-1) + 1 (the observations that are not forgotten)
E[M_t] ≤ c_t where no k depends on the x's, so that M_t / c_t is then an e-value at every fixed t. It is not one at
the time at which it is largest, nor where forgetting follows what was seen.

Benign samples instead of a model: `soft_rank`, a conformal e-value (Balinsky and Balinsky 2024; Ren and Barber,
2023).

Dependent e-values may be averaged, never multiplied. Several hypotheses at once: e-BH (Wang and Ramdas,
2009.02824).
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

SHARES: Final = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8)  # stakes, as shares of the largest possible 1 / p0
CEILING: Final = 1e100  # products stop growing here: making them smaller is always allowed


@dataclass(frozen=True, slots=True)
class Bets:
    """Stakes against "the mean is at most `p0`". A stream's state, one float per stake, is the caller's."""

    p0: float
    shares: tuple[float, ...] = SHARES

    def __post_init__(self) -> None:
        if not 0 < self.p0 < 1:
            raise ValueError(f"p0 must lie between 0 and 1, got {self.p0!r}")
        if not self.shares or not all(0 <= share <= 1 for share in self.shares):
            raise ValueError("stakes are shares of 1 / p0, each between 0 and 1, and at least one")

    def wealth(self) -> array[float]:
        """Return the state of a new e-process."""
        return array("d", [1.0] * len(self.shares))

    def sums(self) -> array[float]:
        """Return the state of a new e-detector."""
        return array("d", [0.0] * len(self.shares))

    def grow(self, wealth: array[float], x: float, keep: float = 1.0) -> float:
        """Take one observation into an e-process; return its value, the mean over stakes."""
        return self._step(wealth, x, keep, 0.0)

    def detect(self, sums: array[float], x: float, keep: float = 1.0) -> float:
        """Take one observation into an e-detector; return its value, the mean over stakes."""
        return self._step(sums, x, keep, 1.0)

    def _step(self, state: array[float], x: float, keep: float, start: float) -> float:
        if not 0 <= x <= 1 or not 0 <= keep <= 1:
            raise ValueError("an observation and what is kept of the past lie in [0, 1]")
        edge = (x - self.p0) / self.p0
        total = 0.0
        for i, share in enumerate(self.shares):
            grown = (keep * state[i] + start) * (1.0 + share * edge)
            state[i] = grown = min(grown, CEILING)
            total += grown
        return total / len(state)


def soft_rank(value: float, total: float, count: int) -> float:
    """Return the conformal e-value of `value` ≥ 0 against `count` benign values that add up to `total`.

    e = (M + 1) v / (v + Σ v_i). If all M + 1 values are exchangeable its mean is 1, whatever their distribution;
    it is at most M + 1, and 1 where every value is 0.

    >>> soft_rank(8.0, 4.0, 3)
    2.6666666666666665
    """
    if not (value >= 0 and total >= 0 and count >= 0):
        raise ValueError("a soft rank needs numbers of at least 0")
    return (count + 1) * (value / (value + total)) if value + total > 0 else 1.0


def combine(evalues: Sequence[float]) -> float:
    """Return the mean of e-values, an e-value whatever their dependence; 1 (no evidence) for none."""
    return sum(evalues) / len(evalues) if evalues else 1.0


def ebh(evalues: Sequence[float], alpha: float) -> list[int]:
    """Return the positions rejected at false-discovery rate `alpha`, whatever the dependence.

    The k largest go, for the largest k with e_(k) ≥ m / (k α).

    >>> ebh([50.0, 1.0, 30.0, 0.2], 0.1)
    [0, 2]
    """
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha lies in (0, 1], got {alpha!r}")
    order = sorted(range(len(evalues)), key=lambda i: -evalues[i])
    best = 0
    for k, i in enumerate(order, 1):
        if evalues[i] * k * alpha >= len(evalues):
            best = k
    return sorted(order[:best])
