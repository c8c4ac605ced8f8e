"""Requests in the Responses dialect: a client's, read; and what an upstream that speaks it is sent.

Nothing is kept between requests. So `store` must not be true (a reply says that it is false), `input` holds the
whole conversation, and what refers to kept things is refused by name, as are tools that a server would run itself.
`include` may ask for log-probabilities and for sealed reasoning; whether the latter is given is for the policy to
say. Fields that only hint at caching or at who asks are read and go no further.

In `input`, what the assistant said between two other items is one message: its text, its calls, and in `thoughts`
and `tokens` the reasoning before them. Two texts in a row are two messages, unless calls wait for their outputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from azeotrope.gateway.wire import checks
from azeotrope.gateway.wire.fields import Json, without_none
from azeotrope.gateway.wire.request import Call, Format, Image, Message, Part, Request, RequestError, Tool

FIELDS = frozenset(
    "model input instructions tools tool_choice parallel_tool_calls text reasoning include max_output_tokens "
    "temperature top_p top_logprobs stream stream_options truncation metadata user safety_identifier store "
    "service_tier prompt_cache_key".split()
)
REFUSED = {  # known, and not possible here: why
    "previous_response_id": "no reply is kept; send the whole conversation in 'input'",
    "conversation": "no conversation is kept; send it whole in 'input'",
    "background": "replies are sent at once",
    "prompt": "no prompts are kept; send them in 'input'",
    "max_tool_calls": "this server runs no tools",
    "context_management": "the conversation is sent on as it came",
    "moderation": "this server does not moderate",
    "prompt_cache_retention": "this server keeps no prompts",
    "prompt_cache_options": "this server keeps no prompts",
}
INCLUDED = ("reasoning.encrypted_content", "message.output_text.logprobs")
STATUSES = ("in_progress", "completed", "incomplete")
SUMMARIES = ("auto", "concise", "detailed")
MOST_LOGPROBS = 20
BREAK = "\n\n"  # between parts of a summary
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


def read(data: bytes) -> Request:
    """The request in `data`. Raises RequestError."""
    given = checks.body(data)
    _refuse(given)
    checks.known(given, FIELDS)
    _only_defaults(given)
    model = checks.string(checks.need(given, "model"), "model", limit=200)
    instructions = checks.string(given.get("instructions"), "instructions")
    system = (Message("system", (instructions,)),) if instructions else ()
    included = [
        checks.one_of(item, "include", INCLUDED) for item in checks.listing(given.get("include"), "include")
    ]
    top = checks.whole(given.get("top_logprobs"), "top_logprobs", 0, MOST_LOGPROBS) or 0
    user = checks.string(given.get("user"), "user", limit=512)
    effort, summary = _reasoning(given.get("reasoning"))
    return Request(
        model=model,
        messages=system + _messages(checks.need(given, "input")),
        dialect="responses",
        stream=checks.flag(given.get("stream"), "stream") or False,
        usage=True,
        max_tokens=checks.whole(given.get("max_output_tokens"), "max_output_tokens", 1),
        temperature=checks.real(given.get("temperature"), "temperature", 0, 2),
        top_p=checks.real(given.get("top_p"), "top_p", 0, 1),
        logprobs=INCLUDED[1] in included or top > 0,
        top_logprobs=top,
        tools=_tools(given.get("tools")),
        choice=_choice(given.get("tool_choice")),
        parallel=checks.flag(given.get("parallel_tool_calls"), "parallel_tool_calls"),
        format=_format(given.get("text")),
        effort=effort,
        summary=summary,
        user=checks.string(given.get("safety_identifier"), "safety_identifier", limit=512) or user,
        metadata=checks.metadata(given.get("metadata")),
    )


def _refuse(given: Json) -> None:
    """Take out what is known and not possible here; null is no wish for it."""
    for name, why in REFUSED.items():
        value = given.pop(name, None)
        if not (value is None or (name == "background" and value is False)):
            raise RequestError(f"'{name}' is not supported: {why}.", name, "unsupported_parameter")


def _only_defaults(given: Json) -> None:
    """Fields that clients send with their default values, which is all they may have, and hints."""
    if checks.flag(given.get("store"), "store"):
        raise RequestError(
            "'store' must be false or left out: replies are not kept.", "store", "unsupported_value"
        )
    checks.one_of(given.get("service_tier"), "service_tier", ("auto", "default"))
    checks.one_of(given.get("truncation"), "truncation", ("disabled",))
    checks.string(given.get("prompt_cache_key"), "prompt_cache_key", limit=512)
    options = checks.mapping(given.get("stream_options"), "stream_options")
    checks.known(options, ("include_obfuscation",), "stream_options.")
    checks.flag(options.get("include_obfuscation"), "stream_options.include_obfuscation")


def _reasoning(value: Any) -> tuple[Any, str]:
    """Effort and the wish for a summary."""
    given = _said(checks.mapping(value, "reasoning"))
    checks.known(given, ("effort", "summary"), "reasoning.")
    effort = checks.one_of(given.get("effort"), "reasoning.effort", checks.EFFORTS)
    return effort or None, checks.one_of(given.get("summary"), "reasoning.summary", SUMMARIES)


def _tools(value: Any) -> tuple[Tool, ...]:
    found = []
    for place, item in enumerate(checks.objects(value, "tools")):
        where = f"tools.{place}"
        if item.get("type") != "function":
            raise RequestError(
                f"'{where}.type' must be 'function': this server runs no tools.",
                f"{where}.type",
                "unsupported_value",
            )
        given = _said(item)
        checks.known(given, ("type", "name", "description", "parameters", "strict"), f"{where}.")
        found.append(
            Tool(
                _name(given.get("name"), f"{where}.name"),
                checks.string(given.get("description"), f"{where}.description"),
                checks.mapping(given.get("parameters"), f"{where}.parameters") or None,
                checks.flag(given.get("strict"), f"{where}.strict"),
            )
        )
    return tuple(found)


def _choice(value: Any) -> str:
    if value is None or isinstance(value, str):
        return checks.one_of(value, "tool_choice", ("auto", "none", "required"))
    given = checks.mapping(value, "tool_choice")
    if given.get("type") != "function":
        raise RequestError("'tool_choice.type' must be 'function'.", "tool_choice.type", "unsupported_value")
    checks.known(given, ("type", "name"), "tool_choice.")
    return f"function:{_name(given.get('name'), 'tool_choice.name')}"


def _format(value: Any) -> Format | None:
    given = _said(checks.mapping(value, "text"))
    checks.known(given, ("format", "verbosity"), "text.")
    checks.one_of(given.get("verbosity"), "text.verbosity", ("medium",))
    inner = _said(checks.mapping(given.get("format"), "text.format"))
    checks.known(inner, ("type", "name", "schema", "strict", "description"), "text.format.")
    kind = checks.one_of(inner.get("type"), "text.format.type", ("text", "json_object", "json_schema"))
    if kind != "json_schema":
        return Format("json_object") if kind == "json_object" else None
    return Format(
        "json_schema",
        _name(inner.get("name"), "text.format.name"),
        checks.mapping(inner.get("schema"), "text.format.schema"),
        checks.flag(inner.get("strict"), "text.format.strict"),
        checks.string(inner.get("description"), "text.format.description"),
    )


def _messages(value: Any) -> tuple[Message, ...]:
    if isinstance(value, str):
        return (Message("user", (value,) if value else ()),)
    dialog = _Dialog()
    for place, item in enumerate(checks.objects(value, "input")):
        dialog.add(_said(item), f"input.{place}")
    dialog.flush()
    if not dialog.found:
        raise RequestError("'input' is empty.", "input")
    return tuple(dialog.found)


@dataclass(slots=True)
class _Turn:
    """What the assistant said since anyone else did."""

    parts: list[Part] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    spoke: bool = False
    thought: str = ""  # where reasoning is that nothing followed yet


class _Dialog:
    """The items of `input`, put together to messages."""

    def __init__(self) -> None:
        self.found: list[Message] = []
        self._turn: _Turn | None = None

    def add(self, item: Json, where: str) -> None:
        kind = checks.string(item.get("type"), f"{where}.type") or "message"
        if kind == "message":
            self._message(item, where)
        elif kind == "function_call":
            self._open().calls.append(_call(item, where))
            self._open().thought = ""
        elif kind == "function_call_output":
            self.flush()
            self.found.append(_output(item, where))
        elif kind == "reasoning":
            self._think(item, where)
        else:
            raise RequestError(
                f"'{where}.type' must be message, function_call, function_call_output or reasoning.",
                f"{where}.type",
                "unsupported_value",
            )

    def flush(self) -> None:
        """End the assistant's turn."""
        turn, self._turn = self._turn, None
        if turn is None:
            return
        if turn.thought:
            raise RequestError(
                f"'{turn.thought}' is reasoning that no message or call of the assistant follows.", turn.thought
            )
        self.found.append(
            Message(
                "assistant",
                tuple(turn.parts),
                calls=tuple(turn.calls),
                refusal="".join(turn.refusals),
                thoughts="".join(turn.thoughts),
                tokens=tuple(turn.tokens),
            )
        )

    def _open(self) -> _Turn:
        self._turn = self._turn or _Turn()
        return self._turn

    def _next(self) -> _Turn:
        """The turn for more words: another one, unless calls still wait for their outputs."""
        if self._turn and self._turn.spoke and not self._turn.calls:
            self.flush()
        return self._open()

    def _message(self, item: Json, where: str) -> None:
        checks.known(item, ("type", "role", "content", "id", "status"), f"{where}.")
        _labels(item, where)
        role: Any = checks.one_of(item.get("role"), f"{where}.role", ("system", "developer", "user", "assistant"))
        if not role:
            raise RequestError(f"'{where}.role' is required.", f"{where}.role", "missing_parameter")
        content, here = item.get("content"), f"{where}.content"
        if content is None:
            raise RequestError(f"'{here}' is required.", here, "missing_parameter")
        if role != "assistant":
            self.flush()
            self.found.append(Message(role, tuple(_parts(content, here))))
            return
        turn = self._next()
        turn.spoke, turn.thought = True, ""
        _answer(content, here, turn)

    def _think(self, item: Json, where: str) -> None:
        checks.known(item, ("type", "id", "status", "summary", "content", "encrypted_content"), f"{where}.")
        _labels(item, where)
        turn = self._next()
        turn.thought = where
        text = "".join(_texts(item.get("content"), f"{where}.content", "reasoning_text"))
        summary = BREAK.join(_texts(item.get("summary"), f"{where}.summary", "summary_text"))
        if text or summary:
            turn.thoughts.append(text or summary)
        if token := checks.string(item.get("encrypted_content"), f"{where}.encrypted_content"):
            turn.tokens.append(token)


def _said(given: Json) -> Json:
    """Without nulls: clients that pass a reply's items back write out what is not there."""
    return {key: value for key, value in given.items() if value is not None}


def _labels(item: Json, where: str) -> None:
    """Fields of a reply's item that say nothing when it is passed back."""
    checks.string(item.get("id"), f"{where}.id", limit=256)
    checks.one_of(item.get("status"), f"{where}.status", STATUSES)


def _typed(value: Any, where: str, options: tuple[str, ...]) -> Iterator[tuple[str, Json, str]]:
    """The parts of a list: their types, which must be among the options; themselves; where they are."""
    for place, part in enumerate(checks.objects(value, where)):
        here = f"{where}.{place}"
        kind = part.get("type")
        if not isinstance(kind, str) or kind not in options:
            wanted = " or ".join(options)
            raise RequestError(f"'{here}.type' must be {wanted}.", f"{here}.type", "unsupported_value")
        yield kind, _said(part), here


def _parts(value: Any, where: str) -> Iterator[Part]:
    if isinstance(value, str):
        if value:
            yield value
        return
    for kind, part, here in _typed(value, where, ("input_text", "input_image")):
        if kind == "input_text":
            checks.known(part, ("type", "text"), f"{here}.")
            yield checks.string(part.get("text"), f"{here}.text")
        else:
            checks.known(part, ("type", "image_url", "detail"), f"{here}.")
            yield checks.image(part.get("image_url"), f"{here}.image_url", part.get("detail"))


def _answer(value: Any, where: str, turn: _Turn) -> None:
    if isinstance(value, str):
        turn.parts += [value] if value else []
        return
    for kind, part, here in _typed(value, where, ("output_text", "refusal")):
        if kind == "output_text":
            checks.known(part, ("type", "text", "annotations", "logprobs"), f"{here}.")
            turn.parts.append(checks.string(part.get("text"), f"{here}.text"))
        else:
            checks.known(part, ("type", "refusal"), f"{here}.")
            turn.refusals.append(checks.string(part.get("refusal"), f"{here}.refusal"))


def _texts(value: Any, where: str, kind: str) -> Iterator[str]:
    for _, part, here in _typed(value, where, (kind,)):
        checks.known(part, ("type", "text"), f"{here}.")
        yield checks.string(part.get("text"), f"{here}.text")


def _call(item: Json, where: str) -> Call:
    checks.known(item, ("type", "id", "status", "call_id", "name", "arguments"), f"{where}.")
    _labels(item, where)
    return Call(
        _call_id(item, where),
        _name(item.get("name"), f"{where}.name"),
        checks.arguments(item.get("arguments"), f"{where}.arguments"),
    )


def _output(item: Json, where: str) -> Message:
    checks.known(item, ("type", "id", "status", "call_id", "output"), f"{where}.")
    _labels(item, where)
    if item.get("output") is None:
        raise RequestError(f"'{where}.output' is required.", f"{where}.output", "missing_parameter")
    return Message("tool", tuple(_parts(item["output"], f"{where}.output")), call_id=_call_id(item, where))


def _call_id(item: Json, where: str) -> str:
    found = checks.string(item.get("call_id"), f"{where}.call_id", limit=256)
    if not found:
        raise RequestError(f"'{where}.call_id' is required.", f"{where}.call_id", "missing_parameter")
    return found


def _name(value: Any, where: str) -> str:
    name = checks.string(value, where, limit=64)
    if not name or not all(c.isascii() and (c.isalnum() or c in "_-.") for c in name):
        raise RequestError(f"'{where}' must have 1 to 64 letters, digits, '_', '-' or '.'.", where)
    return name


def write(request: Request, *, sealed: bool = False) -> Json:
    """The body for an upstream that speaks the Responses dialect. Raises RequestError for what it cannot carry.

    `sealed`: ask for sealed reasoning, as an upstream that keeps nothing needs on the next turn; also asked for
    where the conversation has some already. Who asks (`user`, `metadata`) is not passed on, nor whether a tool
    failed, which its output says. Nothing is to be stored.
    """
    _check(request)
    sealed |= any(message.tokens for message in request.messages)
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
    for token in message.tokens:
        summary = [{"type": "summary_text", "text": words}] if words else []
        yield {"type": "reasoning", "summary": summary, "encrypted_content": token}
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
