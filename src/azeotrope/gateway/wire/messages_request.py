"""Requests in Anthropic's dialect: read from a client, written for an upstream.

The classes are the allow-list: a field that none of them has is refused and named, with its place
("messages.0.content.1.source.type"). Refused so, among others: documents, search results, containers, MCP servers,
tools that the provider runs and their results, citations, files, and addresses of images (the upstream would fetch
them). `cache_control` is accepted and dropped: it changes the price, not the reply.

A conversation that ends with the assistant's words is refused on both sides: the upstream would go on from them (a
prefill), which can move its reasoning into its answer.

What the two sides do not have in common: effort "max" is read as "xhigh", "minimal" is written as "low"; adaptive
thinking without an effort is read as "high", its documented default; an effort is written as adaptive thinking.
System messages are gathered in front of all others. How closely to look at an image is not written. A message
holds its reasoning as one text and does not tell a signature from redacted data: the first of its tokens is
written as the signature of the text, the rest as redacted; without text, as where thinking is not shown, all are
written as signatures.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, Literal, TypeVar, get_args

import msgspec
from msgspec import Meta

from azeotrope.gateway.wire.fields import Json, encode, without_none
from azeotrope.gateway.wire.messages_writer import tool_input
from azeotrope.gateway.wire.request import (
    Call,
    Effort,
    Format,
    Image,
    Message,
    Part,
    Request,
    RequestError,
    Tool,
)

DEFAULT_MAX_TOKENS = 4096  # for the answer, if the client named no limit: this dialect wants one
Named = Annotated[str, Meta(min_length=1, max_length=256)]
ToolName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,128}\Z")]
Base64 = Annotated[str, Meta(min_length=1, pattern=r"^[A-Za-z0-9+/]*={0,2}\Z")]
MediaType = Literal["image/jpeg", "image/png", "image/gif", "image/webp"]
Nothing = Annotated[list[Any], Meta(max_length=0)]


class _Known(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Fields that may be there, and no others."""


class _Block(_Known, frozen=True, tag_field="type", kw_only=True):
    cache_control: Json | None = None


class _Text(_Block, frozen=True, tag="text"):
    text: str
    citations: Nothing | None = None


class _Source(_Known, frozen=True):
    type: Literal["base64"]
    media_type: MediaType
    data: Base64


class _Image(_Block, frozen=True, tag="image"):
    source: _Source


class _ToolUse(_Block, frozen=True, tag="tool_use"):
    id: Named
    name: ToolName
    input: Json


class _ToolResult(_Block, frozen=True, tag="tool_result"):
    tool_use_id: Named
    content: str | list[_Text | _Image] | None = None
    is_error: bool | None = None


class _Thinking(_Known, frozen=True, tag_field="type", tag="thinking"):
    thinking: str
    signature: str


class _Redacted(_Known, frozen=True, tag_field="type", tag="redacted_thinking"):
    data: str


class _System(_Known, frozen=True):
    """A block of the system prompt."""

    type: Literal["text"]
    text: str
    cache_control: Json | None = None
    citations: Nothing | None = None


class _FromUser(_Known, frozen=True, tag_field="role", tag="user"):
    content: str | list[_Text | _Image | _ToolResult]


class _FromAssistant(_Known, frozen=True, tag_field="role", tag="assistant"):
    content: str | list[_Text | _ToolUse | _Thinking | _Redacted]


class _FromSystem(_Known, frozen=True, tag_field="role", tag="system"):
    content: str | list[_System]


class _Tool(_Known, frozen=True):
    name: ToolName
    input_schema: Json
    description: str | None = None
    type: Literal["custom"] | None = None
    strict: bool | None = None
    cache_control: Json | None = None


class _Choice(_Known, frozen=True, tag_field="type", kw_only=True):
    disable_parallel_tool_use: bool | None = None


class _Auto(_Choice, frozen=True, tag="auto"):
    """The model decides."""


class _Any(_Choice, frozen=True, tag="any"):
    """Some tool is called."""


class _One(_Choice, frozen=True, tag="tool"):
    name: ToolName


class _Never(_Known, frozen=True, tag_field="type", tag="none"):
    """No tool is called."""


class _Enabled(_Known, frozen=True, tag_field="type", tag="enabled"):
    budget_tokens: Annotated[int, Meta(ge=1024)]
    display: Literal["summarized"] | None = None


class _Adaptive(_Known, frozen=True, tag_field="type", tag="adaptive"):
    display: Literal["summarized"] | None = None


class _Disabled(_Known, frozen=True, tag_field="type", tag="disabled"):
    """No thinking."""


class _Schema(_Known, frozen=True):
    type: Literal["json_schema"]
    schema: Json


class _Output(_Known, frozen=True):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: _Schema | None = None


class _Metadata(_Known, frozen=True):
    user_id: Annotated[str, Meta(max_length=512)] | None = None


class _Prompt(_Known, frozen=True, kw_only=True):
    """What counting tokens takes."""

    model: Named
    messages: Annotated[list[_FromUser | _FromAssistant | _FromSystem], Meta(min_length=1)]
    system: str | list[_System] | None = None
    tools: list[_Tool] | None = None
    tool_choice: _Auto | _Any | _One | _Never | None = None
    thinking: _Enabled | _Adaptive | _Disabled | None = None
    output_config: _Output | None = None
    cache_control: Json | None = None


class _Body(_Prompt, frozen=True, kw_only=True):
    """What a reply takes."""

    max_tokens: Annotated[int, Meta(ge=1)]
    stream: bool | None = None
    stop_sequences: Annotated[list[Named], Meta(max_length=16)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0)] | None = None
    metadata: _Metadata | None = None


Asked = TypeVar("Asked", bound=_Prompt)
_bodies = msgspec.json.Decoder(_Body)
_prompts = msgspec.json.Decoder(_Prompt)
_FIELD = re.compile(r"Object (missing|contains) \w+ field `((?s:.{0,64}))")
_VALUE = re.compile(r"Invalid (?:enum )?value '?(\w*)")
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
_HINTS = {  # by the end of the place
    ".source.type": "images are taken as base64 alone; addresses and files are not fetched",
    ".source.data": "it must be base64",
    ".citations": "citations are not carried",
    ".name": "names have up to 128 letters, digits, '_', '-' and '.'",
    "thinking.display": "thinking is shown as the operator's policy says",
}
_KINDS = frozenset(  # blocks of the dialect that are refused by their name
    "document search_result container_upload server_tool_use web_search_tool_result web_fetch_tool_result "
    "code_execution_tool_result bash_code_execution_tool_result text_editor_code_execution_tool_result "
    "tool_search_tool_result tool_reference mcp_tool_use mcp_tool_result compaction".split()
)


def read(body: bytes) -> Request:
    """A client's request. Raises RequestError, which names what is not accepted."""
    asked = _decode(_bodies, body)
    if isinstance(asked.messages[-1], _FromAssistant):
        raise _prefill()
    return Request(
        **_prompt(asked),
        stream=bool(asked.stream),
        usage=bool(asked.stream),  # streams of this dialect always end with it
        max_tokens=asked.max_tokens,
        temperature=asked.temperature,
        top_p=asked.top_p,
        top_k=asked.top_k,
        stop=tuple(asked.stop_sequences or ()),
        user=(asked.metadata and asked.metadata.user_id) or "",
    )


def count_tokens_body(body: bytes) -> Json:
    """The body for an upstream's `/v1/messages/count_tokens`, from a client's. Raises RequestError."""
    written = _written(Request(**_prompt(_decode(_prompts, body))))
    del written["max_tokens"]
    return written


def write(request: Request) -> Json:
    """The body for an upstream that speaks this dialect. Raises RequestError for what it cannot carry."""
    _check(request)
    written = _written(request)
    if written["messages"][-1]["role"] == "assistant":  # maybe because what followed said nothing
        raise _prefill()
    return written


def _written(request: Request) -> Json:
    system, turns = _conversation(request.messages)
    if not turns:
        raise RequestError("No message says anything; send one that does.", "messages")
    limit = request.max_tokens
    return without_none(
        {
            "model": request.model,
            "max_tokens": DEFAULT_MAX_TOKENS + (request.reasoning_budget or 0) if limit is None else limit,
            "system": _plain(system) or None,
            "messages": turns,
            "stream": request.stream or None,
            "stop_sequences": list(request.stop) or None,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "top_k": request.top_k,
            "tools": [_tool(tool) for tool in request.tools] or None,
            "tool_choice": _tool_choice(request),
            "thinking": _thinking(request),
            "output_config": _output(request) or None,
            "metadata": {"user_id": request.user} if request.user else None,
        }
    )


def _decode(decoder: msgspec.json.Decoder[Asked], body: bytes) -> Asked:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _refusal(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise RequestError("The body is not valid JSON.", code="invalid_json") from None
    except RecursionError:
        raise RequestError("The body is nested too deeply.", code="invalid_json") from None


def _refusal(told: str) -> RequestError:
    """The decoder's complaint, in this dialect's terms and without values."""
    fault, _, place = told.rpartition(" - at `")
    if not place.startswith("$"):
        fault, place = told, "$"
    param = place[1:].rstrip("`").replace("[", ".").replace("]", "").removeprefix(".")
    if found := _FIELD.match(fault):
        param = f"{param}.{found[2].partition('`')[0]}".removeprefix(".")
        if found[1] == "missing":
            return RequestError(f"`{param}` is required.", param, "missing_parameter")
        return RequestError(f"`{param}` is not accepted; leave it out.", param, "unsupported_parameter")
    if found := _VALUE.match(fault):
        fault = f"`{found[1]}` is not accepted" if found[1] in _KINDS else "this value is not accepted"
    hint = next((f"; {hint}" for end, hint in _HINTS.items() if param.endswith(end)), "")
    if param.startswith("tools.") and param.endswith(".type"):
        hint = "; tools are custom ones, which the client runs"
    fault = fault.partition(" matching regex")[0]
    return RequestError(f"`{param or 'body'}`: {fault[0].lower()}{fault[1:]}{hint}.", param)


def _prompt(asked: _Prompt) -> dict[str, Any]:
    """Fields of a request that counting tokens takes too."""
    schema = asked.output_config.format if asked.output_config else None
    return {
        "model": asked.model,
        "messages": tuple(_messages(asked)),
        "dialect": "messages",
        "tools": tuple(Tool(t.name, t.description or "", t.input_schema, t.strict) for t in asked.tools or ()),
        "format": Format("json_schema", "answer", schema.schema) if schema else None,
        **_chosen(asked),
        **_effort(asked),
    }


def _chosen(asked: _Prompt) -> Json:
    chosen = asked.tool_choice
    if chosen is None or isinstance(chosen, _Never):
        return {"choice": "none" if chosen else ""}
    name = f"function:{chosen.name}" if isinstance(chosen, _One) else ""
    alone = chosen.disable_parallel_tool_use
    return {
        "choice": name or ("auto" if isinstance(chosen, _Auto) else "required"),
        "parallel": None if alone is None else not alone,
    }


def _effort(asked: _Prompt) -> Json:
    thinking, said = asked.thinking, asked.output_config.effort if asked.output_config else None
    effort: Effort | None = "xhigh" if said == "max" else said
    if isinstance(thinking, _Disabled):
        return {"effort": "none"}
    if thinking is None:
        return {"effort": effort}
    summary = "auto" if thinking.display else ""
    if isinstance(thinking, _Adaptive):
        return {"effort": effort or "high", "summary": summary}
    return {"effort": effort, "summary": summary, "reasoning_budget": thinking.budget_tokens}


def _messages(asked: _Prompt) -> Iterator[Message]:
    if asked.system:
        yield Message("system", _parts(asked.system))
    for place, message in enumerate(asked.messages):
        if isinstance(message, _FromUser):
            yield from _from_user(message.content, f"messages.{place}.content")
        elif isinstance(message, _FromAssistant):
            yield _from_assistant(message.content)
        else:
            yield Message("system", _parts(message.content))


def _from_user(content: str | list[_Text | _Image | _ToolResult], where: str) -> Iterator[Message]:
    """Results of tools, then what the user says: no other order has a place in every dialect."""
    if isinstance(content, str):
        yield Message("user", _parts(content))
        return
    said: list[_Text | _Image] = []
    for place, block in enumerate(content):
        if not isinstance(block, _ToolResult):
            said.append(block)
        elif said:
            raise RequestError("Results of tools must stand before all else in a message.", f"{where}.{place}")
        else:
            parts = _parts(block.content or "")
            yield Message("tool", parts, call_id=block.tool_use_id, failed=bool(block.is_error))
    if said or not content:
        yield Message("user", _parts(said))


def _from_assistant(content: str | list[_Text | _ToolUse | _Thinking | _Redacted]) -> Message:
    if isinstance(content, str):
        return Message("assistant", _parts(content))
    calls = [block for block in content if isinstance(block, _ToolUse)]
    thoughts = [block for block in content if isinstance(block, _Thinking | _Redacted)]
    tokens = (block.data if isinstance(block, _Redacted) else block.signature for block in thoughts)
    return Message(
        "assistant",
        tuple(block.text for block in content if isinstance(block, _Text)),
        calls=tuple(Call(call.id, call.name, encode(call.input).decode()) for call in calls),
        thoughts="".join(block.thinking for block in thoughts if isinstance(block, _Thinking)),
        tokens=tuple(token for token in tokens if token),
    )


def _parts(content: str | Iterable[_Text | _Image | _System]) -> tuple[Part, ...]:
    if isinstance(content, str):
        return (content,) if content else ()
    return tuple(
        Image(f"data:{block.source.media_type};base64,{block.source.data}")
        if isinstance(block, _Image)
        else block.text
        for block in content
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


def _prefill() -> RequestError:
    message = (
        "The last message is the assistant's, and replies are not continued; end with the user's or a tool's."
    )
    return RequestError(message, "messages", "unsupported_value")


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
    signatures, sealed = message.tokens, message.tokens[:0]
    if message.thoughts:
        signatures, sealed = signatures[:1] or ("",), signatures[1:]
    thoughts = [{"type": "thinking", "thinking": message.thoughts, "signature": token} for token in signatures]
    redacted = [{"type": "redacted_thinking", "data": token} for token in sealed]
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
        return without_none({"type": "enabled", "budget_tokens": budget, "display": shown})
    return without_none({"type": "adaptive", "display": shown}) if effort else None


def _output(request: Request) -> Json:
    effort = "low" if request.effort == "minimal" else None if request.effort == "none" else request.effort
    schema = request.format.schema if request.format and request.format.type == "json_schema" else None
    told = {"type": "json_schema", "schema": schema} if schema is not None else None
    return without_none({"effort": effort, "format": told})
