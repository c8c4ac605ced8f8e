"""What a request asks, whatever dialect it came in: read from the client's dialect, written in the upstream's.

Everything here was named by a reader, so a request is an allow-list by construction: a field that no reader knows
is refused, and one that a reader knows but nothing here can hold cannot reach the upstream.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from azeotrope.gateway.wire.errors import WireError
from azeotrope.gateway.wire.events import Form

Role = Literal["system", "developer", "user", "assistant", "tool"]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]
Json = dict[str, Any]


class RequestError(WireError):
    """A request that is not accepted. `param` names the field in the client's own dialect, "" if it is the whole.

    `status` is the HTTP status; `code` a short machine-readable reason ("unsupported_parameter", "invalid_value",
    "missing_parameter", ...). The message quotes names, never values.
    """

    def __init__(self, message: str, param: str = "", code: str = "invalid_value", status: int = 400) -> None:
        super().__init__(message)
        self.param, self.code, self.status = param, code, status


def prefill() -> RequestError:
    """A conversation that the assistant is to go on with is refused: it can move reasoning into the answer."""
    text = "The last message is the assistant's, and replies are not continued; end with the user's or a tool's."
    return RequestError(text, "messages", "unsupported_value")


INVALID = "INVALID_JSON"  # Anthropic's name for arguments that are no JSON, in an object that is


class Image(msgspec.Struct, frozen=True):
    """An image: bytes in a data URL ("data:image/png;base64,..."), never an address to fetch."""

    data_url: str
    detail: str = ""


Part = str | Image


def image_sizes(request: Request) -> list[int]:
    """The lengths of the images' addresses."""
    parts = (part for message in request.messages for part in message.parts)
    return [len(part.data_url) for part in parts if isinstance(part, Image)]


class Seal(msgspec.Struct, frozen=True):
    """Sealed reasoning, or its signature, as an upstream gave it (see `events.Sealed`)."""

    kind: Form
    data: str


class Call(msgspec.Struct, frozen=True):
    """A tool call that the assistant made; `arguments` is the JSON text as it was written."""

    id: str
    name: str
    arguments: str = "{}"


class Message(msgspec.Struct, frozen=True):
    """One message. `call_id` and `failed` belong to role "tool"; `thoughts` and `calls` to "assistant".

    `thoughts` is reasoning that the client passed back: text (never trusted: the vault decides what re-enters),
    and `seals` opaque pieces that it was given beside it, or in its place.
    """

    role: Role
    parts: tuple[Part, ...] = ()
    name: str = ""
    calls: tuple[Call, ...] = ()
    call_id: str = ""
    failed: bool = False
    refusal: str = ""
    thoughts: str = ""
    seals: tuple[Seal, ...] = ()


class Tool(msgspec.Struct, frozen=True):
    """A function that may be called; `parameters` is its JSON schema."""

    name: str
    description: str = ""
    parameters: Json | None = None
    strict: bool | None = None


class Format(msgspec.Struct, frozen=True):
    """The form of the answer: "json_object", or "json_schema" with a schema."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str = ""
    schema: Json | None = None
    strict: bool | None = None
    description: str = ""


class Request(msgspec.Struct, frozen=True):
    """A request for a reply. None means unsaid; the upstream's default holds then.

    `choice` of a tool: "auto", "none", "required", or the name of one function as "function:NAME".
    `reasoning_budget` is in tokens. `summary`: the client wants a summary of the reasoning ("" if it did not say).
    `bias` maps token ids to logit biases. `dialect` is the client's.
    """

    model: str
    messages: tuple[Message, ...] = ()
    prompt: str = ""  # of plain completions, which have no messages
    dialect: Literal["chat", "completions", "responses", "messages"] = "chat"
    stream: bool = False
    usage: bool = False  # a stream ends with what it used
    n: int = 1
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logprobs: bool = False
    top_logprobs: int = 0
    bias: dict[str, float] | None = None
    tools: tuple[Tool, ...] = ()
    choice: str = ""
    parallel: bool | None = None
    format: Format | None = None
    effort: Effort | None = None
    reasoning_budget: int | None = None
    summary: str = ""
    user: str = ""
    metadata: dict[str, str] | None = None
