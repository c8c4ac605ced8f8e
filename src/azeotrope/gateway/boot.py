"""How a server process gets its gateway: from one environment variable that the command wrote."""

from __future__ import annotations

import os

import msgspec

from azeotrope.gateway import logs
from azeotrope.gateway.app import Gateway
from azeotrope.gateway.desk import open_desk
from azeotrope.gateway.policy import DEFAULT
from azeotrope.gateway.settings import ServerFile
from azeotrope.gateway.table import PolicyBox

VARIABLE = "AZEOTROPE_SERVE"


def environment(settings: ServerFile) -> dict[str, str]:
    """The variable for server processes. Settings name secrets, they do not hold them."""
    return {VARIABLE: settings.model_dump_json()}


def build(settings: ServerFile, *, ledger: bool = True) -> Gateway:
    """The gateway of some settings; without `ledger`, to see whether all is well, it opens no log.

    Raises ConfigError, MissingError, DatabaseError.
    """
    policy = PolicyBox(settings.policy or DEFAULT)
    desk = open_desk(settings.ledger, settings.limits, policy.current.failing) if ledger else None
    return Gateway(settings, policy, desk)


def make() -> Gateway:
    """The gateway of this process."""
    settings = ServerFile.model_validate(msgspec.json.decode(os.environ[VARIABLE]))
    logs.set_up(requests=settings.listen.log_requests)
    return build(settings)
