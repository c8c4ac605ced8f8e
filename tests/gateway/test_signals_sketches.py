"""Sketches against exact counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from azeotrope.maths.cells import coverage_z, directions, expected_coverage
from azeotrope.maths.mmd import Fourier, mmd2, reference
from azeotrope.maths.sketches import (
    CountMin,
    PeriodSet,
    distinct,
    mix,
    places,
    register_of,
    salts,
    second_moment,
)

words64 = st.integers(0, 2**64 - 1)


def registers_of(words: list[int], m: int = 128) -> np.ndarray:
    registers = np.zeros(m, dtype=np.uint8)
    for word in words:
        at, rank = register_of(word, m)
        registers[at] = max(registers[at], rank)
    return registers


@pytest.mark.parametrize("n", [1, 10, 100, 1000, 20_000])
def test_distinct_items_are_counted_within_four_standard_errors(n: int) -> None:
    words = mix(np.arange(n, dtype=np.uint64) + np.uint64(12345)).tolist()
    found = distinct(registers_of(words))
    assert abs(found / n - 1) <= max(4 * 1.04 / 128**0.5, 1 / n)
    assert distinct(registers_of(words + words)) == found


@given(words64)
def test_registers_and_ranks_follow_the_bits(word: int) -> None:
    at, rank = register_of(word, 128)
    bits = f"{word >> 7:057b}"
    assert at == word & 127
    assert rank == (bits.index("1") + 1 if "1" in bits else 58)


def table_of(counts: dict[int, float], width: int = 16) -> np.ndarray:
    words = np.array(list(counts), dtype=np.uint64)
    where, sign = places(words, salts(4, 6), width)
    weights = sign * np.tile(list(counts.values()), 4)
    return np.bincount(where, weights, 4 * width).reshape(4, width)


@given(words64, st.floats(0.1, 1e3))
def test_the_moment_of_a_single_item_is_exact(word: int, count: float) -> None:
    assert second_moment(table_of({word: count})) == pytest.approx(count**2)


def test_the_moment_of_many_items_is_near() -> None:
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(60):
        counts = {int(w): 1.0 for w in rng.integers(0, 2**63, 200)}
        errors.append(second_moment(table_of(counts, 64)) / 200 - 1)
    assert abs(float(np.mean(errors))) < 0.1
    assert float(np.std(errors)) < 0.25


@given(st.lists(st.tuples(st.integers(0, 20), st.floats(0, 5e5), st.floats(0, 10)), max_size=60))
def test_count_min_never_says_too_little(steps: list[tuple[int, float, float]]) -> None:
    sketch, exact, now, half_life = CountMin(3, 64, 1000.0), {}, 0.0, 1000.0
    for item, wait, weight in steps:
        now += wait
        exact = {key: value * 2 ** (-wait / half_life) for key, value in exact.items()}
        exact[item] = exact.get(item, 0.0) + weight
        sketch.add(np.array([item], dtype=np.uint64), now, weight)
    for item, value in exact.items():
        assert sketch.estimate(np.array([item], dtype=np.uint64), now)[0] >= value * (1 - 1e-6) - 1e-9


@given(st.lists(st.tuples(st.integers(0, 20), st.floats(0, 5e5), st.floats(0, 10)), max_size=60))
def test_a_lifted_count_is_no_less_than_asked_and_no_more_than_the_largest(
    steps: list[tuple[int, float, float]],
) -> None:
    sketch, exact, now, half_life = CountMin(2, 4, 1000.0), {}, 0.0, 1000.0
    for item, wait, weight in steps:
        now += wait
        exact = {key: value * 2 ** (-wait / half_life) for key, value in exact.items()}
        exact[item] = max(exact.get(item, 0.0), weight)
        for _ in range(2):  # the second time changes nothing
            sketch.lift(np.array([item], dtype=np.uint64), now, weight)
    for item, value in exact.items():
        said = sketch.estimate(np.array([item], dtype=np.uint64), now)[0]
        assert value * (1 - 1e-6) - 1e-9 <= said <= max(exact.values()) * (1 + 1e-6) + 1e-9


def test_count_min_survives_clock_steps() -> None:
    sketch, item = CountMin(2, 64, 10.0), np.array([7], dtype=np.uint64)
    sketch.add(item, 0.0, 8.0)
    assert sketch.estimate(item, 10.0)[0] == pytest.approx(4)
    assert sketch.estimate(item, 0.0)[0] == pytest.approx(4), "time does not run back"
    assert sketch.estimate(item, 1e12)[0] == 0
    sketch.add(item, 1e12, 1.0)
    assert sketch.estimate(item, 1e12)[0] == pytest.approx(1)


@given(st.lists(words64, max_size=50))
def test_a_period_set_forgets_at_the_end_of_its_period_only(words: list[int]) -> None:
    seen = PeriodSet(1 << 12, 100.0)
    for word in words:
        seen.add(word, 250.0)
    assert not any(seen.add(word, 299.9) for word in words)
    if words:
        assert seen.add(words[0], 300.0)


def test_coverage_matches_draws() -> None:
    rng = np.random.default_rng(1)
    profile = rng.dirichlet(np.full(256, 0.5))
    covered = [len(np.unique(rng.choice(256, 60, p=profile))) for _ in range(800)]
    mean, bound = expected_coverage(profile, 60)
    assert np.mean(covered) == pytest.approx(mean, abs=0.5)
    assert np.var(covered) <= bound * 1.05, "the bound holds because hits are negatively associated"
    assert coverage_z(mean, profile, 60) == pytest.approx(0)


def test_directions_find_separated_clusters() -> None:
    rng = np.random.default_rng(2)
    centers = np.eye(10)[:5]
    points = np.repeat(centers, 40, axis=0) + rng.normal(scale=0.05, size=(200, 10))
    found = directions(points, 5, seed=3)
    assert np.sort((found @ centers.T).max(axis=0)).min() > 0.95
    few = directions(points[:2], 5, seed=3)
    assert few.shape == (5, 10)
    assert np.linalg.norm(few, axis=1) == pytest.approx(np.ones(5))


def test_fourier_features_are_unit_vectors_and_approximate_the_kernel() -> None:
    fourier, rng = Fourier(20, 2048, 1.0, seed=4), np.random.default_rng(5)
    x, y = (v / np.linalg.norm(v) for v in rng.normal(size=(2, 20)))
    a, b = fourier(x.astype(np.float32)), fourier(y.astype(np.float32))
    kernel = np.mean([np.exp(-((x - y) ** 2).sum() / (2 * s * s)) for s in (0.5, 1, 2, 4)])
    assert a @ a == pytest.approx(1, abs=1e-5)
    assert a @ b == pytest.approx(kernel, abs=0.1)
    with pytest.raises(ValueError, match="multiple"):
        Fourier(4, 12, 1.0, seed=0)


@given(st.integers(0, 2**32 - 1))
def test_the_running_discrepancy_is_the_double_sum(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points, other = rng.normal(size=(7, 6)), rng.normal(size=(9, 6))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    weights = rng.uniform(0.1, 1, 7)
    mean, square = reference(other)
    pairs = np.outer(weights, weights) * (points @ points.T)
    own = (pairs.sum() - np.trace(pairs)) / (weights.sum() ** 2 - (weights**2).sum())
    gram = other @ other.T
    theirs = (gram.sum() - np.trace(gram)) / (9 * 8)
    cross = (weights[:, None] * (points @ other.T)).sum() / (9 * weights.sum())
    found = mmd2(weights @ points, float(weights.sum()), float((weights**2).sum()), mean, square)
    assert found == pytest.approx(own + theirs - 2 * cross)


def test_one_point_has_no_discrepancy() -> None:
    mean, square = reference(np.eye(3))
    assert np.isnan(mmd2(np.ones(3), 0.5, 0.25, mean, square))
    assert np.isnan(mmd2(np.zeros(3), 0.0, 0.0, mean, square))
