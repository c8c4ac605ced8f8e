"""Settings of the status page."""

from __future__ import annotations

from pydantic import Field

from azeotrope.core.methods import Settings


class StatusSettings(Settings):
    """The status page at `/ui`. It names tenants, so whoever sees it must know a token.

    `token_env` names a variable with the token. The numbers bound the memory (`book.bound`): the defaults take at
    most 46 MB, and a few with ordinary traffic.
    """

    token_env: str = Field(min_length=1)
    minutes: int = Field(180, ge=10, le=1440, description="how far back it shows numbers")
    tenants: int = Field(200, ge=1, le=10_000, description="tenants that are remembered, the latest ones")
    requests: int = Field(50, ge=1, le=1000, description="requests of a tenant that are shown one by one")
