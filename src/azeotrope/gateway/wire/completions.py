"""Plain completions: requests, replies read, replies written.

A raw prompt may open or close reasoning itself, and a reply has one text without fields. So all that an upstream
says goes through the tags' splitter, and what is reasoning is written only if `Form.reasoning` is not empty:
between tags, where the model had put it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from azeotrope.gateway.wire import checks
from azeotrope.gateway.wire import events as ev
from azeotrope.gateway.wire.chat_reader import DONE, REASONS, failure, pieces, read_usage
from azeotrope.gateway.wire.chat_request import MOST_CHOICES, read_sampling, write_sampling
from azeotrope.gateway.wire.chat_writer import DONE as END
from azeotrope.gateway.wire.chat_writer import REASONS as WRITTEN
from azeotrope.gateway.wire.chat_writer import error_body, usage
from azeotrope.gateway.wire.errors import Problem
from azeotrope.gateway.wire.fields import (
    Json,
    decode,
    encode,
    mapping,
    number,
    objects,
    string,
    text,
    without_none,
)
from azeotrope.gateway.wire.form import Form
from azeotrope.gateway.wire.reply import Choice, Reply
from azeotrope.gateway.wire.request import Request, RequestError
from azeotrope.gateway.wire.sse import write as frame
from azeotrope.gateway.wire.think import TAGS, Splitter

WHAT = "The upstream's completion"
FIELDS = frozenset(
    "model prompt stream stream_options n max_tokens temperature top_p top_k stop seed frequency_penalty "
    "presence_penalty logprobs logit_bias user".split()
)
MOST_LOGPROBS = 5
OPEN, CLOSE = TAGS[0]


def read(data: bytes) -> Request:
    """The request in `data`. Raises RequestError."""
    given = checks.body(data)
    checks.known(given, FIELDS)
    prompt = checks.need(given, "prompt")
    if not isinstance(prompt, str):
        raise RequestError("'prompt' must be one text; lists and token ids are not supported.", "prompt")
    options = checks.mapping(given.get("stream_options"), "stream_options")
    checks.known(options, ("include_usage", "include_obfuscation"), "stream_options.")
    logprobs = checks.whole(given.get("logprobs"), "logprobs", 0, MOST_LOGPROBS)
    return Request(
        model=checks.string(checks.need(given, "model"), "model", limit=200),
        prompt=prompt,
        dialect="completions",
        stream=checks.flag(given.get("stream"), "stream") or False,
        usage=checks.flag(options.get("include_usage"), "stream_options.include_usage") or False,
        n=checks.whole(given.get("n"), "n", 1, MOST_CHOICES) or 1,
        max_tokens=checks.whole(given.get("max_tokens"), "max_tokens", 1),
        logprobs=logprobs is not None,
        top_logprobs=logprobs or 0,
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


class CompletionsReader:
    """Reads one reply, as `ChatReader` does."""

    def __init__(self, splitter: Callable[[], Splitter] | None = None) -> None:
        self._new = splitter or Splitter
        self._splitters: dict[int, Splitter] = {}
        self._started = self._failed = False
        self._ended: set[int] = set()
        self.done = False

    @property
    def complete(self) -> bool:
        """Whether every choice that began has ended."""
        return bool(self._splitters) and set(self._splitters) == self._ended

    @property
    def stray(self) -> bool:
        """Whether a closing tag came where no reasoning was (see `Splitter.stray`)."""
        return any(splitter.stray for splitter in self._splitters.values())

    def chunk(self, data: bytes) -> list[ev.Event]:
        """The events of one `data` of the stream. Raises WireError."""
        if data == DONE:
            self.done = True
            return []
        return list(self._read(decode(data, WHAT)))

    def whole(self, body: bytes) -> list[ev.Event]:
        """The events of a reply that is not streamed. Raises WireError."""
        found = list(self._read(decode(body, WHAT)))
        self.done = True
        return found

    def close(self) -> list[ev.Event]:
        """What was held back. A stream that stops in the middle of a choice ends in a Failure."""
        found: list[ev.Event] = []
        for index, splitter in self._splitters.items():
            found += pieces(splitter.close(), index)
        if not (self.complete or self._failed):
            found.append(ev.Failure(502, "upstream_closed"))
        return found

    def _read(self, body: Json) -> Iterator[ev.Event]:
        if error := body.get("error"):
            self._failed = True
            yield failure(error)
            return
        if not self._started:
            self._started = True
            yield ev.Start(string(body.get("id")), string(body.get("model")), number(body.get("created")) or 0)
        for place, choice in enumerate(objects(body.get("choices"))):
            index = number(choice.get("index"))
            yield from self._choice(place if index is None else index, choice)
        if (told := read_usage(body.get("usage"))) is not None:
            yield told

    def _choice(self, index: int, choice: Json) -> Iterator[ev.Event]:
        splitter = self._splitters.get(index) or self._splitters.setdefault(index, self._new())
        unsure = splitter.pending or splitter.inside
        spoken = pieces(splitter.feed(text(choice.get("text"), f"The text of {WHAT.lower()}")), index)
        unsure |= splitter.pending or splitter.inside or any(isinstance(e, ev.Reasoning) for e in spoken)
        yield from spoken
        if found := read_logprobs(choice.get("logprobs")):
            yield ev.Logprobs(found, index, reasoning=unsure)
        reason = string(choice.get("finish_reason"))
        if reason and index not in self._ended:
            self._ended.add(index)
            yield from pieces(splitter.close(), index)
            yield ev.Finish(REASONS.get(reason, "stop"), index)


def read_logprobs(value: Any) -> tuple[ev.Logprob, ...]:
    """The tokens of a `logprobs` object of plain completions; entries that are not numbers are left out."""
    told = mapping(value)
    tokens, numbers, tops = (told.get(key) or [] for key in ("tokens", "token_logprobs", "top_logprobs"))
    if not (isinstance(tokens, list) and isinstance(numbers, list) and isinstance(tops, list)):
        return ()
    found = []
    for place, (token, value) in enumerate(zip(tokens, numbers, strict=False)):
        if not isinstance(token, str) or isinstance(value, bool) or not isinstance(value, int | float):
            continue
        others = mapping(tops[place]) if place < len(tops) else {}
        top = (ev.Alternative(t, float(p)) for t, p in others.items() if isinstance(p, int | float))
        found.append(ev.Logprob(token, float(value), tuple(top)))
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
            case ev.Reasoning(text=words, choice=choice) if self._form.reasoning:
                return self._chunk(choice, ("" if choice in self._inside else self._open(choice)) + words)
            case ev.Text(text=words, choice=choice):
                return self._chunk(choice, self._shut(choice) + words)
            case ev.Logprobs(tokens=tokens, choice=choice, reasoning=False) if self._form.logprobs:
                return self._chunk(choice, "", logprobs(tokens))
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
            "text": _text(choice, form),
            "logprobs": logprobs(choice.logprobs) if form.logprobs else None,
            "finish_reason": WRITTEN[choice.reason or "stop"],
        }
        for index, choice in sorted(reply.choices.items())
    ]
    body: Json = {"id": id, "object": "text_completion", "created": created, "model": model, "choices": choices}
    if reply.usage is not None:
        body["usage"] = usage(reply.usage, form)
    return body


def _text(choice: Choice, form: Form) -> str:
    thoughts = f"{OPEN}{choice.reasoning}{CLOSE}" if form.reasoning and choice.reasoning else ""
    return thoughts + choice.text


def logprobs(tokens: Any) -> Json:
    """The `logprobs` object of plain completions."""
    return {
        "tokens": [token.token for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [{other.token: other.logprob for other in token.top} for token in tokens],
        "text_offset": [],
    }
