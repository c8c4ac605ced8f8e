"""Keys, limits, records and suspicion in a running gateway."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from gateway_drive import Mock, Running, delta, frames, free_port, message, serving, upstream
from test_gateway_serving import ASK, HIDE, SECRET, STREAM, THOUGHTS, ask, post
from test_serve_command import server

from azeotrope.gateway.case import IMAGE_TOKENS, Case
from azeotrope.gateway.desk import Desk, open_desk
from azeotrope.gateway.dialects import dialect
from azeotrope.gateway.http import Scope
from azeotrope.gateway.ledger.audit_log import AuditError
from azeotrope.gateway.ledger.audit_read import chains, original, pages
from azeotrope.gateway.ledger.database import open_database
from azeotrope.gateway.ledger.folder import Folder
from azeotrope.gateway.ledger.identity import Identity
from azeotrope.gateway.ledger.key_store import KeyStore
from azeotrope.gateway.ledger.sealed import Unsealer, auditor_key
from azeotrope.gateway.policy import Failing
from azeotrope.gateway.settings import LedgerSettings, LimitSettings, Timeouts, UpstreamSettings
from azeotrope.gateway.upstream import Upstream, UpstreamError
from azeotrope.gateway.wire.request import Image, Message, Request

LIMITS = {"tiers": {"small": {"requests_per_minute": 2}}, "tenants": {"shared": {"requests_per_minute": 1}}}
COMMAND = [sys.executable, "-c", "from azeotrope.cli import main; main()"]


class Watched:
    """A detection that knows one name."""

    def level(self, identity: Identity) -> tuple[int, tuple[str, ...]]:
        return (3, ("volume", "template")) if identity.tenant == "thief" else (0, ())

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def observe(self, case: Case, scope: Scope) -> None:
        raise RuntimeError("a bug in the detection")  # which must not reach anybody


def rows(folder: Path) -> list[dict[str, Any]]:
    """All audit rows."""
    database = open_database(Folder(folder).database, create=False)
    try:
        return [
            json.loads(row.row) for chain in chains(database) for page in pages(database, chain) for row in page
        ]
    finally:
        database.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "ledger"


@pytest.fixture
def desk(folder: Path) -> Desk:
    found = open_desk(
        LedgerSettings(folder=folder, keys="required", audit=True), LimitSettings.model_validate(LIMITS), Failing()
    )
    found.suspicion = Watched()
    return found


@pytest.fixture
def running(tmp_path: Path, desk: Desk) -> Iterator[Running]:
    policy = HIDE.replace(
        "- {name: short,", "- {name: watched, when: {level: 3}, stance: closed}\n  - {name: short,"
    )
    mock = Mock(frames=frames(*STREAM), body=message(THOUGHTS, "It is rock."))
    with serving(mock, policy=policy, tmp=tmp_path, desk=desk) as found:
        yield found


def key(folder: Path, tenant: str, tier: str = "default") -> str:
    """A new key."""
    database = open_database(Folder(folder).database)
    try:
        return KeyStore(database, Folder(folder).pepper()).create(tenant, tier).text.text()
    finally:
        database.close()


def test_only_keys_open_the_door(running: Running, folder: Path) -> None:
    good = key(folder, "one")
    for header in (
        {},
        {"Authorization": "Bearer azk_no.no"},
        {"Authorization": "Bearer "},
        {"x-api-key": "x" * 9999},
    ):
        status, _, text = post(running, ASK, **header)
        assert (status, json.loads(text)["error"]["code"]) == (401, "invalid_api_key")
    assert running.mock.asked == []
    assert post(running, ASK, Authorization=f"Bearer {good}")[0] == 200
    status, _, text = post(running, {**ASK, "max_tokens": 99}, "/v1/messages", **{"x-api-key": good})
    assert (status, json.loads(text)["type"]) == (200, "message")
    status, _, text = post(running, ASK, "/v1/messages", **{"x-api-key": "wrong"})
    assert (status, json.loads(text)["error"]["type"]) == (401, "authentication_error")


def test_limits_are_told_with_the_time_to_wait(running: Running, folder: Path) -> None:
    small, other = key(folder, "one", "small"), key(folder, "two", "small")
    codes = [post(running, ASK, Authorization=f"Bearer {small}")[0] for _ in range(3)]
    assert codes == [200, 200, 429]
    _, headers, _ = post(running, ASK, Authorization=f"Bearer {small}")
    assert 1 <= int(headers["retry-after"]) <= 60
    assert post(running, ASK, Authorization=f"Bearer {other}")[0] == 200


def test_keys_of_all_tiers_share_their_tenants_limits(running: Running, folder: Path) -> None:
    one, two = key(folder, "shared", "small"), key(folder, "shared", "other")
    assert post(running, ASK, Authorization=f"Bearer {one}")[0] == 200
    assert post(running, ASK, Authorization=f"Bearer {two}")[0] == 429
    assert post(running, ASK, Authorization=f"Bearer {one}")[0] == 429


def test_every_request_is_in_the_log(running: Running, folder: Path) -> None:
    good, thief = key(folder, "one"), key(folder, "thief")
    running.mock.pause = 0.1
    post(running, {**ASK, "stream": True}, Authorization=f"Bearer {good}")
    post(running, {**ASK, "max_tokens": 9}, Authorization=f"Bearer {good}")
    post(running, {**ASK, "n": 0}, Authorization=f"Bearer {good}")
    assert post(running, ASK, Authorization=f"Bearer {thief}")[0] == 403
    found = rows(folder)
    assert [(row["tenant"], row["stance"], row["status"]) for row in found] == [
        ("one", "guard", 200), ("one", "hide", 200), ("one", "", 400), ("thief", "closed", 403),
    ]  # fmt: skip
    first = found[0]
    assert (first["prompt_tokens"], first["completion_tokens"], first["reasoning_tokens"]) == (5, 9, 4)
    assert first["altered"] is True
    assert first["chars_transformed"] == len(SECRET)
    assert first["streamed"] is True
    assert first["policy"] == running.gateway.policy.current.hash
    assert len(first["prompt_digest"]) == len(first["reply_digest"]) == 64
    assert 0 < first["overhead_ms"] < first["latency_ms"] / 2  # the upstream takes its time between the pieces
    assert found[3]["reasons"] == ["volume", "template", "refused_by_policy"]
    assert "moon" not in json.dumps(found)


def test_how_an_upstream_broke_is_recorded(running: Running, folder: Path) -> None:
    running.mock.frames, running.mock.cut = frames(*STREAM[:3], done=False), True
    post(running, {**ASK, "stream": True}, Authorization=f"Bearer {key(folder, 'one')}")
    assert rows(folder)[0]["reasons"] == ["upstream_closed"]


def test_a_policy_that_fails_open_believes_known_keys_longer(folder: Path) -> None:
    settings = LedgerSettings(folder=folder, keys="required")
    for database, seconds in (("closed", 0), ("open", 3600)):
        found = open_desk(settings, LimitSettings(), Failing.model_validate({"database": database}))
        assert found.keys is not None
        assert found.keys.settings.stale_seconds == seconds
        asyncio.run(found.close())


def test_what_cannot_be_recorded_is_not_served(
    running: Running, desk: Desk, folder: Path, monkeypatch: Any
) -> None:
    good = key(folder, "one")
    assert desk.audit is not None

    def fail(*_: Any) -> asyncio.Future[Any]:
        future = asyncio.get_running_loop().create_future()
        future.set_exception(AuditError("The disk is full."))
        return future

    with monkeypatch.context() as patched:
        patched.setattr(desk.audit, "append", fail)
        status, _, text = post(running, ASK, Authorization=f"Bearer {good}")
        assert (status, json.loads(text)["error"]["code"]) == (503, "audit_down")
        assert "rock" not in text
        _, _, text = post(running, {**ASK, "stream": True}, Authorization=f"Bearer {good}")
        assert "[DONE]" not in text
        patched.setattr(desk.audit, "problem", "The disk is full.")
        before = len(running.mock.asked)
        assert post(running, ASK, Authorization=f"Bearer {good}")[0] == 503
        assert len(running.mock.asked) == before
    assert post(running, ASK, Authorization=f"Bearer {good}")[0] == 200


def test_a_policy_may_go_on_without_records(tmp_path: Path, desk: Desk, folder: Path, monkeypatch: Any) -> None:
    policy = HIDE + "failing: {audit: open}\n"
    mock = Mock(body=message("", "ok"))
    with serving(mock, policy=policy, tmp=tmp_path, desk=desk) as running, monkeypatch.context() as patched:
        patched.setattr(desk.audit, "problem", "The disk is full.")
        assert post(running, ASK, Authorization=f"Bearer {key(folder, 'one')}")[0] == 200


def test_a_client_that_goes_is_recorded(running: Running, folder: Path) -> None:
    running.mock.frames, running.mock.hang = frames(*STREAM[:3], done=False), True

    good = key(folder, "one")

    async def leave() -> None:
        asked = asyncio.ensure_future(ask(running.url, {**ASK, "stream": True}, Authorization=f"Bearer {good}"))
        while running.mock.sent < 3:
            await asyncio.sleep(0.01)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked

    asyncio.run(leave())
    assert running.mock.gone.wait(5)
    for _ in range(100):
        if found := rows(folder):
            break
    assert [row["status"] for row in found] == [499]


@pytest.mark.slow
def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    """Replies that clients have whole are in the log, also when the process is killed."""
    folder = tmp_path / "ledger"
    pause = frames(*[delta(content="x")] * 3, delta(reason="stop"))
    config = tmp_path / "gateway.yaml"
    with upstream(Mock(frames=pause), free_port()) as address:
        ledger = f"ledger: {{audit: true, folder: '{folder}'}}"
        config.write_text(f"upstreams: {{main: {{url: '{address}'}}}}\n{ledger}\n", encoding="utf-8")
        with server("--config", str(config)) as (process, url):

            async def many() -> list[str]:
                ended: list[str] = []

                async def one() -> None:
                    while True:
                        _, headers, text = await ask(url, {**ASK, "stream": True})
                        if text.endswith("data: [DONE]\n\n"):
                            ended.append(headers["x-request-id"])

                tasks = [asyncio.ensure_future(one()) for _ in range(8)]
                await asyncio.sleep(1.5)
                children = subprocess.run(
                    ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False
                ).stdout.split()
                for pid in [*children, str(process.pid)]:
                    os.kill(int(pid), signal.SIGKILL)
                await asyncio.gather(*tasks, return_exceptions=True)
                return ended

            ended = asyncio.run(many())
    assert len(ended) > 20
    assert set(ended) <= {row["request_id"] for row in rows(folder)}
    done = subprocess.run(
        [*COMMAND, "audit", "verify", "--folder", str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_requests_that_ask_for_what_cannot_be_are_counted_and_others_failures_are_not(
    running: Running, folder: Path
) -> None:
    good = {"Authorization": f"Bearer {key(folder, 'one', 'small')}"}
    running.mock.fail = [400, 400]
    assert [post(running, ASK, **good)[0] for _ in range(3)] == [400, 400, 429]
    other = {"Authorization": f"Bearer {key(folder, 'two', 'small')}"}
    running.mock.fail = [500, 500, 500]
    assert [post(running, ASK, **other)[0] for _ in range(5)] == [502, 502, 502, 200, 200]
    assert post(running, ASK, **other)[0] == 429


def test_an_image_is_one_size_however_it_is_written() -> None:
    image = Image("data:image/png;base64," + "A" * 4_000_000)
    case = Case("id", dialect("chat"), 0.0, size=4_000_400)
    case.request = Request("m", (Message("user", ("What is it?", image)),))
    assert case.asked == pytest.approx(IMAGE_TOKENS + 100, abs=10)


def test_an_auditor_reads_what_the_model_wrote(tmp_path: Path, folder: Path) -> None:
    secret, public = auditor_key(tmp_path / "auditor.key", create=True)
    settings = LedgerSettings(folder=folder, keys="none", audit=True, auditor=public.hex())
    policy = HIDE.replace("guard:\n", "guard:\n    seal: true\n").replace(
        "{disclose: none,", "{disclose: none, seal: true,"
    )
    mock = Mock(frames=frames(*STREAM), body=message(THOUGHTS, "It is rock."))
    desk = open_desk(settings, LimitSettings(), Failing())
    with serving(mock, policy=policy, tmp=tmp_path, desk=desk) as running:
        assert post(running, {**ASK, "stream": True})[0] == 200
        assert post(running, {**ASK, "max_tokens": 9})[0] == 200
        assert post(running, {**ASK, "model": "clean"})[0] == 200
    found = rows(folder)
    assert [(row["stance"], row["altered"]) for row in found] == [
        ("guard", True),
        ("hide", True),
        ("exact", False),
    ]
    database = open_database(Folder(folder).database, create=False)
    try:
        (chain,) = chains(database)
        sealed = [original(database, chain, n) for n in (1, 2, 3)]
    finally:
        database.close()
    assert sealed[2] is None
    for row, one in zip(found, sealed[:2], strict=False):
        assert one is not None
        told = Unsealer(secret).open(one, chain, row["tenant"], row["request_id"]).text()
        assert json.loads(told) == {"0": THOUGHTS}


@pytest.mark.parametrize("limit", ["connect", "first", "total"])
def test_an_upstream_is_not_waited_for_longer_than_was_said(limit: str) -> None:
    """`connect` by a queue of connections that is full, `first` by silence, `total` by pieces without end."""

    async def test() -> None:
        async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            if limit == "total":
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            with suppress(ConnectionError):
                while True:
                    if limit == "total":
                        writer.write(b"1\r\nx\r\n")
                        await writer.drain()
                    await asyncio.sleep(0.02)

        with socket.socket() as full, socket.socket() as waiting:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            waiting.setblocking(False)
            server = await asyncio.start_server(slow, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            if limit == "connect":
                port = full.getsockname()[1]
                crowd = [socket.socket() for _ in range(4)]
                for one in crowd:
                    one.setblocking(False)
                    one.connect_ex(("127.0.0.1", port))
            times = {limit: 0.2}
            settings = UpstreamSettings(url=f"http://127.0.0.1:{port}", timeouts=Timeouts(**times), retries=0)
            asked = Upstream(settings)

            async def ask_all() -> None:
                exchange = await asked.post("/chat/completions", b"{}")
                while await exchange.read():
                    pass

            with pytest.raises(UpstreamError) as error:
                await ask_all()
            wanted = "upstream_unreachable" if limit == "connect" else "upstream_timeout"
            assert error.value.problem.code == wanted
            await asked.stop()
            server.close()

    asyncio.run(asyncio.wait_for(test(), 20))
