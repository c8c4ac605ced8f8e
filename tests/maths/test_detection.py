from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from azeotrope.maths import detection as d

SCORES = st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=12)


def fold(up: np.ndarray, down: np.ndarray, clean: np.ndarray, first: int = 0) -> d.Fold:
    """One trace a problem; the calibration traces are of other problems than the test traces."""
    test = first + np.arange(len(up))
    return d.Fold(d.Scores(up, test), d.Scores(down, test), d.Scores(clean, first + 500 + np.arange(len(clean))))


def test_auroc_by_hand() -> None:
    assert d.auroc([1.0, 1.0], [1.0, 1.0, 1.0]) == 0.5
    assert d.auroc([2.0, 3.0], [0.0, 1.0]) == 1.0
    assert d.auroc([1.0, 3.0], [1.0, 2.0]) == pytest.approx((0.5 + 0 + 1 + 1) / 4)
    assert np.isnan(d.auroc([], [1.0]))


@given(SCORES, SCORES)
@settings(max_examples=60, deadline=None)
def test_auroc_properties(up: list[float], down: list[float]) -> None:
    found = d.auroc(up, down)
    assert found + d.auroc(down, up) == pytest.approx(1)
    assert d.auroc(np.exp(up), np.exp(down)) == pytest.approx(found)
    brute = np.mean([(a > b) + 0.5 * (a == b) for a in up for b in down])
    assert found == pytest.approx(brute)


def test_auroc_agrees_with_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    up, down = rng.integers(0, 9, 80), rng.integers(0, 7, 60)
    labels = np.repeat([1, 0], [80, 60])
    assert d.auroc(up, down) == pytest.approx(metrics.roc_auc_score(labels, np.concatenate([up, down])))


def test_binormal_auroc_has_a_closed_form() -> None:
    rng = np.random.default_rng(1)
    found = d.auroc(rng.normal(1, 1, 20_000), rng.normal(0, 1, 20_000))
    assert found == pytest.approx(norm.cdf(1 / np.sqrt(2)), abs=0.01)


def test_weights_are_repetitions() -> None:
    rng = np.random.default_rng(2)
    up, down = rng.integers(0, 5, 7).astype(float), rng.integers(0, 4, 9).astype(float)
    weights_up, weights_down = rng.integers(0, 3, (6, 7)) * 1.0, rng.integers(1, 3, (6, 9)) * 1.0
    wins, pairs = d.weighted_concordance(up, down, weights_up, weights_down)
    limits = d.weighted_thresholds(down, weights_down, 0.2)
    for r in range(6):
        a, b = (np.repeat(x, w[r].astype(int)) for x, w in ((up, weights_up), (down, weights_down)))
        assert (wins[r], pairs[r]) == pytest.approx(d.concordance(a, b))
        assert limits[r] == d.threshold(b, 0.2)


def test_threshold_on_a_constructed_case() -> None:
    clean = np.arange(99.0)
    assert d.calibration_needed(0.01) == 99
    assert d.threshold(clean, 0.01) == 98.0
    assert d.threshold(clean[:98], 0.01) == np.inf
    assert d.threshold(np.arange(100.0), 0.1) == 90.0  # the ⌈.9 × 101⌉ = 91st smallest
    positive = np.array([97.0, 98.0, 98.5, 200.0])
    found = d.detect_traces([fold(positive, clean[:4], clean)], 0.01, np.ones((3, 700)))
    assert (found.rate.value, found.alarms.value) == (0.5, 0.0)


def test_threshold_keeps_the_false_alarm_rate() -> None:
    """Exact on average, whatever the distribution: 5 % with 60 calibration scores of a skewed one."""
    rng = np.random.default_rng(3)
    alarms = [(rng.exponential(size=200) > d.threshold(rng.exponential(size=60), 0.05)).mean() for _ in range(400)]
    assert np.mean(alarms) == pytest.approx(0.05, abs=0.006)


@pytest.mark.parametrize(("shape", "most"), [("normal", 0.07), ("exponential", 0.1)])
def test_group_threshold_nearly_keeps_the_false_alarm_rate(shape: str, most: float) -> None:
    """About 5 % with 40 calibration scores (four groups of ten); more if they are very skewed."""
    rng = np.random.default_rng(4)
    draw = getattr(rng, shape)
    alarms = []
    for _ in range(300):
        limit = d.group_threshold(draw(size=40), 10, 0.05, rng, draws=500)
        alarms.append((draw(size=(100, 10)).mean(axis=1) > limit).mean())
    assert 0.03 < np.mean(alarms) < most


def test_groups_are_disjoint_and_whole() -> None:
    values = 2.0 ** np.arange(23)
    found = d.group_means(values, 10, np.random.default_rng(0), partitions=3)
    assert found.shape == (3, 2)
    for row in found:
        members = [round(mean * 10) for mean in row]
        assert [member.bit_count() for member in members] == [10, 10]
        assert members[0] & members[1] == 0


def test_groups_sharpen_a_weak_signal() -> None:
    """The mean of ten moves the binormal AUROC from Φ(δ/√2) to Φ(δ√10/√2)."""
    rng = np.random.default_rng(5)
    up, down, clean = rng.normal(0.4, 1, 400), rng.normal(0, 1, 400), rng.normal(0, 1, 200)
    weights = np.ones((2, 1000))
    one = d.detect_traces([fold(up, down, clean)], 0.01, weights)
    ten = d.detect_groups([fold(up, down, clean)], 10, 0.01, weights, rng)
    assert one.auroc.value == pytest.approx(norm.cdf(0.4 / np.sqrt(2)), abs=0.05)
    assert ten.auroc.value == pytest.approx(norm.cdf(0.4 * np.sqrt(5)), abs=0.12)
    assert (one.auroc.n, ten.auroc.n) == (800, 80)


def test_many_groups_are_compared_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(6)
    up, down = rng.integers(0, 4, (3, 5)) * 1.0, rng.integers(0, 4, (3, 6)) * 1.0
    at_once = d._wins_of_groups(up, down)
    monkeypatch.setattr(d, "PAIRS", 0)
    assert d._wins_of_groups(up, down) == at_once


def test_too_little_data_is_said_and_not_guessed() -> None:
    zeros = np.zeros(15)
    weights = np.ones((2, 600))
    single = d.detect_traces([fold(zeros, zeros, zeros)], 0.01, weights)
    assert single.auroc.value == 0.5
    assert np.isnan(single.rate.value)
    assert "99" in single.missing
    groups = d.detect_groups([fold(zeros, zeros, zeros)], 10, 0.01, weights, np.random.default_rng(0))
    assert np.isnan(groups.auroc.value)
    assert "20" in groups.missing
    unset = d.detect_groups([fold(zeros, zeros, zeros)], 6, 0.01, weights, np.random.default_rng(0))
    assert unset.auroc.value == 0.5
    assert np.isnan(unset.rate.value)
    assert "18" in unset.missing


def test_perfect_separation_is_not_certainty() -> None:
    found = d.detect_traces([fold(np.ones(30), np.zeros(30), np.zeros(99))], 0.01, np.ones((5, 700)))
    assert found.auroc.value == found.auroc.high == 1.0
    assert 0.85 < found.auroc.low < 1.0
    assert (found.rate.value, found.alarms.value) == (1.0, 0.0)
    assert found.alarms.high > 0


def test_problems_are_resampled_within_their_fold() -> None:
    weights = d.problem_weights([0, 0, 0, 1, 1], 50, seed=1)
    assert (weights[0] == 1).all()
    assert (weights[:, :3].sum(axis=1) == 3).all()
    assert (weights[:, 3:].sum(axis=1) == 2).all()
    np.testing.assert_array_equal(weights, d.problem_weights([0, 0, 0, 1, 1], 50, seed=1))
    assert d.ratio([1, 2, 3, 0, 0], [2, 2, 2, 0, 0], weights)[0] == 1.0


def test_coverage_of_the_interval_over_problems() -> None:
    """Nominal 95 %, at least 89 of 100 (three standard errors below); traces of a problem share an effect."""
    rng = np.random.default_rng(7)
    truth = norm.cdf(0.8 / np.sqrt(2 * (1 + 0.5)))
    hits = 0
    problems = np.repeat(np.arange(60), 3)
    for i in range(100):
        up, down = (rng.normal(0, np.sqrt(0.5), 60)[problems] + rng.normal(mean, 1, 180) for mean in (0.8, 0))
        one = d.Fold(d.Scores(up, problems), d.Scores(down, problems), d.Scores(down, problems))
        found = d.detect_traces([one], 0.05, d.problem_weights(np.zeros(60), 300, seed=i)).auroc
        hits += found.low <= truth <= found.high
    assert hits >= 89
