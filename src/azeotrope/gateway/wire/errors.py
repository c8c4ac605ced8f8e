"""What is wrong with what a peer sent."""

from __future__ import annotations

from azeotrope.core.errors import AzeotropeError


class WireError(AzeotropeError):
    """Bytes from a peer that cannot be read as what they should be. One sentence, which never quotes them."""

    exit_code = 4
