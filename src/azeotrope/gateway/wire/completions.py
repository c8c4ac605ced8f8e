"""Plain completions: requests, replies read, replies written.

A raw prompt may open or close reasoning itself, and a reply has one text without fields. So all that an upstream
says goes through the tags' splitter, and what of its reasoning may leave is written between tags, where the model
had put it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from azeotrope.gateway.wire import checks, logprobs, schema
from azeotrope.gateway.wire import events as ev
from azeotrope.gateway.wire.chat_fields import MOST_CHOICES, SAMPLING, STREAM_OPTIONS
from azeotrope.gateway.wire.chat_reader import ChatReader, beside
from azeotrope.gateway.wire.chat_request import read_sampling
from azeotrope.gateway.wire.chat_upstream import write_sampling
from azeotrope.gateway.wire.chat_writer import DONE as END
from azeotrope.gateway.wire.chat_writer import REASONS as WRITTEN
from azeotrope.gateway.wire.chat_writer import error_body, usage
from azeotrope.gateway.wire.errors import Problem
from azeotrope.gateway.wire.fields import (
    Json,
    encode,
    mapping,
    real,
    text,
    without_none,
)
from azeotrope.gateway.wire.form import Form
from azeotrope.gateway.wire.reply import Choice, Reply
from azeotrope.gateway.wire.request import Request, RequestError
from azeotrope.gateway.wire.sse import write as frame
from azeotrope.gateway.wire.think import TAGS

WHAT = "The upstream's completion"
MOST_LOGPROBS = 5
FIELDS = {
    "model": schema.said(200),
    "prompt": {"type": "string"},
    "stream": schema.flag(),
    "stream_options": schema.record(STREAM_OPTIONS, null=True),
    "n": schema.whole(1, MOST_CHOICES),
    "max_tokens": schema.whole(1),
    **SAMPLING,
    "logprobs": schema.whole(0, MOST_LOGPROBS),
    "logit_bias": schema.BIASES,
    "user": schema.text(512),
}
NEEDED = ("model", "prompt")
OPEN, CLOSE = TAGS[0]


def read(data: bytes) -> Request:
    """The request in `data`. Raises RequestError."""
    given = checks.body(data)
    checks.known(given, FIELDS)
    prompt = checks.need(given, "prompt")
    if not isinstance(prompt, str):
        raise RequestError("'prompt' must be one text; lists and token ids are not supported.", "prompt")
    options = checks.mapping(given.get("stream_options"), "stream_options")
    checks.known(options, STREAM_OPTIONS, "stream_options.")
    alternatives = checks.whole(given.get("logprobs"), "logprobs", 0, MOST_LOGPROBS)
    return Request(
        model=checks.string(checks.need(given, "model"), "model", limit=200),
        prompt=prompt,
        dialect="completions",
        stream=checks.flag(given.get("stream"), "stream") or False,
        usage=checks.flag(options.get("include_usage"), "stream_options.include_usage") or False,
        n=checks.whole(given.get("n"), "n", 1, MOST_CHOICES) or 1,
        max_tokens=checks.whole(given.get("max_tokens"), "max_tokens", 1),
        logprobs=alternatives is not None,
        top_logprobs=alternatives or 0,
        bias=checks.biases(given.get("logit_bias"), "logit_bias"),
        user=checks.string(given.get("user"), "user", limit=512),
        **read_sampling(given),
    )


def write(request: Request) -> Json:
    """The body for an upstream that speaks plain completions. Raises RequestError for messages."""
    if request.messages:
        raise RequestError("A conversation cannot be sent as a plain completion.", "messages")
    body = without_none(
        {
            "model": request.model,
            "prompt": request.prompt,
            "max_tokens": request.max_tokens,
            "logprobs": request.top_logprobs if request.logprobs else None,
            **write_sampling(request),
        }
    )
    if request.stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body


class CompletionsReader(ChatReader):
    """Reads one reply, as `ChatReader` does; all of its text goes through a splitter."""

    what: ClassVar[str] = WHAT

    def _choice(self, index: int, choice: Json, part: str) -> Iterator[ev.Event]:
        self._seen.add(index)
        spoken, unsure = self._split(text(choice.get("text"), f"The text of {WHAT.lower()}"), index)
        tokens = () if unsure else read_logprobs(choice.get("logprobs"))
        yield from beside(spoken, tokens)
        yield from self._end(index, choice)


def read_logprobs(value: Any) -> tuple[ev.Logprob, ...]:
    """The tokens of a `logprobs` object of plain completions; entries that are not numbers are left out.

    llama.cpp writes them in the form of chat completions.
    """
    told = mapping(value)
    if "content" in told:
        return logprobs.read(told["content"])
    tokens, numbers, tops = (told.get(key) or [] for key in ("tokens", "token_logprobs", "top_logprobs"))
    if not (isinstance(tokens, list) and isinstance(numbers, list) and isinstance(tops, list)):
        return ()
    found = []
    for place, (token, value) in enumerate(zip(tokens, numbers, strict=False)):
        if not isinstance(token, str) or (p := real(value)) is None:
            continue
        others = mapping(tops[place]) if place < len(tops) else {}
        top = (ev.Alternative(t, q) for t, other in others.items() if (q := real(other)) is not None)
        found.append(ev.Logprob(token, p, tuple(top)))
    return tuple(found)


class CompletionsWriter:
    """Writes one stream. Reasoning, if it is written at all, stands between tags."""

    def __init__(self, id: str, model: str, created: int, form: Form | None = None) -> None:
        self._head: Json = {"id": id, "object": "text_completion", "created": created, "model": model}
        self._form = form or Form()
        self._inside: set[int] = set()
        self._usage: ev.Usage | None = None

    def write(self, event: ev.Event) -> bytes:
        """What to send for an event, maybe nothing."""
        match event:
            case ev.Reasoning(text=words, choice=choice):
                return self._chunk(choice, ("" if choice in self._inside else self._open(choice)) + words)
            case ev.Text(text=words, choice=choice, tokens=tokens):
                told = told_logprobs(tokens) if tokens and self._form.logprobs else None
                return self._chunk(choice, self._shut(choice) + words, told)
            case ev.Finish(reason=reason, choice=choice):
                return self._chunk(choice, self._shut(choice), None, WRITTEN[reason])
            case ev.Usage():
                self._usage = event
            case ev.Failure():
                problem = Problem(502, "upstream", "The upstream failed.", "upstream_error")
                return frame(encode(error_body(problem)))
        return b""

    def end(self) -> bytes:
        """The usage, if it was asked for, and the end mark."""
        if not (self._form.usage and self._usage):
            return END
        return frame(encode({**self._head, "choices": [], "usage": usage(self._usage, self._form)})) + END

    def _open(self, choice: int) -> str:
        self._inside.add(choice)
        return OPEN

    def _shut(self, choice: int) -> str:
        if choice not in self._inside:
            return ""
        self._inside.discard(choice)
        return CLOSE

    def _chunk(self, choice: int, words: str, logs: Json | None = None, reason: str | None = None) -> bytes:
        body = {"index": choice, "text": words, "logprobs": logs, "finish_reason": reason}
        return frame(encode({**self._head, "choices": [body]}))


def whole(reply: Reply, id: str, model: str, created: int, form: Form | None = None) -> Json:
    """The body of a reply that is not streamed."""
    form = form or Form()
    choices = [
        {
            "index": index,
            "text": _text(choice),
            "logprobs": told_logprobs(choice.logprobs) if form.logprobs else None,
            "finish_reason": WRITTEN[choice.reason or "stop"],
        }
        for index, choice in sorted(reply.choices.items())
    ]
    body: Json = {"id": id, "object": "text_completion", "created": created, "model": model, "choices": choices}
    if reply.usage is not None:
        body["usage"] = usage(reply.usage, form)
    return body


def _text(choice: Choice) -> str:
    thoughts = choice.reasoning + choice.summary
    return (f"{OPEN}{thoughts}{CLOSE}" if thoughts else "") + choice.text + choice.refusal


def told_logprobs(tokens: Any) -> Json:
    """The `logprobs` object of plain completions."""
    return {
        "tokens": [token.token for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [{other.token: other.logprob for other in token.top} for token in tokens],
        "text_offset": [],
    }
