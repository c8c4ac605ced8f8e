"""The simulator: deterministic, what it says it is; and the benchmark's table from a small run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azeotrope.core.errors import ConfigError, MissingError
from azeotrope.gateway.signals.prompts import Reader
from azeotrope.gateway.signals.simulate import chat_words, job_words, question_words
from azeotrope.gateway.signals.simulate.grammar import fill, lists
from azeotrope.gateway.signals.simulate.people import GROUPS, Actor, Half, Talker, batch, chat, sessions
from azeotrope.gateway.signals.simulate.scenarios import QUICK_SCENARIOS, SCENARIOS, Scenario, benign
from azeotrope.gateway.signals.simulate.table import NO_EVENT, Row, markdown, measure, shown
from azeotrope.gateway.signals.simulate.thieves import from_file, hydra, knowing, made_up, sweep
from azeotrope.gateway.signals.simulate.trial import QUICK_ALPHA, calibrate, run
from azeotrope.gateway.signals.simulate.world import day, population
from azeotrope.maths.stats import Interval

DAY = 86400.0


@pytest.mark.parametrize("half", ["a", "b"])
def test_every_phrase_can_be_filled(half: Half) -> None:
    rng = Random(0)
    chat_phrases = [text for texts in chat_words.SUBJECTS[half].values() for text in texts]
    for text in chat_phrases:
        assert "{" not in fill(text, chat_words.WORDS[half], rng)
    for table in (chat_words.OPENINGS, chat_words.CLOSINGS, chat_words.FOLLOW_UPS):
        for text in table[half]:
            assert "{" not in fill(text, table, rng)
    for table in (job_words.BATCH, job_words.APPS, job_words.TESTS):
        for text in table[half]:
            assert "{" not in fill(text, job_words.WORDS, rng)


def test_every_word_and_question_can_be_filled() -> None:
    rng = Random(1)
    tables = [*chat_words.WORDS.values(), job_words.WORDS, question_words.WORDS, question_words.PARAPHRASES]
    for words in tables:
        for texts in words.values():
            for text in texts:
                assert "{" not in fill(text, words, rng)
    for texts in question_words.QUESTIONS.values():
        for text in texts:
            assert "{" not in fill(text, question_words.WORDS, rng)
    assert all("{question}" in text for texts in question_words.WRAPPERS.values() for text in texts)


def test_the_halves_share_no_subject_but_two_and_no_template() -> None:
    shared = set(chat_words.SUBJECTS["a"]) & set(chat_words.SUBJECTS["b"])
    assert shared == {"letters", "homework"}
    for table in (job_words.BATCH, job_words.APPS, job_words.TESTS):
        assert not set(table["a"]) & set(table["b"])
    for name in shared:
        assert not set(chat_words.SUBJECTS["a"][name]) & set(chat_words.SUBJECTS["b"][name])


def test_circular_phrases_are_refused_and_numbers_are_drawn() -> None:
    with pytest.raises(ValueError, match="circle"):
        fill("{a}", {"a": ("{b}",), "b": ("{a}",)}, Random(0))
    with pytest.raises(KeyError):
        fill("{nobody}", {}, Random(0))
    assert {fill("{n:3-5}", {}, Random(i)) for i in range(40)} == {"3", "4", "5"}
    assert lists("a: one | two\n  three | four") == {"a": ("one", "two three", "four")}


def test_conversation_is_varied() -> None:
    talker = Talker("b", Random(2))
    texts = [talker.ask() for _ in range(200)]
    assert len(set(texts)) > 180


@given(st.integers(0, 2**32), st.integers(1, 200))
def test_sessions_stay_within_their_times(seed: int, n: int) -> None:
    found = sessions(Random(seed), n, 1000.0, 50_000.0)
    assert len(found) == n
    assert found == sorted(found)
    assert all(1000 <= time <= 50_000 for time, _ in found)


def test_actors_are_what_they_say() -> None:
    rng = Random(3)
    one = sweep(rng, "s", made_up, requests=50, eliciting=True)
    assert one.hostile
    assert len(one.requests) == 50
    assert len({request.prompt for request in one.requests}) > 45
    heads = hydra(rng, "b", "h", made_up, accounts=8, requests=80, mixing=0.5, eliciting=False)
    assert len(heads) == 8
    assert sum(len(head.requests) for head in heads) == 160
    harvested = [request.prompt for head in heads for request in head.requests if request.flags]
    assert len(harvested) == 80
    assert len(set(harvested)) > 75, "the work is shared out, not repeated"
    assert len({head.links["agent"] for head in heads}) == 1
    assert len({head.links["payment"] for head in heads}) == 2
    quiet = knowing(rng, "b", "k", made_up, accounts=3, mixing=0.6)
    assert not any(request.flags for actor in quiet for request in actor.requests)
    assert len({value for actor in quiet for kind, value in actor.links.items() if kind in ("ip", "payment")}) == 6
    assert max(len(actor.requests) for actor in quiet) <= 60


def test_questions_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('{"question": "one"}\n{"problem": "two"}\n')
    ask = from_file(path)
    assert {ask(Random(i)) for i in range(20)} == {"one", "two"}
    for text, message in (("{", "line 1, is not JSON"), ('{"x": 1}', "no text 'question'"), ("", "holds no")):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            from_file(path)
    with pytest.raises(MissingError):
        from_file(tmp_path / "none")


def test_questions_of_a_real_file(data_dir: Path) -> None:
    ask = from_file(data_dir / "gsm8k" / "test.jsonl")
    actor = sweep(Random(0), "s", ask, requests=40, eliciting=False)
    assert len({request.prompt for request in actor.requests}) > 35
    assert sum(map(len, (request.prompt for request in actor.requests))) / 40 > 120


@pytest.mark.parametrize("group", list(GROUPS))
def test_a_population_has_the_wanted_size_and_is_deterministic(group: str) -> None:
    first, second = (population(Random(4), "a", {group: 5}) for _ in range(2))
    assert first == second
    assert len(first) >= 5
    assert len({actor.tenant for actor in first}) == len(first)
    assert not any(actor.hostile for actor in first)
    assert all(0 <= request.time < DAY for actor in first for request in actor.requests)
    assert first != population(Random(5), "a", {group: 5})


def test_a_day_is_in_order_of_time() -> None:
    actors = population(Random(6), "b", {"chat": 4, "batch": 1})
    items = list(day(actors, Reader(), Random(7), others=20))
    times = [item.seen.time for item in items]
    assert times == sorted(times)
    assert len(items) == 20 + sum(len(actor.requests) for actor in actors)
    assert sum(not item.group for item in items) == 20


def small_batch(rng: Random, half: Half, name: str) -> Actor:
    return batch(rng, half, name, scale=0.3)


def test_small_scenarios_end_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibrated on one half, a sweep of the other is found, conversation and batch jobs are not."""
    monkeypatch.setitem(GROUPS, "batch", lambda rng, half, name: [small_batch(rng, half, name)])
    sizes = ({"chat": 24, "batch": 2}, {"chat": 20, "batch": 4}, {"chat": 9, "batch": 9})
    made = calibrate(sizes=sizes, alpha=QUICK_ALPHA)
    assert made == calibrate(sizes=sizes, alpha=QUICK_ALPHA), "the same seed gives the same calibration"
    scenarios = (
        Scenario("batch", "batch", benign("batch", 3), hostile=False, declared=True),
        Scenario("sweep", "sweep", lambda rng, half, ask: [
            chat(rng, half, "c0"), sweep(rng, "sweep", ask, requests=250, eliciting=True)], hostile=True),
    )  # fmt: skip
    assert run(scenarios[1], 0, made).outcomes == run(scenarios[1], 0, made).outcomes
    rows = measure(made, range(2), scenarios=scenarios)
    declared, found = rows
    assert declared.false_alarms.value == 0
    assert declared.false_alarms.high > 0
    assert declared.top == 0
    assert found.found.value == 1
    assert found.auc.value > 0.9
    assert 1 <= found.requests_before.value < 200
    assert found.top >= 1
    assert dict(found.codes)["conduct"] == 2
    page = markdown(rows)
    assert page.splitlines()[2].startswith("| batch |")
    assert len(page.splitlines()) == 4


def test_the_first_line_is_the_undeclared_batch_customer() -> None:
    first = SCENARIOS[0]
    assert (first.group, first.hostile, first.declared) == ("batch", False, False)
    assert SCENARIOS[-1].group == "knowing"
    assert [scenario.group for scenario in QUICK_SCENARIOS] == ["batch", "sweep", "hydra", "knowing"]
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS)


def test_numbers_are_shown_with_their_intervals() -> None:
    nothing = Interval(value=math.nan, low=math.nan, high=math.nan, n=0)
    one = Interval(value=0.5, low=math.nan, high=math.nan, n=1)
    both = Interval(value=0.5, low=0.0, high=1.0, n=2)
    assert [shown(found, 1) for found in (nothing, one, both)] == ["", "0.5", "0.5 [0.0, 1.0]"]
    row = Row("s", True, 1, 2, both, both, both, one, nothing, both, 3, (("volume", 1),))
    assert markdown([row]).splitlines()[-1].endswith("| 3 |")
    assert math.exp(-NO_EVENT) == pytest.approx(0.025)
    assert json.dumps(row.codes)
