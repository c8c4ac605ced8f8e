"""One request to an OpenAI-compatible server and its reply, which is untrusted: bounded, checked, cleaned."""

from __future__ import annotations

import json
import re
import ssl
import time
import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from types import TracebackType
from typing import Any, Self

import httpx2

from azeotrope.models.endpoint_cache import UNKNOWN, Reader, Reply, Usage
from azeotrope.models.endpoint_settings import EndpointSettings

MAX_REPLY = 16 << 20  # bytes
MAX_MESSAGE = 200  # characters of a server's message that are shown
MAX_WAIT_S = 120.0  # the longest Retry-After that is honored
SECRET = 12  # characters; shorter keys stand for "no key" (vLLM's "EMPTY"): a text may contain them

_AGAIN = frozenset({408, 409, 425, 429})
_MAYBE_BILLED = frozenset({408, 504})  # a proxy gave up, and the server behind it may have gone on
_NOT_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError)
_MAX_TOKENS = 10**9


class RefusedError(Exception):
    """The server will not answer this request, however often it is sent."""

    def __init__(self, reason: str, status: int = 0) -> None:
        super().__init__(reason)
        self.status = status


class FailedError(Exception):
    """An attempt that may be repeated. `billed` is the usage it may have cost, None for nothing.

    `wait` is what the server asked for, in seconds.
    """

    def __init__(self, reason: str, billed: Usage | None, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.billed, self.wait = billed, wait


class Wire:
    """A connection pool to one server. Safe to use from several threads. Never follows a redirect.

    `read` says what is kept of a choice; without it, its text and its reasoning.
    """

    def __init__(self, settings: EndpointSettings, key: str, read: Reader | None = None) -> None:
        self._key, self._timeout, self._reader = key, settings.timeout, read or read_text
        self._url = settings.url + ("/chat/completions" if settings.api == "chat" else "/completions")
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        self._client = httpx2.Client(
            headers=headers,
            verify=_certificates(),
            timeout=settings.timeout,
            limits=httpx2.Limits(max_connections=settings.concurrency),
            follow_redirects=False,  # the key is for this host only
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def send(self, body: bytes) -> Reply:
        """Send one request. Raises FailedError (try again) or RefusedError (do not)."""
        end = time.monotonic() + self._timeout
        try:
            with self._client.stream("POST", self._url, content=body) as response:
                raw = _bounded(response, end)
        except _NOT_SENT as error:
            raise FailedError(f"cannot be reached ({self._clean(str(error))})", None) from None
        except httpx2.TimeoutException:
            raise FailedError(f"did not answer within {self._timeout:g} s", UNKNOWN) from None
        except httpx2.InvalidURL as error:
            raise RefusedError(f"has an address that cannot be used ({self._clean(str(error))})") from None
        except httpx2.HTTPError as error:
            raise FailedError(f"broke the connection ({self._clean(str(error))})", UNKNOWN) from None
        if response.is_success:
            return self._read(raw)
        raise self._complaint(response, raw)

    def _complaint(self, response: httpx2.Response, raw: bytes) -> Exception:
        """What a status other than success means."""
        status = response.status_code
        if 300 <= status < 400:
            where = self._clean(response.headers.get("location", "nowhere"))
            return RefusedError(f"redirects ({status}) to {where}, which is not followed", status)
        reason = f"answered {status}: {self._clean(_message(raw)) or 'no message'}"
        if status in _AGAIN or status >= 500:
            wait = _retry_after(response.headers.get("retry-after", ""))
            return FailedError(reason, UNKNOWN if status in _MAYBE_BILLED else None, wait)
        return RefusedError(reason, status)

    def _read(self, raw: bytes) -> Reply:
        """Turn the body of a success into a reply. Raises FailedError for anything that is not a completion."""
        try:
            data = json.loads(raw)
        except (ValueError, RecursionError):
            raise FailedError("sent a reply that is not JSON", UNKNOWN) from None
        usage = _usage(data)
        choices = data.get("choices") if isinstance(data, dict) else None
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict):
            raise FailedError(f"sent a reply without choices ({self._clean(_message(raw))})", usage)
        try:
            content, reasoning = self._reader(choice)
        except ValueError as error:
            raise FailedError(self._clean(str(error)), usage) from None
        finish = str(choice.get("finish_reason") or "")
        return Reply(self._stored(content), self._stored(reasoning), self._clean(finish), *usage)

    def _clean(self, text: str) -> str:
        """One short printable line without the key."""
        plain = "".join(
            " " if unicodedata.category(sign)[0] in "CZ" else sign for sign in self._hide(text)[:10_000]
        )
        return self._hide(" ".join(plain.split()))[:MAX_MESSAGE]  # hidden before either cut can halve it

    def _hide(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text

    def _stored(self, text: str) -> str:
        """Text as it may be written to disk: valid Unicode, and without the key if a server echoes it."""
        valid = text.encode("utf-8", "replace").decode()
        return self._hide(valid) if len(self._key) >= SECRET else valid


def read_text(choice: Mapping[str, Any]) -> tuple[str, str]:
    """Text and reasoning of a choice. Raises ValueError, with the reason, if it is no completion."""
    message = choice.get("message")
    said = message if isinstance(message, dict) else {"content": choice.get("text")}
    content = said.get("content")
    if not isinstance(content, str | None):
        raise ValueError("sent a completion that is not text")
    apart = [said.get(name) for name in ("reasoning_content", "reasoning")]  # old and new name
    reasoning = next((text for text in apart if isinstance(text, str) and text), "")
    finish = str(choice.get("finish_reason") or "")
    # Empty at the limit is a completion: the model spent it all on reasoning that the server hides.
    if not (content or "").strip() and not reasoning and finish != "length":
        raise ValueError(f"sent an empty completion (finish_reason '{finish}')")
    return content or "", reasoning


@cache
def _certificates() -> ssl.SSLContext:
    """Which servers to trust; reading it takes longer than a request."""
    return httpx2.create_ssl_context()


def _bounded(response: httpx2.Response, end: float) -> bytes:
    """Read the body. Raises FailedError if it is too long or comes too slowly."""
    parts, size = [], 0
    for part in response.iter_bytes():
        size += len(part)
        if size > MAX_REPLY:
            raise FailedError(f"sent more than {MAX_REPLY >> 20} MiB", UNKNOWN)
        if time.monotonic() > end:
            raise FailedError("did not finish its answer in time", UNKNOWN)
        parts.append(part)
    return b"".join(parts)


def _message(raw: bytes) -> str:
    """The human part of an error body, in the shapes that servers use."""
    text = raw[:100_000].decode("utf-8", "replace")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text
    for _ in range(3):
        if not isinstance(found, Mapping):
            break
        names = [name for name in ("error", "message", "detail") if found.get(name)]
        found = found[names[0]] if names else text
    return found if isinstance(found, str) else text


def _usage(data: Any) -> Usage:
    usage = data.get("usage") if isinstance(data, dict) else None
    if not isinstance(usage, dict):
        return UNKNOWN
    return _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= _MAX_TOKENS else None


def _retry_after(text: str) -> float:
    """Seconds, from a number or a date; 0 for anything else."""
    text = text.strip()
    if re.fullmatch(r"\d{1,9}(?:\.\d{1,9})?", text, re.ASCII):
        return min(float(text), MAX_WAIT_S)
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return 0.0
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return min(max(0.0, (when - datetime.now(UTC)).total_seconds()), MAX_WAIT_S)
