"""Requests that join while others are written get what they would get alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from azeotrope.core.errors import ConfigError, RunError
from azeotrope.core.sampling import Sampling
from azeotrope.defenses.base import Bench
from azeotrope.defenses.poe import ProductOfExperts
from azeotrope.models.decode import Batch, LogitRule, Session, StepView, decode
from azeotrope.models.engine import Engine, Line, Ticket
from azeotrope.models.lm import LM, load
from azeotrope.tasks.lookup import Lookup
from tiny import fresh

SAMPLING = Sampling(temperature=0.8)
LIMIT = 60


@pytest.fixture(scope="module")
def lm() -> LM:
    return load("embedded/teacher")


@pytest.fixture(scope="module")
def engine(lm: LM) -> Iterator[Engine]:
    rule = ProductOfExperts(gamma=0.3).bind(Bench(lm, Lookup(), SAMPLING))
    found = Engine(lm, {"poe": [rule]}, rows=6)
    yield found
    found.stop()


class Client:
    """Waits for one reply; stops after `most` tokens."""

    def __init__(self, most: int = 10_000) -> None:
        self.ids: list[int] = []
        self.finished = False
        self.error: RunError | None = None
        self.most = most
        self.over = threading.Event()

    def take(self, token: int, finished: bool) -> bool:
        self.ids.append(token)
        self.finished = finished
        goes_on = not finished and len(self.ids) < min(self.most, LIMIT)
        if not goes_on:
            self.over.set()
        return goes_on

    def fail(self, error: RunError) -> None:
        self.error = error
        self.over.set()


def prompts(lm: LM, n: int) -> list[tuple[int, ...]]:
    return [tuple(ids) for ids in lm.encode_many([p.prompt for p in Lookup().problems("test", n, 3)])]


def send(engine: Engine, prompt: tuple[int, ...], seed: int, rules: str = "", most: int = 10_000) -> Client:
    client = Client(most)
    engine.submit(Ticket(prompt, seed, SAMPLING, LIMIT, client.take, client.fail, rules))
    return client


@pytest.mark.parametrize("rules", ["", "poe"])
def test_joining_changes_nothing(lm: LM, engine: Engine, rules: str) -> None:
    given = prompts(lm, 9)  # more than fit at a time
    first = [send(engine, prompt, seed, rules) for seed, prompt in enumerate(given[:4])]
    while not first[0].ids:
        pass
    later = [send(engine, prompt, seed + 4, rules) for seed, prompt in enumerate(given[4:])]
    for client in first + later:
        assert client.over.wait(60)
    bound = engine._rules[rules]
    alone = decode(lm, given, list(range(9)), SAMPLING, rules=bound, max_new_tokens=LIMIT)
    assert [tuple(client.ids) for client in first + later] == [sample.ids for sample in alone]
    assert [client.finished for client in first + later] == [sample.finished for sample in alone]


MIXED = (SAMPLING, Sampling(temperature=0.0), Sampling(temperature=1.3, top_k=5), Sampling(top_p=0.7))


def test_requests_of_several_settings_are_one_batch(lm: LM) -> None:
    engine, given, clients, opened = Engine(lm, rows=64), prompts(lm, 12), [], []
    make = engine._open

    def count(tickets: list[Ticket]) -> Any:
        opened.append(len(tickets))
        return make(tickets)

    engine._open = count  # type: ignore[method-assign]
    with engine._wake:  # they arrive together
        for seed, prompt in enumerate(given):
            client = Client()
            clients.append(client)
            engine._waiting.put(Ticket(prompt, seed, MIXED[seed % 4], LIMIT, client.take, client.fail))
        engine._wake.notify()
    for seed, client in enumerate(clients):
        assert client.over.wait(60)
        (alone,) = decode(lm, [given[seed]], [seed], MIXED[seed % 4], max_new_tokens=LIMIT)
        assert (tuple(client.ids), client.finished) == (alone.ids, alone.finished)
    engine.stop()
    assert opened == [12]


class Broken(LogitRule, Session):
    """Makes the logits of rows with an odd seed infinite at their third step."""

    joins = True

    def open(self, batch: Batch) -> Session:
        return self

    def step(self, view: StepView) -> torch.Tensor:
        odd_B = (view.seeds_B % 2 == 1) & (view.t_B == 2)
        return view.logits_BV.masked_fill(odd_B[:, None], float("nan"))


def test_a_row_that_breaks_breaks_alone(lm: LM) -> None:
    engine = Engine(lm, {"broken": [Broken()]}, rows=64)
    given = prompts(lm, 6)
    clients = [send(engine, prompt, seed, "broken") for seed, prompt in enumerate(given)]
    for seed, client in enumerate(clients):
        assert client.over.wait(60)
        if seed % 2:
            assert "finite" in str(client.error)
            assert len(client.ids) == 2
        else:
            (alone,) = decode(lm, [given[seed]], [seed], SAMPLING, max_new_tokens=LIMIT)
            assert (tuple(client.ids), client.error) == (alone.ids, None)
    engine.stop()
    with pytest.raises(RunError, match=r"no longer finite at step 2, though those of 'embedded/teacher' were"):
        decode(lm, given, range(6), SAMPLING, rules=[Broken()], max_new_tokens=LIMIT)


def test_a_model_that_is_broken_itself_is_named() -> None:
    broken = fresh("llama")
    broken.model.get_output_embeddings().weight.data[3] = float("nan")
    with pytest.raises(
        RunError, match=rf"The logits of '{broken.ref}' were not finite at step 0; check the model"
    ):
        decode(broken, [[2, 3]], [0], SAMPLING, max_new_tokens=LIMIT)


def test_who_has_just_ended_is_told_of_a_failure_too(lm: LM) -> None:
    """Something breaks after a row's last token was drawn and before it was handed over."""

    class Dropping(Broken):
        def step(self, view: StepView) -> torch.Tensor:
            end = torch.arange(view.logits_BV.shape[-1]) == lm.eos
            ends_B = (view.seeds_B < 4) & (view.t_B == 3)
            return torch.where(ends_B[:, None], torch.where(end, 0.0, float("-inf")), view.logits_BV)

        def select(self, rows: torch.Tensor) -> None:
            raise MemoryError

    engine = Engine(lm, {"broken": [Dropping()]}, rows=64)
    clients = [send(engine, prompt, seed, "broken") for seed, prompt in enumerate(prompts(lm, 6))]
    for client in clients:
        assert client.over.wait(60)
        assert "MemoryError" in str(client.error)
    engine.stop()


@pytest.mark.parametrize("wild", [Sampling(temperature=1e-40), Sampling(top_p=1e-50), Sampling(temperature=6e-38)])
def test_nobody_elses_setting_does_harm(lm: LM, wild: Sampling) -> None:
    engine, given = Engine(lm, rows=64), prompts(lm, 4)
    clients = [Client() for _ in given]
    with engine._wake:  # they arrive together
        for seed, (prompt, client) in enumerate(zip(given, clients, strict=True)):
            engine._waiting.put(Ticket(prompt, seed, SAMPLING if seed else wild, LIMIT, client.take, client.fail))
        engine._wake.notify()
    for seed, client in enumerate(clients):
        assert client.over.wait(60)
        assert client.error is None
        (alone,) = decode(lm, [given[seed]], [seed], SAMPLING if seed else wild, max_new_tokens=LIMIT)
        assert tuple(client.ids) == alone.ids
    engine.stop()


class Watcher(Client):
    """Waits with its first token until `go`; looks at the engine, in its thread, once all `others` have begun."""

    def __init__(self, engine: Engine, most: int) -> None:
        super().__init__(most)
        self.engine, self.begun, self.go = engine, threading.Event(), threading.Event()
        self.others: list[Client] = []
        self.widths: list[int] = []

    def take(self, token: int, finished: bool) -> bool:
        self.begun.set()
        assert self.go.wait(60)
        if not self.widths and all(client.ids for client in self.others):
            self.widths = sorted(cohort.run.width for cohort in self.engine._cohorts)
        return super().take(token, finished)


def test_a_long_conversation_stays_apart(lm: LM) -> None:
    """Every short row would be padded to its length."""
    engine, given = Engine(lm, rows=64), prompts(lm, 9)
    long = tuple(given[0] * 6)
    first = Watcher(engine, 40)
    engine.submit(Ticket(long, 0, SAMPLING, LIMIT, first.take, first.fail))
    assert first.begun.wait(60)
    first.others = [send(engine, prompt, seed, most=30) for seed, prompt in enumerate(given[1:])]
    first.go.set()
    for client in [first, *first.others]:
        assert client.over.wait(60)
    engine.stop()
    assert len(first.widths) > 1
    assert first.widths[0] < 128 < len(long) <= first.widths[-1]


def test_what_cannot_be_opened_ends_nobody_else(lm: LM) -> None:
    engine, given = Engine(lm, rows=64), prompts(lm, 1)[0]
    bad = Client()
    engine.submit(Ticket(given, 2**63, SAMPLING, LIMIT, bad.take, bad.fail))  # no such seed
    assert bad.over.wait(60)
    assert bad.error is not None
    good = send(engine, given, 1)
    assert good.over.wait(60)
    assert good.error is None
    engine.stop()


class Apart(LogitRule, Session):
    """Does nothing, and cannot be joined."""

    def open(self, batch: Batch) -> Session:
        return self

    def step(self, view: StepView) -> torch.Tensor:
        return view.logits_BV


@pytest.mark.parametrize("rules", ["", "apart"])
def test_who_comes_one_by_one_is_gathered(lm: LM, rules: str) -> None:
    """A request for every token that is written: as many batches would be as many forward passes a turn."""
    engine = Engine(lm, {"apart": [Apart()]}, rows=64)
    given, clients, opened, batches = prompts(lm, 30), [Client(20)], [], []
    make = engine._open

    class Leader(Client):
        def take(self, token: int, finished: bool) -> bool:
            clients.append(send(engine, given[len(clients) % 30], len(clients), rules, most=20))
            batches.append(len(engine._cohorts))
            self.ids.append(token)
            if len(self.ids) == 30:
                self.over.set()
            return len(self.ids) < 30

    def count(tickets: list[Ticket]) -> Any:
        opened.append(len(tickets))
        return make(tickets)

    engine._open = count  # type: ignore[method-assign]
    leader = Leader()
    engine.submit(Ticket(given[0], 0, SAMPLING, LIMIT, leader.take, leader.fail, rules))
    assert leader.over.wait(60)
    for client in clients[1:]:
        assert client.over.wait(60)
    engine.stop()
    assert opened[:2] == [1, 1], "where few are written, nobody waits long"
    assert sum(opened) == len(clients)
    assert max(batches) <= (10 if rules else 5)
    alone = decode(lm, given, list(range(30)), SAMPLING, max_new_tokens=20)
    for client, sample in zip(clients[1:], alone[1:], strict=False):
        assert tuple(client.ids) == sample.ids


def test_who_stops_does_not_stop_the_others(lm: LM, engine: Engine) -> None:
    given = prompts(lm, 3)
    one, two, three = (
        send(engine, prompt, 5, most=most) for prompt, most in zip(given, (3, 10_000, 7), strict=True)
    )
    for client in (one, two, three):
        assert client.over.wait(60)
    (alone,) = decode(lm, given[1:2], [5], SAMPLING, max_new_tokens=LIMIT)
    assert (len(one.ids), tuple(two.ids), len(three.ids)) == (3, alone.ids, 7)


def test_what_cannot_be_taken(lm: LM, engine: Engine) -> None:
    with pytest.raises(ConfigError, match="empty prompt"):
        send(engine, (), 1)
    with pytest.raises(ConfigError, match="Did you mean 'poe'"):
        send(engine, (5, 6), 1, "po")


def test_an_error_reaches_who_waits_and_nobody_else(lm: LM, engine: Engine) -> None:
    bad = send(engine, (10**6,), 1)  # no such token
    assert bad.over.wait(60)
    assert bad.error is not None
    good = send(engine, prompts(lm, 1)[0], 1)
    assert good.over.wait(60)
    assert good.error is None


def test_stopping_fails_what_is_not_finished(lm: LM) -> None:
    engine = Engine(lm, rows=1, waiting=1)
    given = prompts(lm, 1)[0]
    running = send(engine, given, 1)
    while not running.ids:
        pass
    waiting = send(engine, given, 2)  # there is one row, and it is taken
    with pytest.raises(RunError, match="full"):
        send(engine, given, 3)
    engine.stop()
    assert waiting.over.wait(5)
    assert running.over.wait(5)
    with pytest.raises(RunError):
        send(engine, given, 4)


def ticket(owner: str, gone: bool = False) -> Ticket:
    client = Client()
    return Ticket((1,), 0, SAMPLING, LIMIT, client.take, client.fail, "", owner, lambda: gone)


def test_owners_take_turns_and_who_has_gone_is_passed_over() -> None:
    line = Line()
    tickets = [ticket("a") for _ in range(3)] + [ticket("b", gone=True), ticket("b"), ticket("c")]
    for one in tickets:
        line.put(one)
    served = []
    while (one := line.next()) is not None:
        served.append(one)
    assert [one.owner for one in served] == ["a", "b", "c", "a", "a"]
    assert tickets[3] not in served
    assert line.size == 0


def test_nobody_fills_the_line_alone_while_others_wait() -> None:
    line = Line()
    for _ in range(6):
        assert line.room("a", 8)
        line.put(ticket("a"))
    assert not line.room("a", 8), "a quarter is for others"
    assert line.room("b", 8)
    line.put(ticket("b"))
    line.put(ticket("c", gone=True))
    assert not line.room("b", 8), "it is full"
    line.clear()
    assert line.size == 7
    assert line.room("b", 8)
    assert line.next() is not None
    assert not line.room("a", 8), "it has more than half"
