"""The ASGI application: who asks, what the policy says, and one relay for all dialects."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from math import ceil
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

from azeotrope.core.errors import AzeotropeError, ConfigError
from azeotrope.gateway import counting, http
from azeotrope.gateway.admission import allow, facts
from azeotrope.gateway.case import CLIENT_GONE, STOPPED, Case, clients_fault, problem_of, unrecorded
from azeotrope.gateway.desk import Desk
from azeotrope.gateway.dialects import PATHS, dialect
from azeotrope.gateway.ids import Ids
from azeotrope.gateway.ledger.audit_log import AuditError
from azeotrope.gateway.ledger.identity import Identity
from azeotrope.gateway.logs import log
from azeotrope.gateway.metrics import Metrics
from azeotrope.gateway.pages import Pages, nothing, plain
from azeotrope.gateway.policy import told
from azeotrope.gateway.refusal import RefusedError
from azeotrope.gateway.relay import Job, Relay
from azeotrope.gateway.settings import TEACHER, ServerFile
from azeotrope.gateway.status.site import open_site
from azeotrope.gateway.table import PolicyBox, Snapshot
from azeotrope.gateway.upstream import Asked, Upstream, UpstreamError
from azeotrope.gateway.vault import MemoryShelf, Shelf, Vault
from azeotrope.gateway.wire.errors import Problem
from azeotrope.gateway.wire.fields import encode
from azeotrope.gateway.wire.request import Request, RequestError

if TYPE_CHECKING:
    from azeotrope.gateway.traces.spans import Tracing

T = TypeVar("T")
Serve = Callable[[Case, http.Scope, http.Receive, http.Send, http.Stream], Awaitable[None]]
COUNT = f"/v1{counting.PATH}"
ROUTES = {f"/v1{path}": name for name, path in PATHS.items()} | {COUNT: "messages"}
POLL = 1.0  # seconds between looks at the policy file
REPLY_TOKENS = 1024  # reserved for a reply whose length the request does not bound
CUT = Problem(400, "invalid_request", "The request's body cannot be read to its end; send it again.", "bad_body")


class Gateway:
    """`azeotrope serve` as an ASGI application."""

    def __init__(
        self,
        settings: ServerFile,
        policy: PolicyBox,
        desk: Desk | None = None,
        shelf: Shelf | None = None,
        master: bytes | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        """`master` is the secret that the processes of a gateway share, where there are several."""
        self.settings, self.policy = settings, policy
        self.desk = desk or Desk()
        self.metrics = Metrics()
        self._ids = Ids()
        shelf = shelf or MemoryShelf(settings.vault.megabytes << 20)
        self._vault = Vault(shelf, master, ttl=settings.vault.hours * 3600)
        self.relay = Relay(self._vault, master)
        self._upstreams: dict[str, Asked] = {name: Upstream(one) for name, one in settings.upstreams.items()}
        if settings.teacher is not None:
            from azeotrope.gateway.local import open_teacher

            self._upstreams[TEACHER] = open_teacher(settings.teacher, policy.current)
        policy.accept(self._servable)
        self.pages = Pages(settings, self.metrics, self._who, lambda: self.draining).all
        self.active = 0
        self.draining = False
        self.over: list[Callable[[Case], None]] = [lambda case: case.count(self.metrics)]  # told of every case
        self.site = open_site(self)
        self._tracing = tracing
        if tracing is not None:
            self.over.append(tracing.end)

    async def __call__(self, scope: http.Scope, receive: http.Receive, send: http.Send) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)

    async def stop(self) -> None:
        """Let requests under way end, then close everything."""
        self.draining = True
        loop = asyncio.get_running_loop()
        until = loop.time() + self.settings.listen.drain
        while self.active and loop.time() < until:
            await asyncio.sleep(0.05)
        for upstream in self._upstreams.values():
            await upstream.stop()
        if self.site is not None:
            await self.site.stop()
        await self._vault.close()
        await self.desk.close()
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.close)

    async def _lifespan(self, receive: http.Receive, send: http.Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                watcher = asyncio.ensure_future(self._watch_policy())
                if self.desk.suspicion is not None:
                    self.desk.suspicion.start()
                if self.site is not None:
                    await self.site.start()
                await send({"type": "lifespan.startup.complete"})
            else:
                watcher.cancel()
                await self.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return

    def _servable(self, policy: Snapshot) -> None:
        """Raise ConfigError for a stance whose defenses act while the model writes and are not set up here."""
        local = self._upstreams.get(TEACHER)
        for name, stance in policy.stances.items():
            if not stance.logits:
                continue
            which = f"Stance '{name}': {told(stance.logits[0])}"
            if set(self._upstreams) != {TEACHER}:
                raise ConfigError(
                    f"{which} acts while the model writes, which a server elsewhere does not let us do; "
                    "use text defenses, or serve the model with --teacher."
                )
            if getattr(local, "bound", {}).get(name) != stance.logits:
                raise ConfigError(f"{which} is set up at the start; restart for it.")

    async def _watch_policy(self) -> None:
        """Read the policy again when its file changes; a bad file leaves the old policy in force."""
        while True:
            await asyncio.sleep(POLL)
            if self.policy.changed():
                await asyncio.to_thread(self.policy.reload)
                self.metrics.reloads.labels("failed" if self.policy.error else "done").inc()
                if self.policy.error:
                    log.error("The policy stays as it was: %s", self.policy.error)
                else:
                    for warning in self.policy.current.warnings:
                        log.warning("The policy: %s.", warning)

    async def _http(self, scope: http.Scope, receive: http.Receive, send: http.Send) -> None:
        path, method = scope["path"], scope["method"]
        name, page = ROUTES.get(path), self.pages.get(path)
        if name is not None and method == "POST":
            case = Case(f"req_{self._ids.hex(12)}", dialect(name), perf_counter())
            if self._tracing is not None:
                self._tracing.begin(case, scope)
            await self._answer(case, scope, receive, send, self._count if path == COUNT else self._serve)
        elif page is not None and method in ("GET", "HEAD"):
            await page(scope, send)
        elif name is not None or page is not None:
            allowed = "POST" if name is not None else "GET, HEAD"
            problem = Problem(405, "invalid_request", f"Use {allowed} here.", "method_not_allowed")
            await plain(send, 405, dialect(name or "chat").error(problem), [(b"allow", allowed.encode())])
        elif self.site is not None and self.site.owns(path) and method in ("GET", "HEAD"):
            await self.site.answer(scope, send)
        else:
            await nothing(send)

    async def _answer(
        self, case: Case, scope: http.Scope, receive: http.Receive, send: http.Send, serve: Serve
    ) -> None:
        """One request for a reply or a count, whatever happens to it."""
        self.active += 1
        self.metrics.active.set(self.active)
        stream = http.Stream(send, [(b"x-request-id", case.id.encode())], self.settings.listen.stuck_seconds)
        try:
            await serve(case, scope, receive, send, stream)
            case.status = 200
        except http.GoneError as error:
            case.gone, case.status = True, CLIENT_GONE
            if isinstance(error, http.CutError):  # maybe it is there still, with chunks that cannot be read
                await plain(send, 400, case.outward.error(CUT), self._headers(case))
        except (RefusedError, UpstreamError, RequestError, http.BodyError, AzeotropeError) as error:
            await self._refuse(case, error, send, stream)
        except Exception:  # a bug must not show its text to a client, nor end the server
            log.exception("Request %s failed.", case.id)
            await self._refuse(case, None, send, stream)
        finally:
            case.status = case.status or STOPPED
            self.active -= 1
            self.metrics.active.set(self.active)
            self._told(case)
            if log.isEnabledFor(logging.INFO):
                log.info("request", extra={"facts": case.facts()})
            self.desk.observe(case, scope)
            await self._leftover(case)

    def _told(self, case: Case) -> None:
        """Tell everybody who keeps numbers that a request is over."""
        for tell in self.over:
            try:
                tell(case)
            except Exception:  # what was answered is answered
                log.exception("Request %s is not counted.", case.id)

    async def _take(
        self, case: Case, scope: http.Scope, receive: http.Receive, read: Callable[[bytes], Request]
    ) -> tuple[Job, Asked]:
        """What is asked, by whom, of whom, and what the policy says to it."""
        if self.draining:
            raise RefusedError(Problem(503, "overloaded", "The server is stopping; try another.", "draining"), 1.0)
        policy = self.policy.current
        if self.desk.recordable(policy.failing):
            raise RefusedError(unrecorded(), 1.0)
        case.identity = await self._who(scope)
        listen = self.settings.listen
        data = await self._wait(case, http.body(scope, receive, listen.largest_body, listen.body_seconds))
        case.size = len(data)
        if self.desk.digester is not None:
            digest = self.desk.digester.begin(case.identity.tenant)
            digest.update(data)
            case.prompt_digest = digest.hexdigest()
        case.request = request = read(data)
        case.upstream, served = self._model(request, case.identity)
        upstream = self._upstreams[case.upstream]
        if self._tracing is not None:
            upstream = self._tracing.around(case, upstream)
        case.level, case.reasons = self.desk.level(case.identity, policy.failing)
        case.decision = decision = policy.decide(facts(request, case.identity, case.level))
        allow(request, decision, upstream.settings)
        case.job = job = Job(request, case.identity.tenant, decision, served)
        return job, upstream

    async def _count(
        self, case: Case, scope: http.Scope, receive: http.Receive, send: http.Send, stream: http.Stream
    ) -> None:
        from azeotrope.gateway.wire.messages_request import read_count

        job, upstream = await self._take(case, scope, receive, read_count)
        lease = await self.desk.admit(case.identity, 0)
        try:
            tokens = await self._wait(case, counting.count(job, upstream))
            case.status = 200
            await self._record(case)
            await plain(send, 200, {"input_tokens": tokens}, self._headers(case))
        finally:
            if lease is not None:
                await lease.settle(0)

    async def _serve(
        self, case: Case, scope: http.Scope, receive: http.Receive, send: http.Send, stream: http.Stream
    ) -> None:
        job, upstream = await self._take(case, scope, receive, case.outward.read)
        request = job.request
        estimate = case.asked + (request.max_tokens or REPLY_TOKENS) * request.n
        lease = await self.desk.admit(case.identity, estimate)
        try:
            await self._until_gone(receive, self._relay(case, job, upstream, send, stream), stream)
        except http.GoneError:
            if lease is not None:  # unless all was said, what was written meanwhile is not known
                await lease.settle(case.used if job.finished else max(estimate, case.used))
            raise
        except Exception as error:
            if lease is not None and not stream.begun:
                await (lease.settle(0) if clients_fault(error) else lease.refund())
            raise
        finally:
            if lease is not None:
                await lease.settle(case.used)

    async def _relay(self, case: Case, job: Job, upstream: Asked, send: http.Send, stream: http.Stream) -> None:
        exchange = await self._wait(case, self.relay.ask(job, upstream))
        digest = self.desk.digester.begin(case.identity.tenant) if self.desk.digester else None

        async def write(piece: bytes) -> None:
            if digest is not None:
                digest.update(piece)
            if not stream.begun:
                stream.headers = self._headers(case)
            await stream.write(piece)

        async def record() -> None:
            case.status = 200
            if digest is not None:
                case.reply_digest = digest.hexdigest()
            await self._record(case)

        try:
            if job.request.stream:
                case.streaming = case.overhead
                await self.relay.stream(job, exchange, upstream.settings, write, record)
                await stream.end()
                return
            body = await self._wait(case, self.relay.whole(job, exchange, upstream.settings))
            case.waited -= job.busy
            if digest is not None:
                digest.update(body)
            await record()
            await http.reply(send, 200, body, self._headers(case))
        finally:
            exchange.close()

    async def _record(self, case: Case) -> None:
        """Record a request before its reply is whole: what a client was told is in the log. Raises AuditError."""
        case.recorded = True
        if self.desk.audit is not None:
            failing = self.policy.current.failing
            await self._wait(case, self.desk.record(case.row(), failing, case.original()))

    async def _leftover(self, case: Case) -> None:
        """Record what ended without a whole reply: refused, failed, or left by the client."""
        if case.recorded or self.desk.audit is None or case.code == "invalid_api_key":  # anybody can send those
            return
        try:
            await self._record(case)
        except AuditError as error:
            log.error("Request %s is not recorded: %s", case.id, error)

    def _headers(self, case: Case) -> http.Headers:
        found = [(b"x-request-id", case.id.encode())]
        if self.settings.listen.overhead_header:
            found.append((b"x-azeotrope-overhead-ms", f"{case.overhead * 1000:.3f}".encode()))
        return found

    async def _until_gone(self, receive: http.Receive, work: Any, stream: http.Stream) -> None:
        """Do `work`, and stop it in the middle if the client goes or takes nothing more. Raises GoneError then."""
        task = asyncio.current_task()
        assert task is not None
        left = False

        def leave() -> None:
            nonlocal left
            if not left:
                left = True
                task.cancel()

        async def listen() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            leave()

        ears = asyncio.get_running_loop().create_task(listen())
        stream.gone = leave
        try:
            await work
        except asyncio.CancelledError:
            if left and not task.uncancel():  # nobody else wants us to stop
                raise http.GoneError from None
            raise
        finally:
            stream.rest()
            ears.cancel()

    async def _wait(self, case: Case, work: Awaitable[T]) -> T:
        """Await others' work, and leave its time out of ours."""
        began = perf_counter()
        try:
            return await work
        finally:
            case.waited += perf_counter() - began

    async def _who(self, scope: http.Scope) -> Identity:
        """Whose key it is. Raises AuthError and AuthDownError."""
        return await self.desk.who(http.sole(scope, b"authorization", b"x-api-key"))

    def _model(self, request: Request, identity: Identity) -> tuple[str, str]:
        """The model's upstream and its name there. A model that a key may not use is not there for it."""
        found = self.settings.find(request.model)
        model = self.settings.models.get(request.model)
        if found is None or (model is not None and model.tiers and identity.tier not in model.tiers):
            problem = Problem(
                404, "not_found", "There is no such model here; see /v1/models.", "model_not_found", "model"
            )
            raise RefusedError(problem)
        return found

    async def _refuse(self, case: Case, error: Exception | None, send: http.Send, stream: http.Stream) -> None:
        """Tell the client what went wrong, in its dialect, also in the middle of a stream."""
        problem, after = problem_of(error)
        case.status, case.code = problem.status, problem.code
        await self._leftover(case)
        if stream.begun:
            await stream.write(case.outward.broken(problem))
            await stream.end()
            return
        headers = self._headers(case)
        if after is not None:
            headers.append((b"retry-after", str(max(1, ceil(after))).encode()))
        await http.reply(send, problem.status, encode(case.outward.error(problem)), headers)
