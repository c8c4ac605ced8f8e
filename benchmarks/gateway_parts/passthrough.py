"""The least that a Python proxy can do: it passes bytes on, both ways, and looks at nothing."""

from __future__ import annotations

import os
from typing import Any

import aiohttp
import upstream

TARGET = os.environ.get("PASSTHROUGH_TARGET", "")
_sessions: list[aiohttp.ClientSession] = []


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """ASGI."""
    if scope["type"] != "http":
        return
    if not _sessions:
        connector = aiohttp.TCPConnector(limit=1000)
        _sessions.append(aiohttp.ClientSession(connector=connector, auto_decompress=False))
    data = await upstream.read(receive)
    async with _sessions[0].request(
        scope["method"], TARGET + scope["path"], data=data, headers={"content-type": "application/json"}
    ) as reply:
        kind = reply.headers.get("content-type", "application/json").encode()
        await send({"type": "http.response.start", "status": reply.status, "headers": [(b"content-type", kind)]})
        while piece := await reply.content.readany():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
