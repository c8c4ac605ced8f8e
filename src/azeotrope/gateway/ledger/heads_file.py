"""The file of signed heads: only ever appended to, so that it can be on write-once storage, or copied there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from azeotrope.core.errors import ConfigError, MissingError
from azeotrope.gateway.ledger.audit_chain import Head, read_head

LONGEST_LINE: Final = 4096


class HeadsFile:
    """Appends heads to a file, each durable when `append` returns. Several processes may append to one file.

    It is opened anew for every head: they are rare, and the file may be moved away.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, head: Head) -> None:
        """Write one head. Raises OSError."""
        data = head.line().encode() + b"\n"
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(handle).st_size
            if size and os.pread(handle, 1, size - 1) != b"\n":  # somebody was cut off in the middle of a line
                data = b"\n" + data
            written = os.write(handle, data)
            if written < len(data):
                raise OSError(28, "No space left on device", str(self.path))
            os.fsync(handle)
        finally:
            os.close(handle)


def read_heads(path: Path) -> Iterator[tuple[int, Head | None, bool]]:
    """Yield (line number, head, whether it was cut off); the head is None where a line holds none.

    A line is cut off if a process or machine died while writing it: it does not end as a head does.
    Raises MissingError, ConfigError.
    """
    try:
        with open(path, "rb") as file:
            number = 0
            while line := file.readline(LONGEST_LINE):
                number += 1
                text = line.strip()
                if not text:
                    continue
                try:
                    yield number, read_head(text), False
                except ValueError:
                    yield number, None, text.startswith(b"{") and not text.endswith(b"}")
    except FileNotFoundError:
        raise MissingError(f"There is no heads file '{path}'; copy it from where the gateway writes it.") from None
    except OSError as error:
        raise ConfigError(f"The heads file '{path}' cannot be read: {error.strerror}.") from None
