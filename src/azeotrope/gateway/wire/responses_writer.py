"""Events in the Responses dialect: a stream of its events, or a body. Nothing is written that is not in an event.

Reasoning becomes items of its own: its words are their `content`, a provider's summary is their `summary`, and of
sealed forms the only one that this dialect has, `encrypted_content`, ends its item. Tool calls stay open until the
reply ends, since their pieces may come in any order. The dialect knows one choice, number 0: no other is written.
All text is said again where a part, an item and the reply end, so a writer holds what it wrote.

Counts that the dialect must hold and that are not told (`Form.tell_reasoning`) or not known are 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from azeotrope.gateway.wire import events as ev
from azeotrope.gateway.wire import logprobs
from azeotrope.gateway.wire.chat_writer import error_body
from azeotrope.gateway.wire.fields import Json, encode
from azeotrope.gateway.wire.form import Form
from azeotrope.gateway.wire.reply import Choice, Reply
from azeotrope.gateway.wire.request import Request
from azeotrope.gateway.wire.responses_upstream import write_choice, write_format, write_tools
from azeotrope.gateway.wire.sse import write as frame

__all__ = ["ResponsesWriter", "error_body", "whole"]

Kind = Literal["reasoning", "message", "function_call"]
PREFIX: dict[Kind, str] = {"reasoning": "rs", "message": "msg", "function_call": "fc"}
PARTS = {  # what is told of a part: events about it, events about its text, its number, its text
    "summary_text": ("reasoning_summary_part", "reasoning_summary_text", "summary_index", "text"),
    "reasoning_text": ("content_part", "reasoning_text", "content_index", "text"),
    "output_text": ("content_part", "output_text", "content_index", "text"),
    "refusal": ("content_part", "refusal", "content_index", "refusal"),
}
CUT: dict[ev.Reason | None, str] = {
    "length": "max_output_tokens",
    "content_filter": "content_filter",
    "refusal": "content_filter",
}
FAILED = "The upstream failed."


@dataclass(slots=True)
class _Part:
    """A part of an item. `index` counts those that are told of in the same way."""

    type: str
    index: int
    pieces: list[str] = field(default_factory=list)
    logprobs: list[Json] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def told(self) -> Json:
        found: Json = {"type": self.type, PARTS[self.type][3]: self.text}
        return found | {"annotations": [], "logprobs": self.logprobs} if self.type == "output_text" else found


@dataclass(slots=True)
class _Item:
    """An item of the output, with what was written of it."""

    kind: Kind
    index: int
    id: str
    parts: dict[str, _Part] = field(default_factory=dict)
    sealed: str = ""
    call_id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)
    status: str = "in_progress"

    def part(self, kind: str) -> _Part:
        """The part of a kind, of which an item has one; a new one if there is none."""
        if kind not in self.parts:
            others = sum(PARTS[part][2] == PARTS[kind][2] for part in self.parts)
            self.parts[kind] = _Part(kind, others)
        return self.parts[kind]

    def told(self) -> Json:
        """The item, as far as it has come."""
        parts = {kind: part.told() for kind, part in self.parts.items()}
        head = {"id": self.id, "type": self.kind}
        if self.kind == "message":
            return head | {"status": self.status, "role": "assistant", "content": list(parts.values())}
        if self.kind == "function_call":
            call = {"call_id": self.call_id, "name": self.name, "arguments": "".join(self.arguments)}
            return head | {"status": self.status, **call}
        found = head | {"summary": [parts[k] for k in parts if k == "summary_text"]}
        if "reasoning_text" in parts:
            found["content"] = [parts["reasoning_text"]]
        return found | {"encrypted_content": self.sealed} if self.sealed else found


class _Output:
    """The items of a reply."""

    def __init__(self, id: str) -> None:
        self._stem = id.removeprefix("resp_")
        self.items: list[_Item] = []

    def add(self, kind: Kind) -> _Item:
        index = len(self.items)
        item = _Item(kind, index, f"{PREFIX[kind]}_{self._stem}_{index}")
        self.items.append(item)
        return item

    def call(self, call_id: str, name: str) -> _Item:
        """A tool call; one without an id is given one, by which its output can name it."""
        item = self.add("function_call")
        item.call_id, item.name = call_id or f"call_{self._stem}_{item.index}", name
        return item


class ResponsesWriter:
    """Writes one stream. `id`, `model` and `created` are the gateway's, not the upstream's.

    `request` is what the client asked, as far as a reply must repeat it.
    """

    def __init__(
        self, id: str, model: str, created: int, form: Form | None = None, request: Request | None = None
    ) -> None:
        self._head = _head(id, model, created, request)
        self._form = form or Form()
        self._output = _Output(id)
        self._open: _Item | None = None  # reasoning or a message
        self._calls: dict[int, _Item] = {}  # all open until the end
        self._last: _Item | None = None
        self._usage: ev.Usage | None = None
        self._reason: ev.Reason | None = None
        self._begun = self._ended = False
        self._sent = 0
        self._out: list[bytes] = []

    def write(self, event: ev.Event) -> bytes:
        """What to send for an event, maybe nothing."""
        if self._ended or getattr(event, "choice", None):
            return b""
        self._begin()
        match event:
            case ev.Usage():
                self._usage = event
            case ev.Failure(status=status):
                self._fail(status)
            case ev.Finish(reason=reason):
                self._reason = reason
                self._close("incomplete" if reason in CUT else "completed")
            case _ if self._reason is None:
                self._say(event)
        return self._flush()

    def end(self) -> bytes:
        """The whole reply once more, and how it ended; nothing after a failure, which is an end."""
        if not self._ended:
            self._begin()
            self._close("completed")
            self._finish(*_status(self._reason))
        return self._flush()

    def _say(self, event: ev.Event) -> None:
        match event:
            case ev.Reasoning(text=text, summary=summary) if text:
                self._delta(self._turn("reasoning"), "summary_text" if summary else "reasoning_text", text)
            case ev.Text(text=text, refusal=refusal, tokens=tokens) if text or tokens:
                told = [logprobs.entry(token) for token in tokens] if self._form.logprobs else []
                self._delta(self._turn("message"), "refusal" if refusal else "output_text", text, told)
            case ev.Sealed(kind="encrypted", data=data):
                self._turn("reasoning").sealed = data
                self._leave()
            case ev.Tool():
                self._call(event)

    def _turn(self, kind: Kind) -> _Item:
        """The open item if it is of this kind, or a new one."""
        if self._open is None or self._open.kind != kind:
            self._leave()
            self._open = self._output.add(kind)
            self._emit("output_item.added", output_index=self._open.index, item=self._open.told())
        self._last = self._open
        return self._open

    def _call(self, event: ev.Tool) -> None:
        item = self._calls.get(event.slot)
        if item is None:
            self._leave()
            item = self._calls[event.slot] = self._output.call(event.id, event.name)
            self._emit("output_item.added", output_index=item.index, item=item.told())
        item.name = item.name or event.name
        self._last = item
        if event.arguments:
            item.arguments.append(event.arguments)
            place = {"item_id": item.id, "output_index": item.index}
            self._emit("function_call_arguments.delta", **place, delta=event.arguments)

    def _delta(self, item: _Item, kind: str, words: str, told: Sequence[Json] = ()) -> None:
        about, said, number, _ = PARTS[kind]
        begins = kind not in item.parts
        part = item.part(kind)
        place = {"item_id": item.id, "output_index": item.index, number: part.index}
        if begins:
            self._emit(f"{about}.added", **place, part=part.told())
        part.pieces.append(words)
        more: Json = {}
        if kind == "output_text":
            more["logprobs"] = list(told)
            part.logprobs += more["logprobs"]
        self._emit(f"{said}.delta", **place, delta=words, **more)

    def _leave(self, status: str = "completed") -> None:
        """End the open item, if there is one."""
        if self._open is not None:
            self._done(self._open, status)
            self._open = None

    def _close(self, status: str) -> None:
        """End all items. What was written to last is what an early end cut."""
        self._leave(status if self._open is self._last else "completed")
        for item in self._calls.values():
            self._done(item, status if item is self._last else "completed")
        self._calls.clear()

    def _done(self, item: _Item, status: str) -> None:
        item.status = status
        for part in item.parts.values():
            about, said, number, key = PARTS[part.type]
            place = {"item_id": item.id, "output_index": item.index, number: part.index}
            more = {"logprobs": part.logprobs} if part.type == "output_text" else {}
            self._emit(f"{said}.done", **place, **{key: part.text}, **more)
            self._emit(f"{about}.done", **place, part=part.told())
        if item.kind == "function_call":
            place = {"item_id": item.id, "output_index": item.index}
            text = "".join(item.arguments)
            self._emit("function_call_arguments.done", **place, name=item.name, arguments=text)
        self._emit("output_item.done", output_index=item.index, item=item.told())

    def _fail(self, status: int) -> None:
        self._close("incomplete")
        self._finish("failed", {"error": _error(status)})

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            self._emit("created", response=self._head)
            self._emit("in_progress", response=self._head)

    def _finish(self, status: str, why: Json) -> None:
        self._ended = True
        output = [item.told() for item in self._output.items]
        self._emit(status, response=_response(self._head, status, why, output, self._usage, self._form))

    def _emit(self, event: str, /, **fields: Any) -> None:
        kind = f"response.{event}"
        self._out.append(frame(encode({"type": kind, "sequence_number": self._sent, **fields}), kind))
        self._sent += 1

    def _flush(self) -> bytes:
        out, self._out = b"".join(self._out), []
        return out


def whole(
    reply: Reply, id: str, model: str, created: int, form: Form | None = None, request: Request | None = None
) -> Json:
    """The body of a reply that is not streamed."""
    form = form or Form()
    choice = reply.choices.get(0) or Choice()
    output = _Output(id)
    _reasoning(output, choice)
    _message(output, choice, form)
    for call in choice.tools:
        output.call(call.id, call.name).arguments.append(call.arguments)
    status, why = ("failed", {"error": _error(reply.failure.status)}) if reply.failure else _status(choice.reason)
    for item in output.items:
        item.status = "completed"
    if output.items and status != "completed":
        output.items[-1].status = "incomplete"
    told = [item.told() for item in output.items]
    return _response(_head(id, model, created, request), status, why, told, reply.usage, form)


def _reasoning(output: _Output, choice: Choice) -> None:
    """An item with the words and the first seal, and one for each further seal."""
    seals = [sealed.data for sealed in choice.sealed if sealed.kind == "encrypted"]
    if choice.reasoning or choice.summary or seals:
        item = output.add("reasoning")
        for kind, words in (("summary_text", choice.summary), ("reasoning_text", choice.reasoning)):
            if words:
                item.part(kind).pieces.append(words)
        item.sealed = seals[0] if seals else ""
    for seal in seals[1:]:
        output.add("reasoning").sealed = seal


def _message(output: _Output, choice: Choice, form: Form) -> None:
    told = [logprobs.entry(token) for token in choice.logprobs] if form.logprobs else []
    if not (choice.text or choice.refusal or told):
        return
    item = output.add("message")
    if choice.text or told:
        part = item.part("output_text")
        part.pieces.append(choice.text)
        part.logprobs += told
    if choice.refusal:
        item.part("refusal").pieces.append(choice.refusal)


def _head(id: str, model: str, created: int, request: Request | None) -> Json:
    """A response that has just begun: what it must repeat of the request, and who answers.

    Instructions are not repeated: a canonical request holds them as a message.
    """
    asked = request or Request(model)
    return {
        "id": id,
        "object": "response",
        "created_at": created,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": asked.max_tokens,
        "model": model,
        "output": [],
        "parallel_tool_calls": asked.parallel is not False,
        "previous_response_id": None,
        "reasoning": {"effort": asked.effort, "summary": asked.summary or None},
        "store": False,
        "temperature": asked.temperature,
        "text": {"format": write_format(asked.format)},
        "tool_choice": write_choice(asked.choice) or "auto",
        "tools": write_tools(asked),
        "top_logprobs": asked.top_logprobs,
        "top_p": asked.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": asked.user or None,
        "metadata": asked.metadata or {},
    }


def _response(head: Json, status: str, why: Json, output: list[Json], told: ev.Usage | None, form: Form) -> Json:
    return {**head, "status": status, **why, "output": output, "usage": _usage(told, form) if told else None}


def _status(reason: ev.Reason | None) -> tuple[str, Json]:
    """How a reply ended, and why."""
    if reason in CUT:
        return "incomplete", {"incomplete_details": {"reason": CUT[reason]}}
    return "completed", {}


def _error(status: int) -> Json:
    return {"code": "rate_limit_exceeded" if status == 429 else "server_error", "message": FAILED}


def _usage(told: ev.Usage, form: Form) -> Json:
    prompt, completion = told.prompt or 0, told.completion or 0
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": told.cached or 0, "cache_write_tokens": 0},
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": (told.reasoning or 0) if form.tell_reasoning else 0},
        "total_tokens": prompt + completion,
    }
