"""`azeotrope serve` as a process."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
from gateway_drive import free_port

COMMAND = [sys.executable, "-c", "from azeotrope.cli import main; main()", "serve"]


@contextmanager
def server(*words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command, once it answers; yields the process and its address."""
    port = free_port()
    process = subprocess.Popen(
        [*COMMAND, "--port", str(port), *words], stderr=subprocess.PIPE, text=True, env={**os.environ}
    )
    url = f"http://127.0.0.1:{port}"
    try:
        asyncio.run(answers(url, process))
        yield process, url
    finally:
        process.kill()
        process.wait(10)


async def answers(url: str, process: subprocess.Popen[str]) -> None:
    """Wait until there is an answer. Raises AssertionError if the process ends first."""
    until = time.monotonic() + 30
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < until:
            assert process.poll() is None, process.stderr and process.stderr.read()
            try:
                async with session.get(url + "/healthz") as reply:
                    assert reply.status == 200
                    return
            except aiohttp.ClientError:
                await asyncio.sleep(0.05)
    raise AssertionError("no answer")
