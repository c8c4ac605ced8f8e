"""How a server process gets its gateway: from one environment variable that the command wrote."""

from __future__ import annotations

import os

import msgspec

from azeotrope.gateway.app import Gateway
from azeotrope.gateway.policy import DEFAULT
from azeotrope.gateway.settings import ServerFile
from azeotrope.gateway.table import PolicyBox

VARIABLE = "AZEOTROPE_SERVE"


def environment(settings: ServerFile) -> dict[str, str]:
    """The variable for server processes. Settings name secrets, they do not hold them."""
    return {VARIABLE: settings.model_dump_json()}


def build(settings: ServerFile) -> Gateway:
    """The gateway of some settings. Raises ConfigError and MissingError."""
    return Gateway(settings, PolicyBox(settings.policy or DEFAULT))


def make() -> Gateway:
    """The gateway of this process."""
    return build(ServerFile.model_validate(msgspec.json.decode(os.environ[VARIABLE])))
