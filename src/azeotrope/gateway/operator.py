"""The secret word of whoever runs the server, for pages that are not for clients."""

from __future__ import annotations

import os
from base64 import b64decode
from binascii import Error as NotBase64
from hashlib import blake2b
from hmac import compare_digest
from typing import Final

from azeotrope.core.errors import ConfigError, MissingError

SHORTEST: Final = 16  # characters of a token: whoever guesses must not succeed
LONGEST: Final = 4096  # characters of what a client sends that are looked at


class OperatorToken:
    """A token from an environment variable; `what` it opens is named in errors.

    Raises MissingError and ConfigError if there is none, or a short one.
    """

    def __init__(self, variable: str, what: str) -> None:
        token = os.environ.get(variable, "").strip()
        if not token:
            raise MissingError(f"The environment variable {variable} with the {what}'s token is not set.")
        if len(token) < SHORTEST:
            raise ConfigError(
                f"The {what}'s token in {variable} is shorter than {SHORTEST} characters; use a random one, such "
                "as `openssl rand -hex 16` writes."
            )
        self._digest = _digest(token)

    def known(self, header: str) -> bool:
        """Whether an authorization header holds the token: as a bearer token, or the password of any user."""
        kind, _, given = header[:LONGEST].partition(" ")
        given = given.strip()
        if kind.lower() == "basic":
            try:
                given = b64decode(given, validate=True).decode().partition(":")[2]
            except (NotBase64, ValueError):
                given = ""
        elif kind.lower() != "bearer":
            given = ""
        return compare_digest(_digest(given), self._digest)  # of one length: how long it is does not show


def _digest(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=32).digest()
