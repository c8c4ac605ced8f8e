"""Signals B, C and D: what a memory of prompts says about templates, coverage and drift.

B  template concentration. U distinct bodies (HyperLogLog), D2 = N² / F2 effective templates (count sketch; the
   most concentrated of the whole text, its beginning and its end). T = log2(U / D2): a template swept over many
   fillers is large, conversation and retries are not. The score is T / log2 U, the share of the bodies' diversity,
   in bits, that templates take away: 1 for a pure sweep whatever its length.
C  coverage. z of the number of cells in use against what the benign profile q expects of as many prompts (a cell
   is in use while its decayed count is at least ½). People return to their subjects and lie below; a harvest that
   covers does not. `shape` tells entropy and KL(p‖q) beside it.
D  drift. Unbiased MMD² of the projections from the benign reference, by random Fourier features (2606.05725 with
   hashed n-grams in place of sentence embeddings).

All three are measured against benign memories of the same size (`calibration`), which makes up for decay, for
bounds and for what independent draws would have assumed. Below `LEAST` prompts nothing is said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from azeotrope.gateway.signals.bank import Memory
from azeotrope.gateway.signals.imprint import CELLS, DEPTH, PER_PROMPT, TEMPLATES, VIEWS, WAVES, WIDTH
from azeotrope.maths.cells import coverage_z
from azeotrope.maths.mmd import mmd2
from azeotrope.maths.sketches import distinct, second_moment

LEAST: Final = 8.0
_USED: Final = 0.5


class Profile(msgspec.Struct, frozen=True):
    """What benign prompts look like: shares of the cells, mean embedding and its squared norm."""

    shares: NDArray[np.float64]
    mean: NDArray[np.float64]
    square: float


class Content(msgspec.Struct, frozen=True, gc=False):
    """Scores of one memory of `n` prompts; NaN where nothing can be said."""

    n: float
    bodies: float
    templates: float
    bits: float  # T
    share: float  # T / log2 U, the score of B
    coverage: float  # z, the score of C
    drift: float  # MMD², the score of D


def score(memory: Memory, profile: Profile | None) -> Content | None:
    """Return the scores of a memory; None if it is too small."""
    if memory.n1 < LEAST:
        return None
    bodies = max(1.0, distinct(memory.registers))
    templates = min(bodies, max(1.0, effective_templates(memory)))
    bits = math.log2(bodies / templates)
    coverage = drift = math.nan
    if profile is not None:
        used = float(np.count_nonzero(memory.sums[CELLS] >= _USED))
        coverage = coverage_z(used, profile.shares, memory.n1)
        drift = mmd2(memory.sums[WAVES], memory.n1, memory.n2, profile.mean, profile.square)
    share = bits / max(1.0, math.log2(bodies))
    return Content(memory.n1, bodies, templates, bits, share, coverage, drift)


def effective_templates(memory: Memory) -> float:
    """Return D2, the number of equally common templates with the same F2, of the most concentrated view."""
    tables = _tables(memory)
    found = []
    for table, keys in zip(tables, PER_PROMPT, strict=True):
        moment = second_moment(table)
        found.append(keys * memory.n1**2 / moment if moment > 0 else math.inf)
    return min(found)


def shared_templates(memories: Sequence[Memory]) -> float:
    """Return the mean over pairs of the cosine of their template counts, of the view in which they share most."""
    tables = np.stack([_tables(memory) for memory in memories]).astype(np.float64)
    products = np.sort(np.einsum("mvrw,nvrw->rvmn", tables, tables), axis=0)
    products = (products[(DEPTH - 1) // 2] + products[DEPTH // 2]) / 2  # the median over rows
    sizes = np.sqrt(np.maximum(np.einsum("vmm->vm", products), 1e-12))
    cosines = np.clip(products / (sizes[:, :, None] * sizes[:, None, :]), 0.0, 1.0).max(axis=0)
    pairs = np.triu_indices(len(memories), 1)
    return float(cosines[pairs].mean()) if len(pairs[0]) else 0.0


def _tables(memory: Memory) -> NDArray[np.float32]:
    return memory.sums[TEMPLATES].reshape(VIEWS, DEPTH, WIDTH)
