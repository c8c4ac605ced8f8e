"""A client's requests in the Responses dialect, read.

Nothing is kept between requests. So `store` must not be true (a reply says that it is false), `input` holds the
whole conversation, and what refers to kept things is refused by name, as are tools that a server would run itself.
`include` may ask for log-probabilities and for sealed reasoning; whether the latter is given is for the policy to
say. Fields that only hint at caching or at who asks are read and go no further.

In `input`, what the assistant said between two other items is one message: its text, its calls, and in `thoughts`
and `seals` the reasoning before them. Two texts in a row are two messages, unless calls wait for their outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from azeotrope.gateway.wire import checks
from azeotrope.gateway.wire.fields import Json
from azeotrope.gateway.wire.request import Call, Format, Message, Part, Request, RequestError, Seal, Tool
from azeotrope.gateway.wire.responses_fields import (
    CALL,
    CHOICE,
    FIELDS,
    FORMAT,
    INCLUDED,
    INPUT_IMAGE,
    INPUT_TEXT,
    MESSAGE,
    MOST_LOGPROBS,
    OUTPUT,
    OUTPUT_TEXT,
    REASONING,
    REFUSAL,
    SPEAKERS,
    STATUSES,
    STREAM_OPTIONS,
    SUMMARIES,
    TEXT,
    THINKING,
    THOUGHT,
    TOOL,
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
BREAK = "\n\n"  # between parts of a summary


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
    checks.known(options, STREAM_OPTIONS, "stream_options.")
    checks.flag(options.get("include_obfuscation"), "stream_options.include_obfuscation")


def _reasoning(value: Any) -> tuple[Any, str]:
    """Effort and the wish for a summary."""
    given = _said(checks.mapping(value, "reasoning"))
    checks.known(given, REASONING, "reasoning.")
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
        checks.known(given, TOOL, f"{where}.")
        found.append(
            Tool(
                checks.name(given.get("name"), f"{where}.name"),
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
    checks.known(given, CHOICE, "tool_choice.")
    return f"function:{checks.name(given.get('name'), 'tool_choice.name')}"


def _format(value: Any) -> Format | None:
    given = _said(checks.mapping(value, "text"))
    checks.known(given, TEXT, "text.")
    checks.one_of(given.get("verbosity"), "text.verbosity", ("medium",))
    inner = _said(checks.mapping(given.get("format"), "text.format"))
    checks.known(inner, FORMAT, "text.format.")
    kind = checks.one_of(inner.get("type"), "text.format.type", ("text", "json_object", "json_schema"))
    if kind != "json_schema":
        return Format("json_object") if kind == "json_object" else None
    return Format(
        "json_schema",
        checks.name(inner.get("name"), "text.format.name"),
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
    seals: list[Seal] = field(default_factory=list)
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
                seals=tuple(turn.seals),
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
        checks.known(item, MESSAGE, f"{where}.")
        _labels(item, where)
        role: Any = checks.one_of(item.get("role"), f"{where}.role", SPEAKERS)
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
        checks.known(item, THINKING, f"{where}.")
        _labels(item, where)
        turn = self._next()
        turn.thought = where
        text = "".join(_texts(item.get("content"), f"{where}.content", "reasoning_text"))
        summary = BREAK.join(_texts(item.get("summary"), f"{where}.summary", "summary_text"))
        if text or summary:
            turn.thoughts.append(text or summary)
        if token := checks.string(item.get("encrypted_content"), f"{where}.encrypted_content"):
            turn.seals.append(Seal("encrypted", token))


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
            checks.known(part, INPUT_TEXT, f"{here}.")
            yield checks.string(part.get("text"), f"{here}.text")
        else:
            checks.known(part, INPUT_IMAGE, f"{here}.")
            yield checks.image(part.get("image_url"), f"{here}.image_url", part.get("detail"))


def _answer(value: Any, where: str, turn: _Turn) -> None:
    if isinstance(value, str):
        turn.parts += [value] if value else []
        return
    for kind, part, here in _typed(value, where, ("output_text", "refusal")):
        if kind == "output_text":
            checks.known(part, OUTPUT_TEXT, f"{here}.")
            turn.parts.append(checks.string(part.get("text"), f"{here}.text"))
        else:
            checks.known(part, REFUSAL, f"{here}.")
            turn.refusals.append(checks.string(part.get("refusal"), f"{here}.refusal"))


def _texts(value: Any, where: str, kind: str) -> Iterator[str]:
    for _, part, here in _typed(value, where, (kind,)):
        checks.known(part, THOUGHT, f"{here}.")
        yield checks.string(part.get("text"), f"{here}.text")


def _call(item: Json, where: str) -> Call:
    checks.known(item, CALL, f"{where}.")
    _labels(item, where)
    return Call(
        _call_id(item, where),
        checks.name(item.get("name"), f"{where}.name"),
        checks.arguments(item.get("arguments"), f"{where}.arguments"),
    )


def _output(item: Json, where: str) -> Message:
    checks.known(item, OUTPUT, f"{where}.")
    _labels(item, where)
    if item.get("output") is None:
        raise RequestError(f"'{where}.output' is required.", f"{where}.output", "missing_parameter")
    return Message("tool", tuple(_parts(item["output"], f"{where}.output")), call_id=_call_id(item, where))


def _call_id(item: Json, where: str) -> str:
    found = checks.string(item.get("call_id"), f"{where}.call_id", limit=256)
    if not found:
        raise RequestError(f"'{where}.call_id' is required.", f"{where}.call_id", "missing_parameter")
    return found
