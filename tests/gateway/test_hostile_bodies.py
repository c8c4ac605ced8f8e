"""Bodies as attackers write them, over raw sockets: deep, huge, dense, ambiguous; addresses of media; SQL."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from gateway_drive import Json, Mock, Running, message, serving
from raw_drive import ask_raw, post, until

from azeotrope.gateway.wire.checks import MOST_BRACES, MOST_ITEMS

CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
DEPTH = 10**5
LONG = 20_000_000
TURN = '{"role":"user","content":"x"}'
TEXTS = {  # requests with a place for more fields, and for a schema of a tool
    CHAT: f'{{"model":"any","messages":[{TURN}]%s}}',
    MESSAGES: f'{{"model":"any","max_tokens":9,"messages":[{TURN}]%s}}',
    RESPONSES: '{"model":"any","input":"x"%s}',
}
SCHEMAS = {
    CHAT: ',"tools":[{"type":"function","function":{"name":"f","parameters":%s}}]',
    MESSAGES: ',"tools":[{"name":"f","input_schema":%s}]',
    RESPONSES: ',"tools":[{"type":"function","name":"f","parameters":%s}]',
}


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving(Mock(body=message("", "ok")), retries=0) as found:
        yield found


@pytest.fixture(autouse=True)
def forget(running: Running) -> None:
    running.mock.asked.clear()


def told(running: Running, body: str | bytes, path: str = CHAT) -> tuple[int, str]:
    """Status and code of the answer, which must be one, in JSON."""
    (answer,) = ask_raw(running.url, post(body if isinstance(body, bytes) else body.encode(), path))
    return answer.status, str((answer.json.get("error") or {}).get("code", ""))


def nested(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


@pytest.mark.parametrize("path", TEXTS)
@pytest.mark.parametrize("deep", ["[" * DEPTH, "[" * DEPTH + "]" * DEPTH, nested(DEPTH), '{"a":[' * DEPTH])
def test_depth_is_bounded(running: Running, path: str, deep: str) -> None:
    assert told(running, deep, path)[0] == 400
    for place in (',"metadata":%s', ',"x":%s', SCHEMAS[path]):
        assert told(running, TEXTS[path] % (place % deep), path)[0] == 400
    assert running.mock.asked == []


@pytest.mark.parametrize("path", TEXTS)
def test_what_is_just_not_too_deep_is_answered(running: Running, path: str) -> None:
    """Replies that repeat the request, and calls that are deeper than that which read it, have levels to spare."""
    found = {
        told(running, TEXTS[path] % (SCHEMAS[path] % nested(depth)), path)[0] for depth in range(880, 1010, 2)
    }
    assert found == {200, 400}


ODD = {
    "a long key": ',"%s":1' % ("k" * LONG),
    "a lone surrogate": ',"user":"\\ud800"',
    "a lone surrogate as a key": ',"\\udfff":1',
    "NaN": ',"temperature":NaN',
    "infinity": ',"temperature":-Infinity',
    "a number without end": ',"temperature":1e999',
    "an integer of 100,000 digits": ',"top_p":' + "9" * 10**5,
    "an integer of 1,000,000 digits": ',"top_p":' + "9" * 10**6,
    "a hexadecimal number": ',"top_p":0x1',
    "a plus": ',"top_p":+1',
    "a comment": ',/* */"top_p":1',
    "a trailing comma": ",",
    "another object after it": "} {",
    "a NUL after it": "}\0{",
}


@pytest.mark.parametrize("path", TEXTS)
@pytest.mark.parametrize("name", ODD)
def test_what_is_no_json_or_no_field_is_refused(running: Running, path: str, name: str) -> None:
    assert told(running, TEXTS[path] % ODD[name], path)[0] == 400
    assert running.mock.asked == []


@pytest.mark.parametrize("path", TEXTS)
@pytest.mark.parametrize("body", [
    b"\xef\xbb\xbf{}", "{}".encode("utf-16"), b'{"model":"\xed\xa0\x80"}', b'{"model":"\xff"}', b"null", b"1",
    b'""', b"\0" * 1000, b" " * 10**6,
])  # fmt: skip
def test_bytes_that_are_no_json_are_refused(running: Running, path: str, body: bytes) -> None:
    assert told(running, body, path)[0] == 400


def test_of_a_field_that_is_there_twice_the_same_is_judged_and_sent(running: Running) -> None:
    """JSON readers differ on which holds; upstreams are sent what was judged, written anew."""
    twice = f'{{"model":"any","messages":[],"messages":[{TURN}],"n":99999,"n":1,"model":"other"}}'
    assert told(running, twice)[0] == 200
    assert running.mock.asked == [{"model": "other", "messages": [json.loads(TURN)]}]


def test_whole_numbers_of_any_size_in_a_schema_are_carried_or_refused(running: Running) -> None:
    for number in (2**63, 2**64 + 1, 10**300):
        status, _ = told(running, TEXTS[CHAT] % (SCHEMAS[CHAT] % f'{{"maximum":{number}}}'))
        assert status in (200, 400)
        if status == 200:
            sent = running.mock.asked[-1]["tools"][0]["function"]["parameters"]["maximum"]
            assert sent == pytest.approx(number)


def test_a_body_of_64_megabytes_is_not_read(running: Running) -> None:
    answers = ask_raw(running.url, post(b'{"model":"' + b"x" * (64 << 20) + b'"}'))
    assert [answer.status for answer in answers] in ([413], [])  # none: reset while it was still sent
    assert running.mock.asked == []
    until(lambda: running.gateway.active == 0)


@pytest.mark.parametrize("path", TEXTS)
def test_a_body_of_one_long_text_is_carried(running: Running, path: str) -> None:
    words = "word " * 200_000
    assert told(running, TEXTS[path].replace('"x"', f'"{words}"') % "", path)[0] == 200
    assert running.mock.asked[-1]["messages"][-1]["content"] == words


def lists(path: str, count: int) -> list[str]:
    """Requests with lists of so many items, wherever there can be one."""
    turns, plain = ",".join([TURN] * count), TEXTS[path] % ""
    part = "input_text" if path == RESPONSES else "text"
    parts = ",".join([f'{{"type":"{part}","text":"x"}}'] * count)
    tool = (SCHEMAS[path] % '{"type":"object"}').partition("[")[2][:-1]
    given = plain.replace('"input":"x"', f'"input":[{TURN}]')
    return [
        given.replace(TURN, turns),
        given.replace(TURN, f'{{"role":"user","content":[{parts}]}}'),
        TEXTS[path] % f',"tools":[{",".join([tool] * count)}]',
    ]


@pytest.mark.parametrize("path", TEXTS)
def test_lists_have_bounds(running: Running, path: str) -> None:
    """A body of many small things costs far more time than its bytes: nobody else is served meanwhile."""
    for body in lists(path, MOST_ITEMS + 1)[0], *lists(path, MOST_BRACES + 1):
        status, _ = told(running, body, path)
        assert status in (400, 413)
    assert running.mock.asked == []
    for body in lists(path, 100):
        assert told(running, body, path)[0] == 200


@pytest.mark.parametrize("path", TEXTS)
@pytest.mark.parametrize("dense", ["{},", "[],"])
def test_a_dense_body_is_refused_before_it_is_read(running: Running, path: str, dense: str) -> None:
    assert told(running, TEXTS[path] % f',"x":[{dense * (MOST_BRACES + 1)}1]', path) == (
        413, "request_too_large" if path != MESSAGES else "",
    )  # fmt: skip


ADDRESSES = (
    "http://169.254.169.254/latest/meta-data/",
    "https://10.0.0.1/x.png",
    "http://[::1]:6379/",
    "http://[::ffff:7f00:1]/",
    "http://2130706433/",
    "http://0x7f.1/",
    "http://127.1/",
    "http://user:pass@127.0.0.1/",
    "http://good.example@127.0.0.1/",
    "http://127.0.0.1#@good.example/",
    "https://good.example\\@127.0.0.1/",
    "//127.0.0.1/x.png",
    "/etc/passwd",
    "file:///etc/passwd",
    "file://localhost/etc/passwd",
    "FILE:///etc/passwd",
    "ftp://127.0.0.1/x",
    "gopher://127.0.0.1:6379/_x",
    "dict://127.0.0.1:11211/",
    "blob:http://127.0.0.1/1",
    "jar:http://127.0.0.1!/",
    "ldap://127.0.0.1/",
    "javascript:1",
    "data:text/html;base64,PGI+",
    "data:,x",
    "data:image/png,x",
    "data:image/svg+xml;utf8,<svg/>",
    "data:image/png;base64",
    " data:image/png;base64,AAAA",
    "DATA:image/png;base64,AAAA",
    "data:image/png;base64;url=http://127.0.0.1/,AAAA",
    "http://127.0.0.1/?data:image/png;base64,AAAA",
    "\nhttp://127.0.0.1/",
    "http://127.0.0.1/\r\nHost: x",
    "http://①②⑦.⓪.⓪.①/",
    "",
    "s3://bucket/key",
    "gs://b/k",
)


def media(address: str) -> Iterator[tuple[str, Json]]:
    """Requests in every dialect that would make somebody fetch an address."""
    for kind in (
        {"type": "image_url", "image_url": {"url": address}},
        {"type": "image_url", "image_url": address},
        {"type": "input_image", "image_url": address},
        {"type": "video_url", "video_url": {"url": address}},
        {"type": "audio_url", "audio_url": {"url": address}},
        {"type": "input_audio", "input_audio": {"data": address}},
        {"type": "file", "file": {"file_data": address}},
        {"type": "file", "file": {"file_url": address}},
        {"type": "file", "file": {"file_id": address}},
    ):
        yield CHAT, {"model": "any", "messages": [{"role": "user", "content": [kind]}]}
        yield (
            CHAT,
            {
                "model": "any",
                "messages": [{"role": "system", "content": [kind]}, {"role": "user", "content": "x"}],
            },
        )
    for kind in (
        {"type": "input_image", "image_url": address},
        {"type": "input_image", "file_id": address},
        {"type": "input_file", "file_url": address},
        {"type": "input_file", "file_data": address},
        {"type": "input_file", "file_id": address},
        {"type": "image_url", "image_url": {"url": address}},
    ):
        yield RESPONSES, {"model": "any", "input": [{"role": "user", "content": [kind]}]}
        output = {"type": "function_call_output", "call_id": "c", "output": [kind]}
        yield RESPONSES, {"model": "any", "input": [{"role": "user", "content": "x"}, output]}
    for kind in (
        {"type": "image", "source": {"type": "url", "url": address}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": f":{address}"}},
        {"type": "image", "source": {"type": "base64", "media_type": address, "data": "AAAA"}},
        {"type": "image", "source": {"type": "file", "file_id": address}},
        {"type": "document", "source": {"type": "url", "url": address}},
        {"type": "document", "source": {"type": "content", "content": address}},
        {"type": "image", "source": {"url": address}},
        {"type": "container_upload", "file_id": address},
    ):
        yield MESSAGES, {"model": "any", "max_tokens": 9, "messages": [{"role": "user", "content": [kind]}]}
        result = {"type": "tool_result", "tool_use_id": "t", "content": [kind]}
        yield MESSAGES, {"model": "any", "max_tokens": 9, "messages": [{"role": "user", "content": [result]}]}


@pytest.mark.parametrize("address", ADDRESSES)
def test_nobody_is_made_to_fetch_an_address(running: Running, address: str) -> None:
    sent = b"".join(
        post(json.dumps(asked).encode(), path).replace(b"Connection: close\r\n", b"")
        for path, asked in media(address)
    )
    found = ask_raw(running.url, sent + b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert len(found) == len(list(media(address))) + 1
    assert {answer.status for answer in found[:-1]} == {400}
    assert running.mock.asked == []
    for answer in found[:-1]:
        assert len(address) < 9 or address not in json.dumps(answer.json, ensure_ascii=False)


def test_addresses_in_fields_that_would_choose_a_server_are_refused(running: Running) -> None:
    address = "http://127.0.0.1:1/"
    for name in ("base_url", "api_base", "url", "upstream", "webhook", "callback_url", "api_key", "extra_headers"):
        for path, text in TEXTS.items():
            assert told(running, text % f',"{name}":"{address}"', path)[0] == 400
    for kind in ("mcp", "web_search", "file_search"):
        tool: dict[str, Any] = {
            "type": kind,
            "server_url": address,
            "server_label": "x",
            "require_approval": "never",
        }
        assert told(running, json.dumps({"model": "any", "input": "x", "tools": [tool]}), RESPONSES)[0] == 400
    servers = [{"type": "url", "url": address, "name": "x"}]
    assert told(running, TEXTS[MESSAGES] % f',"mcp_servers":{json.dumps(servers)}', MESSAGES)[0] == 400
    assert running.mock.asked == []


def test_models_are_names_and_no_addresses() -> None:
    models = {"small": {"upstream": "main", "served": "served"}}
    with serving(Mock(body=message("", "ok")), models=models) as running:
        for name in (
            "http://127.0.0.1:1/v1",
            "../small",
            "small/../x",
            "main",
            "served",
            "small ",
            "SMALL",
            "small\0",
        ):
            assert told(running, json.dumps({"model": name, "messages": [json.loads(TURN)]})) == (
                404,
                "model_not_found",
            )
        assert running.mock.asked == []
