"""How a server process gets its gateway: from environment variables that the command wrote."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import msgspec

from azeotrope.gateway import logs
from azeotrope.gateway.app import Gateway
from azeotrope.gateway.desk import open_desk
from azeotrope.gateway.ledger.folder import Folder
from azeotrope.gateway.ledger.redis_link import address
from azeotrope.gateway.orphan import PARENT, leave_with_parent
from azeotrope.gateway.policy import DEFAULT
from azeotrope.gateway.settings import ServerFile, SignalSettings
from azeotrope.gateway.status.peers import VARIABLE as PEERS
from azeotrope.gateway.table import PolicyBox
from azeotrope.gateway.traces.opening import open_tracing

if TYPE_CHECKING:
    from azeotrope.gateway.lookout import Lookout
    from azeotrope.gateway.vault import Shelf

VARIABLE = "AZEOTROPE_SERVE"


def environment(settings: ServerFile) -> dict[str, str]:
    """The variables for server processes. Settings name secrets, they do not hold them."""
    return {VARIABLE: settings.model_dump_json(), PARENT: str(os.getpid())}


@contextmanager
def together(settings: ServerFile) -> Iterator[None]:
    """Let the server's processes find each other, while they run, if they have something to tell each other."""
    if settings.status is None or settings.listen.workers == 1:
        yield
        return
    with TemporaryDirectory(prefix="azeotrope-") as folder:  # nobody else can open it
        os.environ[PEERS] = folder
        yield


def build(settings: ServerFile, *, ledger: bool = True) -> Gateway:
    """The gateway of some settings; without `ledger`, to see whether all is well, it opens no log.

    Raises ConfigError, MissingError, DatabaseError.
    """
    policy = PolicyBox(settings.policy or DEFAULT)
    if settings.signals is not None and not ledger:
        _lookout(settings.signals.model_copy(update={"log": None}))  # does it fit?
    shelf = None if settings.vault.redis_env is None else _shelf(address(settings.vault.redis_env))
    tracing = open_tracing(settings.telemetry)
    if not ledger:
        return Gateway(settings, policy, shelf=shelf, tracing=tracing)
    desk = open_desk(settings.ledger, settings.limits, policy.current.failing)
    lookout = None if settings.signals is None else _lookout(settings.signals)
    desk.suspicion = lookout
    gateway = Gateway(settings, policy, desk, shelf, _master(settings), tracing)
    if lookout is not None:
        gateway.metrics.registry.register(lookout.collector())
        if gateway.site is not None:
            gateway.site.watched = lookout.watch.snapshot
    return gateway


def _master(settings: ServerFile) -> bytes | None:
    """The key that processes share, from the gateway's folder; None where there is one process and no folder."""
    ledger = settings.ledger
    alone = settings.listen.workers == 1 and settings.vault.redis_env is None
    if alone and ledger.keys == "none" and not ledger.audit:
        return None
    return Folder(ledger.folder).gateway_key().reveal()


def _shelf(url: str) -> Shelf:
    from azeotrope.gateway.shared_shelf import RedisShelf  # the client is an extra

    return RedisShelf(url)


def _lookout(settings: SignalSettings) -> Lookout:
    from azeotrope.gateway.lookout import Lookout  # numpy is loaded where there is something to detect

    return Lookout(settings)


def make() -> Gateway:
    """The gateway of this process."""
    settings = ServerFile.model_validate(msgspec.json.decode(os.environ[VARIABLE]))
    logs.set_up(requests=settings.listen.log_requests)
    leave_with_parent(settings.listen.drain + 5)  # as long as the parent would have waited
    return build(settings)
