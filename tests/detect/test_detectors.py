"""Each detector on cases with a known answer."""

from __future__ import annotations

import numpy as np
import pytest
from detect_drive import guarded, sample
from pydantic import ValidationError

from azeotrope.core import plugins
from azeotrope.core.errors import ConfigError
from azeotrope.detect.base import Detector, Measurement, shared_problems
from azeotrope.detect.classifier import Classifier, Scorer, deal
from azeotrope.detect.marker_rate import MarkerRate
from azeotrope.detect.ngram import Ngram
from azeotrope.detect.tfidf_cosine import TfidfCosine
from azeotrope.detect.token_delta import TokenDelta

ALL = (TokenDelta(), TfidfCosine(), MarkerRate(), Ngram(features="word"))


def values(found: list[Measurement]) -> dict[str, float]:
    return {f"{m.measure} {m.unit}": m.value for m in found}


def test_they_are_registered() -> None:
    assert {plugins.load("detectors", name) for name in plugins.catalogue("detectors")} >= {type(d) for d in ALL}
    for name in plugins.catalogue("detectors"):
        cls = plugins.load("detectors", name)
        assert issubclass(cls, Detector)
        assert (cls.kind, bool(cls.summary)) == (name, True)
        assert all(info.description for info in cls.model_fields.values())
    with pytest.raises(ConfigError, match=r"no detector 'ngrm'.*'ngram'"):
        plugins.load("detectors", "ngrm")


def test_token_delta_weighs_problems_not_samples() -> None:
    clean = {"a": ["one two three four"], "b": ["one two three four five six"]}
    defended = {"a": ["one two", "one two three four"], "b": ["one two three"]}
    (found,) = TokenDelta().measure(defended, clean)
    assert found.value == pytest.approx((3 + 3) / (4 + 6) - 1)
    assert (found.n, found.n_problems, found.unit) == (5, 2, "per_problem")
    assert found.low <= found.value <= found.high


def test_token_delta_of_one_distribution_has_no_bias() -> None:
    """The mean of the problems' own ratios would be near +1 here."""
    found = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        one, other = ({str(i): ["x " * n] for i, n in enumerate(rng.integers(2, 60, 150))} for _ in range(2))
        found += TokenDelta().measure(one, other)
    assert abs(np.mean([m.value for m in found])) < 0.04  # three standard errors
    assert sum(m.low <= 0 <= m.high for m in found) >= 17


def test_tfidf_cosine_by_hand() -> None:
    detector = TfidfCosine(longest=1)
    (same,) = detector.measure({"a": ["x y"], "b": ["z w"]}, {"a": ["y x"], "b": ["w z"]})
    (apart,) = detector.measure({"a": ["x"], "b": ["y"]}, {"a": ["z"], "b": ["w"]})
    (pairs,) = detector.measure({"a": ["x", "y"], "b": ["p", "q"]}, {"a": ["x"], "b": ["p"]})
    assert (same.value, apart.value) == (pytest.approx(1), 0)
    assert pairs.value == pytest.approx(0.5)
    (blank,) = detector.measure({"a": [" "], "b": [""]}, {"a": [""], "b": [""]})
    assert blank.value == 1
    assert detector.measure({"a": ["x"], "b": [""]}, {"a": ["x"], "b": ["y"]})[0].value == 0.5


def test_marker_rate_by_hand() -> None:
    clean = {p: ["<think> I add. Wait, no. It is 3. I can't wait.</think> Wait, 3."] for p in "ab"}
    defended = {p: ["<think> I add. It is 3.</think> Wait, 3."] for p in "ab"}
    found = values(MarkerRate().measure(defended, clean))
    assert list(found.values()) == [0, pytest.approx(25), pytest.approx(-25)]
    other = values(MarkerRate(markers=("it is",)).measure(defended, clean))
    assert list(other.values())[:2] == [pytest.approx(50), pytest.approx(25)]
    silent = MarkerRate().measure({p: [""] for p in "ab"}, clean)
    assert np.isnan(silent[0].value)


def test_only_shared_problems_count() -> None:
    assert shared_problems({"b": ["x"], "a": ["x"], "c": []}, {"a": ["y"], "b": ["y"], "c": ["y"]}) == ["a", "b"]
    with pytest.raises(ConfigError, match=r"at least 2 problems .* there is 1"):
        TokenDelta().measure({"a": ["x"], "b": ["y"]}, {"a": ["x"]})


def test_too_few_problems_for_a_split() -> None:
    texts = {str(i): ["x"] for i in range(11)}
    with pytest.raises(ConfigError, match=r"at least 12 problems .* there are 11"):
        Ngram(folds=3).measure(texts, texts)


def test_settings_that_leave_nothing_to_train_on() -> None:
    with pytest.raises(ValidationError, match="the most is 3"):
        Ngram(calibration=4)
    with pytest.raises(ValidationError, match="longer than"):
        TfidfCosine(shortest=3)


class Spy(Classifier):
    """Remembers what it was trained on and asked about."""

    kind = "spy"
    seen: list[tuple[set[str], list[list[str]]]]

    def fit(self, defended: list[str], clean: list[str], seed: int) -> Scorer:  # type: ignore[override]
        asked: list[list[str]] = []
        self.seen.append(({text.split()[1] for text in [*defended, *clean]}, asked))

        def score(texts: list[str]) -> np.ndarray:
            asked.append(list(texts))
            return np.array([float(text.startswith("bad")) for text in texts])

        return score  # type: ignore[return-value]


def test_no_problem_is_trained_on_and_scored() -> None:
    ids = [f"p{i}" for i in range(25)]
    bad = {name: [f"bad {name} 0", f"bad {name} 1"] for name in ids}
    good = {name: [f"good {name}"] for name in ids}
    spy = Spy(seen=[])
    found = spy.measure(bad, good, seed=3)
    tested: list[str] = []
    assert len(spy.seen) == 5
    for trained, (positive, negative, calibration) in spy.seen:
        scored = [{text.split()[1] for text in texts} for texts in (positive, negative, calibration)]
        assert scored[0] == scored[1]
        assert not trained & (scored[0] | scored[2])
        assert not scored[0] & scored[2]
        assert trained | scored[0] | scored[2] == set(ids)
        assert {text.split()[0] for text in calibration} == {"good"}
        tested += negative
    assert sorted(tested) == sorted(f"good {name}" for name in ids)
    assert values(found)["auroc per_trace"] == 1


def test_the_deal_is_even_and_seeded() -> None:
    parts = deal(23, 5, 1)
    assert sorted(np.bincount(parts)) == [4, 4, 5, 5, 5]
    assert (parts == deal(23, 5, 1)).all()
    assert (parts != deal(23, 5, 2)).any()


def test_identical_sides_are_told_apart_by_nothing() -> None:
    texts = sample(30, 1)
    found = values(Ngram(features="word").measure(texts, texts))
    assert found["auroc per_trace"] == 0.5
    blank = {str(i): [""] for i in range(20)}
    assert values(Ngram().measure(blank, blank))["auroc per_trace"] == 0.5


@pytest.mark.parametrize("detector", ALL, ids=lambda d: d.kind)
def test_deterministic_and_without_side_effects(detector: Detector) -> None:
    defended, clean = sample(30, 3, guarded), sample(30, 1)
    before = repr((defended, clean))
    first = detector.measure(defended, clean, seed=5)
    backwards = [dict(reversed(list(side.items()))) for side in (defended, clean)]
    np.testing.assert_equal([repr(m) for m in first], [repr(m) for m in detector.measure(*backwards, seed=5)])
    assert repr((defended, clean)) == before
