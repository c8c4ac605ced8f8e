"""How server processes listen: HTTP/1.1 alone, and a time in which a request's head must have arrived.

HTTP/2 and WebSockets are not spoken: whoever wants them has a proxy in front, and what is not there is no way in.
"""

from __future__ import annotations

from typing import Any

from granian.constants import HTTPModes
from granian.http import HTTP1Settings

from azeotrope.gateway.settings import Listen

CONNECTIONS = 10_000  # at a time


def options(listen: Listen) -> dict[str, Any]:
    """Options of the server, whether it runs in processes of its own or within this one."""
    return {
        "http": HTTPModes.http1,
        "http1_settings": HTTP1Settings(header_read_timeout=max(1, int(listen.head_seconds * 1000))),
        "websockets": False,
        "backpressure": CONNECTIONS,
    }
