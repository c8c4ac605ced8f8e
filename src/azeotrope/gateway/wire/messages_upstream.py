"""What an upstream that speaks Anthropic's dialect is sent.

What it does not have in common with others: effort "minimal" is written as "low", an effort as adaptive thinking,
and a budget is at least 1,024 tokens. System messages are gathered in front of all others. How closely to look at
an image is not written. A message holds its reasoning as one text: the first of its signatures is written as that
of the text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import get_args

from azeotrope.gateway.wire.fields import Json, without_none
from azeotrope.gateway.wire.messages_request import MediaType
from azeotrope.gateway.wire.messages_writer import tool_input
from azeotrope.gateway.wire.request import Image, Message, Part, Request, RequestError, Tool, prefill

DEFAULT_MAX_TOKENS = 4096  # for the answer, if the client named no limit: this dialect wants one
LEAST_BUDGET = 1024  # of thinking, in tokens
_ABSENT: tuple[tuple[str, Callable[[Request], object]], ...] = (  # what this dialect has no place for
    ("prompt", lambda r: r.prompt),
    ("n", lambda r: r.n != 1),
    ("logprobs", lambda r: r.logprobs),
    ("top_logprobs", lambda r: r.top_logprobs),
    ("logit_bias", lambda r: r.bias),
    ("seed", lambda r: r.seed is not None),
    ("frequency_penalty", lambda r: r.frequency_penalty),
    ("presence_penalty", lambda r: r.presence_penalty),
    ("metadata", lambda r: r.metadata),
)


def write(request: Request) -> Json:
    """The body for an upstream that speaks this dialect. Raises RequestError for what it cannot carry."""
    _check(request)
    body = written(request)
    if body["messages"][-1]["role"] == "assistant":  # maybe because what followed said nothing
        raise prefill()
    return body


def write_count(request: Request) -> Json:
    """The body for counting the tokens of a prompt. Raises RequestError."""
    _check(request)
    return {key: value for key, value in written(request).items() if key not in ("max_tokens", "stream")}


def written(request: Request) -> Json:
    """The body, unchecked. Raises RequestError if no message says anything."""
    system, turns = _conversation(request.messages)
    if not turns:
        raise RequestError("No message says anything; send one that does.", "messages")
    limit = request.max_tokens
    return without_none(
        {
            "model": request.model,
            "max_tokens": DEFAULT_MAX_TOKENS + _budget(request) if limit is None else limit,
            "system": _plain(system) or None,
            "messages": turns,
            "stream": request.stream or None,
            "stop_sequences": list(request.stop) or None,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "top_k": request.top_k if request.top_k != -1 else None,  # which says: all
            "tools": [_tool(tool) for tool in request.tools] or None,
            "tool_choice": _tool_choice(request),
            "thinking": _thinking(request),
            "output_config": _output(request) or None,
            "metadata": {"user_id": request.user} if request.user else None,
        }
    )


def _check(request: Request) -> None:
    """Refuse what this dialect has no place for."""
    for name, present in _ABSENT:
        if present(request):
            raise _unsupported(f"The upstream takes no `{name}`; leave it out.", name)
    if request.temperature is not None and request.temperature > 1:
        raise RequestError("The upstream takes a `temperature` from 0 to 1; lower it.", "temperature")
    told = request.format
    if told is not None and (told.type == "json_object" or (told.type == "json_schema" and told.schema is None)):
        name = "text.format" if request.dialect == "responses" else "response_format"
        raise _unsupported("The upstream writes JSON by a schema alone; send a JSON schema.", name)
    for place, message in enumerate(request.messages):
        if message.name and message.role != "tool":
            raise _unsupported(
                "The upstream takes no names of speakers; leave them out.", f"messages.{place}.name"
            )


def _unsupported(message: str, param: str) -> RequestError:
    return RequestError(message, param, "unsupported_parameter")


def _conversation(messages: Iterable[Message]) -> tuple[list[Json], list[Json]]:
    """The system prompt, and turns. Results of tools in a row are one turn, with what the user adds to them."""
    system: list[Json] = []
    turns: list[Json] = []
    results: list[Json] | None = None  # of the last turn, while more may come
    for message in messages:
        if message.role in ("system", "developer"):
            system += _blocks(message.parts, images=False)
        elif message.role == "tool":
            if results is None:
                results = []
                turns.append({"role": "user", "content": results})
            results.append(_result(message))
        elif message.role == "user" and results is not None:
            results += _blocks(message.parts)
            results = None
        elif blocks := _blocks(message.parts) if message.role == "user" else _said(message):
            turns.append({"role": message.role, "content": _plain(blocks)})
            results = None
    return system, turns


def _said(message: Message) -> list[Json]:
    """The blocks of the assistant's message."""
    signatures = [seal.data for seal in message.seals if seal.kind == "signature"]
    if message.thoughts and not signatures:
        signatures = [""]
    texts = [message.thoughts] + [""] * len(signatures)
    thoughts = [
        {"type": "thinking", "thinking": words, "signature": signature}
        for words, signature in zip(texts, signatures, strict=False)
    ]
    redacted = [
        {"type": "redacted_thinking", "data": seal.data} for seal in message.seals if seal.kind == "redacted"
    ]
    words = _blocks((*message.parts, message.refusal), images=False)
    calls = [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": tool_input(call.arguments)}
        for call in message.calls
    ]
    return [*thoughts, *redacted, *words, *calls]


def _result(message: Message) -> Json:
    content = _plain(_blocks(message.parts)) or None
    head = {"type": "tool_result", "tool_use_id": message.call_id}
    return without_none({**head, "content": content, "is_error": message.failed or None})


def _blocks(parts: Iterable[Part], images: bool = True) -> list[Json]:
    """Blocks of parts; an empty text is none, and upstreams refuse it."""
    found: list[Json] = []
    for part in parts:
        if isinstance(part, str):
            found += [{"type": "text", "text": part}] if part else []
        elif images:
            found.append({"type": "image", "source": _source(part)})
        else:
            raise RequestError("The upstream takes images from users and tools alone.", "messages")
    return found


def _source(image: Image) -> Json:
    head, _, data = image.data_url.partition(",")
    media = head.removeprefix("data:").removesuffix(";base64")
    if head != f"data:{media};base64" or media not in get_args(MediaType):
        raise RequestError("The upstream takes JPEG, PNG, GIF and WebP images, in base64.", "messages")
    return {"type": "base64", "media_type": media, "data": data}


def _plain(blocks: list[Json]) -> str | list[Json]:
    """A lone text as such."""
    return str(blocks[0]["text"]) if len(blocks) == 1 and blocks[0]["type"] == "text" else blocks


def _tool(tool: Tool) -> Json:
    schema = {"type": "object", "properties": {}} if tool.parameters is None else tool.parameters
    head = {"name": tool.name, "description": tool.description or None}
    return without_none({**head, "input_schema": schema, "strict": tool.strict})


def _tool_choice(request: Request) -> Json | None:
    choice, parallel = request.choice, request.parallel
    if not choice and (parallel is not False or not request.tools):
        return None
    if choice == "none":
        return {"type": "none"}
    _, named, name = choice.partition("function:")
    kind = "tool" if named else "any" if choice == "required" else "auto"
    alone = None if parallel is None else not parallel
    return without_none({"type": kind, "name": name or None, "disable_parallel_tool_use": alone})


def _thinking(request: Request) -> Json | None:
    budget, effort = request.reasoning_budget, request.effort
    if effort == "none" or budget == 0:
        return {"type": "disabled"}
    shown = "summarized" if request.summary else None
    if budget:
        return without_none({"type": "enabled", "budget_tokens": _budget(request), "display": shown})
    return without_none({"type": "adaptive", "display": shown}) if effort else None


def _budget(request: Request) -> int:
    return max(LEAST_BUDGET, request.reasoning_budget) if request.reasoning_budget else 0


def _output(request: Request) -> Json:
    effort = "low" if request.effort == "minimal" else None if request.effort == "none" else request.effort
    schema = request.format.schema if request.format and request.format.type == "json_schema" else None
    told = {"type": "json_schema", "schema": schema} if schema is not None else None
    return without_none({"effort": effort, "format": told})
