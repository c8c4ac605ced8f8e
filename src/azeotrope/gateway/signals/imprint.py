"""What one prompt adds to the memory of a key: one vector, so that a memory is a decayed sum of them.

Layout of the 960 float32 (3,840 bytes):

    templates   3 count sketches of 4 x 16: the bands of the whole text, its beginning, its end       (signal B)
    cells       256 decayed counts                                                                   (signal C)
    waves       512 random Fourier features                                                          (signal D)

All of it is linear: memories of several tenants add up to that of their cluster, and time scales a memory.

Shapes: B prompts, D dimensions, K keys, S numbers of an imprint.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from azeotrope.gateway.signals.prompts import BANDS, DIMENSIONS, Features, units
from azeotrope.maths.cells import directions
from azeotrope.maths.mmd import Fourier
from azeotrope.maths.sketches import places, register_of, salts

Singles = NDArray[np.float32]

VIEWS, DEPTH, WIDTH = 3, 4, 16
PER_PROMPT: Final = (BANDS, 1, 1)  # keys that a prompt adds to each view
CELL_COUNT: Final = 256
WAVE_COUNT: Final = 512
REGISTERS: Final = 128
TEMPLATES: Final = slice(0, VIEWS * DEPTH * WIDTH)
CELLS: Final = slice(TEMPLATES.stop, TEMPLATES.stop + CELL_COUNT)
WAVES: Final = slice(CELLS.stop, CELLS.stop + WAVE_COUNT)
SIZE: Final = WAVES.stop
_TYPICAL: Final = 2**0.5  # the distance of unit vectors that have nothing in common
_SEED: Final = 20_260_223
_ROWS: Final = salts(DEPTH, 6)


class Imprint(msgspec.Struct, frozen=True, gc=False):
    """What a prompt adds: `vector` to the sums, `rank` to register `register` of the distinct bodies."""

    vector: Singles
    register: int
    rank: int
    cell: int


class Printer:
    """Makes imprints. `centers` are the directions of the cells, shape (256, 128); by default random ones."""

    def __init__(self, centers: NDArray[np.floating] | None = None) -> None:
        self._centers = (random_centers() if centers is None else centers).astype(np.float32)
        self._fourier = waves()

    def imprint(self, features: Features) -> Imprint:
        """Return what `features` add to a memory."""
        return self.imprint_many([features])[0]

    def imprint_many(self, features: Sequence[Features]) -> list[Imprint]:
        """As `imprint`; many together cost a fraction of as many alone."""
        units_BD = units(features)
        cells_B = np.einsum("bd,kd->bk", units_BD, self._centers).argmax(axis=1)
        sums_BS = np.zeros((len(features), SIZE), dtype=np.float32)
        sums_BS[:, TEMPLATES] = _templates([one.keys for one in features])
        sums_BS[np.arange(len(features)), CELLS.start + cells_B] = 1.0
        sums_BS[:, WAVES] = self._fourier(units_BD)
        return [
            Imprint(vector, *register_of(one.body, REGISTERS), cell)
            for one, vector, cell in zip(features, sums_BS, cells_B.tolist(), strict=True)
        ]


@lru_cache(maxsize=1)
def waves() -> Fourier:
    """Return the random Fourier features that every memory uses."""
    return Fourier(DIMENSIONS, WAVE_COUNT, _TYPICAL, _SEED)


@lru_cache(maxsize=1)
def random_centers() -> NDArray[np.float64]:
    """Return cells for a gateway that was never calibrated."""
    return directions(np.zeros((0, DIMENSIONS)), CELL_COUNT, _SEED)


def _templates(keys: Sequence[tuple[int, ...]]) -> NDArray[np.float64]:
    """Count sketches [B, views · depth · width] of the keys of B prompts."""
    size = VIEWS * DEPTH * WIDTH
    keys_BK = np.array(keys, dtype=np.uint64)
    where, sign = places(keys_BK.ravel(), _ROWS, WIDTH)  # flat in (row, prompt, key)
    view_BK = np.arange(len(keys))[:, None] * size + _VIEW_OF_KEY * (DEPTH * WIDTH)
    sums = np.bincount(np.tile(view_BK.ravel(), DEPTH) + where, sign, len(keys) * size)
    return np.asarray(sums, dtype=np.float64).reshape(len(keys), size)


_VIEW_OF_KEY: Final = np.repeat(np.arange(VIEWS), PER_PROMPT)
