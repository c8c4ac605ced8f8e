"""Who sends requests in a simulation. An actor is one tenant with its keys; it gives requests and what they cost.

Benign: people in conversation, batch jobs over a company's own data (nightly or all day, some with reasoning, some
with log-probabilities), developers who run tests and health checks, firms of many people, and customers of one
small application, who share its prompt and its agent string without knowing each other. Researchers of prompting
ask for chains of thought for reasons of their own; no calibration has seen any. Hostile: one account that sweeps,
a hydra of accounts that share out a sweep and mix in conversation, and one who knows all six signals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Final, Literal

from azeotrope.gateway.signals.seen import Flag
from azeotrope.gateway.signals.settings import DAY, HOUR, MINUTE
from azeotrope.gateway.signals.simulate import chat_words, job_words
from azeotrope.gateway.signals.simulate.grammar import fill

Half = Literal["a", "b"]
_PROMPTING: Final = (
    "Write your chain of thought first.", "Show the full reasoning process.", "Think step by step.",
    "Put your thoughts into <think> tags.", "What would your inner monologue be?",
)  # fmt: skip
Links = dict[str, str]


@dataclass(frozen=True, slots=True)
class Request:
    """A request before it has a tenant: when, with which key of the tenant, what, and what came back."""

    time: float
    key: int
    prompt: str
    answer: int
    reasoning: int = 0
    floats: int = 0
    flags: int = 0


@dataclass(frozen=True)
class Actor:
    """A tenant. `group` is "" for strangers of whom nothing but metadata is seen."""

    tenant: str
    group: str
    links: Links
    requests: tuple[Request, ...] = field(repr=False)
    hostile: bool = False


def tokens(rng: Random, median: float, spread: float = 0.6, most: int = 8000) -> int:
    """Draw a length: log-normal with this median."""
    return max(1, min(most, round(median * math.exp(rng.gauss(0, spread)))))


def metadata(rng: Random, name: str) -> Links:
    """Draw what a tenant shows: networks and clients have few values, addresses and cards are its own."""
    return {
        "ip": f"ip-{name}",
        "asn": f"asn-{_rank(rng, 40)}",
        "tls": f"tls-{_rank(rng, 12)}",
        "agent": f"agent-{_rank(rng, 25)}",
        "payment": f"card-{name}",
    }


def _rank(rng: Random, n: int) -> int:
    """A rank from 0 to n - 1, small ones far more often (Zipf)."""
    return rng.choices(range(n), [1 / (i + 1) for i in range(n)])[0]


class Talker:
    """One person's way of asking: a few subjects, an opening now and then, follow-ups."""

    def __init__(self, half: Half, rng: Random, subjects: int = 3) -> None:
        self._half, self._rng = half, rng
        names = list(chat_words.SUBJECTS[half])
        self._subjects = rng.sample(names, subjects)
        self._odds = [rng.expovariate(1) + 0.1 for _ in self._subjects]
        self._polite = rng.random()

    def ask(self) -> str:
        """Return a new question."""
        rng, half = self._rng, self._half
        subject = rng.choices(self._subjects, self._odds)[0]
        text = fill(rng.choice(chat_words.SUBJECTS[half][subject]), chat_words.WORDS[half], rng)
        if rng.random() < 0.6 * self._polite:
            text = f"{fill(rng.choice(chat_words.OPENINGS[half]), chat_words.OPENINGS, rng)} {text}"
        if rng.random() < 0.5:
            text = f"{text} {fill(rng.choice(chat_words.CLOSINGS[half]), chat_words.CLOSINGS, rng)}"
        return text

    def go_on(self) -> str:
        """Return a follow-up."""
        half = self._half
        return fill(self._rng.choice(chat_words.FOLLOW_UPS[half]), chat_words.FOLLOW_UPS, self._rng)


def sessions(rng: Random, requests: int, begin: float, end: float) -> list[tuple[float, bool]]:
    """Spread requests over conversations of about six; return times and whether each opens a subject."""
    found: list[tuple[float, bool]] = []
    while len(found) < requests:
        now = rng.uniform(begin, end)
        for i in range(min(requests - len(found), max(1, round(rng.expovariate(1 / 6))))):
            found.append((min(now, end), i == 0 or rng.random() < 0.35))
            now += 20 + rng.expovariate(1 / (1.5 * MINUTE))
    return sorted(found)


def conversation(rng: Random, half: Half, requests: int, begin: float, end: float, key: int = 0) -> list[Request]:
    """Return what one person asks between two times."""
    talker, thinks = Talker(half, rng), rng.random() < 0.5
    return [
        Request(
            time, key, talker.ask() if opens else talker.go_on(), tokens(rng, 260),
            tokens(rng, 350) if thinks and rng.random() < 0.7 else 0,
        )
        for time, opens in sessions(rng, requests, begin, end)
    ]  # fmt: skip


def chat(rng: Random, half: Half, name: str) -> Actor:
    """Return a tenant of one to three people in conversation, awake for 14 hours."""
    found: list[Request] = []
    for key in range(rng.choices((1, 2, 3), (7, 2, 1))[0]):
        begin = rng.uniform(5, 10) * HOUR
        found += conversation(rng, half, tokens(rng, 28, 0.6, 160), begin, begin + 14 * HOUR - 1, key)
    return Actor(name, "chat", metadata(rng, name), tuple(found))


def batch(rng: Random, half: Half, name: str, scale: float = 1.0) -> Actor:
    """Return a tenant that runs one or two templates over its own data."""
    templates = rng.sample(job_words.BATCH[half], rng.choices((1, 2), (3, 1))[0])
    n = tokens(rng, 260 * scale, 0.6, 1500)
    nightly = rng.random() < 0.5
    begin = rng.uniform(0, 20) * HOUR if nightly else 0.0
    end = begin + rng.uniform(0.5, 3) * HOUR if nightly else DAY - 1
    length, thinks, measured = rng.choice((3, 20, 60, 140)), rng.random() < 0.2, rng.random() < 0.2
    flags = int(Flag.BARE) if rng.random() < 0.5 else 0
    found = [
        Request(
            begin + (end - begin) * (i + rng.random()) / n, 0,
            fill(rng.choice(templates), job_words.WORDS, rng), tokens(rng, length, 0.3),
            tokens(rng, 250) if thinks else 0, 5 * length if measured else 0,
            flags | (Flag.LOGPROBS if measured else 0),
        )
        for i in range(n)
    ]  # fmt: skip
    return Actor(name, "batch", metadata(rng, name), tuple(found))


def developer(rng: Random, half: Half, name: str) -> Actor:
    """Return a tenant that tests its product: runs of a test set with log-probabilities, and questions on code."""
    found = conversation(rng, half, tokens(rng, 15), 8 * HOUR, 20 * HOUR)
    many = Flag.MANY if rng.random() < 0.3 else Flag(0)
    for _ in range(rng.randint(1, 4)):
        template, begin = rng.choice(job_words.TESTS[half]), rng.uniform(8, 20) * HOUR
        for i in range(rng.randint(10, 40)):
            prompt = fill(template, job_words.WORDS, rng)
            found.append(
                Request(begin + 3 * i, 0, prompt, tokens(rng, 8), 0, 40, int(Flag.LOGPROBS | many))
            )  # fmt: skip
    if rng.random() < 0.3:
        found += [Request(480.0 * i + rng.random(), 0, "Reply with OK.", 2) for i in range(180)]  # a health check
    return Actor(name, "developer", metadata(rng, name), tuple(found))


def firm(rng: Random, half: Half, name: str) -> Actor:
    """Return a tenant of 8 to 24 people in conversation, at work."""
    found: list[Request] = []
    for key in range(rng.randint(8, 24)):
        found += conversation(rng, half, tokens(rng, 14, 0.6, 80), 7 * HOUR, 19 * HOUR, key)
    return Actor(name, "firm", metadata(rng, name), tuple(found))


def researcher(rng: Random, half: Half, name: str) -> Actor:
    """Return a person who tries out prompts, a third of them with the words that harvests use."""
    found = [
        replace(request, prompt=f"{request.prompt} {rng.choice(_PROMPTING)}") if rng.random() < 0.33 else request
        for request in conversation(rng, half, tokens(rng, 40, 0.4, 120), 8 * HOUR, 20 * HOUR)
    ]
    return Actor(name, "researcher", metadata(rng, name), tuple(found))


def customers(rng: Random, half: Half, name: str, count: int) -> list[Actor]:
    """Return `count` tenants that use one small application: its prompt, its agent string, its TLS stack."""
    template = rng.choice(job_words.APPS[half])
    found = []
    for i in range(count):
        begin = rng.uniform(5, 9) * HOUR
        requests = [
            Request(time, 0, fill(template, job_words.WORDS, rng), tokens(rng, 180), 0)
            for time, _ in sessions(rng, tokens(rng, 25, 0.5, 120), begin, begin + 12 * HOUR)
        ]
        links = {**metadata(rng, f"{name}-{i}"), "agent": f"agent-{name}", "tls": f"tls-{name}"}
        found.append(Actor(f"{name}-{i}", "customers", links, tuple(requests)))
    return found


def strangers(rng: Random, count: int) -> Iterator[Actor]:
    """Yield tenants of whom one request without text is seen, early: the population that makes an item rare."""
    for i in range(count):
        name = f"stranger-{i}"
        yield Actor(name, "", metadata(rng, name), (Request(rng.uniform(0, HOUR), 0, "", 200),))


GROUPS: Final[dict[str, Callable[[Random, Half, str], Sequence[Actor]]]] = {
    "chat": lambda rng, half, name: [chat(rng, half, name)],
    "batch": lambda rng, half, name: [batch(rng, half, name)],
    "developer": lambda rng, half, name: [developer(rng, half, name)],
    "firm": lambda rng, half, name: [firm(rng, half, name)],
    "researcher": lambda rng, half, name: [researcher(rng, half, name)],
    "customers": lambda rng, half, name: customers(rng, half, name, rng.randint(4, 9)),
}
