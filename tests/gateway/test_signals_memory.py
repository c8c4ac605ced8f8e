"""Memories: linear, decaying, bounded; and what the signals read from them."""

from __future__ import annotations

import math
from array import array
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from azeotrope.gateway.signals.bank import ROW_BYTES, Bank, Memory
from azeotrope.gateway.signals.content import LEAST, Content, Profile, effective_templates, score
from azeotrope.gateway.signals.group import Rhythm, partition, together
from azeotrope.gateway.signals.imprint import CELL_COUNT, Printer, waves
from azeotrope.gateway.signals.prompts import Features, Reader
from azeotrope.gateway.signals.volume import HALF_LIVES, age, excess
from azeotrope.maths.mmd import reference

DAY = 86400.0
READER, PRINTER = Reader(b"m"), Printer()
SYLLABLES = "ba ce di fo gu ha je ki lo mu na pe qui ro su ta ve wi xo zu".split()


def word(rng: Random) -> str:
    return "".join(rng.choice(SYLLABLES) for _ in range(3))


def sentence(rng: Random, n: int = 14) -> str:
    return " ".join(word(rng) for _ in range(n))


def features(text: str) -> Features:
    found = READER.read(text)
    assert found is not None
    return found


def memory(texts: list[str], now: float = 0.0, bank: Bank | None = None, name: str = "k") -> Memory:
    bank = Bank(8, DAY) if bank is None else bank
    for text in texts:
        bank.add(name, PRINTER.imprint(features(text)), now)
    found = bank.read([name], now)
    assert found is not None
    return found


def scored(texts: list[str], profile: Profile | None = None) -> Content:
    found = score(memory(texts), profile)
    assert found is not None
    return found


def test_one_template_over_many_fillers_is_concentrated() -> None:
    rng = Random(0)
    found = scored([f"Solve this and write the answer at the end. Task: {sentence(rng, 40)}" for _ in range(200)])
    assert found.templates < 1.5
    assert found.bodies == pytest.approx(200, rel=0.4)
    assert found.bits > 6
    assert found.share > 0.9


def test_different_prompts_and_repeated_prompts_are_not() -> None:
    rng = Random(1)
    different = scored([sentence(rng) for _ in range(200)])
    assert different.share < 0.2
    one = sentence(rng)
    repeated = scored([one] * 200)
    assert repeated.bodies < 2.1
    assert repeated.bits <= 1, "a retry loop has one template and one body"


def test_mixing_conversation_in_does_not_hide_a_template() -> None:
    rng = Random(2)
    template = [f"Solve this and write the answer at the end. Task: {sentence(rng, 40)}" for _ in range(100)]
    found = scored(template + [sentence(rng) for _ in range(100)])
    assert found.templates == pytest.approx(4, rel=0.6), "half of the traffic on one template: 1 / (1/4) at most"
    assert found.bits > 4


@given(st.integers(0, 2**32), st.floats(0, 5))
@settings(max_examples=15)
def test_time_scales_a_memory_and_leaves_ratios_alone(seed: int, half_lives: float) -> None:
    rng, bank = Random(seed), Bank(4, 100.0)
    texts = [sentence(rng, 5) for _ in range(12)]
    before = memory(texts, 0.0, bank)
    n1, n2, sums, templates = before.n1, before.n2, before.sums.copy(), effective_templates(before)
    after = bank.read(["k"], 100 * half_lives)
    assert after is not None
    keep = 2**-half_lives
    assert (after.n1, after.n2) == (pytest.approx(n1 * keep), pytest.approx(n2 * keep**2))
    assert after.sums == pytest.approx(sums * keep, rel=1e-4)
    assert effective_templates(after) == pytest.approx(templates, rel=1e-3)


def test_memories_add_up() -> None:
    rng, bank = Random(3), Bank(4, DAY)
    texts = [sentence(rng) for _ in range(40)]
    memory(texts[:25], 0.0, bank, "a")
    memory(texts[25:], 0.0, bank, "b")
    both, whole = bank.read(["a", "b", "unknown"], 0.0), memory(texts)
    assert both is not None
    assert both.sums == pytest.approx(whole.sums, abs=1e-3)
    assert (both.n1, both.n2) == (whole.n1, whole.n2)
    assert (both.registers == whole.registers).all()
    assert bank.read(["unknown"], 0.0) is None


def test_bodies_are_forgotten_after_one_to_two_half_lives() -> None:
    bank, rng = Bank(2, 100.0), Random(4)
    memory([sentence(rng) for _ in range(20)], 150.0, bank)
    for now, kept in ((199.0, True), (201.0, True), (299.0, True), (301.0, False)):
        found = bank.read(["k"], now)
        assert found is not None
        assert bool(found.registers.any()) is kept, now


def test_a_bank_never_grows_and_forgets_the_least_recently_used() -> None:
    bank, imprint = Bank(5, DAY), PRINTER.imprint(features("hello there you"))
    size = bank.nbytes
    for i in range(50):
        bank.add(f"k{i}", imprint, float(i))
        bank.add("k0", imprint, float(i))
    assert (len(bank), bank.nbytes) == (5, size)
    assert "k0" in bank
    assert [f"k{i}" in bank for i in (45, 46, 49)] == [False, True, True]
    fresh = bank.read(["k49"], 49.0)
    assert fresh is not None
    assert fresh.n1 == 1, "a slot that is given away is emptied"


def test_a_hundred_thousand_keys_fit_the_stated_budget() -> None:
    assert Bank(1000, DAY).nbytes == 1000 * ROW_BYTES
    assert 100_000 * ROW_BYTES <= 415 * 10**6


def test_time_that_runs_back_changes_nothing() -> None:
    bank = Bank(2, 100.0)
    memory(["one two three"] * 8, 1e6, bank)
    found = bank.read(["k"], 0.0)
    assert found is not None
    assert found.n1 == 8
    later = bank.read(["k"], 100.0)
    assert later is not None
    assert later.n1 == pytest.approx(4), "and time goes on from there"


def profile_of(texts: list[str]) -> Profile:
    units = [features(text).unit() for text in texts]
    mean, square = reference(np.array([waves()(unit) for unit in units], dtype=np.float64))
    return Profile(np.full(CELL_COUNT, 1 / CELL_COUNT), mean, square)


def test_drift_is_near_zero_at_home_and_large_abroad() -> None:
    rng = Random(5)
    home = [word(rng) for _ in range(40)]
    draw = lambda words: [" ".join(rng.choices(words, k=10)) for _ in range(150)]  # noqa: E731
    profile = profile_of(draw(home))
    assert abs(scored(draw(home), profile).drift) < 0.01
    assert scored(draw([word(rng) for _ in range(40)]), profile).drift > 0.05


def test_coverage_tells_broad_from_narrow() -> None:
    rng = Random(6)
    profile = profile_of([sentence(rng) for _ in range(20)])
    broad = scored([sentence(rng) for _ in range(120)], profile)
    narrow = scored([f"the same old question about {word(rng)}" for _ in range(120)], profile)
    assert broad.coverage > narrow.coverage + 5


def test_small_memories_say_nothing() -> None:
    assert score(memory(["one two three"] * int(LEAST - 1)), None) is None
    found = scored(["one two three"] * int(LEAST))
    assert math.isnan(found.drift)
    assert math.isnan(found.coverage)


def test_a_shared_job_is_told_from_shared_prompts_and_from_strangers() -> None:
    rng = Random(7)

    def members(make: object) -> list[Memory]:
        return [memory([make(i) for _ in range(30)]) for i in range(4)]  # type: ignore[operator]

    job = partition(members(lambda _: f"Solve this and write the answer at the end: {sentence(rng, 30)}"))
    same = ["Solve this and write the answer at the end: " + sentence(rng, 30) for _ in range(30)]
    crowd = partition([memory(same) for _ in range(4)])
    strangers = partition(members(lambda _: sentence(rng)))
    assert job > 0.9
    assert crowd < 0.5
    assert strangers < 0.35
    assert partition([memory(same)]) == 0
    assert together(1, 1.0, math.nan) == 0
    assert together(16, 0.5, 0.25) == pytest.approx(2.75)
    assert together(16, -0.5, 3.0) == 0


def test_rhythm_of_a_metronome_of_chance_and_of_bursts() -> None:
    def fano(times: list[float]) -> float:
        rhythm = Rhythm()
        for time in times:
            rhythm.tick(time)
        return rhythm.fano

    rng = Random(8)
    assert fano([20.0 * i for i in range(900)]) == pytest.approx(0, abs=1e-6)
    assert fano(sorted(rng.uniform(0, 18_000) for _ in range(900))) == pytest.approx(1, abs=0.35)
    assert fano(sorted(rng.randrange(60) * 300 + rng.random() for _ in range(900))) > 5
    assert math.isnan(fano([0.0, 1.0, 70.0]))


@given(st.lists(st.integers(0, 40), min_size=60, max_size=120))
@settings(max_examples=30)
def test_rhythm_counts_empty_minutes(gaps: list[int]) -> None:
    """Against the definition: decayed moments of the counts of all minutes from the first to the last but one."""
    rhythm, minute, counts = Rhythm(), 0, {}
    for gap in gaps:
        minute += gap
        counts[minute] = counts.get(minute, 0) + 1
        rhythm.tick(60.0 * minute + 1)
    first = min(counts)
    keep = 2 ** (-1 / 360)
    ages = {m: keep ** (minute - 1 - m) for m in range(first, minute)}
    weight = sum(ages.values())
    mean = sum(a * counts.get(m, 0) for m, a in ages.items()) / weight if ages else 0
    square = sum(a * counts.get(m, 0) ** 2 for m, a in ages.items()) / weight if ages else 0
    if not math.isnan(rhythm.fano):
        assert rhythm.fano == pytest.approx((square - mean**2) / mean, rel=1e-6)


@given(st.floats(0, 1e9), st.floats(0, 1e9), st.floats(1, 1e6))
def test_volumes_halve_each_at_its_own_pace(first: float, second: float, weight: float) -> None:
    volumes = array("d", [weight] * 4)
    age(volumes, first)
    age(volumes, second)
    for value, half_life in zip(volumes, HALF_LIVES, strict=True):
        assert value == pytest.approx(weight * 2 ** (-(first + second) / half_life))
    age(volumes, -5.0)
    assert volumes[3] == pytest.approx(weight * 2 ** (-(first + second) / HALF_LIVES[3]))


def test_excess_takes_the_most_unusual_half_life() -> None:
    assert excess([8.0, 1.0, 1.0, 1.0], (1.0, 1.0, 1.0, 1.0)) == (3.0, 0)
    assert excess([1.0, 1.0, 64.0, 1.0], (1.0, 1.0, 2.0, 1.0)) == (5.0, 2)
    assert excess([0.0] * 4, (1.0,) * 4)[0] == -math.inf
