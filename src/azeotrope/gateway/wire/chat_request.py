"""A client's requests for chat completions, read.

Fields that would open a way around a defense are not known here and so are refused: logprobs of the prompt, token
ids, `echo`, templates and prefills (`chat_template`, `continue_final_message`), engine switches (`vllm_xargs`,
`include_reasoning`, `thinking_token_budget`, ...), addresses of media. `store` must be off and `service_tier`,
"auto". `reasoning_details` of an assistant's message is accepted and dropped: no reply of ours has any.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from azeotrope.gateway.wire import checks
from azeotrope.gateway.wire.chat_fields import (
    CALL,
    CALL_FUNCTION,
    CHOICE,
    CHOICE_FUNCTION,
    FIELDS,
    FORMAT,
    FORMAT_SCHEMA,
    IMAGE_PART,
    IMAGE_URL,
    MESSAGE_FIELDS,
    MOST_CHOICES,
    MOST_LOGPROBS,
    MOST_STOPS,
    REASONING,
    REFUSAL_PART,
    ROLES,
    SAID,
    STREAM_OPTIONS,
    TEXT_PART,
    TOOL,
    TOOL_FUNCTION,
)
from azeotrope.gateway.wire.fields import Json
from azeotrope.gateway.wire.request import Call, Format, Message, Part, Request, RequestError, Tool

OLD = {"functions": "tools", "function_call": "tool_choice"}


def read(data: bytes) -> Request:
    """The request in `data`. Raises RequestError."""
    given = checks.body(data)
    for name, new in OLD.items():
        if name in given:
            raise RequestError(f"'{name}' is no longer supported; use '{new}'.", name, "unsupported_parameter")
    checks.known(given, FIELDS)
    _only_defaults(given)
    logprobs = checks.flag(given.get("logprobs"), "logprobs") or False
    top = checks.whole(given.get("top_logprobs"), "top_logprobs", 0, MOST_LOGPROBS)
    if top and not logprobs:
        raise RequestError("'top_logprobs' needs 'logprobs' to be true.", "top_logprobs")
    limit = checks.whole(given.get("max_completion_tokens"), "max_completion_tokens", 1)
    options = checks.mapping(given.get("stream_options"), "stream_options")
    checks.known(options, STREAM_OPTIONS, "stream_options.")
    effort, budget = _reasoning(given)
    return Request(
        model=checks.string(checks.need(given, "model"), "model", limit=200),
        messages=_messages(checks.need(given, "messages")),
        dialect="chat",
        stream=checks.flag(given.get("stream"), "stream") or False,
        usage=checks.flag(options.get("include_usage"), "stream_options.include_usage") or False,
        n=checks.whole(given.get("n"), "n", 1, MOST_CHOICES) or 1,
        max_tokens=limit if limit is not None else checks.whole(given.get("max_tokens"), "max_tokens", 1),
        tools=read_tools(given.get("tools")),
        choice=read_choice(given.get("tool_choice")),
        parallel=checks.flag(given.get("parallel_tool_calls"), "parallel_tool_calls"),
        format=read_format(given.get("response_format")),
        effort=effort,
        reasoning_budget=budget,
        logprobs=logprobs,
        top_logprobs=top or 0,
        bias=checks.biases(given.get("logit_bias"), "logit_bias"),
        user=checks.string(given.get("user") or given.get("safety_identifier"), "user", limit=512),
        metadata=checks.metadata(given.get("metadata")),
        **read_sampling(given),
    )


def read_sampling(given: Json) -> dict[str, Any]:
    """What chat completions and plain completions say about sampling."""
    return {
        "temperature": checks.real(given.get("temperature"), "temperature", 0, 2),
        "top_p": checks.real(given.get("top_p"), "top_p", 0, 1),
        "top_k": checks.whole(given.get("top_k"), "top_k", -1),
        "stop": read_stop(given.get("stop")),
        "seed": checks.whole(given.get("seed"), "seed", -(2**63), 2**63 - 1),
        "frequency_penalty": checks.real(given.get("frequency_penalty"), "frequency_penalty", -2, 2),
        "presence_penalty": checks.real(given.get("presence_penalty"), "presence_penalty", -2, 2),
    }


def read_stop(value: Any) -> tuple[str, ...]:
    """Up to 16 texts at which a reply ends."""
    texts = [value] if isinstance(value, str) else checks.listing(value, "stop")
    if len(texts) > MOST_STOPS or not all(isinstance(item, str) and 0 < len(item) <= 256 for item in texts):
        raise RequestError("'stop' must be a text or a list of up to 16 texts of up to 256 characters.", "stop")
    return tuple(texts)


def read_tools(value: Any) -> tuple[Tool, ...]:
    """The functions that may be called."""
    found = []
    for place, item in enumerate(checks.objects(value, "tools")):
        where = f"tools.{place}"
        checks.known(item, TOOL, f"{where}.")
        if item.get("type") != "function":
            raise RequestError(f"'{where}.type' must be 'function'.", f"{where}.type", "unsupported_value")
        function = checks.mapping(item.get("function"), f"{where}.function")
        checks.known(function, TOOL_FUNCTION, f"{where}.function.")
        found.append(
            Tool(
                checks.name(function.get("name"), f"{where}.function.name"),
                checks.string(function.get("description"), f"{where}.function.description"),
                checks.mapping(function.get("parameters"), f"{where}.function.parameters") or None,
                checks.flag(function.get("strict"), f"{where}.function.strict"),
            )
        )
    return tuple(found)


def read_choice(value: Any) -> str:
    """Which tool may, or must, be called."""
    if value is None or isinstance(value, str):
        return checks.one_of(value, "tool_choice", ("auto", "none", "required"))
    given = checks.mapping(value, "tool_choice")
    checks.known(given, CHOICE, "tool_choice.")
    checks.one_of(given.get("type"), "tool_choice.type", ("function",))
    function = checks.mapping(given.get("function"), "tool_choice.function")
    checks.known(function, CHOICE_FUNCTION, "tool_choice.function.")
    return f"function:{checks.name(function.get('name'), 'tool_choice.function.name')}"


def read_format(value: Any) -> Format | None:
    """The form of the answer."""
    if value is None:
        return None
    given = checks.mapping(value, "response_format")
    checks.known(given, FORMAT, "response_format.")
    kind = checks.one_of(given.get("type"), "response_format.type", ("text", "json_object", "json_schema"))
    if kind != "json_schema":
        return Format("json_object") if kind == "json_object" else None
    where = "response_format.json_schema"
    schema = checks.mapping(given.get("json_schema"), where)
    checks.known(schema, FORMAT_SCHEMA, f"{where}.")
    return Format(
        "json_schema",
        checks.name(schema.get("name"), f"{where}.name"),
        checks.mapping(schema.get("schema"), f"{where}.schema"),
        checks.flag(schema.get("strict"), f"{where}.strict"),
        checks.string(schema.get("description"), f"{where}.description"),
    )


def _only_defaults(given: Json) -> None:
    """Fields that clients send with their default values, which is all they may have."""
    if checks.flag(given.get("store"), "store"):
        raise RequestError("'store' must be false: replies are not kept.", "store", "unsupported_value")
    checks.one_of(given.get("service_tier"), "service_tier", ("auto", "default"))
    checks.one_of(given.get("verbosity"), "verbosity", ("medium",))
    if checks.listing(given.get("modalities"), "modalities") not in ([], ["text"]):
        raise RequestError("'modalities' can be ['text'] only.", "modalities", "unsupported_value")


def _reasoning(given: Json) -> tuple[Any, int | None]:
    """Effort and budget: `reasoning_effort`, or `reasoning` as OpenRouter has it."""
    more = checks.mapping(given.get("reasoning"), "reasoning")
    checks.known(more, REASONING, "reasoning.")
    checks.flag(more.get("exclude"), "reasoning.exclude")
    effort = checks.one_of(given.get("reasoning_effort"), "reasoning_effort", checks.EFFORTS)
    effort = effort or checks.one_of(more.get("effort"), "reasoning.effort", checks.EFFORTS)
    if checks.flag(more.get("enabled"), "reasoning.enabled") is False:
        effort = "none"
    return effort or None, checks.whole(more.get("max_tokens"), "reasoning.max_tokens", 0)


def _messages(value: Any) -> tuple[Message, ...]:
    items = checks.objects(value, "messages")
    if not items:
        raise RequestError("'messages' is empty.", "messages")
    return tuple(_message(item, f"messages.{place}") for place, item in enumerate(items))


def _message(given: Json, where: str) -> Message:
    checks.known(given, MESSAGE_FIELDS, f"{where}.")
    for name in ("function_call", "audio"):
        if given.get(name):
            raise RequestError(f"'{where}.{name}' is not supported.", f"{where}.{name}", "unsupported_parameter")
    role: Any = checks.one_of(given.get("role"), f"{where}.role", ROLES)
    if not role:
        raise RequestError(f"'{where}.role' is required.", f"{where}.role", "missing_parameter")
    for name in SAID:
        if role != "assistant" and given.get(name):
            raise RequestError(f"'{where}.{name}' belongs to an assistant's message.", f"{where}.{name}")
    if role != "tool" and given.get("tool_call_id"):
        raise RequestError(f"'{where}.tool_call_id' belongs to a tool's message.", f"{where}.tool_call_id")
    call_id = checks.string(given.get("tool_call_id"), f"{where}.tool_call_id", limit=256)
    if role == "tool" and not call_id:
        raise RequestError(f"'{where}.tool_call_id' is required.", f"{where}.tool_call_id", "missing_parameter")
    thoughts = given.get("reasoning_content") or given.get("reasoning")
    refusals: list[str] = []
    return Message(
        role=role,
        parts=tuple(_parts(given.get("content"), f"{where}.content", refusals)),
        name=checks.string(given.get("name"), f"{where}.name", limit=64),
        calls=tuple(_calls(given.get("tool_calls"), f"{where}.tool_calls")),
        call_id=call_id,
        refusal=checks.string(given.get("refusal"), f"{where}.refusal") or "".join(refusals),
        thoughts=checks.string(thoughts, f"{where}.reasoning_content"),
    )


def _parts(value: Any, where: str, refusals: list[str]) -> Iterator[Part]:
    if isinstance(value, str):
        if value:
            yield value
        return
    for place, part in enumerate(checks.objects(value, where)):
        here = f"{where}.{place}"
        kind = checks.string(part.get("type"), f"{here}.type")
        if kind == "text":
            checks.known(part, TEXT_PART, f"{here}.")
            yield checks.string(part.get("text"), f"{here}.text")
        elif kind == "refusal":
            checks.known(part, REFUSAL_PART, f"{here}.")
            refusals.append(checks.string(part.get("refusal"), f"{here}.refusal"))
        elif kind == "image_url":
            checks.known(part, IMAGE_PART, f"{here}.")
            given = checks.mapping(part.get("image_url"), f"{here}.image_url")
            checks.known(given, IMAGE_URL, f"{here}.image_url.")
            yield checks.image(given.get("url"), f"{here}.image_url.url", given.get("detail"))
        else:
            raise RequestError(f"'{here}.type' must be text or image_url.", f"{here}.type", "unsupported_value")


def _calls(value: Any, where: str) -> Iterator[Call]:
    for place, call in enumerate(checks.objects(value, where)):
        here = f"{where}.{place}"
        checks.known(call, CALL, f"{here}.")
        checks.one_of(call.get("type"), f"{here}.type", ("function",))
        function = checks.mapping(call.get("function"), f"{here}.function")
        checks.known(function, CALL_FUNCTION, f"{here}.function.")
        yield Call(
            checks.string(call.get("id"), f"{here}.id", limit=256),
            checks.name(function.get("name"), f"{here}.function.name"),
            checks.arguments(function.get("arguments"), f"{here}.function.arguments"),
        )
