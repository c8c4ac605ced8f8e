"""Secrets, each with a mark in it, looked for in all that leaves: bodies, headers, logs of everybody at debug
level, metrics, the audit log and its export, errors of the command, the published document."""

from __future__ import annotations

import base64
import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from gateway_drive import Mock, Running, delta, frames, message, serving
from raw_drive import ask_raw, post, send
from test_gateway_desk import key, rows
from test_gateway_serving import ASK, HIDE, STREAM, THOUGHTS
from test_gateway_serving import post as gateway_post
from test_hostile_http import REFUSED
from test_leaks import leaked

from azeotrope.gateway import logs
from azeotrope.gateway.desk import open_desk
from azeotrope.gateway.policy import Failing
from azeotrope.gateway.settings import LedgerSettings, LimitSettings

MARK = "canary"
HEX = MARK.encode().hex()  # keys of the gateway are bytes, written in hexadecimal
KEYS = ("PEPPER", "SIGNING_KEY", "DIGEST_KEY", "GATEWAY_KEY")
PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/v1/messages/count_tokens")
COMMAND = [sys.executable, "-c", "from azeotrope.cli import main; main()"]


@contextmanager
def everything_logged() -> Iterator[io.StringIO]:
    """What any library logs, at debug level, and what the gateway logs, with tracebacks as they come."""
    stream, root = io.StringIO(), logging.getLogger()
    before = root.level, list(logs.log.handlers), logs.log.level, logs.log.propagate
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(name)s %(message)s %(args)s"))
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    logs.set_up(requests=True, stream=stream)
    logs.log.setLevel(logging.DEBUG)
    logs.log.propagate = True
    try:
        yield stream
    finally:
        root.removeHandler(handler)
        root.setLevel(before[0])
        logs.log.handlers[:], logs.log.propagate = before[1], before[3]
        logs.log.setLevel(before[2])


def shapes(secret: str) -> list[str]:
    """A secret as it may be written somewhere: plain, in base64, in hexadecimal, percent-encoded, backwards."""
    raw = secret.encode()
    return [
        secret,
        base64.b64encode(raw).decode().rstrip("="),
        raw.hex(),
        "".join(f"%{b:02X}" for b in raw),
        secret[::-1],
    ]


def asked(good: str) -> Iterator[bytes]:
    """Requests that go well, and that go wrong in all ways there are; keys also where they do not belong."""
    heads = [b"Authorization: Bearer %s\r\n", b"X-Api-Key: %s\r\n", b"Authorization: %s\r\n"]
    fine = [head % good.encode() for head in heads]
    wrong = [
        b"Authorization: Bearer %s\r\n" % good[:-1].encode(),
        b"Authorization: Bearer %sx\r\n" % good.encode(),
        b"Authorization: Basic %s\r\n" % base64.b64encode(b"u:" + good.encode()),
        b"Cookie: key=%s\r\n" % good.encode(),
        b"Authorization: Bearer a\r\nAuthorization: Bearer %s\r\n" % good.encode(),
        b"X-Api-Key: ' OR 1=1 --\r\n",
    ]
    bodies: list[Any] = [
        ASK,
        {**ASK, "stream": True},
        {**ASK, "n": 0},
        {**ASK, "temperature": good},
        {**ASK, "model": "clean"},
        {**ASK, "user": good},
        {**ASK, "max_tokens": 10},
    ]
    for body in bodies:
        for head in fine[:2] if body is not ASK else [*fine, *wrong]:
            yield post(json.dumps(body).encode(), head=head)
    for path in PATHS:
        for body in ({"model": "any", "input": "x"}, {**ASK, "max_tokens": 9}, {"model": "clean", "prompt": "x"}):
            yield post(json.dumps(body).encode(), path, fine[0])
            yield post(json.dumps({**body, "stream": True}).encode(), f"{path}?key={good}", fine[0])
    for path in ("/healthz", "/readyz", "/metrics", "/v1/models", "/openapi.json", f"/{good}", "/ui", "/.env"):
        yield b"GET " + path.encode() + b" HTTP/1.1\r\nConnection: close\r\n" + fine[0] + b"\r\n"


def test_no_secret_is_in_anything_that_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, name in enumerate(KEYS):
        monkeypatch.setenv(f"AZEOTROPE_{name}", (HEX + f"{number:02x}" * 26)[:64])
    monkeypatch.setenv("UPSTREAM_KEY", f"sk-{MARK}-upstream")
    folder = tmp_path / "ledger"
    with everything_logged() as written:
        settings = LedgerSettings(folder=folder, keys="required", audit=True)
        limits = LimitSettings.model_validate({"tiers": {"small": {"requests_per_minute": 1}}})
        desk = open_desk(settings, limits, Failing())
        mock = Mock(frames=frames(*STREAM), body=message(THOUGHTS, "It is rock."))
        with serving(mock, policy=HIDE, tmp=tmp_path, desk=desk, key_env="UPSTREAM_KEY", retries=0) as running:
            good, small = key(folder, "one"), key(folder, "two", "small")
            send(running.url, post(json.dumps({**ASK, good: 1}).encode()))  # a client is told its own field's name
            sent = send_all(running, mock, [*asked(good), *asked(small)])
            assert mock.seen[0]["authorization"] == f"Bearer sk-{MARK}-upstream"
        told = written.getvalue()
    exported = run("audit", "export", "--folder", str(folder), "--out", str(tmp_path / "export.jsonl"))
    exported += (tmp_path / "export.jsonl").read_text() + run("audit", "verify", "--folder", str(folder))
    assert len(rows(folder)) > 50
    assert '"status":200' in told.replace(" ", "")
    secrets = [f"sk-{MARK}-upstream", *(k.rpartition(".")[2] for k in (good, small))]
    for where, text in (
        ("replies", sent),
        ("logs", told),
        ("audit", exported),
        ("rows", json.dumps(rows(folder))),
    ):
        for shape in [shape for secret in secrets for shape in shapes(secret)] + [HEX]:
            assert shape not in text, where
    stored = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert not any(secret.encode() in stored for secret in secrets)


def send_all(running: Running, mock: Mock, requests: list[bytes]) -> str:
    """All that comes back, also where the upstream fails and quotes its key."""
    found = [send(running.url, one) for one in [*requests, *REFUSED.values()]]
    for status in (400, 401, 403, 404, 408, 429, 500, 503):
        for path in PATHS[:1]:
            mock.fail = [status]
            found.append(send(running.url, requests[0]))
            assert mock.fail == [] or path != PATHS[0]
    mock.body = {
        "error": {"message": f"Incorrect API key provided: sk-{MARK}-upstream", "code": f"sk-{MARK}-upstream"}
    }
    found.append(send(running.url, requests[0]))
    mock.frames = frames(mock.body)
    found += [send(running.url, one) for one in requests[15:20]]
    return b"".join(found).decode("utf-8", "replace")


def run(*words: str) -> str:
    done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


SERVER = """
upstreams: {main: {url: 'http://127.0.0.1:9/v1', key_env: UPSTREAM_KEY}}
ledger: {keys: required, folder: '%s', database_env: CANARY_DATABASE}
limits: {key: {requests_per_minute: 1}, redis_env: CANARY_REDIS}
"""


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://user:{MARK}@127.0.0.1:1/db",
        f"postgresql://user:{MARK}@127.0.0.1:1/db?password={MARK}",
        f"mysql://user:{MARK}@127.0.0.1/db",
        f"postgresql://user:{MARK}@[::1/db",
        f"{MARK}",
    ],
)
def test_a_database_that_cannot_be_had_is_told_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("UPSTREAM_KEY", MARK)
    monkeypatch.setenv("CANARY_DATABASE", url)
    monkeypatch.setenv("CANARY_REDIS", f"redis://:{MARK}@127.0.0.1:1/0")
    monkeypatch.setenv("AZEOTROPE_PEPPER", (HEX * 6)[:64])
    monkeypatch.setenv("AZEOTROPE_DATABASE", url)
    file = tmp_path / "server.yaml"
    file.write_text(SERVER % (tmp_path / "ledger"), encoding="utf-8")
    script = (
        "import sys; from pathlib import Path; from azeotrope.gateway import boot; "
        "from azeotrope.gateway.settings import load_settings; boot.build(load_settings(Path(sys.argv[1])))"
    )
    words = [sys.executable, "-c", script, str(file)]
    built = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert built.returncode != 0
    told = built.stderr.splitlines()[-1] + run("keys", "list", "--folder", str(tmp_path / "ledger"))
    assert "database" in told.lower()
    assert MARK not in told
    assert HEX not in built.stdout + built.stderr


def test_settings_do_not_hold_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What server processes are given in their environment names secrets, and a representation shows none."""
    from azeotrope.gateway import boot
    from azeotrope.gateway.settings import load_settings

    monkeypatch.setenv("UPSTREAM_KEY", MARK)
    file = tmp_path / "server.yaml"
    file.write_text(SERVER % tmp_path, encoding="utf-8")
    settings = load_settings(file)
    assert settings.upstreams["main"].key() == MARK
    assert MARK not in json.dumps(boot.environment(settings)) + repr(settings)


SQL = (
    "' OR '1'='1",
    "x'; DROP TABLE keys; --",
    '" OR 1=1 --',
    "') UNION SELECT * FROM audit_rows --",
    "%' AND sleep(9) --",
    "1; ATTACH DATABASE 'x' AS x",
    "\\'; --",
    "azk_aaaaaaaaaaaaaa.' OR 1=1",
    "$(id)",
    "`id`",
    "{{7*7}}",
    "${jndi:ldap://x}",
)


def test_sql_is_text(tmp_path: Path) -> None:
    folder = tmp_path / "ledger"
    settings = LedgerSettings(folder=folder, keys="required", audit=True)
    desk = open_desk(settings, LimitSettings(), Failing())
    with serving(Mock(body=message("", "ok")), policy=HIDE, tmp=tmp_path, desk=desk) as running:
        good = f"Authorization: Bearer {key(folder, 'one')}\r\n"
        for words in SQL:
            for name in (
                "Authorization",
                "X-Api-Key",
                "X-Request-Id",
                "X-Tenant",
                "X-Forwarded-For",
                "User-Agent",
            ):
                (answer,) = ask_raw(
                    running.url, post(json.dumps(ASK).encode(), head=f"{name}: {words}\r\n".encode())
                )
                assert (answer.status, answer.json["error"]["code"]) == (401, "invalid_api_key")
                if name.startswith("X-") and name != "X-Api-Key":
                    head = f"{good}{name}: {words}\r\n".encode()
                    assert [
                        one.status for one in ask_raw(running.url, post(json.dumps(ASK).encode(), head=head))
                    ] == [200]
            body = {**ASK, "model": words, "user": words}
            (answer,) = ask_raw(running.url, post(json.dumps(body).encode(), head=good.encode()))
            assert (answer.status, answer.json["model"]) == (200, words)
        found = rows(folder)
        assert [row["model_requested"] for row in found if row["model_requested"] != "any"] == list(SQL)
        assert {row["tenant"] for row in found} == {"one"}
        assert len(found) == 4 * len(SQL)


SAID = "the old lighthouse keeper counted seven grey herons before dawn"


@pytest.mark.parametrize("stream", [False, True])
def test_hidden_reasoning_is_in_nothing_that_leaves(tmp_path: Path, stream: bool) -> None:
    """Bodies, headers, logs at debug level, metrics; also where an upstream quotes it in errors or breaks off."""
    body = message(SAID, "It is rock.")
    told = frames(delta(reasoning_content=SAID), delta(content="It is rock."), delta(reason="stop"))
    error = {"error": {"message": SAID, "code": SAID, "type": SAID}}
    cases: list[dict[str, Any]] = [
        {"body": body, "frames": told},
        {"body": error, "frames": frames(delta(reasoning_content=SAID), error)},
        {"body": error, "frames": [], "status": 400},
        {"body": "not " + SAID, "frames": [told[0], b"data: {" + SAID.encode() + b"\n\n"]},
        {"body": body, "frames": told[:1], "cut": True},
    ]
    hide = HIDE.replace("stance: guard}", "stance: hide}")
    found: list[bytes] = []
    with everything_logged() as logged:
        for case in cases:
            mock = Mock(headers={"x-reasoning": SAID}, **case)
            with serving(mock, policy=hide, tmp=tmp_path, retries=0) as running:
                for path in PATHS[:1] + PATHS[2:4]:
                    asked = {**ASK, "stream": stream, "max_tokens": 99}
                    if path == PATHS[2]:
                        asked = {"model": "any", "input": "What?", "stream": stream}
                    _, headers, text = gateway_post(running, asked, path)
                    found += [text.encode(), str(headers).encode()]
                found.append(running.gateway.metrics.page())
    found.append(logged.getvalue().encode())
    assert any(b"It is rock." in one for one in found)
    assert not [run for one in found for run in leaked(SAID, one)]
