"""A teacher behind an endpoint: what is sent, what is kept, what it costs, and every way in which it can fail.

All on a real server in this process; nothing is mocked.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from threading import Barrier, Event
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from azeotrope.core.errors import ConfigError, RunError
from azeotrope.core.sampling import Sampling
from azeotrope.core.seeds import derive
from azeotrope.core.types import Problem, Trace
from azeotrope.models import endpoint_http
from azeotrope.models.endpoint import Endpoint, EndpointSettings, is_endpoint, parse_ref, text_of, wire_seed
from azeotrope.models.endpoint_cache import Cache, Reply
from azeotrope.models.endpoint_http import MAX_MESSAGE, MAX_WAIT_S
from serving import Answer, Asked, Served, chat, plain

KEY = "sk-secret-0123456789abcdef"
WARM = Sampling(temperature=0.7, top_p=0.9)
PRICES = {"price_in": 1.0, "price_out": 10.0}  # per million tokens

Serve = Callable[[Callable[[Asked], Answer]], Served]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as stack:
        yield lambda answer: stack.enter_context(Served(answer))


def problems(n: int) -> list[Problem]:
    """At most ten, so that all prompts are of one length."""
    assert n <= 10
    return [Problem(id=f"p{i}", task="toy", prompt=f"What is {i}?", answer=str(i)) for i in range(n)]


def echo(asked: Asked) -> Answer:
    return chat(f"You asked: {asked.prompt}")


def settings(served: Served, folder: Path, **more: Any) -> EndpointSettings:
    plain = {"backoff": 0.001, "retries": 2, "timeout": 10.0, "cache": folder / "cache.sqlite"}
    return parse_ref(f"{served.url}#model", **{**plain, **more})


def write(found: EndpointSettings, n: int = 1, **more: Any) -> list[Trace]:
    return Endpoint(found).write(problems(n), WARM, seed=3, **{"max_new_tokens": 20, **more})


# What is sent and what comes back


def test_a_chat_is_sent_and_read(serve: Serve, tmp_path: Path) -> None:
    served = serve(echo)
    (trace,) = write(settings(served, tmp_path))
    (asked,) = served.asked
    seed = derive(3, "sampling", "p0")
    assert asked.path == "/v1/chat/completions"
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert asked.body == {
        "model": "model",
        "messages": [{"role": "user", "content": "What is 0?"}],
        "temperature": 0.7,
        "top_p": 0.9,
        "seed": wire_seed(seed),
        "max_tokens": 20,
    }
    assert trace == Trace(
        problem_id="p0",
        prompt="What is 0?",
        text="You asked: What is 0?",
        seed=seed,
        finished=True,
        n_tokens=5,
        meta={"prompt_tokens": 10, "cost": 0.0},
    )


def test_the_other_interface_continues_the_prompt(serve: Serve, tmp_path: Path) -> None:
    served = serve(lambda asked: plain(" 0."))
    (trace,) = write(settings(served, tmp_path, api="completions"), prefix="It is")
    assert served.asked[0].path == "/v1/completions"
    assert served.asked[0].body["prompt"] == "What is 0?It is"
    assert "messages" not in served.asked[0].body
    assert (trace.text, trace.prompt) == ("It is 0.", "What is 0?")


def test_settings_beyond_the_standard_are_sent_only_when_set(serve: Serve, tmp_path: Path) -> None:
    served = serve(echo)
    odd = Sampling(top_k=5, repetition_penalty=1.1, max_new_tokens=7)
    found = settings(served, tmp_path, limit_field="max_completion_tokens")
    Endpoint(found).write(problems(1), odd, seed=0, max_new_tokens=20)
    body = served.asked[0].body
    assert (body["top_k"], body["repetition_penalty"], body["max_completion_tokens"]) == (5, 1.1, 7)
    assert "max_tokens" not in body


def test_no_key_is_sent_where_there_is_none(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served = serve(echo)
    write(settings(served, tmp_path, key_env=""))
    monkeypatch.delenv("OPENAI_API_KEY")
    write(settings(served, tmp_path), 2)
    assert len(served.asked) == 2
    assert not any("authorization" in {name.lower() for name in asked.headers} for asked in served.asked)


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning_that_comes_apart_is_put_into_tags(serve: Serve, tmp_path: Path, field: str) -> None:
    served = serve(lambda asked: chat("4.", **{field: "2 + 2."}))
    (trace,) = write(settings(served, tmp_path))
    assert trace.text == "<think>2 + 2.</think> 4."
    (dropped,) = write(settings(served, tmp_path, reasoning="drop"))
    assert dropped.text == "4."
    assert len(served.asked) == 1, "how reasoning is shown does not change what was asked"


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (Reply("<think>a</think> b", "c"), "<think>a</think> b"),
        (Reply("a</think> b", "c"), "a</think> b"),
        (Reply("\n\nb", "\na\n"), "<think>\na\n</think>\n\nb"),
        (Reply("", "cut off"), "<think>cut off"),
        (Reply("b"), "b"),
    ],
)
def test_tags_are_added_where_they_are_missing(reply: Reply, text: str) -> None:
    assert text_of(reply) == text


@pytest.mark.parametrize(
    ("reply", "prefix", "text"),
    [
        (Reply(" it is 4."), "So", "So it is 4."),
        (Reply("So it is 4."), "So", "So it is 4."),
        (Reply("4.", " more"), "<think>First", "<think>First more</think> 4."),
        (Reply("4.", "First more"), "<think>First", "<think>First more</think> 4."),
        (Reply(" more</think> 4."), "<think>First", "<think>First more</think> 4."),
        (Reply("<think>b</think> 4."), "<think>a</think>", "<think>a</think><think>b</think> 4."),
    ],
)
def test_a_text_begins_with_the_prefix_once(reply: Reply, prefix: str, text: str) -> None:
    assert text_of(reply, prefix) == text


FEW = hypothesis.settings(max_examples=40)


@FEW
@given(st.text(), st.text(), st.text(), st.booleans())
def test_a_text_always_begins_with_the_prefix(content: str, reasoning: str, prefix: str, echo: bool) -> None:
    assert text_of(Reply(content, reasoning), prefix, may_echo=echo).startswith(prefix)


def test_a_prefix_is_sent_as_the_beginning_of_the_reply(serve: Serve, tmp_path: Path) -> None:
    served = serve(lambda asked: chat(" it is."))
    (trace,) = write(settings(served, tmp_path), prefix="So")
    assert served.asked[0].body["messages"][1:] == [{"role": "assistant", "content": "So"}]
    assert trace.text == "So it is."


def test_a_completion_may_be_cut_off_or_uncounted(serve: Serve, tmp_path: Path) -> None:
    served = serve(lambda asked: chat("cut", finish="length", tokens=None))
    (trace,) = write(settings(served, tmp_path, max_cost=1, **PRICES))
    assert (trace.finished, trace.n_tokens) == (False, 0)
    bound = len("What is 0?") + 256
    assert trace.meta["cost"] == pytest.approx((bound + 20 * 10) / 1e6), "what is not told counts at its worst"
    assert Endpoint(settings(served, tmp_path)).spent() == trace.meta["cost"]


def test_all_tokens_spent_on_hidden_reasoning_is_a_completion(serve: Serve, tmp_path: Path) -> None:
    served = serve(lambda asked: chat(None, finish="length"))
    (trace,) = write(settings(served, tmp_path))
    assert (trace.text, trace.finished, len(served.asked)) == ("", False, 1)


def test_order_and_concurrency(serve: Serve, tmp_path: Path) -> None:
    together = Barrier(3, timeout=5)  # passes only if three requests are open at a time

    def answer(asked: Asked) -> Answer:
        together.wait()
        time.sleep(0.001 * (7 * asked.index % 5))
        return echo(asked)

    served, told = serve(answer), []
    traces = write(settings(served, tmp_path, concurrency=3), 9, progress=told.append)
    assert [trace.problem_id for trace in traces] == [f"p{i}" for i in range(9)]
    assert [trace.text for trace in traces] == [f"You asked: What is {i}?" for i in range(9)]
    assert served.peak == 3
    assert sum(told) == 9
    write(settings(served, tmp_path), 9, progress=told.append)
    assert (sum(told), len(served.asked)) == (18, 9)


# The cache


def test_everything_that_changes_the_output_is_asked_anew(serve: Serve, tmp_path: Path) -> None:
    served = serve(lambda asked: plain("x") if "prompt" in asked.body else echo(asked))
    found = settings(served, tmp_path)
    other = {"api": "completions"}
    variants: list[tuple[EndpointSettings, Sampling, dict[str, Any]]] = [
        (found, WARM, {}),
        (found, WARM, {"seed": 4}),
        (found, WARM, {"max_new_tokens": 21}),
        (found, WARM, {"prefix": "So"}),
        (found, WARM.model_copy(update={"temperature": 0.8}), {}),
        (found, WARM.model_copy(update={"top_p": 0.8}), {}),
        (settings(served, tmp_path, **other), WARM, {}),
        (parse_ref(f"{served.url}#other", cache=found.cache), WARM, {}),
    ]
    for _ in range(2):
        for variant, sampling, more in variants:
            call: dict[str, Any] = {"seed": 3, "max_new_tokens": 20, **more}
            Endpoint(variant).write(problems(1), sampling, **call)
    assert len(served.asked) == len(variants)


def test_the_same_request_twice_is_sent_once(serve: Serve, tmp_path: Path) -> None:
    served, told = serve(echo), []
    twice = [*problems(1), *problems(2)]
    traces = Endpoint(settings(served, tmp_path)).write(
        twice, WARM, seed=0, max_new_tokens=9, progress=told.append
    )
    assert [trace.problem_id for trace in traces] == ["p0", "p0", "p1"]
    assert (len(served.asked), sum(told)) == (2, 3)


def test_what_came_before_a_failure_is_not_asked_again(serve: Serve, tmp_path: Path) -> None:
    served = serve(lambda asked: echo(asked) if asked.index < 4 else Answer({"error": "down"}, 503))
    found = settings(served, tmp_path, concurrency=1, retries=1)
    with pytest.raises(RunError, match=r"503: down for problem 'p4' after 2 attempts; 4 of 10 completions are"):
        write(found, 10)
    assert len(served.asked) == 6
    served.answer = echo
    traces = write(found, 10)
    assert [trace.text for trace in traces] == [f"You asked: What is {i}?" for i in range(10)]
    assert len(served.asked) == 6 + 6
    write(found, 10)
    assert len(served.asked) == 12


def test_what_is_under_way_when_another_fails_is_kept(serve: Serve, tmp_path: Path) -> None:
    together = Barrier(2, timeout=5)

    def answer(asked: Asked) -> Answer:
        if asked.index < 2:
            together.wait()
        if asked.prompt == "What is 0?":
            return Answer({"error": {"message": "no"}}, 400)
        time.sleep(0.02)
        return echo(asked)

    served = serve(answer)
    with pytest.raises(RunError, match=r"400: no for problem 'p0'; [1-7] of 9 completions are done"):
        write(settings(served, tmp_path, concurrency=2), 9)
    before = len(served.asked)
    assert before < 9, "nothing new is sent after a failure"
    served.answer = echo
    write(settings(served, tmp_path), 9)
    assert len(served.asked) == before + 9 - (before - 1)


KILLED = """
import sys
from azeotrope.core.sampling import Sampling
from azeotrope.core.types import Problem
from azeotrope.models.endpoint import Endpoint, parse_ref
problems = [Problem(id=f"p{i}", task="toy", prompt=f"What is {i}?", answer=str(i)) for i in range(8)]
sampling = Sampling(temperature=0.7, top_p=0.9)
Endpoint(parse_ref(sys.argv[1])).write(problems, sampling, seed=3, max_new_tokens=20)
"""


def test_a_killed_run_goes_on_where_it_was(serve: Serve, tmp_path: Path) -> None:
    stuck, release = Event(), Event()

    def answer(asked: Asked) -> Answer:
        if asked.index == 3:
            stuck.set()
            release.wait(10)
        return echo(asked)

    served = serve(answer)
    cache = tmp_path / "cache.sqlite"
    options = f"concurrency=1&max_cost=1&price_in=1&price_out=10&cache={cache}"
    child = subprocess.Popen([sys.executable, "-c", KILLED, f"{served.url}#model?{options}"])
    try:
        assert stuck.wait(30)
    finally:
        child.kill()
        child.wait()
        release.set()
    found = settings(served, tmp_path, max_cost=1, **PRICES)
    worst = (len("What is 3?") + 256 + 20 * 10) / 1e6
    assert Endpoint(found).spent() == pytest.approx(3 * 60e-6 + worst), "it may be billed, so it stays booked"
    assert len(write(found, 8)) == 8
    assert len(served.asked) == 4 + 5


@pytest.mark.parametrize("content", [b"not a database" * 100, b"SQLite format 3\0" + b"\xff" * 4000])
def test_a_damaged_cache_is_one_sentence(content: bytes, serve: Serve, tmp_path: Path) -> None:
    served = serve(echo)
    found = settings(served, tmp_path)
    found.cache_file.write_bytes(content)
    with pytest.raises(RunError, match=r"cache\.sqlite' is damaged .*; move it away"):
        write(found)
    assert not served.asked


def test_a_cache_damaged_in_its_middle_is_one_sentence(serve: Serve, tmp_path: Path) -> None:
    served = serve(echo)
    found = settings(served, tmp_path)
    write(found, 10)
    raw = bytearray(found.cache_file.read_bytes())
    raw[4096:] = b"\xff" * (len(raw) - 4096)
    found.cache_file.write_bytes(raw)
    with pytest.raises(RunError, match="is damaged"):
        write(found, 10)


def test_another_database_is_left_alone(serve: Serve, tmp_path: Path) -> None:
    found = settings(serve(echo), tmp_path)
    with sqlite3.connect(found.cache_file) as db:
        db.execute("CREATE TABLE mine (x)")
    db.close()
    with pytest.raises(RunError, match="not a completion cache"):
        write(found)


def test_a_cache_that_cannot_be_made_is_one_sentence(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be used"):
        write(settings(serve(echo), tmp_path, cache=tmp_path / "file" / "cache.sqlite"))


def test_the_default_cache_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert parse_ref("https://h/v1#m").cache_file == tmp_path / "azeotrope" / "completions.sqlite"


def test_two_that_ask_the_same_at_once_pay_once(serve: Serve, tmp_path: Path) -> None:
    """As processes do, each has files of its own; locks tell open files apart, not processes."""

    def answer(asked: Asked) -> Answer:
        time.sleep(0.005)
        return echo(asked)

    served = serve(answer)
    found = settings(served, tmp_path)
    with ThreadPoolExecutor(4) as pool:
        told = list(pool.map(lambda _: write(found, 10), range(4)))
    assert all(one == told[0] for one in told)
    assert len(served.asked) == 10
    assert not list(tmp_path.glob("*.lock"))


def test_whoever_asks_for_something_else_does_not_wait(serve: Serve, tmp_path: Path) -> None:
    together = Barrier(2, timeout=5)  # passes only if both have a request open

    def answer(asked: Asked) -> Answer:
        together.wait()
        return echo(asked)

    found = settings(serve(answer), tmp_path)
    with ThreadPoolExecutor(2) as pool:
        assert len(list(pool.map(lambda n: write(found, max_new_tokens=n), (5, 6)))) == 2


def test_who_waited_goes_on_where_the_other_stopped(serve: Serve, tmp_path: Path) -> None:
    served = serve(lambda asked: echo(asked) if asked.index != 4 else Answer({"error": "no"}, 400))
    found = settings(served, tmp_path, concurrency=1)

    def attempt(_: int) -> int:
        try:
            return len(write(found, 10))
        except RunError:
            return 0

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(attempt, range(2))) == [0, 10]
    assert len(served.asked) == 11


# The cap


def test_the_cap_stops_and_a_higher_one_goes_on(serve: Serve, tmp_path: Path) -> None:
    served = serve(echo)  # each costs 10 + 5 × 10 = 60 millionths, at most 466 before it is known
    found = settings(served, tmp_path, max_cost=700e-6, **PRICES)
    with pytest.raises(RunError) as caught:
        write(found, 10)
    text = str(caught.value)
    done = len(served.asked)
    assert done == (700 - 466) // 60 + 1, "requests under way do not lower what fits in the end"
    assert f"0.00024 was spent with {done} requests" in text
    assert f"{done} of 10 completions are done and cached" in text
    assert "running again with a higher max_cost continues" in text
    assert "the next one may cost 0.000466" in text
    with pytest.raises(RunError):
        write(found, 10)
    assert len(served.asked) == done
    paid = [problem for problem in problems(10) if problem.prompt in {asked.prompt for asked in served.asked}]
    again = Endpoint(found).write(paid, WARM, seed=3, max_new_tokens=20)
    assert len(again) == done, "what is cached costs nothing"
    assert len(write(found.model_copy(update={"max_cost": 1.0}), 10)) == 10
    assert len(served.asked) == 10
    assert Endpoint(found).spent() == pytest.approx(10 * 60e-6)


def test_the_cap_holds_at_every_moment(serve: Serve, tmp_path: Path) -> None:
    cap, seen, together = 1500e-6, [], Barrier(3, timeout=5)

    def answer(asked: Asked) -> Answer:
        if asked.index < 3:
            together.wait()
        seen.append(Endpoint(found).spent())
        return chat("x", tokens=(100, 20))

    served = serve(answer)
    found = settings(served, tmp_path, max_cost=cap, concurrency=8, **PRICES)
    with pytest.raises(RunError, match="The cap max_cost"):
        write(found, 10)
    assert max(seen) <= cap
    assert served.peak == 3, "three worst cases fit under the cap together"


def test_a_cap_is_of_one_model_of_one_server(serve: Serve, tmp_path: Path) -> None:
    served = serve(echo)
    found = settings(served, tmp_path, max_cost=500e-6, **PRICES)
    write(found, 1)
    with pytest.raises(RunError, match="0 of 1 completions"):
        Endpoint(found).write(problems(1), WARM, seed=9, max_new_tokens=20)
    other = parse_ref(f"{served.url}#other", cache=found.cache, max_cost=500e-6, **PRICES)
    assert len(write(other, 1)) == 1


def test_the_cap_holds_between_processes(tmp_path: Path) -> None:
    """Every caller has a connection of its own, as processes have, and they also create the file at once."""
    path = tmp_path / "new" / "cache.sqlite"

    def spend(_: int) -> int:
        with Cache(path, "u", "m") as cache:
            return sum(cache.book(10, 400, None) is None for _ in range(10))

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(spend, range(8))) == 40
    with Cache(path, "u", "m") as cache:
        assert (cache.account().spent, cache.account().requests) == (400, 40)


def test_requests_can_be_capped_where_there_are_no_prices(serve: Serve, tmp_path: Path) -> None:
    served = serve(echo)
    found = settings(served, tmp_path, max_requests=3)
    with pytest.raises(RunError, match=r"max_requests=3 is reached .*; 3 of 5 completions .* higher max_requests"):
        write(found, 5)
    write(found.model_copy(update={"max_requests": None}), 5)
    assert len(served.asked) == 5


def test_a_failed_attempt_is_booked_as_far_as_it_may_be_billed(serve: Serve, tmp_path: Path) -> None:
    answers = {0: Answer(status=500), 1: Answer(status=429), 2: Answer(status=0), 3: chat("", tokens=(10, 0))}
    served = serve(lambda asked: answers.get(asked.index) or echo(asked))
    found = settings(served, tmp_path, max_cost=1, retries=4, **PRICES)
    write(found, 1)
    worst = len("What is 0?") + 256 + 200
    assert Endpoint(found).spent() == pytest.approx((0 + 0 + worst + 10 + 60) / 1e6)


def test_what_was_sent_and_what_may_be_is_told(serve: Serve, tmp_path: Path) -> None:
    served = serve(lambda asked: echo(asked) if asked.index else Answer(status=0))
    found = settings(served, tmp_path, max_cost=1, **PRICES)
    endpoint, call = Endpoint(found), {"seed": 3, "max_new_tokens": 20}
    bounds = endpoint.bounds(problems(3), WARM, **call)
    worst = (len("What is 0?") + 256 + 20 * 10) / 1e6
    assert list(bounds.values()) == pytest.approx([worst] * 3)
    assert endpoint.stored(list(bounds)) == set()
    assert not found.cache_file.exists()
    endpoint.write(problems(2), WARM, **call)
    assert endpoint.stored(list(bounds)) == set(list(bounds)[:2])
    assert endpoint.ledger() == {"requests": 3, "spent": pytest.approx(2 * 60e-6 + worst)}
    endpoint.write(problems(2), WARM, **call)
    assert endpoint.ledger()["requests"] == 3, "what is in the cache is not sent"
    assert endpoint.ledger()["spent"] == endpoint.spent()
    assert Endpoint(found).ledger() == {"requests": 0, "spent": 0.0}


# Failures


@pytest.mark.parametrize(
    "answer",
    [
        Answer({"error": {"message": "slow down"}}, 429, {"Retry-After": "0"}),
        Answer(b"<html>oops</html>", 500),
        Answer(status=0),
        Answer(b'{"choices": [{"mess'),
    ],
)
def test_passing_trouble_is_retried(answer: Answer, serve: Serve, tmp_path: Path) -> None:
    served = serve(lambda asked: answer if asked.index < 2 else echo(asked))
    (trace,) = write(settings(served, tmp_path))
    assert trace.text == "You asked: What is 0?"
    assert len(served.asked) == 3
    assert len({json.dumps(asked.body) for asked in served.asked}) == 1


def test_what_the_server_asks_to_wait_is_waited(serve: Serve, tmp_path: Path) -> None:
    times: list[float] = []

    def answer(asked: Asked) -> Answer:
        times.append(time.monotonic())
        return echo(asked) if asked.index else Answer(status=429, headers={"Retry-After": "0.05"})

    write(settings(serve(answer), tmp_path))
    assert times[1] - times[0] >= 0.05


def test_waiting_times_are_read_and_bounded() -> None:
    read = endpoint_http._retry_after
    assert [read(text) for text in ("3", " 0.5 ", "", "nan", "inf", "-1", "soon")] == [3, 0.5, 0, 0, 0, 0, 0]
    assert read("99999999") == MAX_WAIT_S
    now = datetime.now(UTC)
    assert 20 < read(format_datetime(now + timedelta(seconds=30), usegmt=True)) <= 30
    assert read(format_datetime(now - timedelta(seconds=30), usegmt=True)) == 0
    assert read(format_datetime(now + timedelta(days=3))) == MAX_WAIT_S


@FEW
@given(st.text(max_size=40))
def test_no_waiting_time_is_unbounded(text: str) -> None:
    assert 0 <= endpoint_http._retry_after(text) <= MAX_WAIT_S


def test_a_server_that_says_nothing_times_out(serve: Serve, tmp_path: Path) -> None:
    over = Event()

    def answer(asked: Asked) -> Answer:
        over.wait(5)
        return echo(asked)

    served = serve(answer)
    try:
        with pytest.raises(RunError, match=r"did not answer within 0\.2 s for problem 'p0' after 1 attempt;"):
            write(settings(served, tmp_path, timeout=0.2, retries=0))
    finally:
        over.set()


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with Served(echo) as served:
        found = settings(served, tmp_path, retries=1)
    with pytest.raises(RunError, match=r"cannot be reached .* after 2 attempts; 0 of 1"):
        write(found)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (401, {"error": {"message": f"Incorrect API key {KEY}\x1b[31m\nprovided", "code": 1}}),
        (404, {"detail": "no such model"}),
        (400, {"error": "bad " * 1000}),
        (403, b"<html>no</html>"),
        (422, {"message": ["a", "list"]}),
    ],
)
def test_a_refusal_is_final_and_short(status: int, body: Any, serve: Serve, tmp_path: Path) -> None:
    served = serve(lambda asked: Answer(body, status))
    with pytest.raises(RunError, match=f"answered {status}: ") as caught:
        write(settings(served, tmp_path), 3)
    text = str(caught.value)
    assert text.isprintable()
    assert KEY not in text
    assert len(text) < MAX_MESSAGE + 300
    assert ("OPENAI_API_KEY" in text) == (status in (401, 403))
    assert len(served.asked) <= 3, "no retry"


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Answer(b"not json"), "not JSON"),
        (Answer(b"[" * 100_000), "not JSON"),
        (Answer([]), "without choices"),
        (Answer({}), "without choices"),
        (Answer({"error": {"message": "overloaded"}}), r"without choices \(overloaded\)"),
        (Answer({"choices": []}), "without choices"),
        (Answer({"choices": [None]}), "without choices"),
        (Answer({"choices": [{}]}), "empty"),
        (Answer({"choices": [{"message": None}], "usage": 3}), "empty"),
        (chat(""), "empty"),
        (chat(None, finish="content_filter"), r"empty completion \(finish_reason 'content_filter'\)"),
        (chat(["a", "list"]), "not text"),
        (chat("x" * 5000), "sent more than"),
    ],
)
def test_what_is_no_completion_is_retried_and_then_named(
    answer: Answer, says: str, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint_http, "MAX_REPLY", 4000)
    served = serve(lambda asked: answer if asked.prompt == "What is 1?" else echo(asked))
    if answer.body == b"[" * 100_000:
        monkeypatch.setattr(endpoint_http, "MAX_REPLY", 200_000)
    found = settings(served, tmp_path, concurrency=1)
    with pytest.raises(RunError, match=rf"{says}.* for problem 'p1' after 3 attempts; 1 of 3 completions"):
        write(found, 3)
    assert len(served.asked) == 1 + 3


@pytest.mark.parametrize("counts", [(-1, 5), (10**30, 5), ("7", None), (True, 2.5)])
def test_impossible_counts_are_not_believed(counts: tuple[Any, Any], serve: Serve, tmp_path: Path) -> None:
    served = serve(lambda asked: chat("x", tokens=counts))
    found = settings(served, tmp_path, max_cost=1, **PRICES)
    (trace,) = write(found)
    assert trace.n_tokens in (0, 5)
    assert 0 < Endpoint(found).spent() < 1e-3


def test_broken_unicode_is_kept_as_well_as_it_can_be(serve: Serve, tmp_path: Path) -> None:
    served = serve(lambda asked: chat("a\ud800b\0c"))
    first = write(settings(served, tmp_path))
    assert first[0].text == "a?b\0c"
    assert write(settings(served, tmp_path)) == first


def test_redirects_are_not_followed(serve: Serve, tmp_path: Path) -> None:
    other = serve(echo)
    target = f"{other.url}/chat/completions"
    served = serve(lambda asked: Answer(status=307, headers={"Location": target}))
    with pytest.raises(RunError, match=r"redirects \(307\) to http://127"):
        write(settings(served, tmp_path))
    assert not other.asked


# The key


def test_the_key_goes_nowhere(serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    def answer(asked: Asked) -> Answer:
        key = asked.headers["authorization"]
        if asked.index < 3:
            return chat(f"your {key}", reasoning=f"the {key}", finish=f"stop{key}")
        return Answer({"error": {"message": " " * 5 + key * 20}}, 400)

    served = serve(answer)
    with pytest.raises(RunError) as caught:
        write(settings(served, tmp_path, concurrency=1), 5)
    assert "***" in str(caught.value)
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"your Bearer ***" in kept
    for secret in (KEY, KEY[:12]):
        assert secret.encode() not in kept
        assert secret not in str(caught.value)
        assert secret not in caplog.text
    assert KEY not in repr(vars(Endpoint(settings(served, tmp_path)).settings))


def test_a_placeholder_key_does_not_change_texts(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "You")
    (trace,) = write(settings(serve(echo), tmp_path))
    assert trace.text == "You asked: What is 0?"


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "schlüssel-0123456789"])
def test_a_key_that_cannot_be_sent_is_not_shown(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ConfigError, match="OPENAI_API_KEY") as caught:
        Endpoint(parse_ref("https://h/v1#m"))
    assert key not in str(caught.value)


# References

HOSTS = st.from_regex(r"[a-z][a-z0-9-]{0,10}(\.[a-z]{2,5}){0,2}(:[1-9][0-9]{0,3})?", fullmatch=True)
PATHS = st.lists(st.from_regex(r"[A-Za-z0-9._-]{1,8}", fullmatch=True), max_size=3)
MODELS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,30}", fullmatch=True)


@FEW
@given(st.sampled_from(["http", "https", "HTTPS"]), HOSTS, PATHS, MODELS, st.booleans())
def test_a_reference_is_read_back(scheme: str, host: str, path: list[str], model: str, slash: bool) -> None:
    if path and path[-1] == "completions":
        return
    tail = "/".join(["", *path])
    ref = f"{scheme}://{host.upper()}{tail}{'/' * slash}#{model}"
    found = parse_ref(ref)
    assert is_endpoint(ref)
    assert (found.url, found.model) == (f"{scheme.lower()}://{host}{tail}", model)
    assert parse_ref(found.ref) == found
    assert parse_ref(f"{ref}?api=completions&price_out=0.6").model_dump() == {
        **found.model_dump(),
        "api": "completions",
        "price_out": 0.6,
    }


@given(
    st.one_of(st.text(), st.text().map(lambda text: f"https://{text}"), st.text().map("https://h/v1#m?".__add__))
)
def test_any_other_string_is_a_configuration_error(ref: str) -> None:
    with suppress(ConfigError):
        assert parse_ref(ref).model


@pytest.mark.parametrize(
    ("ref", "says"),
    [
        ("https://host/v1", "form https://host/v1#model"),
        ("https://host/v1#", "form https://host/v1#model"),
        ("ftp://host/v1#m", "form"),
        ("https://host/v1?x=1#m", "without user, password or query"),
        ("https://host:99999/v1#m", "is of the form"),
        ("https://host/v1/chat/completions#m", "base address"),
        ("https://host/v1#a b", "no spaces"),
        ("https://host/v1#m?max_cost=5", "without prices"),
        ("https://host/v1#m?max_cost=5&price_in=1", "needs price_in and price_out"),
        ("https://host/v1#m?max_csot=5", "Did you mean 'max_cost'"),
        ("https://host/v1#m?max_cost=-1&price_in=1", "greater than or equal to 0"),
        ("https://host/v1#m?max_cost=nan&price_in=1", "max_cost"),
        ("https://host/v1#m?retries", "name=value"),
        ("https://host/v1#m?retries=1&retries=2", "said once"),
        ("https://host/v1#m?model=n", "before them"),
    ],
)
def test_a_bad_reference_says_what_is_wrong(ref: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_ref(ref)


@pytest.mark.parametrize("ref", ["https://user:hush@host/v1#m", "https://host/v1#m?key_env=sk-hush"])
def test_a_secret_in_a_reference_is_not_shown(ref: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_ref(ref)
    assert "hush" not in str(caught.value)


def test_models_and_folders_are_no_endpoints() -> None:
    assert not any(map(is_endpoint, ("embedded/teacher", "org/model", "./folder", "", "https", "httpx://h")))


def test_defaults_fill_in_and_the_reference_wins() -> None:
    found = parse_ref("https://h/v1#m?retries=1", retries=7, timeout=9.0)
    assert (found.retries, found.timeout) == (1, 9.0)
    assert set(found.identity()) == {"url", "model", "api", "limit_field", "reasoning"}
    with pytest.raises(ValidationError, match="frozen"):
        found.retries = 3  # type: ignore[misc]


BARE = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "transformers", "httpx2"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
from azeotrope.core.errors import MissingError
from azeotrope.core.sampling import Sampling
from azeotrope.core.types import Problem
from azeotrope.models.endpoint import Endpoint, parse_ref
endpoint = Endpoint(parse_ref("https://host/v1#m", cache=sys.argv[1]))
try:
    endpoint.write([Problem(id="p", task="t", prompt="x", answer="")], Sampling(), seed=0, max_new_tokens=1)
except MissingError as error:
    print(error)
"""


def test_torch_is_not_needed_and_a_missing_client_is_named(tmp_path: Path) -> None:
    command = [sys.executable, "-c", BARE, str(tmp_path / "cache.sqlite")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "the package 'httpx2'" in run.stdout, run.stderr
    assert "pip install 'azeotrope[endpoint]'" in run.stdout
