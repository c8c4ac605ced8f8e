"""What spans tell of a request: attributes by the semantic conventions, and our own under `azeotrope.`."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from azeotrope.gateway.ledger.audit_row import plain
from azeotrope.gateway.settings import TEACHER, UpstreamSettings

if TYPE_CHECKING:
    from opentelemetry.util.types import AttributeValue

    from azeotrope.gateway.case import Case

Attributes = dict[str, "AttributeValue"]
PORTS = {"http": 80, "https": 443}


def of_request(case: Case) -> Attributes:
    """What the client asked for. Nothing that it wrote is told but the model's name and numbers."""
    request = case.request
    found: Attributes = {"gen_ai.operation.name": operation(case), "azeotrope.request_id": case.id}
    if request is None:
        return found
    values = {
        "gen_ai.request.model": plain(request.model),
        "gen_ai.request.stream": True if request.stream else None,
        "gen_ai.request.choice.count": request.n if request.n != 1 else None,
        "gen_ai.request.max_tokens": request.max_tokens,
        "gen_ai.request.temperature": request.temperature,
        "gen_ai.request.top_p": request.top_p,
        "gen_ai.request.top_k": request.top_k,
        "gen_ai.request.seed": request.seed,
        "gen_ai.request.frequency_penalty": request.frequency_penalty,
        "gen_ai.request.presence_penalty": request.presence_penalty,
    }
    return found | {name: value for name, value in values.items() if value is not None}


def asked_upstream(case: Case, settings: UpstreamSettings) -> Attributes:
    """What the upstream was asked for, and where it is."""
    found = of_request(case) | {"gen_ai.provider.name": provider(case, settings)}
    if case.job is not None:
        found["gen_ai.request.model"] = plain(case.job.served)
    address = urlsplit(settings.url)
    if case.upstream != TEACHER and address.hostname:
        found["server.address"] = address.hostname
        found["server.port"] = address.port or PORTS.get(address.scheme, 443)
    return found


def of_reply(case: Case) -> Attributes:
    """What came back: numbers as the upstream bills them, whatever the client is told of them."""
    job = case.job
    if job is None or job.shield is None:  # there was no reply
        return {}
    found: Attributes = {"gen_ai.response.model": plain(job.served), "gen_ai.response.id": job.id}
    if job.reasons:
        found["gen_ai.response.finish_reasons"] = [job.reasons[choice] for choice in sorted(job.reasons)]
    if job.usage is not None:
        counts = {
            "gen_ai.usage.input_tokens": job.usage.prompt,
            "gen_ai.usage.output_tokens": job.usage.completion,
            "gen_ai.usage.reasoning.output_tokens": job.usage.reasoning,
        }
        found |= {name: count for name, count in counts.items() if count is not None}
    return found


def of_stance(case: Case) -> Attributes:
    """What the policy decided, and what it did to the reply."""
    found: Attributes = {"azeotrope.overhead_ms": round(case.overhead * 1000, 3)}
    if case.level is not None:
        found["azeotrope.level"] = case.level
        found["azeotrope.reasons"] = list(case.reasons)
    if case.decision is not None:
        found["azeotrope.stance"] = case.decision.stance.name
        found["azeotrope.context"] = case.decision.context
        found["azeotrope.policy_hash"] = case.decision.policy
    if case.job is not None and case.job.shield is not None:
        found["azeotrope.altered"] = case.job.shield.change.altered
    return found


def operation(case: Case) -> str:
    """What is done, as the conventions call it."""
    return "text_completion" if case.outward.name == "completions" else "chat"


def provider(case: Case, settings: UpstreamSettings) -> str:
    """Whose interface the upstream speaks: the conventions do not want more than what is known of it."""
    if case.upstream == TEACHER:
        return "azeotrope"
    return "anthropic" if settings.dialect == "messages" else "openai"
