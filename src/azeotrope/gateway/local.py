"""A model of our own as an upstream: it answers chat completions from the lock-step decoder.

To the rest of the gateway it is a server like any other, whose replies are read like any other's; only that the
defenses of a stance that act while the model writes are bound to it. Torch is imported when it is made, not
before.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import monotonic
from typing import Any, cast

import msgspec

from azeotrope.core.errors import AzeotropeError, ConfigError, MissingError, RunError
from azeotrope.core.methods import Defense
from azeotrope.core.sampling import Sampling
from azeotrope.gateway.settings import Tags, TeacherSettings, Timeouts, UpstreamSettings
from azeotrope.gateway.table import Snapshot
from azeotrope.gateway.upstream import UpstreamError, stalled
from azeotrope.gateway.wire import events as ev
from azeotrope.gateway.wire.chat_writer import ChatWriter, whole
from azeotrope.gateway.wire.errors import Problem
from azeotrope.gateway.wire.fields import Json, encode
from azeotrope.gateway.wire.form import Form
from azeotrope.gateway.wire.reply import Reply
from azeotrope.gateway.wire.think import TAGS

TIMES = Timeouts()
OPENING = 64  # characters at the end of a prompt that are taken for the template's where it cannot be told
LIMIT = 512  # tokens of a reply where the request sets no limit
UNKNOWN = ("tools", "response_format", "logprobs", "logit_bias", "presence_penalty")
STEP = 0.05  # of a temperature under defenses of logits
REPLACEMENT = "\ufffd"


class Speech:
    """Tokens as text, piece by piece: no piece ends within a character, none goes beyond a stop text.

    `decode` turns token ids into text. Work for each token is bounded: only the last few are decoded again.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str] = ()) -> None:
        self._decode, self._stops = decode, tuple(stops)
        self._ids: list[int] = []
        self._from = self._read = 0  # tokens: where the window begins, and up to where its text is known
        self._held = ""
        self.stopped = False

    def add(self, token: int) -> str:
        """The text that this token makes certain."""
        self._ids.append(token)
        before = self._decode(self._ids[self._from : self._read])
        now = self._decode(self._ids[self._from :])
        if (now.endswith(REPLACEMENT) and len(self._ids) - self._read < 8) or len(now) <= len(before):
            return ""
        self._from, self._read = self._read, len(self._ids)
        return self._release(now[len(before) :])

    def end(self) -> str:
        """What is left."""
        before = self._decode(self._ids[self._from : self._read])
        rest = "" if self.stopped else self._release(self._decode(self._ids[self._from :])[len(before) :])
        held, self._held = self._held, ""
        return rest if self.stopped else rest + held

    def _release(self, text: str) -> str:
        if self.stopped:
            return ""
        text = self._held + text
        self._held = ""
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            self.stopped = True
            return text[: min(places)]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        if keep:
            self._held, text = text[-keep:], text[:-keep]
        return text


def _overlap(text: str, stop: str) -> int:
    """How much of the end of `text` is the beginning of `stop`."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)


class LocalExchange:
    """A reply that is being written here. The same interface as `upstream.Exchange`."""

    status = 200
    retry_after = None

    def __init__(self, prompt_tokens: int, choices: int, before: str = "", times: Timeouts = TIMES) -> None:
        self.before, self._times = before, times
        self._until = monotonic() + times.total
        self._begun = False
        self._queue: asyncio.Queue[tuple[int, str, str] | RunError] = asyncio.Queue()
        self._writer = ChatWriter(f"chatcmpl-{secrets.token_hex(8)}", "local", 0, Form(usage=True))
        self._reply = Reply(id="local", model="local")
        self._prompt, self._completion = prompt_tokens, 0
        self._open = choices
        self._over = False
        self.gone = False

    def tell(self, piece: tuple[int, str, str] | RunError) -> None:
        """From the event loop's thread: a choice, its text and, at its end, why it ended."""
        self._queue.put_nowait(piece)

    def count(self) -> None:
        """One more token was written."""
        self._completion += 1

    async def read(self) -> bytes:
        """The next bytes of the stream; none at the end. Raises UpstreamError."""
        if self._over:
            return b""
        out = b""
        while not out:
            for event in await self._next():
                out += self._writer.write(event)
            if not self._open:
                self._over = True
                out += self._writer.write(self._usage()) + self._writer.end()
        return out

    async def body(self, most: int) -> bytes:
        """The whole reply. Raises UpstreamError."""
        while self._open:
            for event in await self._next():
                self._reply.add(event)
        self._reply.add(self._usage())
        return encode(whole(self._reply, "local", "local", 0, Form()))

    async def finish(self) -> None:
        """There is no connection to keep."""

    def close(self) -> None:
        """Nobody listens any more: the decoder stops at the next token."""
        self.gone = True

    def left(self) -> bool:
        """Whether nobody listens any more."""
        return self.gone

    async def _next(self) -> list[ev.Event]:
        patience = self._times.chunk if self._begun else self._times.first
        try:
            async with asyncio.timeout(min(patience, self._until - monotonic())):
                piece = await self._queue.get()
        except TimeoutError:
            self.close()
            raise UpstreamError(stalled()) from None
        self._begun = True
        if isinstance(piece, RunError):
            raise UpstreamError(Problem(502, "upstream", "The model failed.", "upstream_error"))
        choice, text, reason = piece
        found: list[ev.Event] = [ev.Text(text, choice)] if text else []
        if reason:
            self._open -= 1
            found.append(ev.Finish("length" if reason == "length" else "stop", choice))
        return found

    def _usage(self) -> ev.Usage:
        return ev.Usage(self._prompt, self._completion)


class LocalUpstream:
    """Answers from a transformers model. The same interface as `upstream.Upstream`.

    `stances` are the policy's compositions of defenses that act while the model writes, by the stance's name;
    they are bound when this is made. Raises ConfigError and MissingError for a model or a defense that cannot be
    had.
    """

    def __init__(
        self,
        ref: str,
        stances: Mapping[str, Sequence[Defense]] | None = None,
        *,
        task: str = "lookup",
        temperature: float = 0.6,
        rows: int = 64,
        tags: Tags = "auto",
        timeouts: Timeouts = TIMES,
    ) -> None:
        try:
            from azeotrope.models.engine import Engine
            from azeotrope.models.lm import load
        except ModuleNotFoundError as error:
            raise MissingError(
                f"A model of one's own needs the package '{error.name}'; run: pip install 'azeotrope[lab]'."
            ) from None
        self.settings = UpstreamSettings(url="http://local", tags=tags, timeouts=timeouts)
        self.lm = load(ref)
        self._decode = with_tags(self.lm)
        rules = _bind(self.lm, stances or {}, task, temperature)
        self._temperature = temperature
        self._engine = Engine(self.lm, rules, rows=rows)
        self.names = frozenset(rules)
        self.bound = {name: tuple(defenses) for name, defenses in (stances or {}).items()}

    async def post(
        self, path: str, body: bytes, *, stance: str = "", trace: str = "", owner: str = ""
    ) -> LocalExchange:
        """Begin a reply; `owner` takes its turn among others who wait. Raises UpstreamError."""
        from azeotrope.models.engine import Ticket

        asked: Json = msgspec.json.decode(body)
        if path != "/chat/completions":
            raise UpstreamError(Problem(400, "invalid_request", "This model answers chat completions only."))
        if stance and stance not in self.names:  # never without the defense that the policy wants
            raise UpstreamError(
                Problem(503, "overloaded", "This stance cannot be served now.", "stance_unavailable")
            )
        for name in UNKNOWN:
            if asked.get(name):
                text = f"'{name}' is not available with this model."
                raise UpstreamError(Problem(400, "invalid_request", text, "unsupported_parameter", name))
        ids = tuple(self.lm.encode(self.prompt(asked["messages"])))
        room = int(getattr(self.lm.model.config, "max_position_embeddings", 1 << 30)) - len(ids)
        if room < 1:
            text = "The conversation is longer than the model can read."
            raise UpstreamError(Problem(400, "invalid_request", text, "context_length_exceeded", "messages"))
        limit = min(asked.get("max_tokens") or LIMIT, room)
        choices = asked.get("n") or 1
        exchange = LocalExchange(len(ids), choices, self.opening(asked["messages"]), self.settings.timeouts)
        sampling = self._sampling(asked, least=self._temperature if stance else 0.0)
        loop = asyncio.get_running_loop()
        for choice in range(choices):
            seed = asked["seed"] + choice if asked.get("seed") is not None else secrets.randbits(62)
            scribe = _Scribe(self._decode, exchange, loop, choice, limit, asked.get("stop") or ())
            ticket = Ticket(
                ids, abs(seed) % 2**62, sampling, limit, scribe.take, scribe.fail, stance, owner, exchange.left
            )
            try:
                self._engine.submit(ticket)
            except AzeotropeError:
                exchange.close()
                raise UpstreamError(
                    Problem(503, "overloaded", "The model is busy; try again later.", "busy")
                ) from None
        return exchange

    async def stop(self) -> None:
        """Stop the decoder."""
        await asyncio.to_thread(self._engine.stop)

    def prompt(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The conversation as the model reads it: by its chat template, or as question and answer."""
        if getattr(self.lm.tokenizer, "chat_template", None):
            return self._rendered(messages, opened=True)
        said = [(m["role"], _plain(m.get("content"))) for m in messages]
        asked = next((text for role, text in reversed(said) if role == "user"), "")
        return f"Q: {asked.removeprefix('Q: ').removesuffix(chr(10) + 'A:')}\nA:"

    def _rendered(self, messages: Sequence[Mapping[str, Any]], *, opened: bool) -> str:
        """The conversation by the chat template; `opened`: with what it writes where the reply begins."""
        plain = [{"role": m["role"], "content": _plain(m.get("content"))} for m in messages]
        made = self.lm.tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=opened)
        return str(made)

    def opening(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """What the chat template writes after the conversation: the reply goes on from there."""
        if not getattr(self.lm.tokenizer, "chat_template", None):
            return ""
        said, whole = (self._rendered(messages, opened=opened) for opened in (False, True))
        return whole[len(said) :] if whole.startswith(said) else whole[-OPENING:]

    def _sampling(self, asked: Json, least: float) -> Sampling:
        """What the request says; the temperature that the defenses were bound at where it says nothing.

        `least`: what a defense adds to logits that were divided by the temperature fades with the temperature, so
        that under one it does not go below that at which the defense was bound. There a batch has one temperature,
        so that requests' are rounded, in steps from that one: nobody makes a batch of his own for every request.
        """
        wanted = asked.get("temperature")
        temperature = self._temperature if wanted is None else wanted
        if least:
            temperature = round(least + STEP * max(0, round((temperature - least) / STEP)), 9)
        return Sampling(
            temperature=temperature,
            top_k=max(0, asked.get("top_k") or 0),
            top_p=asked.get("top_p") or 1.0,
        )


class _Scribe:
    """Writes down one choice: tokens in the decoder's thread, text to the event loop."""

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        exchange: LocalExchange,
        loop: asyncio.AbstractEventLoop,
        choice: int,
        limit: int,
        stops: Sequence[str],
    ) -> None:
        self._exchange, self._loop, self._choice = exchange, loop, choice
        self._speech = Speech(decode, stops)
        self._left = limit

    def take(self, token: int, finished: bool) -> bool:
        """See `Ticket.take`."""
        if self._exchange.gone:
            return False
        self._exchange.count()
        self._left -= 1
        text = "" if finished else self._speech.add(token)
        over = finished or self._speech.stopped or self._left == 0
        if over:
            text += self._speech.end()
        reason = "stop" if finished or self._speech.stopped else "length" if over else ""
        if text or reason:
            self._post((self._choice, text, reason))
        return not over

    def fail(self, error: RunError) -> None:
        """See `Ticket.fail`."""
        self._post(error)

    def _post(self, piece: tuple[int, str, str] | RunError) -> None:
        try:
            self._loop.call_soon_threadsafe(partial(self._exchange.tell, piece))
        except RuntimeError:  # the loop is closed: nobody waits
            self._exchange.close()


def with_tags(lm: Any) -> Callable[[Sequence[int]], str]:
    """How tokens become text: without special ones, but for those that are tags of reasoning."""
    special = set(lm.tokenizer.all_special_tokens)
    tags = [tag for pair in TAGS for tag in pair if tag in special]
    kept = {int(lm.tokenizer.convert_tokens_to_ids(tag)): tag for tag in tags}
    if not kept:
        return cast("Callable[[Sequence[int]], str]", lm.decode)

    def decode(ids: Sequence[int]) -> str:
        text, start = "", 0
        for place, token in enumerate(ids):
            if token in kept:
                text += lm.decode(ids[start:place]) + kept[token]
                start = place + 1
        return text + str(lm.decode(ids[start:]))

    return decode


def _plain(content: Any) -> str:
    """The text of a message; pictures mean nothing to these models."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    if any(part.get("type") != "text" for part in parts):
        raise UpstreamError(
            Problem(400, "invalid_request", "This model reads text only.", "unsupported_value", "messages")
        )
    return "".join(part["text"] for part in parts)


def _bind(lm: Any, stances: Mapping[str, Sequence[Defense]], task: str, temperature: float) -> dict[str, Any]:
    """The rules of each stance, set up on the model."""
    wanted = {name: defenses for name, defenses in stances.items() if defenses}
    if not wanted:
        return {}
    from azeotrope.core import plugins
    from azeotrope.defenses.base import Bench, LogitDefense

    bench = Bench(lm, plugins.load("tasks", task)(), Sampling(temperature=temperature))
    found: dict[str, Any] = {}
    for name, defenses in wanted.items():
        for defense in defenses:
            if not isinstance(defense, LogitDefense):
                text = f"{defense.kind} changes the model's weights; serve the changed model instead."
                raise ConfigError(f"Stance '{name}': {text}")
        found[name] = [defense.bind(bench) for defense in defenses if isinstance(defense, LogitDefense)]
    return found


def open_teacher(settings: TeacherSettings, policy: Snapshot) -> LocalUpstream:
    """The model of our own, with the defenses of the policy's stances. Raises ConfigError and MissingError."""
    stances = {name: stance.logits for name, stance in policy.stances.items() if stance.logits}
    return LocalUpstream(
        settings.model,
        stances,
        task=settings.task,
        temperature=settings.temperature,
        rows=settings.rows,
        tags=settings.tags,
        timeouts=settings.timeouts,
    )
