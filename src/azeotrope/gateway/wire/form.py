"""How replies are written to a client, in any dialect."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Form:
    """What the client asked to be told, and may be.

    `usage`: in a stream of chat completions, a last chunk with the usage. `tell_reasoning`: how many tokens the
    reasoning took. `logprobs`: log-probabilities of the answer (no event holds those of reasoning).
    """

    usage: bool = False
    tell_reasoning: bool = True
    logprobs: bool = False
