"""Declared batch work: a tenant that said what it does is not acted upon, for a time and up to a volume."""

from __future__ import annotations

import math

import msgspec

from azeotrope.core.errors import ConfigError


class BatchProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tenant's declaration: when it ends, in seconds on the clock of the requests, and the most it harvests.

    Beyond `tokens_per_day` (weighted as signal A weighs them) the declaration does not hold; 0 means no such
    bound.
    """

    tenant: str
    until: float
    tokens_per_day: float = 0.0
    note: str = ""

    def __post_init__(self) -> None:
        if not self.tenant or not math.isfinite(self.until) or not 0 <= self.tokens_per_day < math.inf:
            raise ConfigError(
                f"The batch profile of tenant '{self.tenant[:64]}' needs a tenant, an end, and at least 0 tokens "
                "a day."
            )

    def holds(self, now: float, day_volume: float) -> bool:
        """Return whether the tenant is exempt, `day_volume` being its V with a half-life of a day.

        A steady harvest of w a day settles at w / ln 2.
        """
        within = not self.tokens_per_day or day_volume * math.log(2) <= self.tokens_per_day
        return now < self.until and within
