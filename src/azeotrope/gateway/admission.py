"""What the policy is told of a request, and what its stance does not allow."""

from __future__ import annotations

from azeotrope.gateway.case import asks_for_reasoning
from azeotrope.gateway.ledger.identity import Identity
from azeotrope.gateway.refusal import RefusedError
from azeotrope.gateway.settings import UpstreamSettings
from azeotrope.gateway.table import Decision, Facts
from azeotrope.gateway.wire.errors import Problem
from azeotrope.gateway.wire.request import Request, RequestError


def facts(request: Request, identity: Identity, level: int) -> Facts:
    """What the policy decides by."""
    return Facts(
        tenant=identity.tenant,
        tier=identity.tier,
        model=request.model,
        dialect=request.dialect,
        level=level,
        stream=request.stream,
        tools=bool(request.tools),
        logprobs=request.logprobs,
        reasoning=asks_for_reasoning(request),
        most_tokens=request.max_tokens,
    )


def allow(request: Request, decision: Decision, upstream: UpstreamSettings) -> None:
    """Refuse what the stance does not allow. Raises RefusedError and RequestError."""
    stance = decision.stance.stance
    if stance.refuse:
        raise RefusedError(Problem(403, "permission", stance.refuse, "refused_by_policy"))
    if request.logprobs and (stance.logprobs == "none" or upstream.shows == "text"):
        raise RequestError("Log-probabilities are not available here.", "logprobs", "unsupported_parameter")
    if request.bias and not stance.logit_bias:
        raise RequestError("'logit_bias' is not available here.", "logit_bias", "unsupported_parameter")
    if request.dialect == "completions" and not stance.raw_prompts:
        raise RefusedError(
            Problem(
                403, "permission", "Plain completions are not available here; use chat completions.", "raw_prompt"
            )
        )
