"""The status page without a browser: who may see it, what is in its data and what is not, and its memory."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import signal
import socket
import tracemalloc
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any

import aiohttp
import pytest
from gateway_drive import Mock, Running, frames, free_port, message, serving, upstream
from test_gateway_desk import LIMITS, Watched, key
from test_gateway_serving import ASK, HIDE, SECRET, STREAM, THOUGHTS, ask, post
from test_serve_command import server

from azeotrope.core.errors import ConfigError, MissingError
from azeotrope.gateway.case import Case
from azeotrope.gateway.desk import ANONYMOUS, open_desk
from azeotrope.gateway.dialects import dialect
from azeotrope.gateway.ledger.identity import Identity
from azeotrope.gateway.metrics import SECONDS
from azeotrope.gateway.policy import DEFAULT, Failing
from azeotrope.gateway.relay import Job
from azeotrope.gateway.settings import LedgerSettings, LimitSettings, parse_settings
from azeotrope.gateway.status import book as books
from azeotrope.gateway.status.book import Book, bound, outcome_of
from azeotrope.gateway.status.minutes import Lane, Minutes, bucket, quantile
from azeotrope.gateway.status.peers import Peers
from azeotrope.gateway.status.settings import StatusSettings
from azeotrope.gateway.status.site import FILES, POLICY
from azeotrope.gateway.status.together import overviews, timelines
from azeotrope.gateway.status.view import Server, overview, part, tenant_part, timeline
from azeotrope.gateway.table import Facts, snapshot
from azeotrope.gateway.wire import chat_request
from azeotrope.gateway.wire.events import Usage

TOKEN = "a-token-of-twenty-8-characters"
STATUS = {"status": {"token_env": "AZ_STATUS_TOKEN"}}
HOSTILE = '<img src=x onerror="window.pwned = 1">'


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZ_STATUS_TOKEN", TOKEN)


def get(url: str, path: str = "/ui/data", **headers: str) -> tuple[int, Any, str]:
    """Status, headers and text."""

    async def ask() -> tuple[int, Any, str]:
        async with (
            aiohttp.ClientSession() as session,
            session.get(url + path, headers=headers, allow_redirects=False) as reply,
        ):
            return reply.status, reply.headers, await reply.text()

    return asyncio.run(ask())


def settled(running: Running) -> None:
    """Wait until what was asked is over, which is a moment after it was answered."""
    until = monotonic() + 10
    while running.gateway.active:
        assert monotonic() < until
    get(running.url, "/healthz")  # answered by the same thread, later


def data(running: Running, path: str = "/ui/data") -> Any:
    settled(running)
    status, _, text = get(running.url, path, Authorization=f"Bearer {TOKEN}")
    assert status == 200
    return json.loads(text)


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    desk = open_desk(
        LedgerSettings(folder=tmp_path / "ledger", keys="required"),
        LimitSettings.model_validate(LIMITS),
        Failing(),
    )
    desk.suspicion = Watched()
    policy = HIDE.replace(
        "- {name: short,", "- {name: watched, when: {level: 3}, stance: closed}\n  - {name: short,"
    )
    mock = Mock(frames=frames(*STREAM), body=message(THOUGHTS, "It is rock."))
    with serving(mock, policy=policy, tmp=tmp_path, desk=desk, retries=0, **STATUS) as found:
        yield found


def test_without_settings_there_is_no_such_page(tmp_path: Path) -> None:
    with serving(policy=HIDE, tmp=tmp_path) as running:
        for path in ("/ui", "/ui/", "/ui/data", "/ui/page.js"):
            assert get(running.url, path, Authorization=f"Bearer {TOKEN}")[0] == 404


def test_only_the_token_opens_it(running: Running) -> None:
    for wrong in (
        {}, {"Authorization": f"Bearer {TOKEN[:-1]}"}, {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": "Bearer "}, {"Authorization": TOKEN}, {"Authorization": f"Digest {TOKEN}"},
        {"Authorization": basic(TOKEN, "")}, {"Authorization": basic("", TOKEN + " ")},
        {"Authorization": "Basic !!"}, {"Authorization": "Basic /w=="}, {"x-api-key": TOKEN},
        {"Authorization": "Bearer " + "x" * 100_000},
    ):  # fmt: skip
        for path in ("/ui", "/ui/", "/ui/data", "/ui/data/tenant?name=one", "/ui/page.js", "/ui/nothing"):
            status, headers, text = get(running.url, path, **wrong)
            assert status in (401, 431)  # the server itself refuses the longest header
            if status == 401:
                assert headers["www-authenticate"].startswith("Basic ")
                assert "tenant" not in text
    for right in (f"Bearer {TOKEN}", f"bearer  {TOKEN}", basic("anybody", TOKEN), basic("", TOKEN)):
        assert get(running.url, "/ui/", Authorization=right)[0] == 200


def test_an_api_key_does_not_open_it(running: Running, tmp_path: Path) -> None:
    api = key(tmp_path / "ledger", "one")
    assert get(running.url, "/ui/data", Authorization=f"Bearer {api}")[0] == 401


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [(None, MissingError, "AZ_STATUS_TOKEN"), ("hunter-2", ConfigError, "16 characters")],
)
def test_a_missing_or_short_token_is_told_at_the_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str | None, error: type[Exception], words: str
) -> None:
    if value is None:
        monkeypatch.delenv("AZ_STATUS_TOKEN")
    else:
        monkeypatch.setenv("AZ_STATUS_TOKEN", value)
    with pytest.raises(error, match=words) as told, serving(policy=HIDE, tmp=tmp_path, **STATUS):
        pass
    assert value is None or value not in str(told.value)


def test_settings_name_a_variable_and_nothing_unknown() -> None:
    main = {"upstreams": {"main": {"url": "http://127.0.0.1:9/v1"}}}
    with pytest.raises(ConfigError, match="token"):
        parse_settings({**main, "status": {"token": "abc"}}, "server.yaml")
    with pytest.raises(ConfigError, match="token_env"):
        parse_settings({**main, "status": {}}, "server.yaml")


def test_every_answer_is_guarded_and_nothing_comes_from_elsewhere(running: Running) -> None:
    auth = {"Authorization": f"Bearer {TOKEN}"}
    status, headers, _ = get(running.url, "/ui", **auth)
    assert (status, headers["location"]) == (308, "ui/")
    for path in [*(f"/ui/{name}" for name in FILES), "/ui/data", "/ui/absent"]:
        for given in ({}, auth):
            _, headers, _ = get(running.url, path, **given)
            assert headers["content-security-policy"] == POLICY
            assert headers["x-frame-options"] == "DENY"
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["cache-control"] == "no-store"
            assert headers["referrer-policy"] == "no-referrer"
    assert "unsafe" not in POLICY
    assert POLICY.startswith("default-src 'none'")
    folder = resources.files("azeotrope.gateway.status")
    named = {name for name, _ in FILES.values()}
    assert {one.name for one in folder.iterdir() if not one.name.endswith(".py")} - {"__pycache__"} == named
    for name in named:
        text = (folder / name).read_text(encoding="utf-8")
        assert not re.findall(r"(?:https?:)?//(?!www\.w3\.org/2000/svg)[\w.]+\.\w+/", text), name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", text), name
    html = (folder / "page.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|<script(?![^>]*src=)|\son\w+=|style=", html)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_it_only_reads(running: Running, method: str) -> None:
    async def ask() -> int:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, running.url + "/ui/data", headers=headers) as reply,
        ):
            return reply.status

    assert asyncio.run(ask()) == 404


def test_what_happened_is_in_the_data(running: Running, tmp_path: Path) -> None:
    one, thief, small = (key(tmp_path / "ledger", name) for name in ("one", "thief", HOSTILE))
    for model in ("any", "clean", HOSTILE):
        assert post(running, {**ASK, "model": model}, Authorization=f"Bearer {one}")[0] == 200
    assert post(running, {**ASK, "stream": True}, Authorization=f"Bearer {small}")[0] == 200
    assert post(running, ASK, Authorization=f"Bearer {thief}")[0] == 403
    assert post(running, {**ASK, "logprobs": True}, Authorization=f"Bearer {one}")[0] == 400
    assert post(running, ASK, Authorization="Bearer wrong")[0] == 401
    running.mock.fail = [503]
    assert post(running, ASK, Authorization=f"Bearer {one}")[0] == 503
    found = data(running)
    assert found["window"]["outcomes"] == {"answered": 4, "refused": 3, "failed": 1, "left": 0}
    assert {row["name"]: row["count"] for row in found["window"]["stances"]} == {
        "guard": 5, "exact": 1, "closed": 1
    }  # fmt: skip
    codes = {row["name"] for row in found["window"]["codes"]}
    assert codes == {"refused_by_policy", "unsupported_parameter", "invalid_api_key", "upstream_overloaded"}
    assert found["window"]["levels"] == [6, 0, 0, 1, 0]
    assert found["window"]["prompt"] == 4 * 5
    assert found["window"]["completion"] == 4 * 9
    assert sum(found["window"]["overhead"]["counts"]) == 8
    assert 0 < found["window"]["overhead"]["p50"] <= found["window"]["overhead"]["p99"]
    assert sum(row["answered"] for row in found["minutes"]) == 4
    assert len(found["minutes"]) == 180
    assert [row["name"] for row in found["tenants"]] == ["one", "thief", HOSTILE], "the latest first"
    assert found["tenants"][1] | {"seen": 0} == {
        "name": "thief", "requests": 1, "errors": 1, "tokens": 0, "level": 3, "seen": 0
    }  # fmt: skip
    assert found["detection"] is None, "nobody was asked for its state"
    assert found["server"]["policy"] == running.gateway.policy.current.hash


def test_a_tenants_timeline(running: Running, tmp_path: Path) -> None:
    thief = key(tmp_path / "ledger", "thief")
    shared = key(tmp_path / "ledger", "shared")
    post(running, {**ASK, "model": HOSTILE}, Authorization=f"Bearer {thief}")
    post(running, {**ASK, "stream": True}, Authorization=f"Bearer {shared}")
    found = data(running, "/ui/data/tenant?name=thief")
    assert found["stances"] == [{"name": "closed", "count": 1}]
    (change,) = found["changes"]
    assert (change["before"], change["after"], change["reasons"]) == (0, 3, ["volume", "template"])
    assert found["raised"] == {change["key"]: 3}
    (asked,) = found["requests"]
    assert (asked["status"], asked["code"], asked["level"]) == (403, "refused_by_policy", 3)
    assert asked["model"] == HOSTILE
    assert found["minutes"][-1]["level"] in (0, 3)  # a minute may have begun since
    assert sum(row["errors"] for row in found["minutes"]) == 1
    (asked,) = data(running, "/ui/data/tenant?name=shared")["requests"]
    assert asked["streamed"]
    assert asked["altered"]
    assert (asked["prompt"], asked["completion"]) == (5, 9)
    assert 0 < asked["work"] < asked["took"] < 60
    for query in ("", "?name=", "?name=nobody", "?name=%ff%fe", "?" + "a=1&" * 50, "?name=" + "x" * 9000):
        assert get(running.url, f"/ui/data/tenant{query}", Authorization=f"Bearer {TOKEN}")[0] in (404, 414)


def test_no_prompt_reply_or_key_is_in_it(running: Running, tmp_path: Path) -> None:
    api = key(tmp_path / "ledger", "one")
    post(running, {**ASK, "user": "canary-user"}, Authorization=f"Bearer {api}")
    post(running, {**ASK, "stream": True}, Authorization=f"Bearer {api}")
    text = json.dumps(data(running)) + json.dumps(data(running, "/ui/data/tenant?name=one"))
    for secret in ("What is the moon", SECRET[:20], "It is rock", "canary-user", api, TOKEN, api.split(".")[-1]):
        assert secret not in text


def test_an_upstreams_state(running: Running, tmp_path: Path) -> None:
    api = {"Authorization": f"Bearer {key(tmp_path / 'ledger', 'one')}"}
    state = {"state": "not asked yet", "replies": 0, "failures": 0, "failed": 0, "code": ""}
    (found,) = data(running)["upstreams"]
    assert found.items() >= {**state, "name": "main"}.items()
    running.mock.fail = [500, 500]
    for _ in range(2):
        assert post(running, ASK, **api)[0] == 502
    assert post(running, {**ASK, "logprobs": True}, **api)[0] == 400, "that is not the upstream's fault"
    (found,) = data(running)["upstreams"]
    assert found.items() >= {"state": "failing", "failures": 2, "failed": 2, "code": "upstream_error"}.items()
    assert post(running, ASK, **api)[0] == 200
    running.mock.frames = frames(*STREAM[:3], done=False)
    running.mock.cut = True
    post(running, {**ASK, "stream": True}, **api)
    (found,) = data(running)["upstreams"]
    assert found.items() >= {"state": "failing", "replies": 1, "failures": 3, "code": "upstream_closed"}.items()
    assert data(running)["window"]["outcomes"]["failed"] == 3, "a reply that broke off is none"


def test_without_keys_everybody_is_one_tenant(tmp_path: Path) -> None:
    with serving(Mock(body=message("", "ok")), policy=HIDE, tmp=tmp_path, **STATUS) as running:
        post(running, ASK)
        assert [row["name"] for row in data(running)["tenants"]] == ["anonymous"]


def test_a_bug_in_the_page_ends_nothing(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(books, "outcome_of", lambda *known: 1 / 0)
    assert post(running, ASK, Authorization=f"Bearer {key(tmp_path / 'ledger', 'one')}")[0] == 200
    settled(running)
    assert any("is not counted" in record.getMessage() for record in caplog.records)


def case(tenant: str = "one", model: str = "any", status: int = 200, **more: Any) -> Case:
    """A request that is over."""
    found = Case("req_1", dialect("chat"), perf_counter(), Identity(more.pop("key", "k1"), tenant, "default"))
    found.request = chat_request.read(json.dumps({**ASK, "model": model}).encode())
    found.status = status
    found.decision = snapshot(DEFAULT).decide(Facts())
    for name, value in more.items():
        setattr(found, name, value)
    return found


def settings(**given: int) -> StatusSettings:
    return StatusSettings.model_validate({"token_env": "X", **given})


def test_memory_stays_within_its_bound_whatever_comes() -> None:
    """Names as long as names can be, of four bytes a character, all different: more than the book has room for."""
    small = settings(minutes=12, tenants=6, requests=20)
    wide = "\U00010330" * 190
    made = [case(model=f"{n}{wide}", status=200 + 300 * (n % 2)) for n in range(40)]
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    book = Book(small, ["main"], keyed=True)
    now = 1_790_000_000.0
    clock = [now]
    original, books.time = books.time, lambda: clock[0]
    try:
        for n in range(4000):
            clock[0] = now + 1.7 * n
            one = made[n % 40]
            one.identity = Identity(f"{n % 97}{wide}", f"{n // 300}{wide}", "default")
            one.code = f"{n}{wide}"
            one.level = n % 5
            one.reasons = tuple(f"{n}{m}" + "x" * 99 for m in range(30))  # Python keeps freed tuples up to 20
            book.add(one)
    finally:
        books.time = original
    for one in made:  # what they hold themselves is not the book's
        one.identity, one.code, one.reasons = ANONYMOUS, "", ()
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert len(book.tenants) == 6
    assert book.forgotten == 4000 // 300 + 1 - 6
    assert all(len(one.entries) == 20 and len(one.changes) == 30 for one in book.tenants.values())
    assert all(len(one.raised) <= books.MOST_RAISED for one in book.tenants.values())
    assert used < bound(small)
    assert bound(settings()) < 46_000_000, "as the settings say"
    assert bound(settings(minutes=12, tenants=6, requests=20)) < 1_700_000


def test_ordinary_traffic_takes_a_fraction_of_the_bound() -> None:
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    book, one = Book(settings(), ["main"], keyed=True), case(level=0)
    for n in range(20_000):
        one.identity = Identity("k", f"tenant-{n % 200}", "default")
        book.add(one)
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert used < bound(settings()) / 5


def test_the_latest_tenants_are_kept() -> None:
    book = Book(settings(tenants=2), ["main"], keyed=True)
    for name in ("a", "b", "a", "c"):
        book.add(case(name))
    assert list(book.tenants) == ["a", "c"]
    assert book.forgotten == 1
    assert tenant_part(book, "b", 0.0) is None


def test_a_keys_level_is_followed_apart_from_the_tenants_others() -> None:
    book = Book(settings(), ["main"], keyed=True)
    for which, level in (("k1", 0), ("k2", 2), ("k1", 0), ("k2", 2), ("k2", 3), ("k1", 1), ("k2", 0)):
        book.add(case(key=which, level=level, reasons=("key_volume",) if level else ()))
    book.add(case(key="k1", level=None))  # refused before anybody looked
    tenant = book.tenants["one"]
    assert [(one.key, one.before, one.after) for one in tenant.changes] == [
        ("k2", 0, 2), ("k2", 2, 3), ("k1", 0, 1), ("k2", 3, 0)
    ]  # fmt: skip
    assert tenant.raised == {"k1": 1}


def test_minutes_are_a_ring() -> None:
    ring, lane = Minutes(10), Lane(10)
    for at in (100, 101, 101, 115):
        ring.now(at).prompt += 1
        lane.requests[lane.place(at)] += 1
    assert [(one.at, one.prompt) for one in ring.last(3, 116)] == [(114, 0), (115, 1), (116, 0)]
    assert [row[:2] for row in lane.last(3, 116)] == [(114, 0), (115, 1), (116, 0)]
    assert sum(one.prompt for one in ring.last(99, 116)) == 1
    assert [one.at for one in ring.last(99, 116)] == list(range(107, 117))
    assert sum(row[1] for row in lane.last(99, 101)) == 3
    assert lane.totals(3, 116) == (1, 0, 0)
    assert lane.totals(60, 116) == (4, 0, 0)


def test_quantiles_of_buckets() -> None:
    counts = [0] * (len(SECONDS) + 1)
    assert quantile(counts, 0.5) is None
    for seconds in (0.0002, 0.0002, 0.0002, 0.0015):
        counts[bucket(seconds)] += 1
    assert quantile(counts, 0.75) == pytest.approx(0.0002)
    assert quantile(counts, 0.99) == pytest.approx(0.001 + 0.001 * 0.96)
    counts[bucket(99.0)] += 1000
    assert quantile(counts, 0.99) == SECONDS[-1]


@pytest.mark.parametrize(
    ("status", "outcome"), [(200, "answered"), (404, "refused"), (499, "left"), (500, "failed"), (503, "failed")]
)
def test_how_a_request_ended(status: int, outcome: str) -> None:
    assert outcome_of(status, "") == outcome
    assert outcome_of(status, "upstream_closed") == ("left" if status == 499 else "failed")


def state(book: Book, now: float, **more: Any) -> Any:
    """The part of a process that another may have sent: what JSON makes of it."""
    server = Server(policy="h", policy_error="", active=1, draining=False, processes=2)
    return json.loads(json.dumps({**part(book, server, None, now), **more}))


def test_what_several_processes_know_is_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_790_000_040.0  # a minute begins
    monkeypatch.setattr("azeotrope.gateway.case.perf_counter", lambda: 0.0)  # both books see one overhead
    first, second, both = (Book(settings(minutes=10), ["main", "spare"], keyed=True) for _ in range(3))
    for n in reversed(range(40)):
        at = now - 7 * n
        monkeypatch.setattr(books, "time", lambda at=at: at)
        status, code = ((200, ""), (403, "refused_by_policy"), (502, "upstream_error"))[n % 3]
        one = case(
            f"t{n % 4}", status=status, code=code, level=n % 3, upstream="main", key=f"k{n % 4}", began=-0.001 * n
        )
        one.job = Job(one.request, "t", one.decision, "served")  # type: ignore[arg-type]
        one.job.usage = Usage(3, 4)
        for book in (first if n % 2 else second, both):
            book.add(one)
    alone = overview(overviews([state(both, now)]))
    found = overview(overviews([state(first, now), state(second, now + 59)]), 2)
    assert found["server"] == {**alone["server"], "active": 2, "answering": 2}
    for name in ("outcomes", "prompt", "completion", "stances", "codes", "levels"):
        assert found["window"][name] == alone["window"][name], name
    assert found["window"]["overhead"]["counts"] == alone["window"]["overhead"]["counts"]
    assert found["window"]["overhead"]["p50"] == alone["window"]["overhead"]["p50"]
    for mine, its in zip(found["minutes"], alone["minutes"], strict=True):
        assert {**mine, "work": 0} == {**its, "work": 0}
        assert mine["work"] == pytest.approx(its["work"])
    assert {one["name"]: one["requests"] for one in found["tenants"]} == {f"t{n}": 10 for n in range(4)}
    main, spare = found["upstreams"]
    its = alone["upstreams"][0]
    for name in ("state", "replies", "failures", "code", "replied_at", "failed_at"):
        assert main[name] == its[name], name
    assert spare["state"] == "not asked yet"
    parts = [tenant_part(one, "t1", now) for one in (first, second, both)]
    assert parts[1] is None, "only one process has seen it"
    merged = timeline(timelines([parts[0], parts[2]]))  # type: ignore[list-item]
    assert merged["stances"] == [{"name": "guarded", "count": 20}]
    assert [one["time"] for one in merged["requests"]] == sorted(one["time"] for one in merged["requests"])
    assert len(merged["requests"]) == 20


def test_detections_of_several_processes() -> None:
    book = Book(settings(), ["main"], keyed=True)
    change = {"time": 2.0, "of": "key", "name": "k", "before": 0, "after": 1, "reasons": []}
    counts = dict.fromkeys(("requests", "dropped", "queued", "keys", "tenants", "clusters"), 2)
    raised = [{"of": "key", "level": 1, "count": 1}]
    one = {"calibrated": True, **counts, "raised": raised, "changes": [change]}
    other = {"calibrated": True, **counts, "raised": [*raised, {"of": "tenant", "level": 2, "count": 3}],
             "changes": [{**change, "time": 1.0}]}  # fmt: skip
    found = overviews([state(book, 60.0, detection=one), state(book, 60.0, detection=other)])["detection"]
    assert found["keys"] == 4
    assert found["raised"] == [{**raised[0], "count": 2}, {"of": "tenant", "level": 2, "count": 3}]
    assert [row["time"] for row in found["changes"]] == [1.0, 2.0]


def test_a_process_that_ended_or_hangs_is_left_out(tmp_path: Path) -> None:
    def bind(name: str) -> socket.socket:
        found = socket.socket(socket.AF_UNIX)
        found.bind(str(tmp_path / name))
        return found

    bind("1.sock").close()  # ended without a word
    hangs = bind("2.sock")
    hangs.listen()

    async def ask() -> Any:
        asked, other = Peers(tmp_path, lambda q: None), Peers(tmp_path, lambda q: {"asked": q[1]})
        await other.start()
        (tmp_path / f"{os.getpid()}.sock").rename(tmp_path / "3.sock")  # as if it were another process's
        try:
            return await asked.ask(("tenant", HOSTILE))
        finally:
            await other.stop()

    assert asyncio.run(ask()) == ([{"asked": HOSTILE}], 1)
    hangs.close()
    assert not (tmp_path / "1.sock").exists()


def test_two_processes_show_what_both_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    file = tmp_path / "server.yaml"
    with upstream(Mock(body=message("", "ok")), free_port()) as address:
        file.write_text(
            f"azeotrope_server: 1\nlisten: {{workers: 2}}\nupstreams: {{main: {{url: '{address}'}}}}\n"
            "status: {token_env: AZ_STATUS_TOKEN}\n"
            f"ledger: {{folder: '{tmp_path / 'ledger'}'}}\n"  # where processes share a key
        )
        with server("--config", str(file)) as (process, url):
            for _ in range(12):
                assert asyncio.run(ask(url, ASK))[0] == 200  # a connection each: any process may have it
            until = monotonic() + 20
            while True:
                found = json.loads(get(url, Authorization=f"Bearer {TOKEN}")[2])
                if found["server"]["answering"] == 2 and found["window"]["outcomes"]["answered"] == 12:
                    break
                assert monotonic() < until, found["server"]
            (tenant,) = found["tenants"]
            assert (tenant["name"], tenant["requests"]) == ("anonymous", 12)
            text = get(url, "/ui/data/tenant?name=anonymous", Authorization=f"Bearer {TOKEN}")[2]
            assert len(json.loads(text)["requests"]) == 12
            (folder,) = tmp_path.glob("azeotrope-*")
            assert folder.stat().st_mode & 0o777 == 0o700
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
    assert not folder.exists()
