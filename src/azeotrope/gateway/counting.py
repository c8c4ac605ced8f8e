"""Counting the tokens of a prompt in Anthropic's dialect: asked of upstreams that speak it, refused for others.

What is counted is what the client sent. Reasoning that the vault keeps is left out, and so is what a client writes
as reasoning: else the count would tell how long is what the policy hides.
"""

from __future__ import annotations

import msgspec

from azeotrope.gateway.refusal import RefusedError, refusal
from azeotrope.gateway.relay import Job
from azeotrope.gateway.upstream import Asked, UpstreamError
from azeotrope.gateway.vault import replace_thoughts
from azeotrope.gateway.wire.errors import Problem, WireError
from azeotrope.gateway.wire.fields import decode, encode, number
from azeotrope.gateway.wire.messages_upstream import write_count
from azeotrope.gateway.wire.request import RequestError

PATH = "/messages/count_tokens"
LARGEST = 64 * 1024  # bytes of an upstream's answer
ABSENT = Problem(404, "not_found", "The upstream of this model does not count tokens.", "not_supported", "model")


async def count(job: Job, upstream: Asked) -> int:
    """The tokens of a prompt. Raises RefusedError, RequestError, UpstreamError."""
    if upstream.settings.dialect != "messages":
        raise RefusedError(ABSENT)
    messages = tuple(replace_thoughts(message, "", ()) for message in job.request.messages)
    request = msgspec.structs.replace(job.request, model=job.served, messages=messages)
    try:
        body = encode(write_count(request))
    except RequestError:
        raise
    except WireError:
        raise RequestError("The request is nested too deeply.", code="invalid_json") from None
    exchange = await upstream.post(PATH, body)
    try:
        told = await exchange.body(LARGEST)
        if exchange.status != 200:
            raise RefusedError(refusal(exchange.status, told), exchange.retry_after)
        found = number(decode(told, "The upstream's count").get("input_tokens"))
    except WireError:
        found = None
    finally:
        exchange.close()
    if found is None:
        problem = Problem(502, "upstream", "The upstream's count cannot be read.", "upstream_malformed")
        raise UpstreamError(problem)
    return found
