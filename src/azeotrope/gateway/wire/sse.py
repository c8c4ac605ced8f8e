"""Server-sent events, read from bytes that may be cut anywhere and come from anyone.

Time is linear in the number of bytes, however they are cut. Lines end with LF, CRLF or CR, also where one read
ends between the two. Fields other than `event` and `data` (ids, retry times, comments) carry nothing for us.
"""

from __future__ import annotations

from dataclasses import dataclass

from azeotrope.core.errors import ConfigError
from azeotrope.gateway.wire.errors import WireError

MEGABYTE = 1 << 20
LIMIT = 16 * MEGABYTE
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event: its name ("" if none was given) and its data, lines joined by LF."""

    name: str
    data: bytes


class EventParser:
    """Feed it bytes, get whole events. Raises WireError once an event grows beyond `limit` bytes."""

    def __init__(self, limit: int = LIMIT) -> None:
        if limit < 1:
            raise ConfigError(f"The largest event must have at least one byte, not {limit}; raise the limit.")
        self._limit = limit
        self._pieces: list[bytes] = []  # the line that has not ended
        self._open = 0  # its length
        self._size = 0  # of the fields of the event that has not ended
        self._name = ""
        self._data: list[bytes] = []
        self._begun = False
        self._after_cr = False

    def feed(self, data: bytes) -> list[ServerEvent]:
        """Return the events that `data` completes."""
        if not data:
            return []
        if self._after_cr and data[:1] == b"\n":  # the other half of a line end
            data = data[1:]
        self._after_cr = data.endswith(b"\r")
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *ended, rest = data.split(b"\n")
        found: list[ServerEvent] = []
        for line in ended:
            self._hold(line)
            whole = self._line()
            if whole:
                self._field(whole)
            elif event := self._event():
                found.append(event)
        self._hold(rest)
        return found

    def close(self) -> ServerEvent | None:
        """The event at the end of a stream that does not end with an empty line, as many servers leave theirs."""
        if line := self._line():
            self._field(line)
        return self._event()

    def _hold(self, piece: bytes) -> None:
        if piece:
            self._pieces.append(piece)
            self._open += len(piece)
            self._check(self._size + self._open)

    def _line(self) -> bytes:
        line = b"".join(self._pieces)
        self._pieces.clear()
        self._open = 0
        if not self._begun and line:
            line = line.removeprefix(BOM)
        self._begun = True
        return line

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            self._size += len(value) + 1
        elif name == b"event":
            self._name = value.decode("utf-8", "replace")

    def _event(self) -> ServerEvent | None:
        """What the empty line ends; nothing if there was no data."""
        found = ServerEvent(self._name, b"\n".join(self._data)) if self._data else None
        self._name, self._data, self._size = "", [], 0
        return found

    def _check(self, size: int) -> None:
        if size > self._limit:
            raise WireError(
                f"An event of the stream is larger than {self._limit} bytes, so it was not read further."
            )


def write(data: bytes, name: str = "") -> bytes:
    """An event on the wire. `data` may hold line breaks; `name` must not.

    >>> write(b"{}", "ping")
    b'event: ping\\ndata: {}\\n\\n'
    """
    head = f"event: {name}\n".encode() if name else b""
    body = data if b"\n" not in data else data.replace(b"\n", b"\ndata: ")
    return b"".join((head, b"data: ", body, b"\n\n"))
