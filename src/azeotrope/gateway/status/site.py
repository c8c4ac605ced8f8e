"""The status page over HTTP: who may see it, its files, and the data behind it. It only reads."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs

from azeotrope.gateway import http
from azeotrope.gateway.operator import LONGEST, OperatorToken
from azeotrope.gateway.status.book import Book
from azeotrope.gateway.status.peers import VARIABLE, Peers, Question
from azeotrope.gateway.status.settings import StatusSettings
from azeotrope.gateway.status.together import overviews, timelines
from azeotrope.gateway.status.view import Json, Server, Watched, overview, part, tenant_part, timeline
from azeotrope.gateway.wire.fields import encode

if TYPE_CHECKING:
    from azeotrope.gateway.app import Gateway

PATH: Final = "/ui"
FILES: Final = {
    "": ("page.html", b"text/html; charset=utf-8"),
    "page.css": ("page.css", b"text/css; charset=utf-8"),
    "page.js": ("page.js", b"text/javascript; charset=utf-8"),
    "draw.js": ("draw.js", b"text/javascript; charset=utf-8"),
    "tenant.js": ("tenant.js", b"text/javascript; charset=utf-8"),
    "icon.svg": ("icon.svg", b"image/svg+xml"),
}
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'"
)
GUARDS: Final[http.Headers] = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
TEXT: Final = (b"content-type", b"text/plain; charset=utf-8")
ASK: Final = (b"www-authenticate", b'Basic realm="Azeotrope status page", charset="UTF-8"')


class Site:
    """What is at `/ui`. `watched` says how the detection is, where there is one.

    Raises MissingError and ConfigError if there is no token, or a short one.
    """

    def __init__(self, settings: StatusSettings, book: Book, server: Callable[[], Server]) -> None:
        self._token = OperatorToken(settings.token_env, "status page")
        self.book, self._server = book, server
        self.watched: Watched | None = None
        folder = os.environ.get(VARIABLE)
        self._peers = Peers(Path(folder), self._own) if folder and server().processes > 1 else None
        package = resources.files("azeotrope.gateway.status")
        self._files = {path: (kind, (package / name).read_bytes()) for path, (name, kind) in FILES.items()}

    def owns(self, path: str) -> bool:
        """Whether an address is the page's."""
        return path == PATH or path.startswith(f"{PATH}/")

    async def answer(self, scope: http.Scope, send: http.Send) -> None:
        """Answer a GET."""
        if not self._token.known(http.header(scope, b"authorization")):
            # Basic, because browsers ask for it themselves: no form, no cookie, nothing kept in a script's reach
            text = b"The status page needs its token: as the password of any user, or as a bearer token.\n"
            await http.reply(send, 401, text, [TEXT, ASK, *GUARDS])
            return
        path = scope["path"].removeprefix(PATH)
        if not path:  # files are named relative to the page, so that it works behind a prefix, too
            await http.reply(send, 308, b"", [TEXT, (b"location", f"{PATH[1:]}/".encode()), *GUARDS])
            return
        if (file := self._files.get(path[1:])) is not None:
            await http.reply(send, 200, file[1], [(b"content-type", file[0]), *GUARDS])
            return
        found = await self._data(path[1:], scope.get("query_string", b""))
        if found is None:
            await http.reply(send, 404, b"There is nothing at this address.\n", [TEXT, *GUARDS])
            return
        await http.reply(send, 200, encode(found), GUARDS)

    async def start(self) -> None:
        """Be there for other processes of the server."""
        if self._peers is not None:
            await self._peers.start()

    async def stop(self) -> None:
        """Be there no more."""
        if self._peers is not None:
            await self._peers.stop()

    async def _data(self, path: str, query: bytes) -> Json | None:
        if path == "data":
            parts, answering = await self._all(("overview", ""))
            return overview(overviews(parts), answering)
        if path == "data/tenant":
            parts, _ = await self._all(("tenant", _name(query)))
            return timeline(timelines(parts)) if parts else None
        return None

    def _own(self, question: Question) -> Json | None:
        """What this process knows."""
        what, name = question
        if what == "tenant":
            return tenant_part(self.book, name, time())
        return part(self.book, self._server(), self.watched, time())

    async def _all(self, question: Question) -> tuple[list[Json], int]:
        """What the processes know, this one first, and how many were heard."""
        others, heard = ([], 0) if self._peers is None else await self._peers.ask(question)
        own = self._own(question)
        return [*([] if own is None else [own]), *others], heard + 1


def open_site(gateway: Gateway) -> Site | None:
    """The status page of a gateway whose settings want one, told of its requests. Raises as `Site` does."""
    settings = gateway.settings.status
    if settings is None:
        return None

    def server() -> Server:
        return Server(
            policy=gateway.policy.current.hash,
            policy_error=gateway.policy.error,
            active=gateway.active,
            draining=gateway.draining,
            processes=gateway.settings.listen.workers,
        )

    book = Book(settings, gateway.settings.names, keyed=gateway.desk.keys is not None)
    gateway.over.append(book.add)
    return Site(settings, book, server)


def _name(query: bytes) -> str:
    try:
        given = parse_qs(query[:LONGEST].decode("latin-1"), max_num_fields=4)
    except ValueError:
        return ""
    return given.get("name", [""])[0]
