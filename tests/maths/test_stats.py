from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from azeotrope.maths import stats


def test_wilson_matches_scipy() -> None:
    for k, n in [(0, 10), (3, 10), (10, 10), (187, 200)]:
        exact = scipy_stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
        found = stats.wilson(k, n)
        assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=1e-12)
        assert found.low <= found.value <= found.high


def test_wilson_without_data_knows_nothing() -> None:
    found = stats.wilson(0, 0)
    assert np.isnan(found.value)
    assert (found.low, found.high) == (0.0, 1.0)


def test_student_t_matches_scipy() -> None:
    values = [0.3, 0.5, 0.45, 0.7]
    low, high = scipy_stats.t.interval(0.95, 3, np.mean(values), scipy_stats.sem(values))
    found = stats.student_t([*values, np.nan])
    assert (found.low, found.high, found.n_seeds) == pytest.approx((low, high, 4))
    assert np.isnan(stats.student_t([0.4]).low)
    assert np.isnan(stats.student_t([]).value)


def test_paired_t_matches_scipy_and_handles_no_spread() -> None:
    a, b = np.array([0.3, 0.5, 0.45]), np.array([0.2, 0.35, 0.5])
    expected = scipy_stats.ttest_rel(a, b)
    found = stats.paired_t(a, b)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.low == pytest.approx(expected.confidence_interval().low)
    assert stats.paired_t(a, a).p == 1.0
    assert stats.paired_t([1.0, 2.0], [0.0, 1.0]).p == 0.0


def test_replicate_is_the_weighted_mean_of_a_brute_force_loop() -> None:
    rng = np.random.default_rng(0)
    values = rng.random((3, 5))
    values[1, 2] = np.nan
    weights = stats.resample(3, 5, replicates=20, seed=1)
    found = stats.replicate(values, weights)
    for r in range(21):
        top = bottom = 0.0
        for s, p in itertools.product(range(3), range(5)):
            if not np.isnan(values[s, p]):
                w = weights.seeds[r, s] * weights.items[r, p]
                top, bottom = top + w * values[s, p], bottom + w
        assert found[r] == pytest.approx(top / bottom)
    assert found[0] == pytest.approx(np.nanmean(values))


def test_plain_replicates_are_real_resamples() -> None:
    """Without calibration a replicate equals the mean of an actually resampled matrix."""
    values = np.random.default_rng(2).random((3, 4))
    weights = stats.resample(3, 4, replicates=30, seed=5, calibrate=False)
    for r in range(1, 31):
        rows = np.repeat(np.arange(3), np.rint(weights.seeds[r] * 3).astype(int))
        columns = np.repeat(np.arange(4), np.rint(weights.items[r] * 4).astype(int))
        assert len(rows) == 3
        assert len(columns) == 4
        assert stats.replicate(values, weights)[r] == pytest.approx(values[np.ix_(rows, columns)].mean())


@given(st.integers(1, 9), st.integers(1, 12), st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_weights_sum_to_one_and_are_reproducible(n_seeds: int, n_items: int, seed: int) -> None:
    first = stats.resample(n_seeds, n_items, replicates=10, seed=seed)
    again = stats.resample(n_seeds, n_items, replicates=10, seed=seed)
    np.testing.assert_allclose(first.seeds.sum(axis=1), 1)
    np.testing.assert_allclose(first.items.sum(axis=1), 1)
    np.testing.assert_array_equal(first.seeds, again.seeds)


def test_arms_with_other_numbers_of_students_share_the_problems() -> None:
    np.testing.assert_array_equal(stats.resample(2, 9, seed=3).items, stats.resample(7, 9, seed=3).items)


def test_calibration_makes_the_seed_component_as_wide_as_student_t() -> None:
    """Bootstrap SD of the mean over seeds, times 1.96, equals the half-width of the t interval."""
    for size in (4, 8, 16):
        values = np.random.default_rng(size).normal(size=(size, 1))
        draws = stats.replicate(values, stats.resample(size, 1, replicates=20000, seed=0))
        t = stats.student_t(values)
        assert 1.96 * draws[1:].std() == pytest.approx((t.high - t.low) / 2, rel=0.03)


def test_paired_bootstrap_identities() -> None:
    a = np.random.default_rng(0).random((4, 30))
    weights = stats.resample(4, 30, seed=0)
    same = stats.paired_bootstrap(a, a, weights)
    assert (same.difference, same.low, same.high, same.p) == (0, 0, 0, 1)
    shifted = stats.paired_bootstrap(a + 0.2, a, weights)
    assert shifted.difference == pytest.approx(0.2)
    assert (shifted.low, shifted.high) == pytest.approx((0.2, 0.2))
    assert shifted.p == pytest.approx(2 / 2001)
    b = np.random.default_rng(1).random((4, 30))
    one, other = stats.paired_bootstrap(a, b, weights), stats.paired_bootstrap(b, a, weights)
    assert (one.low, one.p) == pytest.approx((-other.high, other.p))
    with pytest.raises(ValueError, match="same seeds and problems"):
        stats.paired_bootstrap(a, b[:, :3], weights)


def test_pairing_removes_what_the_arms_share() -> None:
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 1, 50)
    a, b = (hard + rng.normal(0, 0.05, (6, 50)) for _ in range(2))
    weights = stats.resample(6, 50, seed=0)
    gap, alone = stats.paired_bootstrap(a, b, weights), stats.bootstrap(a, weights)
    assert (gap.high - gap.low) < 0.3 * (alone.high - alone.low)


def test_proportion_of_constant_ones_is_not_certain() -> None:
    found = stats.proportion(np.ones((3, 50)), stats.resample(3, 50))
    assert found.value == found.high == 1.0
    assert found.low == pytest.approx(stats.wilson(50, 50).low)


@pytest.mark.parametrize(("n_seeds", "seed_sd"), [(4, 0.1), (8, 0.05), (4, 0.0)])
def test_coverage_of_the_crossed_bootstrap(n_seeds: int, seed_sd: float) -> None:
    """Nominal 95 %; at least 91 % in a simulation of 300 (three standard errors below), with few seeds."""
    rng = np.random.default_rng(7)
    weights = stats.resample(n_seeds, 60, replicates=400, seed=0)
    hits = 0
    for _ in range(300):
        problems = rng.normal(0, 0.2, 60)
        seeds = rng.normal(0, seed_sd, (n_seeds, 1))
        found = stats.bootstrap(0.5 + seeds + problems + rng.normal(0, 0.3, (n_seeds, 60)), weights)
        hits += found.low <= 0.5 <= found.high
    assert hits / 300 >= 0.91


def test_false_positive_rate_of_the_paired_bootstrap() -> None:
    rng = np.random.default_rng(3)
    weights = stats.resample(6, 60, replicates=400, seed=0)
    alarms = 0
    for _ in range(300):
        a, b = (rng.normal(0, 0.1, (6, 1)) + rng.normal(0, 0.3, (6, 60)) for _ in range(2))
        alarms += stats.paired_bootstrap(a, b, weights).p < 0.05
    assert alarms / 300 <= 0.09


def _curve(utility: list[float], leakage: list[float], strengths: list[float] | None = None) -> stats.Curve:
    rows = [np.full(3, u) for u in utility], [np.full(3, v) for v in leakage]
    return stats.curve(
        strengths or [float(i) for i in range(1, len(utility))], rows[0][1:], rows[1][1:], (rows[0][0], rows[1][0])
    )


def test_at_teacher_cost_interpolates_linearly() -> None:
    curve = _curve([0.9, 0.8, 0.6], [0.7, 0.6, 0.2])
    assert stats.at_teacher_cost(curve, 0.05) == pytest.approx([0.65] * 3)
    assert stats.at_teacher_cost(curve, 0.1) == pytest.approx([0.6] * 3)
    assert stats.at_teacher_cost(curve, 0.2) == pytest.approx([0.4] * 3)
    assert stats.at_teacher_cost(curve, 0.0) == pytest.approx([0.7] * 3)
    assert np.isnan(stats.at_teacher_cost(curve, 0.31)).all()


def test_at_teacher_cost_sorts_on_strength_and_takes_the_first_crossing() -> None:
    shuffled = _curve([0.9, 0.6, 0.8], [0.7, 0.2, 0.6], strengths=[2.0, 1.0])
    assert stats.at_teacher_cost(shuffled, 0.2) == pytest.approx([0.4] * 3)
    bumpy = _curve([0.9, 0.7, 0.95, 0.7], [0.7, 0.5, 0.7, 0.1])
    assert stats.at_teacher_cost(bumpy, 0.1) == pytest.approx([0.6] * 3)


def test_a_cost_reached_exactly_counts_whatever_the_rounding() -> None:
    assert stats.at_teacher_cost(_curve([0.9, 0.9 - 0.1], [0.7, 0.6]), 0.1) == pytest.approx([0.6] * 3)
    assert stats.at_teacher_cost(_curve([0.3, 0.1], [0.7, 0.6]), 0.2) == pytest.approx([0.6] * 3)
    noise = stats.from_replicates(np.array([0.0, 1e-17, 2e-17, 1e-18]), n=1, n_seeds=1)
    assert noise.p == 1.0


def test_an_arm_at_strength_zero_is_the_undefended_arm() -> None:
    assert _curve([0.9, 0.9, 0.6], [0.7, 0.1, 0.2], strengths=[0.0, 1.0]).strengths == (0.0, 1.0)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6), st.floats(0.001, 0.5))
@settings(max_examples=100, deadline=None)
def test_at_teacher_cost_against_a_loop(utility: list[float], drop: float) -> None:
    leakage = [i * 0.1 for i in range(len(utility))]
    expected = float("nan")
    for i in range(1, len(utility)):
        if utility[i] <= utility[0] - drop + 1e-12:
            share = min(1.0, (utility[i - 1] - utility[0] + drop) / (utility[i - 1] - utility[i]))
            expected = leakage[i - 1] + share * (leakage[i] - leakage[i - 1])
            break
    assert stats.at_teacher_cost(_curve(utility, leakage), drop)[0] == pytest.approx(expected, nan_ok=True)


def test_interpolation_happens_inside_the_bootstrap() -> None:
    """Uncertainty of the teacher alone must widen the interval, though the students are certain."""
    rng = np.random.default_rng(0)
    weights = stats.resample(4, 100, seed=0)
    drops = rng.random(100)
    teacher = [np.tile((drops > level).astype(float), (4, 1)) for level in (0.0, 0.1, 0.2)]
    flip = np.tile((rng.random(100) > 0.1).astype(float), (4, 1))
    student = [np.full((4, 100), v) for v in (0.8, 0.6, 0.4)]
    u = [stats.replicate(m, weights) for m in teacher]
    v = [stats.replicate(m, weights) for m in student]
    ads = stats.curve([1.0, 2.0], u[1:], v[1:], (u[0], v[0]))
    noisy = stats.curve([1.0], [stats.replicate(teacher[1] * flip, weights)], [v[1]], (u[0], v[0]))
    gap = stats.equal_cost(ads, noisy, 0.05, n=100, n_seeds=4)
    assert gap is not None
    assert gap.low < gap.difference < gap.high
    same = stats.equal_cost(ads, ads, 0.05, n=100, n_seeds=4)
    assert same is not None
    assert (same.difference, same.low, same.high, same.p) == (0, 0, 0, 1)
    assert stats.equal_cost(ads, noisy, 0.9, n=100, n_seeds=4) is None


def test_pareto_front_against_brute_force() -> None:
    rng = np.random.default_rng(0)
    u, v = rng.integers(0, 6, 40) / 5, rng.integers(0, 6, 40) / 5
    expected = [
        not any((u[j] >= u[i] and v[j] <= v[i]) and (u[j] > u[i] or v[j] < v[i]) for j in range(40))
        for i in range(40)
    ]
    assert stats.pareto_front(u, v).tolist() == expected
    assert stats.pareto_front([0.9, np.nan], [0.5, 0.1]).tolist() == [True, False]
    assert stats.pareto_front([], []).tolist() == []


def test_minimum_detectable_difference_has_the_promised_power() -> None:
    rng = np.random.default_rng(0)
    shift = stats.minimum_detectable(0.1, 6)
    gaps = rng.normal(shift, 0.1, (4000, 6))
    t = gaps.mean(axis=1) / (gaps.std(axis=1, ddof=1) / np.sqrt(6))
    assert (np.abs(t) > scipy_stats.t.ppf(0.975, 5)).mean() == pytest.approx(0.8, abs=0.02)
    shift_t = shift / 0.1 * np.sqrt(6)
    critical = scipy_stats.t.ppf(0.975, 5)
    assert scipy_stats.nct.sf(critical, 5, shift_t) == pytest.approx(0.8, abs=1e-4)
    assert stats.minimum_detectable(0.2, 6) == pytest.approx(2 * shift)
    assert stats.minimum_detectable(0.0, 6) == 0
    assert np.isnan(stats.minimum_detectable(0.1, 1))
    assert stats.minimum_detectable(0.1, 2) > stats.minimum_detectable(0.1, 3) > shift


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(stats.holm([0.01, 0.04, np.nan, 0.03]), [0.03, 0.06, np.nan, 0.06])
    np.testing.assert_allclose(stats.holm([0.6, 0.9]), [1.0, 1.0])
    assert stats.holm([]).tolist() == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_never_lowers_a_p_value_and_keeps_the_order(p: list[float]) -> None:
    adjusted = stats.holm(p)
    assert (adjusted >= np.asarray(p)).all()
    order = np.argsort(p, kind="stable")
    assert (np.diff(adjusted[order]) >= 0).all()


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=30))
def test_pseudo_values_of_a_mean_are_its_units(values: list[float]) -> None:
    units = np.array(values)
    others = (units.sum() - units) / (len(units) - 1)
    assert stats.pseudo_values(float(units.mean()), others) == pytest.approx(units, abs=1e-6)


def test_pseudo_values_give_the_error_of_a_ratio_of_means() -> None:
    """Also where a unit's own denominator is 0 now and then, so that its own ratio has no value."""
    rng = np.random.default_rng(3)
    found, errors = [], []
    for _ in range(400):
        bottom = rng.choice([0.0, 0.05, 0.1], size=80)
        top = 0.7 * bottom + 0.02 * rng.standard_normal(80)
        whole = top.mean() / bottom.mean()
        others = (top.sum() - top) / (bottom.sum() - bottom)
        found.append(whole)
        errors.append(np.std(stats.pseudo_values(whole, others), ddof=1) / np.sqrt(80))
    assert np.mean(errors) == pytest.approx(np.std(found), rel=0.1)


def test_p_over_few_units_is_that_of_student() -> None:
    values = np.random.default_rng(3).normal(0.4, 1.0, 6)
    expected = scipy_stats.ttest_1samp(values, 0.0).pvalue
    assert stats.student_p(float(values.mean()), values) == pytest.approx(expected)
    assert stats.student_p(0.1, np.zeros(4)) == 0.0
    assert stats.student_p(0.0, np.zeros(4)) == 1.0
    assert np.isnan(stats.student_p(0.1, np.ones(1)))
