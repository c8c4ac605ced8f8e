"""Which memory allocator worker processes run with.

A training step allocates and frees some thousand tensors, and the GNU C library (2.36) spends a seventh to a fifth
of it finding room for aligned ones; `benchmarks/allocator.py` measures what another allocator is worth.
"""

from __future__ import annotations

import ctypes.util
import os
import sys

VARIABLE = "AZEOTROPE_ALLOCATOR"  # "system": never another; else a library to preload
FASTER = ("tcmalloc_minimal", "tcmalloc", "mimalloc")


def preloaded() -> str | None:
    """LD_PRELOAD for workers: a faster allocator where this Linux has one, before what is set already.

    None where there is none, where the user preloads one himself, or where his choice is "system".
    """
    wish, given = os.environ.get(VARIABLE, ""), os.environ.get("LD_PRELOAD", "")
    if sys.platform != "linux" or wish == "system" or "malloc" in given:
        return None
    found = wish or next(filter(None, map(ctypes.util.find_library, FASTER)), None)
    return f"{found}:{given}".rstrip(":") if found else None
