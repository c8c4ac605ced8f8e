"""One request from end to end: what the client asked, what the policy says, what the upstream answers, what
leaves.

Nothing that an upstream says reaches a client but through events, a shield and a writer.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from time import perf_counter, time

import msgspec

from azeotrope.gateway.dialects import Dialect, Reader, dialect
from azeotrope.gateway.ids import Ids
from azeotrope.gateway.logs import log
from azeotrope.gateway.refusal import LARGEST_ERROR, RefusedError, refusal, told
from azeotrope.gateway.settings import UpstreamSettings
from azeotrope.gateway.shield import Shield
from azeotrope.gateway.table import Decision
from azeotrope.gateway.upstream import Answer, Asked, UpstreamError
from azeotrope.gateway.vault import Record, Vault, words
from azeotrope.gateway.wire import events as ev
from azeotrope.gateway.wire.errors import Problem, WireError
from azeotrope.gateway.wire.fields import Json, encode
from azeotrope.gateway.wire.form import Form
from azeotrope.gateway.wire.reply import Reply, gather
from azeotrope.gateway.wire.request import Call, Message, Request, RequestError, Seal, image_sizes, prefill
from azeotrope.gateway.wire.sse import EventParser
from azeotrope.gateway.wire.think import LONGEST_TAG, Splitter, inside

SPARE = 40  # levels that a request may be nested further, in a reply that repeats it or a deeper call of ours
QUIET = 10.0  # seconds without a byte to the client before one is sent to show that the connection lives
Send = Callable[[bytes], Awaitable[None]]
Recorder = Callable[[], Awaitable[None]]


@dataclass(slots=True)
class Called:
    """A call that a model is making."""

    id: str = ""
    name: str = ""
    pieces: list[str] = field(default_factory=list)

    def add(self, event: ev.Tool) -> None:
        """Take a piece of it."""
        self.id, self.name = self.id or event.id, self.name or event.name
        self.pieces.append(event.arguments)

    def made(self) -> Call:
        """The call so far; one without arguments has an empty object of them, as clients return it."""
        return Call(self.id, self.name, "".join(self.pieces) or "{}")


@dataclass(slots=True)
class Job:
    """A request under way, and what is known of it so far."""

    request: Request
    tenant: str
    decision: Decision
    served: str  # the upstream's name of the model
    id: str = ""
    created: int = 0
    usage: ev.Usage | None = None
    failure: ev.Failure | None = None
    reasons: dict[int, str] = field(default_factory=dict)
    calls: dict[int, dict[int, Called]] = field(default_factory=dict)  # by choice and slot, until they are kept
    pieces: int = 0  # events of the upstream's stream
    busy: float = 0.0  # seconds of our own work on the reply
    shield: Shield | None = None
    asked: bytes = b""  # a digest of what the upstream was asked
    restored: float = 0.0  # the share of what was sent that is reasoning which the client was not given
    wants_reasoning: bool = False  # of the upstream

    @property
    def finished(self) -> bool:
        """Whether every choice has ended."""
        return len(self.reasons) >= self.request.n

    def watch(self, events: list[ev.Event]) -> None:
        """Note what the record of this request needs."""
        for event in events:
            if isinstance(event, ev.Usage):
                self.usage = event
            elif isinstance(event, ev.Failure):
                self.failure = event
            elif isinstance(event, ev.Finish):
                self.reasons[event.choice] = event.reason
            elif isinstance(event, ev.Tool):
                self.calls.setdefault(event.choice, {}).setdefault(event.slot, Called()).add(event)


class Relay:
    """Sends jobs upstream and brings back what may leave.

    Random choices follow from `master`, 32 secret bytes that all processes of a gateway share: whoever asks again
    sees the same choices, whichever process answers, and after a restart.
    """

    def __init__(self, vault: Vault, master: bytes | None = None) -> None:
        self._vault = vault
        self._ids = Ids()
        self._dice = blake2b(b"azeotrope dice", key=master or secrets.token_bytes(32), digest_size=32).digest()

    async def ask(self, job: Job, upstream: Asked) -> Answer:
        """Send the request. Raises RefusedError for an answer that is none, UpstreamError and RequestError."""
        body = await self.body(job, upstream.settings)
        outward = dialect("completions" if job.request.dialect == "completions" else upstream.settings.dialect)
        stance = job.decision.stance
        named = stance.name if stance.logits else ""
        exchange = await upstream.post(outward.path, body, stance=named, owner=job.tenant)
        if exchange.status != 200:
            try:
                told = await exchange.body(LARGEST_ERROR)
            except UpstreamError:
                told = b""
            raise RefusedError(refusal(exchange.status, told), exchange.retry_after)
        return exchange

    async def body(self, job: Job, settings: UpstreamSettings) -> bytes:
        """What the upstream is sent. Raises RequestError and RefusedError."""
        request, hidden = msgspec.structs.replace(job.request, model=job.served), 0
        if request.messages:
            _check(request.messages)
            trust = job.decision.treatment.exact and (settings.wants_reasoning or settings.dialect == "messages")
            found = await self._vault.rehydrate(job.tenant, request.messages, trust=trust)
            hidden = found.size
            if found.missing and settings.wants_reasoning and settings.missing_reasoning == "refuse":
                raise RefusedError(
                    Problem(
                        409,
                        "invalid_request",
                        "The reasoning before a tool call is not kept any more; start the turn again.",
                        "reasoning_expired",
                    )
                )
            request = msgspec.structs.replace(request, messages=found.messages)
        if request.logprobs:
            wanted = max([request.top_logprobs, *map(_asks, job.decision.treatment.surfaces)])
            request = msgspec.structs.replace(request, top_logprobs=min(20, wanted))
        plain = request.dialect == "completions"
        written = dialect("completions" if plain else settings.dialect).write(request)
        name_limit(written, settings)
        if settings.wants_reasoning and settings.dialect == "chat" and not plain:
            _complete(written)
        if settings.cache_salt:
            written["cache_salt"] = blake2b(job.tenant.encode(), key=self._dice, digest_size=16).hexdigest()
        try:
            job.asked = _digest(written)
            body = encode(written, spare=SPARE)
            job.restored = hidden / max(1, len(body) - sum(image_sizes(request)))
            return body
        except WireError:
            raise RequestError("The request is nested too deeply.", code="invalid_json") from None

    def start(self, job: Job, settings: UpstreamSettings) -> Shield:
        """The shield of a job's reply. It keeps the reasoning that the client is not given as it came."""
        job.id = dialect(job.request.dialect).prefix + self._ids.hex(16)
        job.created = int(time())
        job.wants_reasoning = settings.wants_reasoning
        keep = not job.decision.treatment.exact or job.request.dialect not in (settings.dialect, "completions")
        keep = keep or (settings.wants_reasoning and bool(job.request.tools))  # the next stance may be another
        job.shield = Shield(
            job.decision.treatment,
            self._throw(job),
            asked=job.request.top_logprobs,
            keep=keep,
            restored=job.restored,
            cached=settings.tells_cached,
        )
        return job.shield

    async def stream(
        self, job: Job, exchange: Answer, settings: UpstreamSettings, send: Send, record: Recorder | None = None
    ) -> None:
        """Pass a streamed reply on, piece by piece. What goes wrong on the way is told in the stream.

        `record` is awaited before the last piece: what it raises ends the stream without its end mark.
        """
        shield, outward = self.start(job, settings), dialect(job.request.dialect)
        writer = outward.writer(job.id, job.request.model, job.created, form(job), **_echo(outward, job.request))
        reader, parser = self._reader(job, settings, exchange), EventParser()
        last = perf_counter()
        try:
            while True:
                data = await exchange.read()
                began = perf_counter()
                events = self._events(job, reader, parser, data)
                out = b"".join(map(writer.write, shield.take(events)))
                ended = not data or reader.done or job.failure is not None
                if ended:
                    out += self._rest(job, settings, reader, shield, writer.write)
                now = perf_counter()
                job.busy += now - began
                if job.calls and any(isinstance(event, ev.Finish) for event in events):
                    await self.keep(job)  # before the client knows that it can return the calls' results
                if ended:
                    await self._end(job, send, out, writer.end, record)
                elif out:
                    last = now
                    await send(out)
                elif now - last > QUIET:
                    last = now
                    await send(outward.alive)
                if ended:
                    break
        except UpstreamError as error:
            job.failure = ev.Failure(error.problem.status, error.problem.code)
        except WireError:
            job.failure = ev.Failure(502, "upstream_malformed")
        else:
            await exchange.finish()
            return
        finally:
            exchange.close()
        out = b"".join(map(writer.write, [*shield.close(), job.failure]))
        await self._end(job, send, out, writer.end, record)

    async def _end(
        self, job: Job, send: Send, out: bytes, end: Callable[[], bytes], record: Recorder | None
    ) -> None:
        """Send the rest, record the reply, send its end. Before that the vault has what the next turn needs."""
        await self.keep(job, over=True)
        if record is None:
            await send(out + end())
            return
        if out:
            await send(out)
        await record()
        await send(end())

    async def whole(self, job: Job, exchange: Answer, settings: UpstreamSettings) -> bytes:
        """A reply that is not streamed, as it may leave. Raises RefusedError and UpstreamError."""
        shield, outward = self.start(job, settings), dialect(job.request.dialect)
        body = await exchange.body(settings.largest_reply)
        began = perf_counter()
        reader = self._reader(job, settings, exchange)
        try:
            events = [*reader.whole(body), *reader.close()]
            if self._began_inside(job, settings, reader):  # nothing has left yet: read it again
                reader = self._reader(job, settings, exchange, opened=True)
                events = [*reader.whole(body), *reader.close()]
        except WireError:
            raise UpstreamError(
                Problem(502, "upstream", "The upstream's reply cannot be read.", "upstream_malformed")
            ) from None
        job.watch(events)
        if job.failure is not None:
            raise RefusedError(told(job.failure))
        reply: Reply = gather([*shield.take(events), *shield.close()])
        written = outward.whole(
            reply, job.id, job.request.model, job.created, form(job), **_echo(outward, job.request)
        )
        answer = encode(written)
        job.busy += perf_counter() - began
        await self.keep(job, over=True)
        return answer

    async def keep(self, job: Job, *, over: bool = False) -> None:
        """Seal what the client was not shown, for the turn on which the upstream wants it back.

        Of the choices that have ended, or, where the reply is `over`, of all.
        """
        if job.shield is None:
            return
        change = job.shield.change
        asked = next((words(m) for m in reversed(job.request.messages) if m.role == "user"), "")
        for choice in [choice for choice in job.calls if over or choice in job.reasons]:
            calls = [call.made() for call in job.calls.pop(choice).values()]
            thoughts = "".join(change.original.get(choice, ()))
            seals = tuple(Seal(piece.kind, piece.data) for piece in change.sealed.get(choice, ()))
            if thoughts or seals or job.wants_reasoning:  # that there was none is worth knowing, too
                await self._vault.seal(job.tenant, calls, Record(thoughts, seals), asked)

    def _events(self, job: Job, reader: Reader, parser: EventParser, data: bytes) -> list[ev.Event]:
        """The events in some bytes; at their end, what the stream left open."""
        found: list[ev.Event] = []
        frames = parser.feed(data) if data else [rest] if (rest := parser.close()) else []
        try:
            for one in frames:
                job.pieces += 1
                found += reader.chunk(one.data) if one.data else []  # empty ones keep a line alive
        except WireError:  # what came before it in the same bytes still counts
            found.append(ev.Failure(502, "upstream_malformed"))
        job.watch(found)
        return found

    def _rest(
        self,
        job: Job,
        settings: UpstreamSettings,
        reader: Reader,
        shield: Shield,
        write: Callable[[ev.Event], bytes],
    ) -> bytes:
        """What is left when the upstream has said all."""
        self._began_inside(job, settings, reader)
        last = [] if job.failure is not None else reader.close()
        job.watch(last)
        return b"".join(map(write, [*shield.take(last), *shield.close()]))

    def _reader(self, job: Job, settings: UpstreamSettings, exchange: Answer, *, opened: bool = False) -> Reader:
        """The reader of an upstream's reply; `opened` if it begins within reasoning."""
        name = "completions" if job.request.dialect == "completions" else settings.dialect
        if settings.tags == "none" and name != "completions":
            return dialect(name).reader(None)
        before = exchange.before or job.request.prompt
        opened = opened or settings.tags == "opened" or inside(before)
        return dialect(name).reader(lambda: Splitter(opened=opened, before=before[-LONGEST_TAG:]))

    def _began_inside(self, job: Job, settings: UpstreamSettings, reader: Reader) -> bool:
        """Whether a reply seems to have begun within reasoning, and nobody said that it would; it is logged.

        It holds for this reply alone: anybody can ask a model to write a closing tag, and must not decide for
        others.
        """
        if not reader.stray or settings.tags != "auto" or job.request.dialect == "completions":
            return False
        log.error(
            "A reply held a closing tag and no opening one; if the model's template opens it, set 'tags: opened'.",
            extra={"facts": {"model": job.served[:80]}},
        )
        return True

    def _throw(self, job: Job) -> bytes:
        """What the random choices of this reply follow from: the tenant, and all that the upstream was asked.

        Whoever asks the same again sees the same choices made, and cannot average them away; what a client says to
        us alone changes nothing.
        """
        return blake2b(job.asked + job.tenant.encode(), key=self._dice, digest_size=32).digest()


def name_limit(written: Json, settings: UpstreamSettings) -> None:
    """Call the limit of a reply's tokens what the upstream calls it."""
    if settings.limit_field != "max_tokens" and "max_tokens" in written and settings.dialect == "chat":
        written[settings.limit_field] = written.pop("max_tokens")


def _complete(written: Json) -> None:
    """Give assistants' messages with calls the field that the upstream insists on, empty where it is not known."""
    for message in written.get("messages", ()):
        if message.get("role") == "assistant" and message.get("tool_calls"):
            message.setdefault("reasoning_content", "")


def _digest(written: Json) -> bytes:
    """Of a request's fields, but for whether its reply is streamed."""
    told = {name: value for name, value in written.items() if name not in ("stream", "stream_options")}
    return blake2b(encode(told, spare=SPARE), digest_size=32).digest()


def _check(messages: Iterable[Message]) -> None:
    """Refuse a conversation that the assistant would go on with. System messages after it change nothing."""
    said = [message.role for message in messages if message.role not in ("system", "developer")]
    if said and said[-1] == "assistant":
        raise prefill()


def form(job: Job) -> Form:
    """How the reply is written."""
    treatment = job.decision.treatment
    return Form(
        usage=job.request.usage,
        tell_reasoning=treatment.tell_reasoning,
        logprobs=job.request.logprobs and treatment.logprobs,
    )


def _asks(surface: object) -> int:
    """How many alternatives a token a surface defense needs to see."""
    return int(getattr(surface, "k", 0))


def _echo(outward: Dialect, request: Request) -> dict[str, Request]:
    return {"request": request} if outward.echoes else {}
