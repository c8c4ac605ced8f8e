"""Server-sent events: the standard's cases, any cut, hostile input."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azeotrope.core.errors import ConfigError
from azeotrope.gateway.wire.errors import WireError
from azeotrope.gateway.wire.sse import EventParser, ServerEvent, write


def read(*parts: bytes, limit: int = 1 << 20) -> list[ServerEvent]:
    parser = EventParser(limit)
    found = [event for part in parts for event in parser.feed(part)]
    last = parser.close()
    return found + ([last] if last else [])


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: a\n\n", [("", b"a")]),
        (b"data:a\n\n", [("", b"a")]),
        (b"data:  a\n\n", [("", b" a")]),
        (b"data: a\r\n\r\ndata: b\r\rdata: c\n\n", [("", b"a"), ("", b"b"), ("", b"c")]),
        (b"data: a\ndata: b\n\n", [("", b"a\nb")]),
        (b"data\n\n", [("", b"")]),
        (b": comment\n\ndata: a\n\n", [("", b"a")]),
        (b"event: ping\ndata: {}\n\nevent: lost\n\ndata: a\n\n", [("ping", b"{}"), ("", b"a")]),
        (b"id: 1\nretry: 5\nunknown: x\ndata: a\n\n", [("", b"a")]),
        (b"\xef\xbb\xbfdata: a\n\n", [("", b"a")]),
        (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [("", b"a")]),  # a mark in the middle is part of the field's name
        (b"data: a: b\n\n", [("", b"a: b")]),
        (b"data: a", [("", b"a")]),
        (b"data: a\n", [("", b"a")]),
        (b"\n\n\n", []),
        (b"", []),
    ],
)
def test_events_of_the_standard(stream: bytes, expected: list[tuple[str, bytes]]) -> None:
    assert [(e.name, e.data) for e in read(stream)] == expected


LINES = st.sampled_from([b"data: x", b"data:", b"data: \xc3\xa9", b"event: e", b": c", b"", b"id", b"nonsense"])


@given(st.lists(st.tuples(LINES, st.sampled_from([b"\n", b"\r\n", b"\r"]))), st.lists(st.integers(0, 200)))
def test_cuts_do_not_matter(lines: list[tuple[bytes, bytes]], cuts: list[int]) -> None:
    stream = b"".join(line + end for line, end in lines)
    at = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    pieces = [stream[a:b] for a, b in pairwise(at)]
    assert read(*pieces) == read(stream) == read(*(stream[i : i + 1] for i in range(len(stream))))


@given(st.lists(st.binary()))
def test_any_bytes_are_read(parts: list[bytes]) -> None:
    assert all(isinstance(event, ServerEvent) for event in read(*parts))


@given(st.binary().filter(lambda data: b"\r" not in data), st.sampled_from(["", "ping"]))
def test_what_is_written_is_read(data: bytes, name: str) -> None:
    assert read(write(data, name)) == [ServerEvent(name, data)]


@pytest.mark.parametrize(
    "stream", [b"data: " + b"x" * 100, b"data: xxxxxxxxxxx\n" * 10, b":" * 101, b"data:\n" * 101]
)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_events_beyond_the_limit_are_refused(stream: bytes, size: int) -> None:
    parser = EventParser(limit=100)

    def feed() -> None:
        for i in range(0, len(stream), size):
            parser.feed(stream[i : i + size])

    with pytest.raises(WireError, match="larger than 100 bytes"):
        feed()


def test_the_limit_is_of_one_event_not_of_the_stream() -> None:
    parser = EventParser(limit=100)
    assert sum(len(parser.feed(b"data: " + b"x" * 80 + b"\n\n")) for _ in range(1000)) == 1000


def test_a_limit_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one byte, not 0"):
        EventParser(limit=0)


def test_time_is_linear_in_the_bytes_of_a_line() -> None:
    parser, held = EventParser(), b"x" * 2**20
    parser.feed(b"data: ")
    for i in range(0, len(held), 16):
        parser.feed(held[i : i + 16])
    assert parser._open == len(held) + 6
    assert len(parser._pieces) == len(held) // 16 + 1, "pieces of a line are joined once, at its end"
