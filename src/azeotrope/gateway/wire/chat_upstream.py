"""What an upstream that speaks chat completions is sent."""

from __future__ import annotations

from typing import Any

from azeotrope.gateway.wire.fields import Json, without_none
from azeotrope.gateway.wire.request import Effort, Format, Image, Message, Part, Request, Tool


def write(request: Request) -> Json:
    """The body for an upstream that speaks chat completions."""
    body = without_none(
        {
            "model": request.model,
            "messages": [write_message(message) for message in request.messages],
            "max_tokens": request.max_tokens,
            "tools": [_tool(tool) for tool in request.tools] or None,
            "tool_choice": _choice(request.choice),
            "parallel_tool_calls": request.parallel if request.tools else None,
            "response_format": _format(request.format),
            "reasoning_effort": request.effort or _effort(request.reasoning_budget),
            "logprobs": True if request.logprobs else None,
            "top_logprobs": request.top_logprobs if request.logprobs else None,
            **write_sampling(request),
        }
    )
    if request.stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body


def _effort(budget: int | None) -> Effort | None:
    """A budget as an effort, as this dialect has no field for tokens."""
    if budget is None:
        return None
    return "none" if budget == 0 else "low" if budget < 4096 else "medium" if budget < 16384 else "high"


def write_sampling(request: Request) -> Json:
    """What chat completions and plain completions are told about sampling; None where nothing was said."""
    return {
        "n": request.n if request.n > 1 else None,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "stop": list(request.stop) or None,
        "seed": request.seed,
        "frequency_penalty": request.frequency_penalty,
        "presence_penalty": request.presence_penalty,
        "logit_bias": request.bias,
    }


def write_message(message: Message) -> Json:
    """A message; `thoughts` are written as `reasoning_content`: who filled them in means them to be sent."""
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in message.calls
    ]
    return without_none(
        {
            "role": message.role,
            "content": _content(message.parts, empty=None if calls or message.refusal else ""),
            "name": message.name or None,
            "refusal": message.refusal or None,
            "reasoning_content": message.thoughts or None,
            "tool_calls": calls or None,
            "tool_call_id": message.call_id or None,
        },
        keep=("content",),
    )


def _content(parts: tuple[Part, ...], empty: str | None) -> Any:
    if not parts:
        return empty
    if len(parts) == 1 and isinstance(parts[0], str):
        return parts[0]
    return [{"type": "text", "text": p} if isinstance(p, str) else _image(p) for p in parts]


def _image(part: Image) -> Json:
    inner = without_none({"url": part.data_url, "detail": part.detail or None})
    return {"type": "image_url", "image_url": inner}


def _tool(tool: Tool) -> Json:
    function = without_none(
        {
            "name": tool.name,
            "description": tool.description or None,
            "parameters": tool.parameters,
            "strict": tool.strict,
        }
    )
    return {"type": "function", "function": function}


def _choice(choice: str) -> Any:
    kind, _, name = choice.partition(":")
    return {"type": "function", "function": {"name": name}} if name else kind or None


def _format(form: Format | None) -> Json | None:
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return {"type": "json_object"}
    schema = without_none(
        {
            "name": form.name,
            "description": form.description or None,
            "schema": form.schema,
            "strict": form.strict,
        }
    )
    return {"type": "json_schema", "json_schema": schema}
