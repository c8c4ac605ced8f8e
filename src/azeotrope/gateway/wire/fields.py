"""Reading JSON that strangers wrote: linear, bounded in depth, and strict about what matters.

A field of another type than expected is taken as absent where nothing is lost by it, and refused where it holds
text that the client would miss or that a defense should have seen.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import msgspec

from azeotrope.gateway.wire.errors import WireError

Json = dict[str, Any]
_decoder = msgspec.json.Decoder()
LARGEST = sys.float_info.max
CODES = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_")


def decode(data: bytes | str, what: str) -> Json:
    """The JSON object in `data`. Raises WireError, naming `what`, for anything else, and for nesting too deep."""
    try:
        found = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise WireError(f"{what} is not valid JSON.") from None
    except RecursionError:
        raise WireError(f"{what} is nested too deeply.") from None
    if not isinstance(found, dict):
        raise WireError(f"{what} is not a JSON object.")
    return found


def string(value: Any) -> str:
    """A text, or "" for anything else."""
    return value if isinstance(value, str) else ""


def number(value: Any) -> int | None:
    """A count below 2^53, or None for anything else."""
    return value if type(value) is int and 0 <= value < 1 << 53 else None


def real(value: Any) -> float | None:
    """A finite number, or None for anything else."""
    return float(value) if type(value) in (int, float) and abs(value) <= LARGEST else None


def word(value: Any) -> str:
    """A plain word, as codes of errors are, or "" for anything else: what is not one may quote anybody."""
    return value if isinstance(value, str) and len(value) <= 64 and CODES.issuperset(value) else ""


def mapping(value: Any) -> Json:
    """An object, or an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def objects(value: Any) -> list[Json]:
    """The objects of a list; an empty list for anything else."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def text(value: Any, what: str) -> str:
    """A text that must not be lost: null is "". Raises WireError for other types."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    raise WireError(f"{what} is neither a text nor null.")


def encode(value: Any, spare: int = 0) -> bytes:
    """Compact JSON. Raises WireError for values that are nested too deeply, or would be, `spare` levels further.

    >>> encode({"a": 1}, spare=3)
    b'{"a":1}'
    """
    for _ in range(spare):
        value = [value]
    try:
        found = msgspec.json.encode(value)
    except RecursionError:
        raise WireError("What was to be sent is nested too deeply.") from None
    return found[spare:-spare] if spare else found


def without_none(pairs: Json, keep: Sequence[str] = ()) -> Json:
    """The pairs that have a value.

    >>> without_none({"a": 1, "b": None, "c": None}, keep=("c",))
    {'a': 1, 'c': None}
    """
    return {key: value for key, value in pairs.items() if value is not None or key in keep}
