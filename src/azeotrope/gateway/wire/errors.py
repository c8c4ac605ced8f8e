"""What is wrong with what a peer sent, and how it is told."""

from __future__ import annotations

from typing import Literal

import msgspec

from azeotrope.core.errors import AzeotropeError

Kind = Literal[
    "invalid_request",
    "authentication",
    "permission",
    "not_found",
    "too_large",
    "rate_limit",
    "upstream",
    "overloaded",
    "timeout",
    "internal",
]


class WireError(AzeotropeError):
    """Bytes from a peer that cannot be read as what they should be. One sentence, which never quotes them."""

    exit_code = 4


class Problem(msgspec.Struct, frozen=True):
    """An error as a client is told of it, in its dialect's own shape. `message` quotes no one's text."""

    status: int
    kind: Kind
    message: str
    code: str = ""
    param: str = ""
