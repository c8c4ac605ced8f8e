"""What benign traffic looks like, measured: the profile, the null scores, p0, and when the ladder rises.

The score s of a signal becomes the e-value (M + 1) g(s) / (g(s) + Σ g(s_i)), g(s) = exp(s / τ), s_i the *largest*
score of benign key or tenant i in a day (`azeotrope.maths.evalues.soft_rank`). So it holds for the day's maximum,
not for one look, as far as days are like those of the calibration. For A, s is log2 of the volume and g the volume
itself. Only M and Σ g are stored. τ sets what a signal is sensitive to; any fixed value gives an e-value.

Nulls of B, C and D depend on the number of prompts behind them and are kept by size class (powers of two); a
subject that never had as many prompts counts there with its largest memory. Volumes of different callers differ by
orders of magnitude, so A is compared with every group of callers and the smallest e-value counts: a batch customer
has to be unusual among batch customers.

Without a calibration nothing is acted upon.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from azeotrope.core.errors import ConfigError, MissingError, RunError
from azeotrope.gateway.signals.content import Profile
from azeotrope.gateway.signals.evidence import Reading, Signal, Six
from azeotrope.gateway.signals.imprint import CELL_COUNT, WAVE_COUNT
from azeotrope.gateway.signals.prompts import DIMENSIONS
from azeotrope.maths.evalues import soft_rank

SIZES: Final = 16  # 1, 2, 4, ... prompts
FORMAT: Final = 1
LEVELS: Final = ("key", "tenant", "cluster")
SIZED: Final = (Signal.TEMPLATE, Signal.COVERAGE, Signal.DRIFT)
SCALES: Final = {  # τ, in the unit of the score
    Signal.VOLUME: 1 / math.log(2),  # bits: g is the volume
    Signal.TEMPLATE: 0.25,  # share of the bodies' bits
    Signal.COVERAGE: 1.0,  # standard deviations
    Signal.DRIFT: 0.1,  # MMD²; people differ by some hundredths, one text repeated is near 0.4
    Signal.LINKAGE: 1.0,  # doublings of a cluster that is all one job
}
_LARGEST: Final = 200.0  # exponents are cut off here, so that sums stay finite


class Null(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `count` benign subjects came to: the sum of g of their largest scores. `group` is "" but for A."""

    level: str
    signal: int
    group: str
    size: int
    count: int
    total: float


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that was learned from benign traffic. Arrays are little-endian float32, in bytes."""

    secret: str  # fingerprint of the secret under which prompts were hashed
    settings: str  # `WatchSettings.meaning` under which scores were measured
    p0: float
    volumes: tuple[float, ...]  # what benign traffic peaks at, for the four half-lives
    shares: bytes
    centers: bytes
    mean: bytes
    square: float
    nulls: tuple[Null, ...]
    rises: tuple[float, float, float, float]
    alpha: float  # share of benign key-days above the first rise
    key_days: int  # that the rises were set on
    format: int = FORMAT

    def profile(self) -> Profile:
        """Return the benign profile of cells and projections."""
        shares, mean = _array(self.shares, CELL_COUNT), _array(self.mean, WAVE_COUNT)
        return Profile(shares.astype(np.float64), mean.astype(np.float64), self.square)

    def directions(self) -> NDArray[np.float32]:
        """Return the directions of the cells, shape (256, 128)."""
        return _array(self.centers, CELL_COUNT * DIMENSIONS).reshape(CELL_COUNT, DIMENSIONS)


class Nulls:
    """Turns readings into e-values; what a calibration stores, arranged for speed."""

    def __init__(self, nulls: tuple[Null, ...]) -> None:
        found: dict[tuple[str, int], dict[str, dict[int, tuple[int, float]]]] = {}
        for null in nulls:
            # A cluster is compared with tenants and with benign clusters alike.
            for level in (null.level, "cluster") if null.level == "tenant" else (null.level,):
                sizes = found.setdefault((level, null.signal), {}).setdefault(null.group, {})
                count, total = sizes.get(null.size, (0, 0.0))
                sizes[null.size] = (count + null.count, total + null.total)
        self._tables = {where: [_spread(sizes) for sizes in groups.values()] for where, groups in found.items()}

    def evalues(self, level: str, reading: Reading) -> Six:
        """Return the six e-values of a reading; 1 where a signal is silent or was not calibrated."""
        found = [1.0] * len(Signal)
        size = size_of(reading.n)
        for signal, value in enumerate(reading.scores):
            if math.isnan(value):
                continue
            if signal == Signal.CONDUCT:
                found[signal] = value
            elif (tables := self._tables.get((level, signal))) is not None:
                weight, at = weigh(Signal(signal), value), size if signal in SIZED else 0
                found[signal] = min(soft_rank(weight, table[at][1], table[at][0]) for table in tables)
        return (found[0], found[1], found[2], found[3], found[4], found[5])


def weigh(signal: Signal, value: float) -> float:
    """Return g of a score."""
    return math.exp(min(value / SCALES[signal], _LARGEST))


def size_of(n: float) -> int:
    """Return the size class of a memory of n prompts.

    >>> size_of(0.0), size_of(1.0), size_of(7.9), size_of(8.0)
    (0, 0, 2, 3)
    """
    return min(SIZES - 1, max(0, math.frexp(max(n, 1.0))[1] - 1))


def pack(values: NDArray[np.floating]) -> bytes:
    """Return an array as the bytes that a calibration stores."""
    return values.astype("<f4").tobytes()


def save(calibration: Calibration, path: Path) -> None:
    """Write a calibration as JSON. Raises RunError."""
    try:
        path.write_bytes(msgspec.json.encode(calibration) + b"\n")
    except OSError as error:
        raise RunError(f"The calibration cannot be written to '{path}': {error.strerror}.") from None


def load(path: Path) -> Calibration:
    """Read and check a calibration. Raises MissingError, ConfigError or RunError."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Calibration)
    except FileNotFoundError:
        raise MissingError(
            f"There is no calibration '{path}'; make one with: azeotrope signals calibrate."
        ) from None
    except OSError as error:
        raise RunError(f"The calibration '{path}' cannot be read: {error.strerror}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise ConfigError(f"'{path}' is not a calibration of this version; make it again.") from None
    sizes = (CELL_COUNT, CELL_COUNT * DIMENSIONS, WAVE_COUNT)
    whole = all(
        len(part) == 4 * n for part, n in zip((found.shares, found.centers, found.mean), sizes, strict=True)
    )
    if found.format != FORMAT or not whole or not _sound(found):
        raise ConfigError(f"'{path}' is not a calibration of this version; make it again.")
    return found


def _sound(found: Calibration) -> bool:
    numbers = [*found.volumes, *found.rises, found.square, *(null.total for null in found.nulls)]
    shares = _array(found.shares, CELL_COUNT)
    return (
        0 < found.p0 < 1
        and len(found.volumes) == 4
        and min(found.volumes) > 0
        and all(map(math.isfinite, numbers))
        and list(found.rises) == sorted(found.rises)
        and found.rises[0] > 0
        and bool(np.isfinite(shares).all())
        and float(shares.min()) > 0
        and all(_possible(null) for null in found.nulls)
    )


def _possible(null: Null) -> bool:
    known = null.level in LEVELS and null.signal in map(int, SCALES)
    return known and 0 <= null.size < SIZES and null.count > 0 and null.total >= 0


def _array(data: bytes, length: int) -> NDArray[np.float32]:
    return np.frombuffer(data, dtype="<f4", count=length)


def _spread(sizes: dict[int, tuple[int, float]]) -> list[tuple[int, float]]:
    """What stands for each size: its own null, else that of the nearest smaller size, else of the smallest."""
    known = sorted(sizes)
    return [sizes[max((s for s in known if s <= size), default=known[0])] for size in range(SIZES)]
