"""What goes wrong while the gateway works: clients that go, a full disk, steps of the clock, reloads, the end."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web
from gateway_drive import Mock, Running, delta, frames, free_port, lines, message, serving, upstream
from ledger_drive import row
from raw_drive import BODY, Answer, answers, ask_raw, connection, post, rest, until
from test_gateway_desk import COMMAND, key, rows
from test_gateway_serving import ASK, STREAM
from test_serve_command import server

from azeotrope.gateway.desk import Desk, open_desk
from azeotrope.gateway.ledger import audit_writer
from azeotrope.gateway.ledger.database import DatabaseError, open_database
from azeotrope.gateway.ledger.folder import Folder
from azeotrope.gateway.ledger.key_ring import KeyRingSettings
from azeotrope.gateway.ledger.local_limits import LocalLimiter
from azeotrope.gateway.ledger.opening import open_audit_log
from azeotrope.gateway.policy import Failing
from azeotrope.gateway.settings import LedgerSettings, LimitSettings
from azeotrope.gateway.vault import MemoryShelf

STREAMED = json.dumps({**ASK, "stream": True}).encode()
CLIENTS = 200


@dataclass
class Counting(Mock):
    """An upstream that knows how many requests it works on; `wait`: it does not even say a status."""

    open: int = 0
    wait: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        with self.lock:
            self.open += 1
        try:
            if self.wait:
                await asyncio.sleep(60)
            return await super().handle(request)
        finally:
            with self.lock:
                self.open -= 1


def tasks() -> int:
    """Tasks of all loops in this process that are not over."""
    return sum(not task.done() for task in list(asyncio.tasks._all_tasks))  # type: ignore[attr-defined]


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def limited() -> Desk:
    quota = {"concurrent": 2 * CLIENTS, "tokens_per_minute": 10**9}
    return open_desk(LedgerSettings(), LimitSettings.model_validate({"key": quota, "tenant": quota}), Failing())


@pytest.fixture
def storm() -> Iterator[tuple[Running, Counting]]:
    mock = Counting(frames=frames(*STREAM[:4], done=False), hang=True)
    with serving(mock, desk=limited(), retries=0) as running:
        yield running, mock


@pytest.mark.parametrize(
    "when", ["in the middle of a stream", "before the first byte", "before the end of a reply"]
)
def test_a_storm_of_clients_that_go_leaves_nothing_behind(storm: tuple[Running, Counting], when: str) -> None:
    running, mock = storm
    mock.wait = when != "in the middle of a stream"
    ask_raw(running.url, b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n")
    body = BODY if when == "before the end of a reply" else STREAMED
    descriptors, before = open_files(), tasks()
    with ExitStack() as stack:
        wires = [stack.enter_context(connection(running.url)) for _ in range(CLIENTS)]
        for wire in wires:
            wire.sendall(post(body))
        for wire in wires if not mock.wait else ():
            assert wire.recv(1)
        until(lambda: mock.open == running.gateway.active == CLIENTS, "they are not all there")
        for place, wire in enumerate(wires):
            if place % 2:  # half of them by a reset
                wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            wire.close()
    until(lambda: running.gateway.active == 0, "requests are left")
    until(lambda: mock.open == 0, "the upstream still works")
    until(lambda: tasks() <= before, "tasks are left")
    until(lambda: open_files() <= descriptors + 2, "connections are left")
    limiter = running.gateway.desk.limiter
    assert isinstance(limiter, LocalLimiter)
    assert [account.active for account in limiter._accounts.values()] == [0, 0]
    assert f"azeotrope_disconnects_total {CLIENTS}.0" in running.gateway.metrics.page().decode()
    mock.wait, mock.hang, mock.body = False, False, message("", "ok")
    assert [answer.status for answer in ask_raw(running.url, post(BODY))] == [200]


def test_a_client_that_takes_nothing_is_let_go() -> None:
    mock = Counting(frames=frames(*[delta(content="x" * 50_000)] * 1000))
    with serving(mock, desk=limited(), listen={"stuck_seconds": 0.3}) as running, connection(running.url) as wire:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        wire.sendall(post(STREAMED))
        until(lambda: running.gateway.active == 1)
        until(lambda: running.gateway.active == 0)
        until(lambda: mock.open == 0)
        assert mock.sent < len(mock.frames)  # what is not taken is not read: nothing piles up


def test_a_client_that_is_slow_is_waited_for() -> None:
    mock = Mock(frames=frames(*[delta(content="x" * 50_000)] * 200, delta(reason="stop")))
    with serving(mock, listen={"stuck_seconds": 2}) as running, connection(running.url) as wire:
        wire.sendall(post(STREAMED))
        found = b""
        while piece := wire.recv(1 << 16):
            found += piece
            time.sleep(0.001)
        assert b"data: [DONE]" in found


PATIENCE = "{patience_seconds: 0.1, retry_seconds: 0.1}"
ROOM = 1 << 40
FULL = 1 << 17  # bytes of any file that the process writes from now on


@pytest.mark.slow
@pytest.mark.parametrize("failing", ["closed", "open"])
def test_a_full_disk(tmp_path: Path, failing: str) -> None:
    """Closed: nothing is served that is not recorded, and it goes on by itself when there is room again."""
    folder, config, policy = tmp_path / "ledger", tmp_path / "gateway.yaml", tmp_path / "policy.yaml"
    policy.write_text(
        "azeotrope_gateway: 1\nstances: {one: {}}\ncontexts: [{name: all, stance: one}]\n"
        f"failing: {{audit: {failing}}}\n", encoding="utf-8",
    )  # fmt: skip
    with upstream(Mock(body=message("", "ok")), free_port()) as address:
        config.write_text(
            f"upstreams: {{main: {{url: '{address}'}}}}\npolicy: {policy}\n"
            f"ledger: {{audit: true, folder: '{folder}', audit_settings: {PATIENCE}}}\n",
            encoding="utf-8",
        )
        with server("--config", str(config)) as (process, url):
            served: set[str] = set()

            def ask() -> int:
                (answer,) = ask_raw(url, post(BODY))
                if answer.status == 200:
                    served.add(answer.header("x-request-id"))
                return answer.status

            assert ask() == 200
            workers = children(process.pid)
            limit(workers, FULL)
            if failing == "closed":
                until(lambda: ask() == 503, "the disk is not full")
                assert ask() == 503
            else:
                assert {ask() for _ in range(100)} == {200}  # few enough lines for a pipe that nobody reads
            limit(workers, ROOM)
            until(lambda: ask() == 200, "it does not go on")
            if failing == "closed":
                assert {ask() for _ in range(20)} == {200}
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
    recorded = {one["request_id"] for one in rows(folder)}
    if failing == "closed":
        assert served <= recorded
    assert verified(folder) == 0


def children(process: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(process)], capture_output=True, text=True, check=True)
    return [int(number) for number in found.stdout.split()]


def limit(processes: list[int], size: int) -> None:
    for process in processes:
        resource.prlimit(process, resource.RLIMIT_FSIZE, (size, ROOM))


def verified(folder: Path) -> int:
    words = [*COMMAND, "audit", "verify", "--folder", str(folder)]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=60).returncode


@pytest.mark.parametrize(("failing", "status"), [("closed", 503), ("open", 200)])
def test_keys_while_the_database_is_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, status: int
) -> None:
    folder = tmp_path / "ledger"
    ledger = LedgerSettings(folder=folder, keys="required", key_ring=KeyRingSettings(cache_seconds=1e-6))
    desk = open_desk(ledger, LimitSettings(), Failing.model_validate({"database": failing}))
    with serving(Mock(body=message("", "ok")), desk=desk) as running:
        known, new = (f"Authorization: Bearer {key(folder, name)}\r\n".encode() for name in ("one", "two"))
        assert [answer.status for answer in ask_raw(running.url, post(BODY, head=known))] == [200]
        assert desk.keys is not None

        def down(_: str) -> None:
            raise DatabaseError("The database is down.")

        with monkeypatch.context() as patched:
            patched.setattr(desk.keys._store, "find", down)
            assert [answer.status for answer in ask_raw(running.url, post(BODY, head=known))] == [status]
            (answer,) = ask_raw(running.url, post(BODY, head=new))
            assert (answer.status, answer.header("retry-after")) == (503, "1")
        desk.keys._ask_again_at = float("-inf")
        assert [answer.status for answer in ask_raw(running.url, post(BODY, head=new))] == [200]


def test_what_the_vault_keeps_does_not_end_with_a_step_of_the_clock() -> None:
    assert MemoryShelf()._clock is time.monotonic


def test_the_chain_of_records_holds_over_steps_of_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder(tmp_path)
    database = open_database(folder.database)
    steps = iter([0, 3600, -7200, 10**9, -(10**9), 5] * 50)
    now = time.time_ns()
    monkeypatch.setattr(audit_writer.time, "time_ns", lambda: now + next(steps) * 10**9)

    async def fill() -> None:
        log = open_audit_log(database, folder)
        for number, step in zip(range(60), [0, 3600, -7200, 10**6, 1, -5] * 10, strict=True):
            await log.append(row(number, time_ms=now // 10**6 + 1000 * step))
        await log.close()

    asyncio.run(fill())
    database.close()
    assert verified(tmp_path) == 0
    assert len(rows(tmp_path)) == 60


POLICY = """
azeotrope_gateway: 1
stances: {{one: {{disclose: {disclose}}}}}
contexts: [{{name: all, stance: one}}]
"""


def test_a_reload_under_load_is_seen_whole(tmp_path: Path) -> None:
    """Every reply follows one policy from its beginning to its end; bad files and quick changes disturb nobody."""
    thoughts = [delta(reasoning_content=f"Thought {number}. ") for number in range(10)]
    mock = Mock(
        frames=frames(delta(role="assistant"), *thoughts, delta(content="Yes."), delta(reason="stop")), pause=0.002
    )
    texts = [POLICY.format(disclose=how) for how in ("full", "none")]
    over = threading.Event()
    with serving(mock, policy=texts[0], tmp=tmp_path) as running:

        def change() -> None:
            number = 0
            while not over.is_set():
                number += 1
                text = ("nonsense: [", "", *texts, *texts)[number % 6]
                (tmp_path / "policy.yaml").write_text(text, encoding="utf-8")
                running.gateway.policy.reload()

        thread = threading.Thread(target=change)
        thread.start()
        try:
            found = [said for _ in range(8) for said in many(running.url, 16)]
        finally:
            over.set()
            thread.join()
    whole = "".join(f"Thought {number}. " for number in range(10))
    assert set(found) == {(whole, "Yes."), ("", "Yes.")}


def many(url: str, count: int) -> list[tuple[str, str]]:
    """Reasoning and answer of streams that run together."""
    with ExitStack() as stack:
        wires = [stack.enter_context(connection(url)) for _ in range(count)]
        for wire in wires:
            wire.sendall(post(STREAMED))
        return [spoken(answer.body.decode()) for wire in wires for answer in ends(wire)]


def ends(wire: socket.socket) -> list[Answer]:
    found = answers(rest(wire))
    assert [answer.status for answer in found] == [200]
    return found


def spoken(text: str) -> tuple[str, str]:
    assert text.endswith("data: [DONE]\n\n")
    deltas = [choice["delta"] for one in lines(text) for choice in one["choices"]]
    return tuple("".join(d.get(name) or "" for d in deltas) for name in ("reasoning_content", "content"))  # type: ignore[return-value]


@pytest.mark.slow
def test_what_is_under_way_ends_when_it_is_stopped_under_load(tmp_path: Path) -> None:
    """SIGTERM: streams that began come to their end, each is in the log, and the log has its final head."""
    folder, config = tmp_path / "ledger", tmp_path / "gateway.yaml"
    mock = Mock(frames=frames(*[delta(content="x")] * 40, delta(reason="stop")), pause=0.05)
    with upstream(mock, free_port()) as address:
        ledger = f"ledger: {{audit: true, folder: '{folder}'}}"
        config.write_text(f"upstreams: {{main: {{url: '{address}'}}}}\n{ledger}\n", encoding="utf-8")
        with server("--config", str(config)) as (process, url), ExitStack() as stack:
            wires = [stack.enter_context(connection(url)) for _ in range(64)]
            for wire in wires:
                wire.sendall(post(STREAMED))
            begun = [wire.recv(1) for wire in wires]
            process.send_signal(signal.SIGTERM)
            found = [answers(first + rest(wire)) for first, wire in zip(begun, wires, strict=True)]
            assert process.wait(30) == 0
    assert [len(one) for one in found] == [1] * 64
    assert {spoken(one[0].body.decode())[1] for one in found} == {"x" * 40}
    ids = {one[0].header("x-request-id") for one in found}
    assert ids == {one["request_id"] for one in rows(folder)}
    assert verified(folder) == 0
    heads = [json.loads(line) for line in Folder(folder).heads.read_text().splitlines()]
    assert any(head.get("final") for head in heads)
