"""Asking an upstream: one request, its status, and its bytes as they come.

Only what is sent before anything came back may be sent again. Nothing of a client's request reaches an upstream's
headers (but the id of its trace, where traces are followed), redirects are not followed, and the address comes
from the settings alone.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

import aiohttp
from yarl import URL

from azeotrope.gateway.settings import Timeouts, UpstreamSettings
from azeotrope.gateway.wire.errors import Problem

AGAIN: Final = frozenset({408, 409, 429, 502, 503, 504})
LONGEST_WAIT: Final = 8.0  # seconds before a retry, whatever the upstream asks for
EARNED: Final = 0.2  # retries that a request earns, so that a dead upstream is not asked twice as often
LARGEST_ERROR: Final = 64 * 1024


class UpstreamError(Exception):
    """The upstream did not answer, or no more. `problem` is what the client is told."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class Answer(Protocol):
    """An answer that is coming in; `Exchange` says what each means."""

    @property
    def status(self) -> int:
        """The HTTP status."""
        ...

    @property
    def retry_after(self) -> float | None:
        """Seconds, if it asks for patience."""
        ...

    @property
    def before(self) -> str:
        """The end of what the model was given to go on from, where that is known; else nothing."""
        ...

    async def read(self) -> bytes:
        """The next bytes; none at the end."""
        ...

    async def body(self, most: int) -> bytes:
        """All of it."""
        ...

    async def finish(self) -> None:
        """The reply is over."""
        ...

    def close(self) -> None:
        """End it at once."""
        ...


class Asked(Protocol):
    """Whoever can be asked: a server elsewhere, or a model here. `Upstream` says what each means."""

    @property
    def settings(self) -> UpstreamSettings:
        """How it is asked."""
        ...

    async def post(self, path: str, body: bytes, *, stance: str = "", trace: str = "", owner: str = "") -> Answer:
        """Send a request, which is part of a `trace` (its W3C header), for a tenant (`owner`)."""
        ...

    async def stop(self) -> None:
        """Close what is open."""
        ...


class Exchange:
    """An answer: its status, `retry_after` in seconds, and its bytes. `close` ends it at once."""

    def __init__(self, response: aiohttp.ClientResponse, times: Timeouts, deadline: float) -> None:
        self._response, self._times = response, times
        self._loop = asyncio.get_running_loop()
        self._deadline = deadline
        self._until = deadline  # when what we wait for is late
        self._late = False
        self._watch: asyncio.TimerHandle | None = None
        self.status = response.status
        self.retry_after = _seconds(response.headers.get("retry-after"))
        self.before = ""
        self._begun = False

    async def read(self) -> bytes:
        """The next bytes, as they come; none at the end. Raises UpstreamError where they stop coming."""
        self._expect(self._times.chunk if self._begun else self._times.first)
        try:
            piece = await self._response.content.readany()
        except (aiohttp.ClientError, ConnectionError, ValueError):
            self.close()
            raise UpstreamError(stalled() if self._late else broken()) from None
        if self._late:
            raise UpstreamError(stalled())
        self._begun = True
        self._until = self._deadline
        if not piece:
            self._rest()
            self._response.release()
        return piece

    async def body(self, most: int) -> bytes:
        """All of it. Raises UpstreamError where it is longer than `most` bytes or stops."""
        found, size = [], 0
        while piece := await self.read():
            found.append(piece)
            size += len(piece)
            if size > most:
                self.close()
                raise UpstreamError(
                    Problem(502, "upstream", "The upstream's reply is too long.", "reply_too_long")
                )
        return b"".join(found)

    async def finish(self) -> None:
        """The reply is over: read its last bytes, so that the connection can serve another request."""
        try:
            async with asyncio.timeout(1.0):
                for _ in range(8):
                    if not await self._response.content.readany():
                        self._response.release()
                        return
        except (TimeoutError, aiohttp.ClientError, ConnectionError, ValueError):
            self.close()

    def close(self) -> None:
        """End the connection: the upstream learns that nobody listens."""
        self._rest()
        self._response.close()

    def _expect(self, seconds: float) -> None:
        """Be late after so many seconds. One timer watches all pieces: it looks again when the time has moved."""
        self._until = min(self._loop.time() + seconds, self._deadline)
        if self._watch is None or self._watch.when() > self._until:
            self._rest()
            self._watch = self._loop.call_at(self._until, self._look)

    def _look(self) -> None:
        if self._loop.time() < self._until:
            self._watch = self._loop.call_at(self._until, self._look)
            return
        self._watch = None
        self._late = True
        self._response.close()  # whoever reads is told

    def _rest(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None


class Upstream:
    """A connection pool to one upstream."""

    def __init__(self, settings: UpstreamSettings) -> None:
        self.settings = settings
        self._session: aiohttp.ClientSession | None = None
        self._urls: dict[str, URL] = {}
        self._headers = {"content-type": "application/json", "user-agent": "azeotrope"}
        if settings.dialect == "messages":
            self._headers["anthropic-version"] = "2023-06-01"
        if key := settings.key():
            bearer = settings.header == "authorization"
            self._headers[settings.header] = f"Bearer {key}" if bearer else key
        self._budget = 10.0

    async def stop(self) -> None:
        """Close the pool and every connection in it."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def post(
        self, path: str, body: bytes, *, stance: str = "", trace: str = "", owner: str = ""
    ) -> Exchange:
        """Send `body`; return once the status is known. Raises UpstreamError.

        `stance` names one whose defenses act while the model writes: servers elsewhere know none, and are not
        asked. Nor are they told whose request it is.

        A refused connection, one that ends before the status, and statuses that ask for it are tried again, as
        far as the retries of this request and the pool's budget go.
        """
        if stance:
            raise UpstreamError(
                Problem(503, "overloaded", "This stance cannot be served now.", "stance_unavailable")
            )
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.settings.timeouts.total
        self._budget = min(10.0, self._budget + EARNED)
        tried = 0
        headers = {**self._headers, "traceparent": trace} if trace else self._headers
        while True:
            try:
                exchange = await self._once(path, body, headers, deadline)
            except UpstreamError as error:
                if error.problem.code != "upstream_unreachable" or not self._again(tried):
                    raise
                wait = 0.05 * 2**tried
            else:
                if exchange.status not in AGAIN or not self._again(tried):
                    return exchange
                wait = exchange.retry_after if exchange.retry_after is not None else 0.25 * 2**tried
                if wait > LONGEST_WAIT:
                    return exchange
                exchange.close()
            tried += 1
            await asyncio.sleep(wait)

    async def _once(self, path: str, body: bytes, headers: dict[str, str], deadline: float) -> Exchange:
        session, times = self._open(), self.settings.timeouts
        url = self._urls.get(path)
        if url is None:
            url = self._urls[path] = URL(self.settings.url + path)
        try:
            async with asyncio.timeout(min(times.first, times.total)):
                response = await session.post(url, data=body, headers=headers, allow_redirects=False)
        except (TimeoutError, aiohttp.ClientError, ConnectionError, OSError) as error:
            if isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ConnectionTimeoutError):
                raise UpstreamError(stalled()) from None
            problem = Problem(502, "upstream", "The upstream cannot be reached.", "upstream_unreachable")
            raise UpstreamError(problem) from None
        return Exchange(response, times, deadline)

    def _again(self, tried: int) -> bool:
        if tried >= self.settings.retries or self._budget < 1:
            return False
        self._budget -= 1
        return True

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=self.settings.connections, ttl_dns_cache=60, keepalive_timeout=30
                ),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self.settings.timeouts.connect),
                auto_decompress=True,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                read_bufsize=256 * 1024,
            )
        return self._session


def unavailable() -> Problem:
    """The defense that the policy wants is not there; nothing is served without it."""
    return Problem(503, "overloaded", "This cannot be served now; try again later.", "stance_unavailable")


def stalled() -> Problem:
    """The upstream took too long."""
    return Problem(504, "timeout", "The upstream took too long.", "upstream_timeout")


def broken() -> Problem:
    """The upstream ended in the middle."""
    return Problem(502, "upstream", "The upstream ended its reply too early.", "upstream_closed")


def _seconds(value: str | None) -> float | None:
    """Retry-After in seconds; dates are not read."""
    if value is None or not value.isascii() or not value.replace(".", "", 1).isdigit() or len(value) > 10:
        return None
    return float(value)
