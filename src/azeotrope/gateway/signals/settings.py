"""Settings of the detection: memory, memory spans, and how the response rises and falls."""

from __future__ import annotations

from typing import Final, Self

from pydantic import Field, model_validator

from azeotrope.core.methods import Settings

MINUTE: Final = 60.0
HOUR: Final = 3600.0
DAY: Final = 86400.0


class WatchSettings(Settings):
    """How much is remembered, for how long, and what an alarm takes. Times are in seconds.

    Bytes: a key and a tenant each take `bank.ROW_BYTES` (4.1 KB) in the worker and about 1 KB inline, so the
    default of 100,000 keys and 20,000 tenants is bounded by about 640 MB; pages of keys that never came are not
    touched. The queue holds at most 2,048 characters of a prompt: 16 to 33 MB when the default is full.
    """

    keys: int = Field(default=100_000, ge=8, description="keys that are remembered at a time")
    tenants: int = Field(default=20_000, ge=8, description="tenants that are remembered at a time")
    queue: int = Field(default=4096, ge=1, description="requests that may wait for the worker; others are dropped")
    reasoning_weight: float = Field(
        default=1.0, ge=0, description="what a disclosed reasoning token weighs beside an answer token"
    )
    logprob_weight: float = Field(default=0.05, ge=0, description="what one returned log-probability weighs")
    content_half_life: float = Field(default=DAY, gt=0, description="half-life of templates, coverage and drift")
    conduct_half_life: float = Field(
        default=DAY, gt=0, description="half-life of what suspicious requests add up to"
    )
    evidence_half_life: float = Field(default=6 * HOUR, gt=0, description="half-life of evidence without traffic")
    link_half_life: float = Field(default=7 * DAY, gt=0, description="half-life of a link between two tenants")
    link_strength: float = Field(
        default=2.0, gt=0.8, description="shared rarity that links two tenants, in units of log(number of tenants)"
    )
    run_length: float = Field(
        default=10_000, gt=1, description="fewest requests on average before conduct alone raises a false alarm"
    )
    false_alarm: float = Field(
        default=1e-3, gt=0, lt=1, description="chance that a key's conduct ever reaches the e-process's alarm"
    )
    hold: float = Field(default=0.5, gt=0, le=1, description="share of a threshold above which a stance is kept")
    dwell: float = Field(default=30 * MINUTE, ge=0, description="shortest time between two steps down")

    @property
    def meaning(self) -> str:
        """What scores depend on: a calibration made under other values is not comparable."""
        parts = (
            self.reasoning_weight, self.logprob_weight, self.content_half_life, self.conduct_half_life,
            self.link_half_life, self.link_strength,
        )  # fmt: skip
        return " ".join(f"{part:.9g}" for part in parts)

    @model_validator(mode="after")
    def _no_more_tenants_than_keys(self) -> Self:
        if self.tenants > self.keys:
            raise ValueError("there cannot be more tenants than keys; raise 'keys' or lower 'tenants'")
        return self
