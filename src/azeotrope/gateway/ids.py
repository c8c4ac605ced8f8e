"""Random identifiers without a system call for each: what is asked of the system gives up the interpreter lock."""

from __future__ import annotations

import os
from typing import Final

POOL: Final = 4096  # bytes


class Ids:
    """Random hexadecimal text. For one process (a fork gets a pool of its own) and one thread."""

    def __init__(self) -> None:
        self._pool, self._at, self._pid = b"", 0, 0

    def hex(self, size: int) -> str:
        """Return `size` random bytes in hexadecimal; none of them is ever used twice."""
        if self._at + size > len(self._pool) or self._pid != os.getpid():
            self._pool, self._at, self._pid = os.urandom(max(POOL, size)), 0, os.getpid()
        self._at += size
        return self._pool[self._at - size : self._at].hex()
