"""What the detection is told about a request, and the flags that its conduct can carry."""

from __future__ import annotations

from enum import IntFlag

import msgspec

from azeotrope.gateway.signals.prompts import Features

NAME_LIMIT = 256  # characters of the name of a key or tenant that are kept


class Flag(IntFlag):
    """What makes a request look like harvesting. The first two come from the wording, the last from logs."""

    ELICITS = 1  # asks for the hidden reasoning in so many words
    STEPS = 2  # asks for a step-by-step answer; ordinary users do, too
    LOGPROBS = 4  # wants log-probabilities
    BIAS = 8  # sets logit biases, the lever of published head-extraction attacks
    MANY = 16  # wants several completions at once
    RESAMPLE = 32  # repeats the last prompt of its key
    SWEEP = 64  # changes sampling parameters on the same prompt
    BARE = 128  # one question without system prompt or history, with the longest output allowed
    CANARY = 256  # holds a planted prompt or answer


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """One answered request.

    `key` and `tenant` are identifiers, never secrets. `time` is in seconds on the clock of the caller. `prompt` is
    the newest user message; only its first 128 words are looked at, and no text is kept. `features` may stand in
    its place. `reasoning_tokens` counts what was disclosed. `sampling` stands for the sampling parameters: any
    number that changes with them. `links` maps a kind of metadata (ip, asn, tls, payment, agent) to a keyed hash
    of its value: `keyed` makes them.
    """

    key: str
    tenant: str
    time: float
    prompt: str = ""
    features: Features | None = None
    answer_tokens: int = 0
    reasoning_tokens: int = 0
    logprob_floats: int = 0
    flags: int = 0
    sampling: int = 0
    links: dict[str, int] = {}
