"""What a reply says, whoever says it: the events that every dialect is read into and written from.

Defenses see events only, and writers write nothing that is not in one, so a field that no event holds cannot pass.
`choice` numbers the alternatives of a request with n > 1.
"""

from __future__ import annotations

from typing import Literal

import msgspec

STOP, LENGTH, TOOLS, FILTERED, REFUSED = "stop", "length", "tool_calls", "content_filter", "refusal"
Form = Literal["signature", "redacted", "encrypted"]  # Anthropic's two, and that of Responses
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

    Never shown to defenses' text functions. `kind` names the form.
    """

    kind: Form
    data: str
    choice: int = 0


class Alternative(msgspec.Struct, frozen=True, gc=False):
    """A token that might have been said, with its log-probability in nats."""

    token: str
    logprob: float


class Logprob(msgspec.Struct, frozen=True):
    """A token that was said, its log-probability, and the likeliest tokens in its place.

    `raw` is its bytes where they are not those of its text, as in a part of a character; else it is empty.
    """

    token: str
    logprob: float
    top: tuple[Alternative, ...] = ()
    raw: bytes = b""


class Text(msgspec.Struct, frozen=True, gc=False):
    """A piece of the answer. `refusal`: of the words of a refusal.

    `tokens` are those that spell it, with their log-probabilities, if there are any; or, after pieces without,
    those that spell what was said. No other event holds any, so those of reasoning have no way out.
    """

    text: str
    choice: int = 0
    refusal: bool = False
    tokens: tuple[Logprob, ...] = ()


class Tool(msgspec.Struct, frozen=True, gc=False):
    """A piece of a tool call: `slot` numbers the calls of a choice; `id` and `name` come with its first piece."""

    slot: int
    arguments: str = ""
    id: str = ""
    name: str = ""
    choice: int = 0


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


def together(first: Usage, second: Usage) -> Usage:
    """What two reports of one reply say: the second, and the first where the second is silent."""
    pairs = zip(msgspec.structs.astuple(first), msgspec.structs.astuple(second), strict=True)
    return Usage(*(old if new is None else new for old, new in pairs))


class Failure(msgspec.Struct, frozen=True, gc=False):
    """The upstream gave up in the middle. `message` is the upstream's: it is logged by its length, never shown."""

    status: int
    code: str = ""
    message: str = ""


Event = Start | Reasoning | Sealed | Text | Tool | Finish | Usage | Failure
