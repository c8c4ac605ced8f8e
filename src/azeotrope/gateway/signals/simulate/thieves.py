"""Hostile actors: a single sweep, a hydra with mixing, and one who knows the signals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random

from azeotrope.core.errors import ConfigError, MissingError
from azeotrope.gateway.signals.seen import Flag
from azeotrope.gateway.signals.settings import DAY, HOUR
from azeotrope.gateway.signals.simulate import question_words
from azeotrope.gateway.signals.simulate.grammar import fill
from azeotrope.gateway.signals.simulate.people import (
    Actor,
    Half,
    Request,
    Talker,
    conversation,
    metadata,
    sessions,
    tokens,
)

Ask = Callable[[Random], str]
_MOST = 100_000  # questions that are read from a file


def made_up(rng: Random) -> str:
    """Return a reasoning question from the phrase lists, of any subject."""
    subject = rng.choice(list(question_words.QUESTIONS))
    return fill(rng.choice(question_words.QUESTIONS[subject]), question_words.WORDS, rng)


def from_file(path: Path) -> Ask:
    """Return a source of questions from JSON lines with a `question` or `problem` (GSM8K, MATH).

    Raises MissingError and ConfigError.
    """
    if not path.is_file():
        raise MissingError(f"There is no question file '{path}'; check the path.")
    found: list[str] = []
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
            except ValueError:
                raise ConfigError(f"'{path}', line {number}, is not JSON.") from None
            text = (row.get("question") or row.get("problem")) if isinstance(row, dict) else None
            if not isinstance(text, str):
                raise ConfigError(f"'{path}', line {number}, has no text 'question' or 'problem'.")
            found.append(text)
            if len(found) == _MOST:
                break
    if not found:
        raise ConfigError(f"'{path}' holds no questions.")
    return lambda rng: rng.choice(found)


def sweep(rng: Random, name: str, ask: Ask, *, requests: int, eliciting: bool, hours: float = 8.0) -> Actor:
    """Return one account that puts many questions into one script, at an even pace."""
    wrapper = rng.choice(question_words.WRAPPERS["eliciting" if eliciting else "plain"])
    begin = rng.uniform(1, 23 - hours) * HOUR
    found = [
        _harvest(
            rng, begin + hours * HOUR * (i + rng.random()) / requests, wrapper.replace("{question}", ask(rng))
        )
        for i in range(requests)
    ]
    return Actor(name, "sweep", metadata(rng, name), tuple(found), hostile=True)


def hydra(
    rng: Random, half: Half, name: str, ask: Ask, *, accounts: int, requests: int, mixing: float, eliciting: bool
) -> list[Actor]:
    """Return accounts that share out one sweep in turn; a share `mixing` of their requests is conversation.

    They share a client and its TLS stack, three networks, and a payment card in fours.
    """
    wrappers = question_words.WRAPPERS["eliciting" if eliciting else "plain"]
    gap = 20 * HOUR / requests
    mine: list[list[Request]] = [[] for _ in range(accounts)]
    for i in range(requests):
        prompt = rng.choice(wrappers).replace("{question}", ask(rng))
        mine[i % accounts].append(_harvest(rng, 2 * HOUR + gap * (i + 0.3 * rng.random()), prompt))
    found = []
    for i, requests_of in enumerate(mine):
        chatter = round(len(requests_of) * mixing / (1 - mixing))
        requests_of += conversation(rng, half, chatter, 2 * HOUR, 22 * HOUR)
        links = {
            **metadata(rng, f"{name}-{i}"),
            "agent": f"agent-{name}", "tls": f"tls-{name}", "asn": f"asn-{name}-{i % 3}",
            "payment": f"card-{name}-{i // 4}",
        }  # fmt: skip
        found.append(Actor(f"{name}-{i}", "hydra", links, tuple(requests_of), hostile=True))
    return found


def knowing(rng: Random, half: Half, name: str, ask: Ask, *, accounts: int, mixing: float) -> list[Actor]:
    """Return accounts of one who knows all six signals.

    A: each stays at the volume of a person. B: no script, words around a question are put together anew. C, D:
    most of its requests are conversation, of the same subjects and rhythm as anybody's. E: no word of reasoning,
    no flags. F: nothing shared, times of people.
    """
    found = []
    for i in range(accounts):
        begin = rng.uniform(5, 9) * HOUR
        talker, requests = Talker(half, rng), []
        for time, opens in sessions(rng, tokens(rng, 32, 0.3, 60), begin, begin + 14 * HOUR - 1):
            if rng.random() < mixing:
                prompt, reasoning = talker.ask() if opens else talker.go_on(), 0
            else:
                prompt, reasoning = _paraphrased(rng, ask(rng)), tokens(rng, 350)
            requests.append(Request(time, 0, prompt, tokens(rng, 260), reasoning))
        found.append(Actor(f"{name}-{i}", "knowing", metadata(rng, f"{name}-{i}"), tuple(requests), hostile=True))
    return found


def _harvest(rng: Random, time: float, prompt: str) -> Request:
    return Request(min(time, DAY - 1), 0, prompt, tokens(rng, 220), tokens(rng, 700), 0, int(Flag.BARE))


def _paraphrased(rng: Random, question: str) -> str:
    words = question_words.PARAPHRASES
    before = fill(rng.choice(words["before"]), words, rng) if rng.random() < 0.7 else ""
    after = fill(rng.choice(words["after"]), words, rng) if rng.random() < 0.7 else ""
    return f"{before} {question} {after}".strip()
