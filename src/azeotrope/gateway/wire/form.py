"""How replies are written to a client, in any dialect."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Form:
    """What the client asked to be told, and may be.

    `reasoning` names the field of chat completions that holds reasoning. `usage`: in a stream of chat
    completions, a last chunk with the usage. `tell_reasoning`: how many tokens the reasoning took. `logprobs`:
    log-probabilities of the answer (those of reasoning are never written).
    """

    reasoning: str = "reasoning_content"
    usage: bool = False
    tell_reasoning: bool = True
    logprobs: bool = False
