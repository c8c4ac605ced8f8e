"""What is answered to a GET: how the server is, its models, its document, and its numbers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from azeotrope.gateway import http
from azeotrope.gateway.case import problem_of
from azeotrope.gateway.dialects import dialect
from azeotrope.gateway.ledger.identity import AuthDownError, AuthError, Identity
from azeotrope.gateway.metrics import Metrics
from azeotrope.gateway.operator import OperatorToken
from azeotrope.gateway.settings import ServerFile
from azeotrope.gateway.wire.errors import Problem
from azeotrope.gateway.wire.fields import encode

Page = Callable[[http.Scope, http.Send], Awaitable[None]]
Who = Callable[[http.Scope], Awaitable[Identity]]


class Pages:
    """The pages by their address. Raises MissingError and ConfigError where the metrics' token cannot be had."""

    def __init__(self, settings: ServerFile, metrics: Metrics, who: Who, draining: Callable[[], bool]) -> None:
        self._settings, self._numbers, self._who, self._draining = settings, metrics, who, draining
        reader = settings.listen.metrics_token_env
        self._operator = None if reader is None else OperatorToken(reader, "metrics page")
        self.all: dict[str, Page] = {
            "/healthz": self._health,
            "/readyz": self._ready,
            "/metrics": self._metrics,
            "/openapi.json": self._document,
            "/v1/models": self._models,
        }

    async def _health(self, scope: http.Scope, send: http.Send) -> None:
        await plain(send, 200, {"status": "ok"})

    async def _ready(self, scope: http.Scope, send: http.Send) -> None:
        status, word = (503, "draining") if self._draining() else (200, "ok")
        await plain(send, status, {"status": word})

    async def _metrics(self, scope: http.Scope, send: http.Send) -> None:
        """For operators: what is counted there tells how long hidden reasoning was, and who was found out."""
        if self._operator is None and not self._settings.listen.loopback:
            await nothing(send)
            return
        if self._operator is not None and not self._operator.known(http.header(scope, b"authorization")):
            problem = Problem(401, "authentication", "The metrics need their own token.", "invalid_token")
            await plain(send, 401, dialect("chat").error(problem), [(b"www-authenticate", b"Bearer")])
            return
        kind = [(b"content-type", b"text/plain; version=0.0.4; charset=utf-8")]
        await http.reply(send, 200, self._numbers.page(), kind)

    async def _document(self, scope: http.Scope, send: http.Send) -> None:
        from azeotrope.gateway.openapi import document  # made when it is first asked for

        await http.reply(send, 200, document())

    async def _models(self, scope: http.Scope, send: http.Send) -> None:
        """The models that this key may use, in OpenAI's shape."""
        try:
            identity = await self._who(scope)
        except (AuthError, AuthDownError) as error:
            problem, _ = problem_of(error)
            await plain(send, problem.status, dialect("chat").error(problem))
            return
        models = self._settings.models.items()
        allowed = sorted(name for name, model in models if not model.tiers or identity.tier in model.tiers)
        listed = [{"id": n, "object": "model", "created": 0, "owned_by": "azeotrope"} for n in allowed]
        await plain(send, 200, {"object": "list", "data": listed})


async def plain(send: http.Send, status: int, body: Any, headers: http.Headers | None = None) -> None:
    """A reply in JSON."""
    await http.reply(send, status, encode(body), headers or [])


async def nothing(send: http.Send) -> None:
    """There is no such page."""
    problem = Problem(404, "not_found", "There is nothing at this address.", "not_found")
    await plain(send, 404, dialect("chat").error(problem))
