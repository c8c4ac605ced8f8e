"""The casts that detection is measured on: five kinds of legitimate customers and six attacks of rising care."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from azeotrope.gateway.signals.simulate.people import Actor, Half
from azeotrope.gateway.signals.simulate.thieves import Ask, hydra, knowing, sweep
from azeotrope.gateway.signals.simulate.world import population

Cast = Callable[[Random, Half, Ask], Sequence[Actor]]

# Benign tenants beside a thief: they make what is shared rare or common, and can be raised by mistake.
BACKGROUND: Final = {"chat": 16, "batch": 4, "developer": 4, "customers": 8}


@dataclass(frozen=True)
class Scenario:
    """A day's cast, drawn anew for every seed. `declared`: batch tenants have a declared profile."""

    name: str
    group: str  # whose keys the row is about
    cast: Cast
    hostile: bool
    declared: bool = False


def benign(group: str, size: int) -> Cast:
    """Return a cast of one benign group alone."""
    return lambda rng, half, ask: population(rng, half, {group: size})


def _beside(
    thieves: Cast,
) -> Cast:
    return lambda rng, half, ask: [*population(rng, half, BACKGROUND), *thieves(rng, half, ask)]


def _one_sweep(requests: int, eliciting: bool) -> Cast:
    return _beside(lambda rng, half, ask: [sweep(rng, "sweep", ask, requests=requests, eliciting=eliciting)])


def _one_hydra(accounts: int, requests: int, mixing: float, eliciting: bool) -> Cast:
    return _beside(
        lambda rng, half, ask: hydra(
            rng, half, "hydra", ask, accounts=accounts, requests=requests, mixing=mixing, eliciting=eliciting
        )
    )


SCENARIOS: Final = (
    Scenario("legitimate batch customer, undeclared", "batch", benign("batch", 16), hostile=False),
    Scenario("legitimate batch customer, declared", "batch", benign("batch", 8), hostile=False, declared=True),
    Scenario("conversation", "chat", benign("chat", 24), hostile=False),
    Scenario("developer running tests", "developer", benign("developer", 16), hostile=False),
    Scenario("firm of many people", "firm", benign("firm", 3), hostile=False),
    Scenario("researcher of prompting, uncalibrated", "researcher", benign("researcher", 12), hostile=False),
    Scenario("customers of one small application", "customers", benign("customers", 20), hostile=False),
    Scenario("single sweep, asks for reasoning", "sweep", _one_sweep(1200, True), hostile=True),
    Scenario("single sweep, plain", "sweep", _one_sweep(1200, False), hostile=True),
    Scenario("single sweep, plain and small", "sweep", _one_sweep(300, False), hostile=True),
    Scenario("hydra of 24, no mixing", "hydra", _one_hydra(24, 1200, 0.0, False), hostile=True),
    Scenario("hydra of 24, half conversation", "hydra", _one_hydra(24, 600, 0.5, False), hostile=True),
    Scenario("hydra of 24, half, asks for reasoning", "hydra", _one_hydra(24, 600, 0.5, True), hostile=True),
    Scenario("hydra of 24, 80 % conversation", "hydra", _one_hydra(24, 300, 0.8, False), hostile=True),
    Scenario(
        "knows all six signals", "knowing",
        _beside(lambda rng, half, ask: knowing(rng, half, "knowing", ask, accounts=12, mixing=0.6)), hostile=True,
    ),
)  # fmt: skip
QUICK_SCENARIOS: Final = tuple(SCENARIOS[i] for i in (0, 7, 10, 14))
