"""Which memory allocator worker processes run with.

A training step allocates and frees some thousand tensors. The GNU C library before 2.38 serves aligned requests by
searching its free lists, the slower the longer a process has lived; `benchmarks/allocator.py` measures it.
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
