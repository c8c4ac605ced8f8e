"""What a client is told where there is no reply: our own refusals, and upstreams' errors in our words."""

from __future__ import annotations

import msgspec

from azeotrope.gateway.wire import events as ev
from azeotrope.gateway.wire.errors import Problem
from azeotrope.gateway.wire.fields import encode, word

LARGEST_ERROR = 64 * 1024  # bytes of an upstream's error that are read


class RefusedError(Exception):
    """A request that gets no reply, and what the client is told; `retry_after` in seconds."""

    def __init__(self, problem: Problem, retry_after: float | None = None) -> None:
        super().__init__(problem.message)
        self.problem, self.retry_after = problem, retry_after


def refusal(status: int, body: bytes) -> Problem:
    """What a client is told of an upstream's error: its kind, and its code if that is a plain word."""
    code = _code(body)
    if status in (401, 403):
        return Problem(502, "upstream", "The upstream does not accept this server's key.", "upstream_refused")
    if status == 404:
        return Problem(404, "not_found", "The upstream does not know this model.", code or "model_not_found")
    if status == 413:
        return Problem(413, "too_large", "The request is too large for the upstream.", code or "too_large")
    if status == 429:
        return Problem(429, "rate_limit", "The upstream is asked too much; try again later.", "upstream_busy")
    if status in (503, 529):
        return Problem(503, "overloaded", "The upstream is overloaded; try again later.", "upstream_overloaded")
    if 400 <= status < 500:
        return Problem(status, "invalid_request", f"The upstream refused the request ({status}).", code)
    return Problem(502, "upstream", f"The upstream failed ({status}).", "upstream_error")


def told(failure: ev.Failure) -> Problem:
    """An upstream's failure within a reply, as a client is told of it."""
    return refusal(failure.status, encode({"error": {"code": failure.code}}))


def _code(body: bytes) -> str:
    try:
        found = msgspec.json.decode(body)
        return word(found["error"].get("code")) or word(found["error"].get("type"))
    except (msgspec.DecodeError, AttributeError, KeyError, TypeError, RecursionError):
        return ""
