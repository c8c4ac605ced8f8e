"""A client's requests in Anthropic's dialect, read.

The classes are the allow-list: a field that none of them has is refused and named, with its place
("messages.0.content.1.source.type"). Refused so, among others: documents, search results, containers, MCP servers,
tools that the provider runs and their results, citations, files, and addresses of images (the upstream would fetch
them). `cache_control` is accepted and dropped: it changes the price, not the reply.

Effort "max" is read as "xhigh"; adaptive thinking without an effort as "high", its documented default.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from azeotrope.gateway.wire.checks import MOST_ITEMS, dense
from azeotrope.gateway.wire.fields import Json, encode
from azeotrope.gateway.wire.request import (
    Call,
    Effort,
    Format,
    Image,
    Message,
    Part,
    Request,
    RequestError,
    Seal,
    Tool,
)

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
    """A request to count the tokens of a prompt."""

    model: Named
    messages: Annotated[list[_FromUser | _FromAssistant | _FromSystem], Meta(min_length=1, max_length=MOST_ITEMS)]
    system: str | list[_System] | None = None
    tools: Annotated[list[_Tool], Meta(max_length=MOST_ITEMS)] | None = None
    tool_choice: _Auto | _Any | _One | _Never | None = None
    thinking: _Enabled | _Adaptive | _Disabled | None = None
    output_config: _Output | None = None
    cache_control: Json | None = None


class _Body(_Prompt, frozen=True, kw_only=True):
    """A request for a reply."""

    max_tokens: Annotated[int, Meta(ge=1)]
    stream: bool | None = None
    stop_sequences: Annotated[list[Named], Meta(max_length=16)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0)] | None = None
    metadata: _Metadata | None = None


_bodies = msgspec.json.Decoder(_Body)
_prompts = msgspec.json.Decoder(_Prompt)
_FIELD = re.compile(r"Object (missing|contains) \w+ field `((?s:.{0,64}))")
_VALUE = re.compile(r"Invalid (?:enum )?value '?(\w*)")
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
    asked = _decode(body, _bodies)
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


def read_count(body: bytes) -> Request:
    """A client's request to count the tokens of a prompt. Raises RequestError."""
    return Request(**_prompt(_decode(body, _prompts)))


def schemas(template: str) -> tuple[dict[str, Json], dict[str, Any]]:
    """The schemas of both requests ("reply", "count"), and of what they refer to by `template`."""
    (reply, count), parts = msgspec.json.schema_components((_Body, _Prompt), ref_template=template)
    text = encode({"reply": reply, "count": count, "parts": {name: parts[name] for name in parts}}).decode()
    for python, told in (("\\\\Z", "$"), (template.format(name="_"), template.format(name="")), ('"_', '"')):
        text = text.replace(python, told)  # patterns end with "$" there, and classes are not private
    found: Json = msgspec.json.decode(text)
    return {"reply": found["reply"], "count": found["count"]}, found["parts"]


T = TypeVar("T")


def _decode(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    if refusal := dense(body):
        raise refusal
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
    seals = (
        Seal("redacted", block.data) if isinstance(block, _Redacted) else Seal("signature", block.signature)
        for block in thoughts
    )
    return Message(
        "assistant",
        tuple(block.text for block in content if isinstance(block, _Text)),
        calls=tuple(Call(call.id, call.name, encode(call.input).decode()) for call in calls),
        thoughts="".join(block.thinking for block in thoughts if isinstance(block, _Thinking)),
        seals=tuple(seal for seal in seals if seal.data),
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
