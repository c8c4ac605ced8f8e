"""Arms beside their control, on the embedded grammar and on real traces."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
from detect_drive import guarded, loud, sample

from azeotrope.core.errors import ConfigError
from azeotrope.core.types import Trace
from azeotrope.defenses.traceguard import TraceGuard
from azeotrope.detect.base import Texts, texts_of
from azeotrope.detect.compare import CONTROL, Row, compare
from azeotrope.detect.marker_rate import MarkerRate
from azeotrope.detect.ngram import Ngram
from azeotrope.detect.tfidf_cosine import TfidfCosine
from azeotrope.detect.token_delta import TokenDelta

N = 150
FIGURES = 1 + 1 + 3 + 6


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    arms = {"loud": loud(sample(N, 3)), "traceguard": sample(N, 3, guarded)}
    detectors = (TokenDelta(), TfidfCosine(), MarkerRate(), Ngram(fpr=0.05))
    return compare(arms, sample(N, 1), sample(N, 2), detectors)


def get(rows: list[Row], arm: str, measure: str, unit: str) -> Row:
    (row,) = (r for r in rows if (r.arm, r.measure, r.unit) == (arm, measure, unit))
    return row


def test_the_control_comes_first_in_every_figure(rows: list[Row]) -> None:
    assert len(rows) == 3 * FIGURES
    for i in range(0, len(rows), 3):
        assert [row.arm for row in rows[i : i + 3]] == [CONTROL, "loud", "traceguard"]
        assert len({(row.detector, row.measure, row.unit) for row in rows[i : i + 3]}) == 1
    assert [row.is_control for row in rows[:3]] == [True, False, False]
    assert rows[-1].detector == "ngram(fpr=0.05)"
    assert all(row.n_problems == N for row in rows)
    assert all(row.low <= row.value <= row.high for row in rows if not row.note)


def test_two_clean_samples_look_the_same(rows: list[Row]) -> None:
    for unit in ("per_trace", "per_group"):
        area = get(rows, CONTROL, "auroc", unit)
        assert area.low <= 0.5 <= area.high
    delta = get(rows, CONTROL, "token_delta", "per_problem")
    assert delta.low <= 0 <= delta.high
    assert abs(get(rows, CONTROL, "marker_rate_difference", "per_problem").value) < 3


def test_an_obvious_edit_is_detected(rows: list[Row]) -> None:
    for unit in ("per_trace", "per_group"):
        area, hits = (get(rows, "loud", measure, unit) for measure in ("auroc", "tpr_at_fpr"))
        assert area.value > 0.9
        assert hits.value > 0.9
    assert get(rows, "loud", "auroc", "per_trace").low > 0.9
    cosine = [get(rows, arm, "tfidf_cosine", "per_problem") for arm in ("loud", CONTROL)]
    assert cosine[0].value < cosine[1].value


def test_traceguard_shows_in_the_markers_and_more_in_groups(rows: list[Row]) -> None:
    gap = get(rows, "traceguard", "marker_rate_difference", "per_problem")
    assert gap.high < 0
    assert get(rows, "traceguard", "marker_rate_defended", "per_problem").value == 0
    single, group = (get(rows, "traceguard", "auroc", unit) for unit in ("per_trace", "per_group"))
    assert 0.5 < single.low < single.value < group.value


def test_all_rows_use_the_same_problems() -> None:
    clean, other = sample(12, 1), sample(20, 2)
    arms = {"a": sample(20, 3), "b": dict(list(sample(20, 4).items())[2:])}
    found = compare(arms, clean, other, [TokenDelta()])
    assert {row.n_problems for row in found} == {10}
    assert [row.arm for row in compare(arms, clean, None, [TokenDelta()])] == ["a", "b"]


def test_what_cannot_be_compared() -> None:
    texts: Texts = {"a": ["x"], "b": ["y"]}
    with pytest.raises(ConfigError, match="no problem in common"):
        compare({"arm": {"c": ["x"]}}, texts, texts, [TokenDelta()])
    with pytest.raises(ConfigError, match="name of the control"):
        compare({CONTROL: texts}, texts, None, [TokenDelta()])


def real_sample(data_dir: Path, seed: int) -> dict[str, str]:
    """Problem → the first 3,000 characters of its reasoning under one seed."""
    found = {}
    path = data_dir / "traces_r1" / "r1_distill_cots_300.jsonl"
    for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
        row = json.loads(line)
        if row["seed"] == seed:
            found[row["src_path"]] = row["solution"].rpartition("<think>")[2][:3000]
    return found


def test_real_traces(data_dir: Path) -> None:
    clean, other = (real_sample(data_dir, seed) for seed in (0, 1))
    guard = TraceGuard(budget=1.0)
    arm = texts_of(
        guard.rewrite(Trace(problem_id=name, prompt="", text=text), Random(0)) for name, text in other.items()
    )
    sides = ({name: [text] for name, text in side.items()} for side in (clean, other))
    detectors = (TokenDelta(), MarkerRate(), Ngram(features="word", words=1, group=5))
    found = compare({"traceguard": arm}, *sides, detectors)
    control, area = (get(found, name, "auroc", "per_trace") for name in (CONTROL, "traceguard"))
    assert control.n_problems > 50
    assert control.low <= 0.5 <= control.high
    assert area.low > 0.5
    assert area.value > control.value + 0.2
    gap, noise = (get(found, name, "marker_rate_difference", "per_problem") for name in ("traceguard", CONTROL))
    assert gap.high < noise.low
    assert get(found, "traceguard", "token_delta", "per_problem").value < -0.02
