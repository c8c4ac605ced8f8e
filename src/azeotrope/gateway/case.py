"""A request on its way through the application: what is known of it, and what is told, counted and recorded."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

from azeotrope.gateway.desk import ANONYMOUS
from azeotrope.gateway.dialects import Dialect
from azeotrope.gateway.http import BodyError
from azeotrope.gateway.ledger.audit_log import AuditError
from azeotrope.gateway.ledger.audit_row import AuditRow
from azeotrope.gateway.ledger.identity import AuthDownError, AuthError, Identity
from azeotrope.gateway.ledger.key_store import now_ms
from azeotrope.gateway.ledger.quota import LimitError, LimitsDownError
from azeotrope.gateway.metrics import Metrics
from azeotrope.gateway.refusal import RefusedError
from azeotrope.gateway.relay import Job
from azeotrope.gateway.table import Decision
from azeotrope.gateway.upstream import UpstreamError
from azeotrope.gateway.wire.errors import Kind, Problem
from azeotrope.gateway.wire.fields import encode
from azeotrope.gateway.wire.request import Request, RequestError, image_sizes

if TYPE_CHECKING:
    from azeotrope.gateway.traces.spans import Trace

BROKEN = frozenset(  # our own words for how an upstream fails in the middle; its own words are not counted apart
    f"upstream_{how}" for how in "closed malformed restarted aborted timeout unreachable error".split()
)
IMAGE_TOKENS = 1000  # what an image is taken for, before the upstream says what it was
CLIENT_GONE, STOPPED = 499, 500  # in metrics and records of requests that nobody answered


@dataclass(slots=True)
class Case:
    """A request and its state.

    `began` on the performance counter. `waited`: seconds in which others worked. `streaming`: seconds of our own
    work before the first piece of a stream, of which `Job.busy` counts the rest.
    """

    id: str
    outward: Dialect
    began: float
    identity: Identity = ANONYMOUS
    request: Request | None = None
    decision: Decision | None = None
    job: Job | None = None
    upstream: str = ""  # its name
    level: int | None = None  # of suspicion, once it is known
    reasons: tuple[str, ...] = ()
    size: int = 0  # bytes of the request
    status: int = 0
    code: str = ""
    waited: float = 0.0
    streaming: float | None = None
    gone: bool = False
    recorded: bool = False
    prompt_digest: str = ""
    reply_digest: str = ""
    trace: Trace | None = None

    @property
    def overhead(self) -> float:
        """Seconds of our own work so far."""
        if self.streaming is not None and self.job is not None:
            return self.streaming + self.job.busy
        return perf_counter() - self.began - self.waited

    @property
    def took(self) -> float:
        """Seconds since it came."""
        return perf_counter() - self.began

    @property
    def asked(self) -> int:
        """About how many tokens the request is, by its bytes; an image is one size, however it is written."""
        images = image_sizes(self.request) if self.request else []
        return max(0, self.size - sum(images)) // 4 + IMAGE_TOKENS * len(images)

    @property
    def altered(self) -> bool:
        """Whether what the client was given is not what the model would have written."""
        if self.job is None or self.job.shield is None:
            return False
        return self.job.shield.change.altered or bool(self.decision and self.decision.stance.logits)

    @property
    def used(self) -> int:
        """Tokens that the request used, as the upstream says, or as its characters suggest."""
        job = self.job
        change = job.shield.change if job is not None and job.shield is not None else None
        counted = self.asked + ((change.came + change.answer) // 4 if change else 0)
        if job is None or job.usage is None or job.usage.completion is None:
            return counted
        billed = (job.usage.prompt or 0) + job.usage.completion
        if job.request.n > 1 and change:  # of several choices, llama.cpp counts one
            billed = max(billed, (job.usage.prompt or 0) + (change.came + change.answer) // 4)
        return billed if job.reasons else max(billed, counted)  # some tell it first, and the rest with the end

    @property
    def broke(self) -> str:
        """How the upstream failed in the middle, in a word; "" if it did not."""
        failure = self.job.failure if self.job else None
        return "" if failure is None else failure.code if failure.code in BROKEN else "upstream_error"

    def row(self) -> AuditRow:
        """What is recorded."""
        job, request, decision = self.job, self.request, self.decision
        usage = job.usage if job else None
        change = job.shield.change if job and job.shield else None
        return AuditRow(
            time_ms=now_ms(),
            request_id=self.id,
            tenant=self.identity.tenant,
            key_id=self.identity.key_id,
            policy=decision.policy if decision else "",
            stance=decision.stance.name if decision else "",
            reasons=(*self.reasons, *(code for code in (self.code, self.broke) if code)),
            model_requested=request.model if request else "",
            model_served=job.served if job else "",
            dialect=self.outward.name,
            streamed=bool(request and request.stream),
            status=self.status,
            prompt_tokens=(usage.prompt if usage else None) or 0,
            completion_tokens=(usage.completion if usage else None) or 0,
            reasoning_tokens=(usage.reasoning if usage else None) or 0,
            chars_transformed=max(0, change.came - change.left) if change else 0,
            altered=self.altered,
            latency_ms=self.took * 1000,
            overhead_ms=self.overhead * 1000,
            prompt_digest=self.prompt_digest,
            reply_digest=self.reply_digest,
        )

    def original(self) -> str:
        """The reasoning as the model wrote it, for auditors; "" if it left as it came or nobody wants it."""
        change = self.job.shield.change if self.job and self.job.shield else None
        wanted = self.decision is not None and self.decision.stance.stance.seal
        if change is None or not (wanted and change.altered):
            return ""
        found = change.original or change.summaries
        return encode({str(n): "".join(pieces) for n, pieces in found.items()}).decode()

    def facts(self) -> dict[str, str | int | float | bool]:
        """What the log line of this request holds."""
        row = self.row()
        names = "request_id tenant key_id stance dialect streamed status prompt_tokens completion_tokens altered"
        found = {name: getattr(row, name) for name in names.split()}
        return {
            **found,
            "model": row.model_requested[:80],
            "code": self.code,
            "ms": round(row.latency_ms, 1),
            "overhead_ms": round(row.overhead_ms, 3),
        }

    def count(self, metrics: Metrics) -> None:
        """Count what happened."""
        name, job = self.outward.name, self.job
        stance = self.decision.stance.name if self.decision else "none"
        metrics.count(name, self.status, stance, self.took)
        metrics.overhead.observe(max(0.0, self.overhead))
        if self.gone:
            metrics.gone.inc()
        if job is None:
            return
        if self.broke:
            metrics.failures.labels(self.broke).inc()
        if job.usage is not None:
            metrics.billed(job.usage.prompt or 0, job.usage.completion or 0)
        if job.shield is not None:
            change = job.shield.change
            metrics.changed(change.came, change.left, self.altered)
        if job.pieces:
            metrics.chunks.inc(job.pieces)
            metrics.chunk.observe(job.busy / job.pieces)


def problem_of(error: Exception | None) -> tuple[Problem, float | None]:
    """What a client is told of an error, and after how many seconds it may try again. None: a bug."""
    match error:
        case RefusedError():
            return error.problem, error.retry_after
        case UpstreamError() | BodyError():
            return error.problem, None
        case RequestError():
            kind: Kind = "too_large" if error.status == 413 else "invalid_request"
            return Problem(error.status, kind, str(error), error.code, error.param), None
        case AuthError():
            return Problem(401, "authentication", str(error), "invalid_api_key"), None
        case AuthDownError():
            return Problem(503, "overloaded", str(error), "keys_down"), 1.0
        case LimitError(denial=denial):
            return Problem(429, "rate_limit", str(error), "rate_limit_exceeded"), denial.retry_after
        case LimitsDownError(retry_after=after):
            return Problem(503, "overloaded", str(error), "limits_down"), after
        case AuditError():
            return unrecorded(), 1.0
        case _:
            text = "The gateway failed; the request's id is in the reply's headers."
            return Problem(500, "internal", text, "internal"), None


def clients_fault(error: Exception) -> bool:
    """Whether a request failed for what was asked, and not for how we or the upstream were just then."""
    status = problem_of(error)[0].status
    return 400 <= status < 500 and status not in (408, 429)


def unrecorded() -> Problem:
    """What cannot be recorded is not served."""
    return Problem(503, "overloaded", "The request cannot be recorded just now; try again.", "audit_down")


def asks_for_reasoning(request: Request) -> bool:
    """Whether a request wants the model to reason."""
    return request.effort not in (None, "none") or bool(request.reasoning_budget)
