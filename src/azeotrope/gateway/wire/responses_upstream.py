"""What an upstream that speaks the Responses dialect is sent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from azeotrope.gateway.wire import checks
from azeotrope.gateway.wire.fields import Json, without_none
from azeotrope.gateway.wire.request import Format, Image, Message, Part, Request, RequestError
from azeotrope.gateway.wire.responses_fields import INCLUDED

CANNOT: dict[str, tuple[tuple[Any, ...], str, str]] = {  # values that say nothing; names here and of Messages
    "prompt": (("",), "prompt", "prompt"),
    "n": ((1,), "n", "n"),
    "stop": (((),), "stop", "stop_sequences"),
    "seed": ((None,), "seed", "seed"),
    "top_k": ((None, -1), "top_k", "top_k"),
    "frequency_penalty": ((None, 0), "frequency_penalty", "frequency_penalty"),
    "presence_penalty": ((None, 0), "presence_penalty", "presence_penalty"),
    "bias": ((None,), "logit_bias", "logit_bias"),
    "reasoning_budget": ((None,), "reasoning.max_tokens", "thinking.budget_tokens"),
}


def write(request: Request) -> Json:
    """The body for an upstream that speaks the Responses dialect. Raises RequestError for what it cannot carry.

    Sealed reasoning is asked for where there are tools, since an upstream that keeps nothing needs it with their
    results, and where the conversation has some already. Who asks (`user`, `metadata`) is not passed on, nor
    whether a tool failed, which its output says. Nothing is to be stored.
    """
    _check(request)
    sealed = bool(request.tools) or any(message.seals for message in request.messages)
    include = [name for name, asked in zip(INCLUDED, (sealed, request.logprobs), strict=True) if asked]
    place = "input" if request.dialect == "responses" else "messages"
    return without_none(
        {
            "model": request.model,
            "input": [item for i, m in enumerate(request.messages) for item in _items(m, f"{place}.{i}")],
            "store": False,
            "stream": request.stream or None,
            "include": include or None,
            "max_output_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "top_logprobs": request.top_logprobs if request.logprobs and request.top_logprobs else None,
            "tools": write_tools(request) or None,
            "tool_choice": write_choice(request.choice),
            "parallel_tool_calls": request.parallel if request.tools else None,
            "text": {"format": write_format(request.format)} if request.format else None,
            "reasoning": without_none({"effort": request.effort, "summary": request.summary or None}) or None,
        }
    )


def _check(request: Request) -> None:
    for attribute, (silent, here, there) in CANNOT.items():
        if getattr(request, attribute) not in silent:
            name = there if request.dialect == "messages" else here
            raise RequestError(
                f"'{name}' is not supported by this model: its server speaks the Responses dialect.",
                name,
                "unsupported_parameter",
            )


def _items(message: Message, where: str) -> Iterator[Json]:
    """A message as items: reasoning, text, calls."""
    if message.name and message.role != "tool":
        raise RequestError(
            f"'{where}.name' is not supported by this model.", f"{where}.name", "unsupported_parameter"
        )
    if message.role == "tool":
        output = _content(message.parts, "input_text")
        yield {"type": "function_call_output", "call_id": message.call_id, "output": output}
        return
    if message.role != "assistant":
        yield {"type": "message", "role": message.role, "content": _content(message.parts, "input_text")}
        return
    yield from _thoughts(message, where)
    if message.parts or message.refusal or not message.calls:
        checks.joined(message.parts, f"{where}.content")
        refusal = [{"type": "refusal", "refusal": message.refusal}] if message.refusal else []
        content = _content(message.parts, "output_text", refusal)
        yield {"type": "message", "role": "assistant", "content": content}
    for call in message.calls:
        yield {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": call.arguments}


def _thoughts(message: Message, where: str) -> Iterator[Json]:
    """Reasoning. Sealed: without an id, which the seal would have to match, and with words in the summary alone,
    since servers that seal refuse any others. Not sealed: with an id, which servers that do not seal want.
    """
    words = message.thoughts
    for seal in message.seals:
        if seal.kind != "encrypted":
            continue
        summary = [{"type": "summary_text", "text": words}] if words else []
        yield {"type": "reasoning", "summary": summary, "encrypted_content": seal.data}
        words = ""
    if words:
        content = [{"type": "reasoning_text", "text": words}]
        yield {"type": "reasoning", "id": f"rs_{where.rpartition('.')[2]}", "summary": [], "content": content}


def _content(parts: tuple[Part, ...], kind: str, more: Iterable[Json] = ()) -> Any:
    """One text as it is, anything else as parts."""
    found = [{"type": kind, "text": part} if isinstance(part, str) else _image(part) for part in parts]
    found += more
    if not found:
        return ""
    return parts[0] if len(found) == 1 and parts and isinstance(parts[0], str) else found


def _image(image: Image) -> Json:
    return without_none({"type": "input_image", "image_url": image.data_url, "detail": image.detail or None})


def write_tools(request: Request) -> list[Json]:
    """The functions. Unsaid, `strict` means true in this dialect and false in the others."""
    unsaid = None if request.dialect == "responses" else False
    return [
        without_none(
            {
                "type": "function",
                "name": tool.name,
                "description": tool.description or None,
                "parameters": tool.parameters,
                "strict": unsaid if tool.strict is None else tool.strict,
            },
            keep=("parameters",),
        )
        for tool in request.tools
    ]


def write_choice(choice: str) -> Any:
    """Which tool may, or must, be called; None if it was not said."""
    kind, _, name = choice.partition(":")
    return {"type": "function", "name": name} if name else kind or None


def write_format(form: Format | None) -> Json:
    """The form of the answer."""
    if form is None or form.type != "json_schema":
        return {"type": form.type if form else "text"}
    return without_none(
        {
            "type": "json_schema",
            "name": form.name,
            "description": form.description or None,
            "schema": form.schema,
            "strict": form.strict,
        }
    )
