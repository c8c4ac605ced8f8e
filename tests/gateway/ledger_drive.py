"""What the tests of keys, limits and the audit log share."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from azeotrope.gateway.ledger.audit_row import AuditRow

ROOT = Path(__file__).resolve().parent.parent.parent
POSTGRES = "AZEOTROPE_TEST_POSTGRES"
REDIS = "AZEOTROPE_TEST_REDIS"


def row(number: int = 0, **changes: Any) -> AuditRow:
    """A row such as the gateway writes."""
    values: dict[str, Any] = {
        "time_ms": 1_790_000_000_000 + number, "request_id": f"req_{number:06d}", "tenant": "acme",
        "key_id": "abcdefghij2345", "policy": "0f" * 8, "stance": "reasoning=summary", "reasons": ("template",),
        "model_requested": "r1", "model_served": "deepseek-r1", "dialect": "chat", "streamed": number % 2 == 0,
        "status": 200, "prompt_tokens": 100 + number, "completion_tokens": 300, "reasoning_tokens": 200,
        "chars_transformed": 17, "altered": True, "latency_ms": 1234.5, "overhead_ms": 0.412,
        "prompt_digest": "ab" * 32, "reply_digest": "cd" * 32,
    }  # fmt: skip
    return AuditRow(**{**values, **changes})


def service(variable: str) -> str:
    """The URL of a real service, or a skip that cannot be overlooked."""
    url = os.environ.get(variable, "")
    if not url:
        why = f"no real service: {variable} is not set; run: scripts/services.sh start"
        warnings.warn(pytest.PytestWarning(f"SKIPPED, {why}"), stacklevel=2)
        pytest.skip(why)
    return url


@contextmanager
def new_postgres() -> Iterator[str]:
    """The URL of a new database in the test's PostgreSQL."""
    import psycopg
    from psycopg import sql

    url = service(POSTGRES)
    name = f"azeotrope_{secrets.token_hex(6)}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield url.rsplit("/", 1)[0] + "/" + name
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def admin(url: str, statement: str) -> None:
    """Run a statement as the owner of the test's PostgreSQL, outside the database that it is about."""
    import psycopg

    with psycopg.connect(service(POSTGRES), autocommit=True) as connection:
        connection.execute(statement.replace("DATABASE_NAME", url.rsplit("/", 1)[1]).encode())


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    """Run a script in a fresh Python process that has this source tree."""
    return subprocess.Popen(
        [sys.executable, "-u", "-c", script, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{Path(__file__).parent}"},
    )  # fmt: skip


def output(process: subprocess.Popen[str], timeout: float = 60) -> str:
    """What a process printed; its errors fail the test."""
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == 0, err[-3000:]
    return out


class Clock:
    """A clock that the test moves."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


APPEND_UNTIL_KILLED = """
import asyncio, sys
from pathlib import Path
from ledger_drive import row
from azeotrope.gateway.ledger.database import open_database
from azeotrope.gateway.ledger.folder import Folder
from azeotrope.gateway.ledger.opening import open_audit_log

async def main():
    folder = Folder(Path(sys.argv[1]))
    log = open_audit_log(open_database(sys.argv[2], power_safe=False), folder)
    async def work(worker):
        for number in range(10**6):
            receipt = await log.append(row(number, request_id=f"{worker}-{number}"))
            print(f"{worker}-{number} {receipt.chain} {receipt.seq}", flush=True)
    await asyncio.gather(*(work(worker) for worker in range(8)))

asyncio.run(main())
"""

APPEND_SOME = """
import asyncio, sys
from pathlib import Path
from ledger_drive import row
from azeotrope.gateway.ledger.database import open_database
from azeotrope.gateway.ledger.folder import Folder
from azeotrope.gateway.ledger.opening import open_audit_log

async def main():
    folder = Folder(Path(sys.argv[1]))
    log = open_audit_log(open_database(sys.argv[2], power_safe=False), folder)
    for start in range(0, 200, 20):
        await asyncio.gather(*(log.append(row(start + n)) for n in range(20)))
    await log.close()

asyncio.run(main())
"""


def acknowledged(process: subprocess.Popen[str], least: int = 60) -> set[tuple[str, ...]]:
    """Kill the process that runs `APPEND_UNTIL_KILLED`; return (request, chain, row) of every receipt it had."""
    assert process.stdout is not None
    told = [process.stdout.readline() for _ in range(least)]
    process.send_signal(signal.SIGKILL)
    told += process.stdout.read().splitlines(keepends=True)
    process.communicate()
    found = {tuple(line.split()) for line in told if line.endswith("\n") and line.count(" ") == 2}
    assert len(found) >= least
    return found
