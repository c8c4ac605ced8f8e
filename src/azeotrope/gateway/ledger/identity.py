"""Who a request comes from, and why it may be refused."""

from __future__ import annotations

import msgspec

from azeotrope.core.errors import AzeotropeError


class Identity(msgspec.Struct, frozen=True):
    """Whose key it is. `tier` is the name by which the policy knows the key."""

    key_id: str
    tenant: str
    tier: str


class AuthError(AzeotropeError):
    """The key is not valid. It never says which part was wrong: whoever guesses keys must not learn it."""

    exit_code = 2

    def __init__(self) -> None:
        super().__init__("The API key is not valid; ask whoever runs this gateway for one.")


class AuthDownError(AzeotropeError):
    """Keys cannot be checked just now, as the database is down. Not the client's fault: 503, not 401."""

    exit_code = 4

    def __init__(self) -> None:
        super().__init__("API keys cannot be checked just now; try again in a moment.")
