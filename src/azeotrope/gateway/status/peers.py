"""What the other server processes know, asked over sockets in a folder that only this user can open."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from azeotrope.gateway.logs import log
from azeotrope.gateway.wire.fields import encode

VARIABLE: Final = "AZEOTROPE_SERVE_PEERS"  # the folder, made by the command that starts the processes
SECONDS: Final = 1.0  # to wait for another's answer
Question = tuple[str, str]


class Peers:
    """The processes of one server. `answer` says what this one knows, None for nothing."""

    def __init__(self, folder: Path, answer: Callable[[Question], Any]) -> None:
        self._folder, self._answer = folder, answer
        self._own = folder / f"{os.getpid()}.sock"
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Answer others from now on."""
        try:
            self._server = await asyncio.start_unix_server(self._serve, self._own)
        except OSError as error:
            log.error("The status page of other processes will miss this one: %s", error.strerror or error)

    async def stop(self) -> None:
        """Answer no more."""
        if self._server is not None:
            self._server.close()
        self._own.unlink(missing_ok=True)

    async def ask(self, question: Question) -> tuple[list[Any], int]:
        """What the others know, and how many of them answered."""
        others = [path for path in self._folder.glob("*.sock") if path != self._own]
        found = await asyncio.gather(*(self._one(path, question) for path in others))
        answered = [msgspec.json.decode(one) for one in found if one]
        return [one for one in answered if one is not None], len(answered)

    async def _one(self, path: Path, question: Question) -> bytes:
        try:
            async with asyncio.timeout(SECONDS):
                reader, writer = await asyncio.open_unix_connection(path)
                try:
                    writer.write(encode(list(question)) + b"\n")
                    return await reader.read()
                finally:
                    writer.close()
        except ConnectionRefusedError:  # its process ended without a word
            path.unlink(missing_ok=True)
        except (OSError, TimeoutError):
            pass
        return b""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError, TimeoutError, ValueError):
                async with asyncio.timeout(SECONDS):
                    question = msgspec.json.decode(await reader.readline(), type=Question)
                    writer.write(encode(self._answer(question)))
                    await writer.drain()
        finally:
            writer.close()
