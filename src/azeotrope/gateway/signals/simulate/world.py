"""One simulated day: actors put together in order of time, as the watch sees them."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from random import Random
from typing import Final

from azeotrope.gateway.signals.fit import Labeled
from azeotrope.gateway.signals.prompts import Reader
from azeotrope.gateway.signals.seen import Seen
from azeotrope.gateway.signals.simulate.people import GROUPS, Actor, Half, Request, strangers

STRANGERS: Final = 600


def population(rng: Random, half: Half, sizes: dict[str, int]) -> list[Actor]:
    """Return at least `sizes[group]` benign tenants of every group."""
    found: list[Actor] = []
    for group, size in sizes.items():
        mine: list[Actor] = []
        while len(mine) < size:
            mine += GROUPS[group](rng, half, f"{group}-{len(mine)}")
        found += mine
    return found


def day(actors: Iterable[Actor], reader: Reader, rng: Random, others: int = STRANGERS) -> Iterator[Labeled]:
    """Yield a day's requests in order of time; `others` strangers are there, too."""
    everyone = [*strangers(rng, others), *actors]
    streams = [_timed(number, actor, reader) for number, actor in enumerate(everyone)]
    for _, _, item in heapq.merge(*streams, key=lambda entry: entry[:2]):
        yield item


def key_of(actor: Actor, request: Request) -> str:
    """Return the name of the key that a request came with."""
    return f"{actor.tenant}/{request.key}"


def _timed(number: int, actor: Actor, reader: Reader) -> Iterator[tuple[float, int, Labeled]]:
    links = {kind: reader.keyed(kind, value) for kind, value in actor.links.items()}
    for request in sorted(actor.requests, key=lambda request: request.time):
        seen = Seen(
            key=key_of(actor, request), tenant=actor.tenant, time=request.time, prompt=request.prompt,
            answer_tokens=request.answer, reasoning_tokens=request.reasoning, logprob_floats=request.floats,
            flags=request.flags, links=links,
        )  # fmt: skip
        yield request.time, number, Labeled(seen, actor.group)
