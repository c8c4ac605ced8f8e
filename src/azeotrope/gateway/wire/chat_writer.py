"""Events as chat completions: a stream of chunks, or one body. Nothing is written that is not in an event.

Log-probabilities of reasoning are never written; `tokens` of reasoning in the usage only if `tell_reasoning`.
"""

from __future__ import annotations

from collections.abc import Iterable

from azeotrope.gateway.wire import events as ev
from azeotrope.gateway.wire import logprobs
from azeotrope.gateway.wire.errors import Kind, Problem
from azeotrope.gateway.wire.fields import Json, encode, without_none
from azeotrope.gateway.wire.form import Form
from azeotrope.gateway.wire.reply import Choice, Reply
from azeotrope.gateway.wire.sse import write

REASONING = "reasoning_content"  # the field that most clients know
DONE = b"data: [DONE]\n\n"
REASONS: dict[ev.Reason, str] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "refusal": "content_filter",
}


class ChatWriter:
    """Writes one stream. `id`, `model` and `created` are the gateway's, not the upstream's."""

    def __init__(self, id: str, model: str, created: int, form: Form | None = None) -> None:
        self._head: Json = {"id": id, "object": "chat.completion.chunk", "created": created, "model": model}
        self._form = form or Form()
        self._begun: set[int] = set()
        self._usage: ev.Usage | None = None
        self._called: set[tuple[int, int]] = set()

    def write(self, event: ev.Event) -> bytes:
        """What to send for an event, maybe nothing."""
        match event:
            case ev.Reasoning(text=text, choice=choice):
                return self._delta(choice, {REASONING: text})
            case ev.Text(text=text, choice=choice, refusal=refusal, tokens=tokens):
                told = _told(tokens) if tokens and self._form.logprobs else None
                return self._delta(choice, {"refusal" if refusal else "content": text}, told)
            case ev.Tool(choice=choice):
                return self._delta(choice, {"tool_calls": [self._call(event)]})
            case ev.Finish(reason=reason, choice=choice):
                return self._delta(choice, {}, reason=REASONS[reason])
            case ev.Usage():
                self._usage = event
            case ev.Failure():
                problem = Problem(502, "upstream", "The upstream failed.", "upstream_error")
                return write(encode(error_body(problem)))
        return b""

    def end(self) -> bytes:
        """The usage, if it was asked for, and the end mark."""
        if not (self._form.usage and self._usage):
            return DONE
        return write(encode({**self._head, "choices": [], "usage": usage(self._usage, self._form)})) + DONE

    def _delta(self, choice: int, delta: Json, logprobs: Json | None = None, reason: str | None = None) -> bytes:
        if choice not in self._begun:
            self._begun.add(choice)
            opening = self._chunk(choice, {"role": "assistant", "content": ""}, None, None)
            return opening + self._chunk(choice, delta, logprobs, reason)
        return self._chunk(choice, delta, logprobs, reason)

    def _chunk(self, choice: int, delta: Json, logprobs: Json | None, reason: str | None) -> bytes:
        body = {"index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return write(encode({**self._head, "choices": [body]}))

    def _call(self, event: ev.Tool) -> Json:
        first = (event.choice, event.slot) not in self._called
        self._called.add((event.choice, event.slot))
        function = without_none({"name": event.name or None, "arguments": event.arguments})
        return without_none(
            {
                "index": event.slot,
                "id": event.id or None,
                "type": "function" if first else None,
                "function": function,
            }
        )


def whole(reply: Reply, id: str, model: str, created: int, form: Form | None = None) -> Json:
    """The body of a reply that is not streamed."""
    form = form or Form()
    choices = [
        {
            "index": index,
            "message": message(choice),
            "logprobs": _told(choice.logprobs) if form.logprobs and choice.logprobs else None,
            "finish_reason": REASONS[choice.reason or "stop"],
        }
        for index, choice in sorted(reply.choices.items())
    ]
    body: Json = {"id": id, "object": "chat.completion", "created": created, "model": model, "choices": choices}
    if reply.usage is not None:
        body["usage"] = usage(reply.usage, form)
    return body


def message(choice: Choice) -> Json:
    """The assistant's message of a choice."""
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in choice.tools
    ]
    thoughts = choice.reasoning + choice.summary
    return without_none(
        {
            "role": "assistant",
            "content": choice.text or (None if calls or choice.refusal else ""),
            "refusal": choice.refusal or None,
            REASONING: thoughts or None,
            "tool_calls": calls or None,
        },
        keep=("content", "refusal"),
    )


def usage(told: ev.Usage, form: Form) -> Json:
    """The `usage` object. Without `tell_reasoning`, what reasoning took is not told apart."""
    prompt, completion = told.prompt or 0, told.completion or 0
    details = {"reasoning_tokens": told.reasoning} if form.tell_reasoning and told.reasoning is not None else None
    cached = {"cached_tokens": told.cached} if told.cached is not None else None
    return without_none(
        {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "completion_tokens_details": details,
            "prompt_tokens_details": cached,
        }
    )


KINDS: dict[Kind, str] = {
    "invalid_request": "invalid_request_error",
    "authentication": "invalid_request_error",
    "permission": "invalid_request_error",
    "not_found": "invalid_request_error",
    "too_large": "invalid_request_error",
    "rate_limit": "rate_limit_error",
    "upstream": "upstream_error",
    "overloaded": "server_error",
    "timeout": "timeout_error",
    "internal": "server_error",
}


def error_body(problem: Problem) -> Json:
    """An error in the shape of OpenAI-compatible servers."""
    told = {"message": problem.message, "type": KINDS[problem.kind]}
    return {"error": {**told, "param": problem.param or None, "code": problem.code or None}}


def _told(tokens: Iterable[ev.Logprob]) -> Json:
    return {"content": [logprobs.entry(token) for token in tokens], "refusal": None}
