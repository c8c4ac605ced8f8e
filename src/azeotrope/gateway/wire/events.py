"""What a reply says, whoever says it: the events that every dialect is read into and written from.

Defenses see events only, and writers write nothing that is not in one, so a field that no event holds cannot pass.
`choice` numbers the alternatives of a request with n > 1.
"""

from __future__ import annotations

from typing import Literal

import msgspec

STOP, LENGTH, TOOLS, FILTERED, REFUSED = "stop", "length", "tool_calls", "content_filter", "refusal"
Reason = Literal["stop", "length", "tool_calls", "content_filter", "refusal"]


class Start(msgspec.Struct, frozen=True, gc=False):
    """The reply begins: its id, the model that serves it, and when (Unix seconds)."""

    id: str
    model: str
    created: int


class Reasoning(msgspec.Struct, frozen=True, gc=False):
    """A piece of reasoning. `summary`: of a summary of it, as the provider wrote it."""

    text: str
    choice: int = 0
    summary: bool = False


class Sealed(msgspec.Struct, frozen=True, gc=False):
    """Reasoning that only its provider can open, or the provider's signature of reasoning, as it came.

    Never shown to defenses' text functions. `kind` names the form: "signature", "redacted", "encrypted", "detail".
    """

    kind: Literal["signature", "redacted", "encrypted", "detail"]
    data: str
    choice: int = 0


class Text(msgspec.Struct, frozen=True, gc=False):
    """A piece of the answer. `refusal`: of the words of a refusal."""

    text: str
    choice: int = 0
    refusal: bool = False


class Tool(msgspec.Struct, frozen=True, gc=False):
    """A piece of a tool call: `slot` numbers the calls of a choice; `id` and `name` come with its first piece."""

    slot: int
    arguments: str = ""
    id: str = ""
    name: str = ""
    choice: int = 0


class Alternative(msgspec.Struct, frozen=True, gc=False):
    """A token that might have been said, with its log-probability in nats."""

    token: str
    logprob: float


class Logprob(msgspec.Struct, frozen=True):
    """A token that was said, its log-probability, and the likeliest tokens in its place."""

    token: str
    logprob: float
    top: tuple[Alternative, ...] = ()


class Logprobs(msgspec.Struct, frozen=True):
    """Log-probabilities of tokens of the answer, or (`reasoning`) of tokens that are not, or may not be."""

    tokens: tuple[Logprob, ...]
    choice: int = 0
    reasoning: bool = False


class Finish(msgspec.Struct, frozen=True, gc=False):
    """A choice ends."""

    reason: Reason
    choice: int = 0


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens as the upstream bills them (None: unsaid); `reasoning` is in `completion`, `cached` in `prompt`."""

    prompt: int | None = None
    completion: int | None = None
    reasoning: int | None = None
    cached: int | None = None


class Failure(msgspec.Struct, frozen=True, gc=False):
    """The upstream gave up in the middle. `message` is the upstream's: it is logged by its length, never shown."""

    status: int
    code: str = ""
    message: str = ""


Event = Start | Reasoning | Sealed | Text | Tool | Logprobs | Finish | Usage | Failure
