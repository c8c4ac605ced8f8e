"""Which number formats this machine computes in, rather than imitates."""

from __future__ import annotations

from functools import cache

import torch

_CPU_SIGNS = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")


@cache
def native_bfloat16() -> bool:
    """Whether training in bfloat16 autocast is faster here than in float32.

    Without instructions for it a processor imitates bfloat16: on AVX2 alone, torch 2.13 multiplies matrices some
    thirty times slower than in float32.
    """
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    return any(getattr(torch.cpu, sign, bool)() for sign in _CPU_SIGNS)
