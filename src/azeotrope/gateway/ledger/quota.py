"""What a key and a tenant may use, and how a refusal and a permission look. No dependency on how it is counted."""

from __future__ import annotations

from math import ceil
from types import TracebackType
from typing import Final, Literal, Protocol, Self

import msgspec
from pydantic import Field

from azeotrope.core.errors import AzeotropeError
from azeotrope.core.methods import Settings
from azeotrope.gateway.ledger.identity import Identity

MINUTE: Final = 60.0
DAY: Final = 86_400.0
MOST: Final = 10**12  # so that every count is exact in a float

LimitName = Literal["requests_per_minute", "tokens_per_minute", "concurrent", "tokens_per_day"]
Scope = Literal["key", "tenant"]


class Quota(Settings):
    """Limits of one key or one tenant; what is not set is not limited.

    The limits per minute are token buckets: they hold one minute's worth, and refill all the time. The limit per
    day counts in windows of 24 hours that begin with the first use.
    """

    requests_per_minute: int | None = Field(default=None, ge=1, le=MOST)
    tokens_per_minute: int | None = Field(default=None, ge=1, le=MOST)
    concurrent: int | None = Field(default=None, ge=1, le=MOST)
    tokens_per_day: int | None = Field(default=None, ge=1, le=MOST)


NO_QUOTA: Final = Quota()


class Limits(Settings):
    """The limits that hold for a request: those of its key, and those all keys of its tenant share."""

    key: Quota = NO_QUOTA
    tenant: Quota = NO_QUOTA


class Denial(msgspec.Struct, frozen=True):
    """Which limit refuses, and after how many seconds a try may succeed (None: this request never can)."""

    limit: LimitName
    scope: Scope
    retry_after: float | None


class LimitError(AzeotropeError):
    """A limit refuses the request: 429."""

    exit_code = 4

    def __init__(self, denial: Denial) -> None:
        self.denial = denial
        what = f"the limit '{denial.limit}' of this {denial.scope}"
        if denial.retry_after is None:
            super().__init__(f"The request alone needs more than {what} allows; make it smaller.")
        else:
            super().__init__(f"The request is over {what}; try again in {max(1, ceil(denial.retry_after))} s.")


class LimitsDownError(AzeotropeError):
    """The shared limits cannot be asked and the gateway is set to refuse then: 503."""

    exit_code = 4

    def __init__(self, retry_after: float) -> None:
        self.retry_after = retry_after
        super().__init__("Limits cannot be checked just now; try again in a moment.")


class Room(msgspec.Struct, frozen=True):
    """What is left after a request was admitted, in the tighter of the two scopes; None: not limited."""

    requests: int | None = None
    tokens: int | None = None


class Lease(Protocol):
    """A request that was admitted. Use it as an async context manager, and settle it inside.

    Leaving the block without `settle` or `refund` charges the estimate: what was used is not known, and free of
    charge would be an invitation. Only the first of these counts; others do nothing. None of them raises for a
    counter that is down.
    """

    @property
    def room(self) -> Room:
        """What was left."""

    async def settle(self, tokens: int) -> None:
        """The request ended having used `tokens`: correct the estimate, free its place."""

    async def refund(self) -> None:
        """The request failed through no fault of the client: give everything back."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Limiter(Protocol):
    """Admits requests within limits."""

    async def admit(self, identity: Identity, limits: Limits, estimate: int) -> Lease:
        """Reserve one request, one place and `estimate` tokens, in both scopes or in none.

        Raises LimitError, which says which limit refuses and for how long, and LimitsDownError.
        """

    async def aclose(self) -> None:
        """Stop what runs in the background."""
