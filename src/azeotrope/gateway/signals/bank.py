"""Memories of many keys in one block: a fixed number of rows, the least recently used one is given away.

The block is allocated at once and touched when used, so its size is known and never exceeded. One thread uses a
bank.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from azeotrope.gateway.signals.imprint import REGISTERS, SIZE, Imprint

# Sums, two generations of registers; time, n1, n2 and the generation.
ROW_BYTES: Final = 4 * SIZE + 2 * REGISTERS + 4 * 8


class Memory(msgspec.Struct, frozen=True, gc=False):
    """One memory, or several added up: `sums` laid out as an imprint, weights n1 = Σw and n2 = Σw², registers."""

    sums: NDArray[np.float32]
    n1: float
    n2: float
    registers: NDArray[np.uint8]


class Bank:
    """Decayed sums of imprints for up to `capacity` names.

    Distinct bodies cannot decay: their registers come in two generations of `half_life` each, the older of which
    is forgotten when a new one begins, so a body counts for one to two half-lives.
    """

    def __init__(self, capacity: int, half_life: float) -> None:
        self._half_life = half_life
        self._slots: OrderedDict[str, int] = OrderedDict()
        self._free = capacity  # slots that were never given out
        self._sums = np.zeros((capacity, SIZE), dtype=np.float32)
        self._registers = np.zeros((capacity, 2, REGISTERS), dtype=np.uint8)
        self._times = np.zeros(capacity)
        self._weights = np.zeros((capacity, 2))
        self._generations = np.zeros(capacity, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, name: str) -> bool:
        return name in self._slots

    @property
    def nbytes(self) -> int:
        """Bytes of the block, whether touched or not."""
        parts = (self._sums, self._registers, self._times, self._weights, self._generations)
        return sum(part.nbytes for part in parts)

    def add(self, name: str, imprint: Imprint, now: float) -> float:
        """Add a prompt to a memory; return its decayed number of prompts."""
        slot = self._slot(name, now)
        self._age(slot, now)
        self._sums[slot] += imprint.vector
        self._weights[slot] += 1.0
        ranks = self._registers[slot, 0]
        ranks[imprint.register] = max(int(ranks[imprint.register]), imprint.rank)
        return float(self._weights[slot, 0])

    def read(self, names: Sequence[str], now: float) -> Memory | None:
        """Return the memories of `names` added up as of `now`; None if all are unknown."""
        slots = [self._slots[name] for name in names if name in self._slots]
        if not slots:
            return None
        for slot in slots:
            self._age(slot, now)
        if len(slots) == 1:
            only = slots[0]
            n1, n2 = self._weights[only].tolist()
            return Memory(self._sums[only], n1, n2, self._registers[only].max(axis=0))
        n1, n2 = self._weights[slots].sum(axis=0).tolist()
        return Memory(self._sums[slots].sum(axis=0), n1, n2, self._registers[slots].max(axis=(0, 1)))

    def _slot(self, name: str, now: float) -> int:
        slot = self._slots.get(name)
        if slot is not None:
            self._slots.move_to_end(name)
            return slot
        if self._free:
            slot = len(self._sums) - self._free
            self._free -= 1
        else:
            _, slot = self._slots.popitem(last=False)
            self._sums[slot] = 0.0
            self._registers[slot] = 0
            self._weights[slot] = 0.0
        self._times[slot] = now
        self._generations[slot] = int(now // self._half_life)
        self._slots[name] = slot
        return slot

    def _age(self, slot: int, now: float) -> None:
        elapsed = now - float(self._times[slot])
        self._times[slot] = now
        if elapsed <= 0:
            return
        keep = 2.0 ** (-elapsed / self._half_life)
        self._sums[slot] *= np.float32(keep)
        self._weights[slot] *= (keep, keep * keep)
        turns = int(now // self._half_life) - int(self._generations[slot])
        if turns > 0:
            self._registers[slot, 1] = self._registers[slot, 0] if turns == 1 else 0
            self._registers[slot, 0] = 0
            self._generations[slot] += turns
