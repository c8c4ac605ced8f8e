"""E-values: expectations enumerated exactly, guarantees checked on streams where nothing is wrong."""

from __future__ import annotations

import itertools
from array import array
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azeotrope.maths.evalues import Bets, combine, ebh, soft_rank

unit = st.floats(0, 1)


@given(st.floats(0.01, 0.99), unit, st.integers(1, 12))
def test_a_constant_stream_has_closed_forms(p0: float, x: float, n: int) -> None:
    bets = Bets(p0, (0.3,))
    factor = 1 + 0.3 * (x - p0) / p0
    wealth, sums = bets.wealth(), bets.sums()
    for _ in range(n):
        value, run = bets.grow(wealth, x), bets.detect(sums, x)
    assert value == pytest.approx(factor**n)
    assert run == pytest.approx(sum(factor**i for i in range(1, n + 1)))


@pytest.mark.parametrize("keep", [1.0, 0.7])
@pytest.mark.parametrize("p0", [0.1, 0.5])
def test_expectations_under_the_null_are_exact(p0: float, keep: float) -> None:
    """All 2^9 streams of fair bits with mean p0: E W = keep^n and E M = what is not forgotten."""
    bets, n = Bets(p0), 9
    wealth_mean = run_mean = 0.0
    for bits in itertools.product((0, 1), repeat=n):
        wealth, sums = bets.wealth(), bets.sums()
        for x in bits:
            value, run = bets.grow(wealth, x, keep), bets.detect(sums, x, keep)
        chance = p0 ** sum(bits) * (1 - p0) ** (n - sum(bits))
        wealth_mean += chance * value
        run_mean += chance * run
    assert wealth_mean == pytest.approx(keep**n)
    assert run_mean == pytest.approx(sum(keep**i for i in range(n)))


def test_the_chance_of_ever_crossing_is_bounded() -> None:
    bets, rng, crossed = Bets(0.1), Random(1), 0
    for _ in range(600):
        wealth = bets.wealth()
        crossed += any(bets.grow(wealth, float(rng.random() < 0.1)) >= 10 for _ in range(300))
    assert crossed / 600 <= 0.1 + 3 * (0.1 * 0.9 / 600) ** 0.5
    assert crossed > 0, "a bound that is never approached would hide a mistake"


def test_the_average_run_length_is_at_least_the_threshold() -> None:
    bets, rng, lengths = Bets(0.1), Random(2), []
    for _ in range(300):
        sums, n, run = bets.sums(), 0, 0.0
        while run < 30:
            run, n = bets.detect(sums, float(rng.random() < 0.1)), n + 1
        lengths.append(n)
    mean = sum(lengths) / len(lengths)
    spread = (sum((n - mean) ** 2 for n in lengths) / len(lengths) / len(lengths)) ** 0.5
    assert mean + 3 * spread >= 30


def test_a_change_is_found_soon_whatever_came_before() -> None:
    """The e-process has been talked down by then; the detector has not."""
    bets, rng = Bets(0.1), Random(3)
    wealth, sums = bets.wealth(), bets.sums()
    for _ in range(2000):
        bets.grow(wealth, float(rng.random() < 0.05))
        bets.detect(sums, float(rng.random() < 0.05))
    after = next(n for n in range(1, 200) if bets.detect(sums, 0.8) >= 10_000 and bets.grow(wealth, 0.8) >= 0)
    assert after < 20


@given(st.lists(st.tuples(unit, unit), max_size=40), st.floats(0.01, 0.99))
def test_forgetting_only_makes_evidence_smaller(steps: list[tuple[float, float]], p0: float) -> None:
    bets = Bets(p0)
    whole, faded = bets.sums(), bets.sums()
    for x, keep in steps:
        assert bets.detect(faded, x, keep) <= bets.detect(whole, x) * (1 + 1e-9)
        assert min(faded) >= 0


def test_wrong_numbers_are_refused() -> None:
    bets = Bets(0.2)
    for x, keep in ((1.01, 1.0), (-0.01, 1.0), (float("nan"), 1.0), (0.5, 1.1), (0.5, float("nan"))):
        with pytest.raises(ValueError, match="lie in"):
            bets.grow(array("d", [1.0] * 6), x, keep)
    with pytest.raises(ValueError, match="p0"):
        Bets(0.0)
    with pytest.raises(ValueError, match="stakes"):
        Bets(0.5, (1.5,))


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=10))
def test_soft_ranks_of_exchangeable_values_average_to_one(values: list[float]) -> None:
    """Each value in turn is the new one: the mean of its e-value over all of them is 1 exactly."""
    found = [
        soft_rank(value, sum(values[:i] + values[i + 1 :]), len(values) - 1) for i, value in enumerate(values)
    ]
    assert sum(found) / len(found) == pytest.approx(1)
    assert max(found) <= len(values)


def test_soft_ranks_need_numbers() -> None:
    for value, total in ((-1.0, 1.0), (float("nan"), 1.0), (1.0, -1.0)):
        with pytest.raises(ValueError, match="at least 0"):
            soft_rank(value, total, 3)


@given(st.lists(st.floats(0, 1e6), max_size=8))
def test_the_mean_lies_between_the_extremes(evalues: list[float]) -> None:
    if evalues:
        assert min(evalues) * 0.999999 <= combine(evalues) <= max(evalues) * 1.000001
    else:
        assert combine(evalues) == 1


@given(st.lists(st.floats(0, 1e4), min_size=1, max_size=12), st.floats(0.01, 1), st.integers(0, 11))
def test_e_bh_by_definition_and_monotone(evalues: list[float], alpha: float, raised: int) -> None:
    m = len(evalues)
    ordered = sorted(evalues, reverse=True)
    k = max((k for k in range(1, m + 1) if ordered[k - 1] * k * alpha >= m), default=0)
    found = ebh(evalues, alpha)
    assert len(found) == k
    assert all(evalues[i] >= ordered[k - 1] for i in found)
    louder = [e * 10 if i == raised % m else e for i, e in enumerate(evalues)]
    assert len(ebh(louder, alpha)) >= k
