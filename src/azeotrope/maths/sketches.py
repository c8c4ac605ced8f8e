"""Summaries of long streams in a fixed number of bytes: distinct items, second moments, counts, set membership.

HyperLogLog counts distinct items with relative standard error 1.04 / sqrt(m) for m one-byte registers.

Count sketch (Charikar, Chen, Farach-Colton; "fast AMS"): every item has a bucket and a sign in each row. A row's
sum of squares estimates F2 = Σ f_i² with relative standard error sqrt(2 / width); the median over rows is taken.
Tables are linear: those of two streams add up, a decayed stream is a scaled table, and inner products of tables
estimate those of the frequency vectors.

Count-Min: the count of an item is over-estimated by at most e/width of the total, except with probability
e^-depth.

Hashes are 64-bit numbers that the caller has keyed; `mix` only spreads them.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Bytes = NDArray[np.uint8]

MASK: Final = (1 << 64) - 1
_GOLDEN: Final = 0x9E3779B97F4A7C15
_MIX1, _MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31 = np.uint64(30), np.uint64(27), np.uint64(31)
_RESCALE: Final = 40.0  # doublings of the unit weight after which a decayed table is scaled down


def mix(words: Words) -> Words:
    """Spread the bits of 64-bit words (the SplitMix64 finalizer), elementwise."""
    x: Words = words ^ (words >> _S30)
    x = x * _MIX1
    x = x ^ (x >> _S27)
    x = x * _MIX2
    x ^= x >> _S31
    return x


def salts(n: int, stream: int = 0) -> Words:
    """Return `n` fixed 64-bit words that tell rows of a sketch apart."""
    start = (stream + 1) << 32
    return mix(np.array([((start + i) * _GOLDEN) & MASK for i in range(1, n + 1)], dtype=np.uint64))


def register_of(word: int, registers: int) -> tuple[int, int]:
    """Return the HyperLogLog register of a hash and its rank (position of the first 1 bit), for 2^p registers."""
    bits = registers.bit_length() - 1
    rest = word >> bits
    rank = 65 - bits - rest.bit_length()
    return word & (registers - 1), rank


def distinct(registers: Bytes) -> float:
    """Estimate the number of distinct items from HyperLogLog registers (linear counting while few are used)."""
    m = len(registers)
    alpha = 0.7213 / (1 + 1.079 / m)
    raw = alpha * m * m / float(np.ldexp(1.0, -registers.astype(np.int32)).sum())
    unused = m - int(np.count_nonzero(registers))
    return m * math.log(m / unused) if raw <= 2.5 * m and unused else raw


def places(words: Words, row_salts: Words, width: int) -> tuple[NDArray[np.int64], Floats]:
    """Return the flat position in a (rows, width) count sketch of every word in every row, and its sign."""
    mixed = mix(words[None, :] ^ row_salts[:, None])
    bucket = (mixed & np.uint64(width - 1)).astype(np.int64)
    sign = 1.0 - 2.0 * (mixed >> np.uint64(63)).astype(np.float64)
    rows = np.arange(len(row_salts), dtype=np.int64)[:, None]
    return (rows * width + bucket).ravel(), sign.ravel()


def second_moment(table: Singles | Floats) -> float:
    """Estimate F2 from a (rows, width) count sketch: the median over rows of the sum of squares."""
    return _median(np.einsum("rw,rw->r", table, table))


def _median(values: NDArray[np.floating]) -> float:
    """Median of a handful of numbers; `np.median` costs ten times as much at this size."""
    found = sorted(values.tolist())
    half = len(found) // 2
    return float(found[half] if len(found) % 2 else (found[half - 1] + found[half]) / 2)


class CountMin:
    """Decayed counts of hashed items in a table of (depth, width) floats; `width` a power of two.

    The unit of count grows as 2^(t / half_life) instead of all counts shrinking, so that an update costs `depth`
    additions. Time runs on the numbers that are handed in; steps back count as no time.
    """

    __slots__ = ("_half_life", "_origin", "_salts", "_table", "_time")

    def __init__(self, depth: int, width: int, half_life: float, stream: int = 0) -> None:
        if width & (width - 1) or width < 2 or depth < 1 or half_life <= 0:
            raise ValueError("a count-min needs rows, a power of two as width and a positive half-life")
        self._table = np.zeros((depth, width))
        self._salts = salts(depth, stream)
        self._half_life = half_life
        self._origin = self._time = float("-inf")

    @property
    def nbytes(self) -> int:
        """Size of the table."""
        return int(self._table.nbytes)

    def add(self, words: Words, now: float, weight: float = 1.0) -> Floats:
        """Add `weight` for every word; return the estimates after that."""
        self._advance(now)
        columns = self._columns(words)
        unit = 2.0 ** ((self._time - self._origin) / self._half_life)
        for row, at in zip(self._table, columns, strict=True):
            np.add.at(row, at, weight * unit)
        return self._read(columns, unit)

    def lift(self, words: Words, now: float, weight: float) -> None:
        """Make every word count at least `weight`, and no other word more than that needs."""
        self._advance(now)
        unit = 2.0 ** ((self._time - self._origin) / self._half_life)
        for row, at in zip(self._table, self._columns(words), strict=True):
            np.maximum.at(row, at, weight * unit)

    def estimate(self, words: Words, now: float) -> Floats:
        """Return the decayed counts (never too small where only positive weights were added)."""
        self._advance(now)
        return self._read(self._columns(words), 2.0 ** ((self._time - self._origin) / self._half_life))

    def _columns(self, words: Words) -> NDArray[np.int64]:
        width = np.uint64(self._table.shape[1] - 1)
        return (mix(words[None, :] ^ self._salts[:, None]) & width).astype(np.int64)

    def _read(self, columns: NDArray[np.int64], unit: float) -> Floats:
        found = np.take_along_axis(self._table, columns, axis=1).min(axis=0) / unit
        return np.asarray(found, dtype=np.float64)

    def _advance(self, now: float) -> None:
        if self._origin == float("-inf"):
            self._origin = self._time = now
        self._time = max(self._time, now)
        doublings = (self._time - self._origin) / self._half_life
        if doublings > _RESCALE:
            self._table *= 2.0**-doublings if doublings < 1000 else 0.0
            self._origin = self._time


class PeriodSet:
    """Which hashed items were seen in the current period: a Bloom filter that is emptied at the end of each.

    A wrong "seen" has probability about (1 - e^(-3n/bits))³ after n items; a wrong "new" does not occur.
    """

    __slots__ = ("_bits", "_filter", "_mask", "_period", "number")

    def __init__(self, bits: int, period: float) -> None:
        if bits & (bits - 1) or bits < 8 or period <= 0:
            raise ValueError("a period set needs a power of two of bits and a positive period")
        self._bits, self._mask, self._period = bits, bits - 1, period
        self._filter = bytearray(bits // 8)
        self.number = 0

    @property
    def nbytes(self) -> int:
        """Size of the filter."""
        return len(self._filter)

    def turn(self, now: float) -> int:
        """Begin a new period if it is time; return the number of the current one."""
        number = int(now // self._period)
        if number != self.number:
            self._filter = bytearray(self._bits // 8)
            self.number = number
        return number

    def add(self, word: int, now: float) -> bool:
        """Add an item; return whether it was new in this period."""
        self.turn(now)
        new = False
        for shift in (0, 21, 42):
            spot = (word >> shift) & self._mask
            bit = 1 << (spot & 7)
            new = new or not self._filter[spot >> 3] & bit
            self._filter[spot >> 3] |= bit
        return new
