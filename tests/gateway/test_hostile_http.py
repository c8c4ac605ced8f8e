"""Requests that two servers could read differently, over raw sockets: what is not plain is refused, and nothing
that a body holds is taken for a request."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest
from gateway_drive import Mock, Running, message, serving
from raw_drive import ASK, BODY, CHAT, CHUNKED, Answer, answers, ask_raw, connection, post, rest, send, until

from azeotrope.gateway import http

SIZE = len(BODY)
CLOSE = b"Connection: close\r\n"
LENGTH = b"Content-Length: %d\r\n" % SIZE
CODED = b"Transfer-Encoding: chunked\r\n"
HIDDEN = post(b'{"model":"hidden","messages":[{"role":"user","content":"hidden"}]}')


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving(Mock(body=message("", "ok")), retries=0) as found:
        yield found


@pytest.fixture(autouse=True)
def forget(running: Running) -> None:
    running.mock.asked.clear()
    running.mock.seen.clear()


REFUSED = {
    "two lengths": CHAT + LENGTH + b"Content-Length: 3\r\n\r\n" + BODY,
    "two lengths in one": CHAT + b"Content-Length: %d, 3\r\n\r\n" % SIZE + BODY,
    "a signed length": CHAT + b"Content-Length: +%d\r\n\r\n" % SIZE + BODY,
    "a negative length": CHAT + b"Content-Length: -1\r\n\r\n" + BODY,
    "a hexadecimal length": CHAT + b"Content-Length: 0x%x\r\n\r\n" % SIZE + BODY,
    "a length beyond 64 bits": CHAT + b"Content-Length: 18446744073709551617\r\n\r\n" + BODY,
    "an empty length": CHAT + b"Content-Length: \r\n\r\n" + BODY,
    "a space before the colon": CHAT + b"Content-Length : %d\r\n\r\n" % SIZE + BODY,
    "another encoding": CHAT + b"Transfer-Encoding: xchunked\r\n\r\n" + CHUNKED,
    "chunked before another": CHAT + b"Transfer-Encoding: chunked, identity\r\n\r\n" + CHUNKED,
    "another before chunked": CHAT + CLOSE + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + CHUNKED,
    "identity before chunked": CHAT + CLOSE + b"Transfer-Encoding: identity, chunked\r\n\r\n" + CHUNKED,
    "chunked twice": CHAT + CLOSE + CODED + CODED + b"\r\n" + CHUNKED,
    "chunked and another": CHAT + CODED + b"Transfer-Encoding: identity\r\n\r\n" + CHUNKED,
    "a vertical tab": CHAT + b"Transfer-Encoding:\x0bchunked\r\n\r\n" + CHUNKED,
    "an encoding in a folded line": CHAT + b"Transfer-Encoding:\r\n chunked\r\n\r\n" + CHUNKED,
    "an encoding in HTTP/1.0": CHAT.replace(b"1.1", b"1.0") + CODED + b"\r\n" + CHUNKED,
    "a folded line": CHAT + b"X-A: a\r\n b\r\n" + LENGTH + b"\r\n" + BODY,
    "a lone CR": CHAT + b"X-A: a\rContent-Length: 3\r\n" + LENGTH + b"\r\n" + BODY,
    "a NUL in a value": CHAT + b"X-A: a\0b\r\n" + LENGTH + b"\r\n" + BODY,
    "a NUL in a name": CHAT + b"X\0A: a\r\n" + LENGTH + b"\r\n" + BODY,
    "a size that is no number": CHAT + CODED + b"\r\ng\r\n" + BODY + b"\r\n0\r\n\r\n",
    "a negative size": CHAT + CODED + b"\r\n-5\r\n" + BODY + b"\r\n0\r\n\r\n",
    "a size with 0x": CHAT + CODED + b"\r\n0x%x\r\n" % SIZE + BODY + b"\r\n0\r\n\r\n",
    "a size beyond 64 bits": CHAT + CODED + b"\r\n10000000000000000%x\r\n" % SIZE + BODY + b"\r\n0\r\n\r\n",
    "no size": CHAT + CODED + b"\r\n\r\n" + BODY + b"\r\n0\r\n\r\n",
    "more than its size": CHAT + CODED + b"\r\n%x\r\n" % (SIZE - 1) + BODY + b"\r\n0\r\n\r\n",
    "chunks with bare LF": CHAT + CODED + b"\r\n%x\n" % SIZE + BODY + b"\n0\n\n",
    "a bare LF in an extension": CHAT + CODED + b"\r\n%x;a\nb\r\n" % SIZE + BODY + b"\r\n0\r\n\r\n",
    "an extension of 1 MB": CHAT + CODED + b"\r\n%x;%s\r\n" % (SIZE, b"a" * (1 << 20)) + BODY + b"\r\n0\r\n\r\n",
    "a compressed body": CHAT + CLOSE + b"Content-Encoding: gzip\r\n" + LENGTH + b"\r\n" + BODY,
    "two content encodings": CHAT + CLOSE + b"Content-Encoding: identity\r\nContent-Encoding: gzip\r\n" + LENGTH
    + b"\r\n" + BODY,
    "HTTP/0.9": b"GET /healthz\r\n\r\n",
    "another version": b"GET /healthz HTTP/3.0\r\nHost: x\r\n\r\n",
    "tabs in the first line": b"GET\t/healthz\tHTTP/1.1\r\nHost: x\r\n\r\n",
    "a header of 1 MB": b"GET /healthz HTTP/1.1\r\nX-A: " + b"a" * (1 << 20) + b"\r\n\r\n",
    "5,000 headers": b"GET /healthz HTTP/1.1\r\n" + b"".join(b"X%d: a\r\n" % n for n in range(5000)) + b"\r\n",
    "a path of 1 MB": b"GET /" + b"a" * (1 << 20) + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "bytes in a path": b"GET /v1/models\xff HTTP/1.1\r\nHost: x\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_ambiguous_is_refused_and_the_connection_closed(running: Running, name: str) -> None:
    found = ask_raw(running.url, REFUSED[name] + HIDDEN)
    assert running.mock.asked == []
    assert len(found) <= 1  # none where the connection is reset while we still send
    assert all(400 <= answer.status < 500 for answer in found)


BOTH = (LENGTH + CODED, CODED + LENGTH, CODED + b"Content-Length: 0\r\n", b"Content-Length: 9999\r\n" + CODED)


@pytest.mark.parametrize("head", BOTH)
def test_with_a_length_and_an_encoding_nothing_after_the_request_is_read(running: Running, head: bytes) -> None:
    found = ask_raw(running.url, CHAT + head + b"\r\n" + CHUNKED + HIDDEN)
    assert len(found) == 1
    assert found[0].status in (200, 400)
    assert all(asked["model"] == "any" for asked in running.mock.asked)


ODD = {
    "the same length twice": CHAT + CLOSE + LENGTH + LENGTH + b"\r\n" + BODY,
    "a length with zeros": CHAT + CLOSE + b"Content-Length: 000%d\r\n\r\n" % SIZE + BODY,
    "lines that end with LF": (CHAT + CLOSE + LENGTH + b"\r\n").replace(b"\r\n", b"\n") + BODY,
    "an extension of a chunk": CHAT + CLOSE + CODED + b"\r\n%x;a=b\r\n" % SIZE + BODY + b"\r\n0\r\n\r\n",
    "trailers": CHAT + CLOSE + CODED + b"\r\n" + CHUNKED[:-2] + b"Content-Length: 5\r\nAuthorization: x\r\n\r\n",
    "another spelling": CHAT + CLOSE + b"TRANSFER-ENCODING:   Chunked \r\n\r\n" + CHUNKED,
    "two hosts": CHAT + CLOSE + b"Host: other\r\n" + LENGTH + b"\r\n" + BODY,
    "an absolute address": CHAT.replace(b"POST /", b"POST http://evil.example/") + CLOSE + LENGTH + b"\r\n" + BODY,
    "an expectation": CHAT + CLOSE + b"Expect: 100-continue\r\n" + LENGTH + b"\r\n" + BODY,
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_what_is_odd_and_plain_is_one_request(running: Running, name: str) -> None:
    found = ask_raw(running.url, ODD[name])
    assert [answer.status for answer in found] == [200]
    assert running.mock.asked == [{"model": "any", "messages": ASK["messages"]}]
    told = json.dumps(running.mock.seen)
    assert "evil" not in told
    assert "other" not in told


def test_a_body_where_none_belongs_is_not_a_request(running: Running) -> None:
    inner = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
    found = ask_raw(
        running.url, b"GET /healthz HTTP/1.1\r\n" + CLOSE + b"Content-Length: %d\r\n\r\n" % len(inner) + inner
    )
    assert [answer.body for answer in found] == [b'{"status":"ok"}']


def test_pipelined_requests_are_answered_in_their_order(running: Running) -> None:
    running.mock.answer = lambda asked: message("", asked["messages"][0]["content"])
    try:
        bodies = [BODY.replace(b"What", b"What%d" % place) for place in range(4)]
        heads = [CHAT + b"Content-Length: %d\r\n" % len(body) for body in bodies]
        sent = [head + b"\r\n" + body for head, body in zip(heads[:-1], bodies[:-1], strict=True)]
        found = ask_raw(running.url, b"".join(sent) + heads[-1] + CLOSE + b"\r\n" + bodies[-1])
    finally:
        running.mock.answer = None
    assert [answer.json["choices"][0]["message"]["content"][:5] for answer in found] == [
        f"What{place}" for place in range(4)
    ]


def test_other_protocols_are_not_spoken(running: Running) -> None:
    assert send(running.url, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0") == b""
    head = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\n"
    key = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    for upgrade in (b"Upgrade: websocket\r\n" + key, b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"):
        assert [answer.status for answer in ask_raw(running.url, head + upgrade + b"\r\n")] == [200]


@pytest.mark.parametrize("method", ["CONNECT", "TRACE", "OPTIONS", "PUT", "DELETE", "get", "PROPFIND"])
def test_other_methods_do_nothing_and_echo_nothing(running: Running, method: str) -> None:
    target = "evil.example:443" if method == "CONNECT" else "/v1/chat/completions"
    head = f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Canary: canary\r\n"
    found = ask_raw(running.url, head.encode() + LENGTH + b"\r\n" + BODY)
    assert [answer.status for answer in found] == [404 if method == "CONNECT" else 405]
    assert "canary" not in str(found)
    assert running.mock.asked == []


PATHS = (
    "/v1/../metrics", "/v1/chat/../../metrics", "/%2e%2e/metrics", "//metrics", "/metrics/", "/metrics%00",
    "/metrics;a", "/..%2f..%2fetc%2fpasswd", "/../../../../etc/passwd", "/%2fetc/passwd", "/metrics\\",
    "/v1//models", "/%GG", "/%", "*", "metrics", "/.env", "/.git/config", "/static/../../pyproject.toml",
    "/v1/models/any", "/v1/files/../../etc/passwd", "/ui/../healthz", "/v1/chat/completions/",
)  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_addresses_are_taken_as_they_are_written(running: Running, path: str) -> None:
    found = ask_raw(running.url, b"GET " + path.encode() + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert [answer.status for answer in found] == [404]
    assert found[0].json["error"]["code"] == "not_found"
    assert path.encode() not in found[0].body


def test_a_query_changes_nothing_and_is_not_repeated(running: Running) -> None:
    head = b"GET /healthz?x=%0d%0aSet-Cookie:canary&y=canary HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert b"canary" not in send(running.url, head)
    sent = post(BODY, "/v1/chat/completions?api-version=1&key=canary")
    assert [answer.status for answer in ask_raw(running.url, sent)] == [200]
    assert "canary" not in json.dumps(running.mock.seen)


HEADERS = {
    "content-type", "content-length", "cache-control", "x-content-type-options", "x-request-id", "server", "date",
    "connection", "transfer-encoding", "x-accel-buffering", "retry-after", "allow",
}  # fmt: skip


def named(found: list[Answer]) -> set[str]:
    return {key for answer in found for key, _ in answer.headers}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
def test_names_with_line_ends_make_no_headers(running: Running, path: str, stream: bool) -> None:
    evil = "a\r\nSet-Cookie: canary=1\r\n\r\nHTTP/1.1 200 OK\r\n\r\n\u2028\u0085"
    asked = {"model": evil, "stream": stream, "messages": ASK["messages"], "max_tokens": 9, "user": evil}
    if path == "/v1/responses":
        asked = {"model": evil, "stream": stream, "input": "x", "user": evil, "metadata": {evil: evil}}
    if path == "/v1/messages":
        asked["metadata"] = {"user_id": asked.pop("user")}
    head = (
        b"X-Request-Id: canary\r\nX-Tenant: canary\r\nTraceparent: canary\r\nCookie: canary\r\nOrigin: canary\r\n"
    )
    found = ask_raw(running.url, post(json.dumps(asked).encode(), path, head))
    assert [answer.status for answer in found] == [200]
    assert named(found) <= HEADERS
    assert "canary" not in str(found[0].headers)
    seen = running.mock.seen[-1]
    assert set(seen) <= {
        "host", "content-type", "user-agent", "content-length", "accept", "accept-encoding", "path",
    }  # fmt: skip
    assert "canary" not in str(seen)


def test_two_keys_are_no_key(running: Running) -> None:
    """Whoever stands in front may have looked at the other one."""
    two = {"headers": [(b"authorization", b"Bearer a"), (b"authorization", b"Bearer b"), (b"x-api-key", b"c")]}
    assert http.sole(two, b"authorization", b"x-api-key") == ""
    assert http.sole({"headers": [(b"x-api-key", b"c")]}, b"authorization", b"x-api-key") == "c"
    assert http.sole({"headers": two["headers"][1:]}, b"authorization", b"x-api-key") == "Bearer b"


def test_heads_and_bodies_that_take_too_long_are_ended() -> None:
    with serving(Mock(body=message("", "ok")), listen={"head_seconds": 0.3, "body_seconds": 0.3}) as running:
        for begun in (b"", b"GET /healthz HTTP/1.1\r\nX-A: a", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"):
            with connection(running.url) as wire:
                wire.sendall(begun)
                rest(wire)  # comes to its end, also where a request was answered and none follows
        slow = CHAT + LENGTH + b"\r\n" + BODY[:-1]
        assert [answer.status for answer in ask_raw(running.url, slow)] == [408]
        slow = CHAT + CODED + b"\r\nffffffffffffffff\r\n" + BODY
        assert [answer.status for answer in ask_raw(running.url, slow)] == [408]
        assert running.mock.asked == []
        until(lambda: running.gateway.active == 0)


def test_many_slow_heads_keep_nobody_out() -> None:
    with serving(Mock(body=message("", "ok")), listen={"head_seconds": 60}) as running:
        host, port = running.url.removeprefix("http://").split(":")
        slow = [socket.create_connection((host, int(port))) for _ in range(300)]
        try:
            for wire in slow:
                wire.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nX-A: ")
            assert [answer.status for answer in ask_raw(running.url, post(BODY))] == [200]
            until(lambda: running.gateway.active == 0)
        finally:
            for wire in slow:
                wire.close()


def test_a_body_that_is_cut_is_nobodys_request(running: Running) -> None:
    with connection(running.url) as wire:
        wire.sendall(CHAT + LENGTH + b"\r\n" + BODY[:-1])
        wire.shutdown(socket.SHUT_WR)
        found = answers(rest(wire))
    assert all(answer.status == 400 for answer in found)
    until(lambda: running.gateway.active == 0)
    assert running.mock.asked == []
