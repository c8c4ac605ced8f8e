"""Counter-based random numbers: a value depends on (row seed, stream, step, index), never on the batch.

Shapes: B rows, V vocabulary. SplitMix64 (Steele et al., 2014) on int64 tensors, whose products wrap.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _signed(value: int) -> int:
    """Wrap to a signed 64-bit integer."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >= 1 << 63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX1 = _signed(0xBF58476D1CE4E5B9)
_MIX2 = _signed(0x94D049BB133111EB)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix(x: Tensor) -> Tensor:
    """The SplitMix64 finalizer, elementwise on int64."""
    x = (x ^ _shift(x, 30)) * _MIX1
    x = (x ^ _shift(x, 27)) * _MIX2
    return x ^ _shift(x, 31)


def row_keys(seeds_B: Tensor, stream: int, step: int | Tensor) -> Tensor:
    """Return one int64 key per row for a named stream and a step, of all rows or (int64 [B]) each its own."""
    offset = _GOLDEN * (step + 1)  # a tensor's wraps by itself
    return mix(
        mix(seeds_B + _signed(_GOLDEN * (stream + 1)))
        + (offset if isinstance(offset, Tensor) else _signed(offset))
    )


def uniforms(keys_B: Tensor, n: int) -> Tensor:
    """Return float64 [B, n] uniforms in the open interval (0, 1): 52 bits, so that adding ½ is exact."""
    index = torch.arange(1, n + 1, dtype=torch.int64, device=keys_B.device)
    bits = _shift(mix(keys_B[:, None] + _GOLDEN * index), 12)
    return (bits.to(torch.float64) + 0.5) * 2.0**-52


def normals(keys_B: Tensor, n: int) -> Tensor:
    """Return float64 [B, n] standard normals (Box–Muller)."""
    half = (n + 1) // 2
    u_BN = uniforms(keys_B, 2 * half)
    radius = torch.sqrt(-2.0 * torch.log(u_BN[:, :half]))
    angle = 2.0 * math.pi * u_BN[:, half:]
    return torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)[:, :n]


def permutations(keys_B: Tensor, n: int) -> Tensor:
    """Return int64 [B, n]: a uniform permutation of 0..n-1 per row."""
    return uniforms(keys_B, n).argsort(dim=1)


def signs(keys_B: Tensor, n: int) -> Tensor:
    """Return float64 [B, n] of ±1."""
    return (uniforms(keys_B, n) < 0.5).to(torch.float64) * 2.0 - 1.0
