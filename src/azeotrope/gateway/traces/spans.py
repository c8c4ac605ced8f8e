"""The spans of a request: one for what the client asked of the gateway, below it one for what it asked upstream.

Names are those of the semantic conventions 1.44.0 as the package `opentelemetry-semantic-conventions` 0.66b2 has
them; the part on generative AI is in development there. A span holds numbers and names, no text of a prompt or
reply, no stop sequence, no key and no tenant: `azeotrope.request_id` leads to the audit log.
"""

from __future__ import annotations

from time import time_ns
from typing import TYPE_CHECKING, Final

from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

import azeotrope
from azeotrope.gateway.http import Scope, header
from azeotrope.gateway.ledger.audit_row import plain
from azeotrope.gateway.settings import TEACHER, UpstreamSettings
from azeotrope.gateway.traces.told import asked_upstream, of_reply, of_request, of_stance, operation
from azeotrope.gateway.upstream import Answer, Asked

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from azeotrope.gateway.case import Case

SCHEMA: Final = "https://opentelemetry.io/schemas/1.44.0"
PARENT: Final = "traceparent"
PARENT_HEADER: Final = b"traceparent"
LONGEST: Final = 128  # characters of that header


class Trace:
    """The spans of one request. `first`: when the upstream's reply began, and `over` when it ended (ns)."""

    __slots__ = ("asked", "began", "first", "over", "server", "upstream")

    def __init__(self, server: Span) -> None:
        self.server = server
        self.upstream: Span | None = None
        self.asked: UpstreamSettings | None = None
        self.began = self.first = self.over = 0


class Tracing:
    """Makes spans. `follow`: whether a client's trace is gone on with."""

    def __init__(self, provider: TracerProvider, *, follow: bool = True) -> None:
        self._provider, self._follow = provider, follow
        self._tracer = provider.get_tracer("azeotrope.gateway", azeotrope.__version__, schema_url=SCHEMA)
        self._form = TraceContextTextMapPropagator()

    def begin(self, case: Case, scope: Scope) -> None:
        """A request came."""
        parent = header(scope, PARENT_HEADER) if self._follow else ""
        known = 0 < len(parent) <= LONGEST  # a longer one would be logged, at a client's pleasure
        context = self._form.extract({PARENT: parent}, Context()) if known else Context()
        path: str = scope["path"]
        attributes = {
            "http.request.method": "POST",
            "http.route": path,
            "url.path": path,
            "url.scheme": str(scope.get("scheme", "http")),
        }
        span = self._tracer.start_span(f"POST {path}", context, SpanKind.SERVER, attributes)
        case.trace = Trace(span)

    def around(self, case: Case, upstream: Asked) -> Asked:
        """The same upstream, whose next request is a span below the request's."""
        return upstream if case.trace is None else _Traced(self, case, case.trace, upstream)

    def start(self, case: Case, trace: Trace, settings: UpstreamSettings) -> str:
        """The upstream is asked; returns what it is told of the trace."""
        kind = SpanKind.INTERNAL if case.upstream == TEACHER else SpanKind.CLIENT
        served = plain(case.job.served) if case.job else ""
        name = f"{operation(case)} {served}".strip()
        span = self._tracer.start_span(name, set_span_in_context(trace.server, Context()), kind)
        trace.upstream, trace.asked, trace.began = span, settings, time_ns()
        carrier: dict[str, str] = {}
        self._form.inject(carrier, set_span_in_context(span, Context()))
        return carrier.get(PARENT, "")  # without tracestate, which a client can write what it likes in

    def end(self, case: Case) -> None:
        """A request is over."""
        trace = case.trace
        if trace is None:
            return
        if trace.upstream is not None and trace.asked is not None:
            if trace.upstream.is_recording():
                trace.upstream.set_attributes(asked_upstream(case, trace.asked) | of_reply(case))
                if trace.first and case.request is not None and case.request.stream:
                    seconds = (trace.first - trace.began) / 1e9
                    trace.upstream.set_attribute("gen_ai.response.time_to_first_chunk", seconds)
                _outcome(trace.upstream, case, failed=case.status != 200 or bool(case.broke))
            trace.upstream.end(trace.over or None)
        if trace.server.is_recording():
            told: dict[str, AttributeValue] = of_request(case) | of_reply(case) | of_stance(case)
            trace.server.set_attributes(told | {"http.response.status_code": case.status})
            _outcome(trace.server, case, failed=case.status >= 500 or bool(case.broke))
        trace.server.end()

    def close(self) -> None:
        """Send what waits. Blocks for some seconds at most."""
        self._provider.shutdown()


def _outcome(span: Span, case: Case, *, failed: bool) -> None:
    """Why there is no reply, in a word. On a server's span what the client did wrong is no failure."""
    if case.status == 200 and not case.broke:
        return
    span.set_attribute("error.type", case.broke or case.code or ("client_gone" if case.gone else str(case.status)))
    if failed:
        span.set_status(Status(StatusCode.ERROR))


class _Traced:
    """An upstream whose requests are spans."""

    __slots__ = ("_case", "_inner", "_trace", "_tracing")

    def __init__(self, tracing: Tracing, case: Case, trace: Trace, inner: Asked) -> None:
        self._tracing, self._case, self._trace, self._inner = tracing, case, trace, inner

    @property
    def settings(self) -> UpstreamSettings:
        """See `Asked`."""
        return self._inner.settings

    async def post(self, path: str, body: bytes, *, stance: str = "", trace: str = "", owner: str = "") -> Answer:
        """See `Asked`."""
        told = self._tracing.start(self._case, self._trace, self._inner.settings)
        try:
            answer = await self._inner.post(path, body, stance=stance, trace=told, owner=owner)
        finally:
            self._trace.over = time_ns()  # unless a reply follows
        recorded = self._trace.upstream is not None and self._trace.upstream.is_recording()
        return _Timed(self._trace, answer) if recorded else answer

    async def stop(self) -> None:
        """See `Asked`."""
        await self._inner.stop()


class _Timed:
    """An answer, and when it began and ended."""

    __slots__ = ("_ended", "_inner", "_trace", "before", "retry_after", "status")

    def __init__(self, trace: Trace, inner: Answer) -> None:
        self._trace, self._inner, self._ended = trace, inner, False
        self.status, self.retry_after, self.before = inner.status, inner.retry_after, inner.before

    async def read(self) -> bytes:
        """See `Answer`."""
        piece = await self._inner.read()
        if not self._trace.first:
            self._trace.first = time_ns()
        return piece

    async def body(self, most: int) -> bytes:
        """See `Answer`."""
        try:
            return await self._inner.body(most)
        finally:
            self._end()

    async def finish(self) -> None:
        """See `Answer`."""
        self._end()
        await self._inner.finish()

    def close(self) -> None:
        """See `Answer`."""
        self._end()
        self._inner.close()

    def _end(self) -> None:
        if not self._ended:
            self._ended, self._trace.over = True, time_ns()
