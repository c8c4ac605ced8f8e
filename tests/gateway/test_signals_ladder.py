"""The response ladder: a pure state machine and what it promises."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from azeotrope.core.errors import ConfigError
from azeotrope.gateway.signals.evidence import CAP, FAMILIES, FLOOR, SILENT, Signal, score
from azeotrope.gateway.signals.exempt import BatchProfile
from azeotrope.gateway.signals.ladder import GROUND, TOP, Rules, Rungs, advance, joined
from azeotrope.gateway.signals.settings import WatchSettings

RULES = Rules((4.0, 8.0, 16.0, 32.0), 0.5, 1800.0)
scores = st.floats(0, 100)
Steps = list[tuple[float, float]]
walk = st.lists(st.tuples(st.floats(0, 3000), scores), max_size=40)


def climb(steps: list[tuple[float, float]], rules: Rules = RULES) -> list[tuple[float, Rungs]]:
    rungs, now, found = GROUND, 0.0, []
    for wait, value in steps:
        now += wait
        rungs = advance(rungs, value, now, rules)
        found.append((now, rungs))
    return found


def test_levels_follow_the_score_up_at_once() -> None:
    for value, level in ((3.99, 0), (4.0, 1), (15.9, 2), (16.0, 3), (1e9, 4)):
        assert advance(GROUND, value, 0.0, RULES).level == level


def test_the_way_down_is_one_rung_a_dwell() -> None:
    steps = climb([(0.0, 50.0), *[(600.0, 0.0)] * 13])
    assert [rungs.level for _, rungs in steps] == [4, 4, 4, 3, 3, 3, 2, 2, 2, 1, 1, 1, 0, 0]


def test_hysteresis_holds_a_rung_at_half_its_threshold() -> None:
    steps = climb([(0.0, 8.0), *[(1800.0, 4.0)] * 10])
    assert {rungs.level for _, rungs in steps} == {2}
    steps = climb([(0.0, 8.0), *[(1800.0, 3.99)] * 10])
    assert [rungs.level for _, rungs in steps][-1] == 1


@given(walk, st.data())
def test_more_evidence_never_gives_less_response(steps: list[tuple[float, float]], data: st.DataObject) -> None:
    more = [(wait, value + data.draw(st.floats(0, 50))) for wait, value in steps]
    for (_, low), (_, high) in zip(climb(steps), climb(more), strict=True):
        assert low.level <= high.level


@given(walk)
def test_no_rung_is_left_within_a_dwell_of_being_taken(steps: list[tuple[float, float]]) -> None:
    entered, before = 0.0, 0
    for now, rungs in climb(steps):
        if rungs.level < before:
            assert now - entered >= RULES.dwell
        if rungs.level > before:
            entered = now
        before = rungs.level


@given(st.lists(walk, min_size=1, max_size=4), scores)
def test_who_joins_others_keeps_what_each_of_them_answers_for(walks: list[Steps], value: float) -> None:
    parts = [(climb(steps) or [(0.0, GROUND)])[-1][1] for steps in walks]
    now = max(sum(wait for wait, _ in steps) for steps in walks)
    found = joined(parts)
    assert found.level == max(part.level for part in parts)
    assert joined([found, *parts]) == found
    assert advance(found, value, now, RULES).level >= max(advance(part, value, now, RULES).level for part in parts)


@given(walk)
def test_everything_is_given_up_after_four_dwells_without_support(steps: list[tuple[float, float]]) -> None:
    found = climb([*steps, (0.0, 0.0), (TOP * RULES.dwell + 1, 0.0)])
    assert found[-1][1].level == 0


@given(walk)
def test_levels_and_their_times_are_consistent(steps: list[tuple[float, float]]) -> None:
    for now, rungs in climb(steps):
        taken = [time > float("-inf") for time in rungs.supported]
        assert taken == sorted(taken, reverse=True), "rungs are nested"
        assert rungs.since <= now


@given(walk, st.floats(0, 1e6))
def test_a_clock_that_steps_back_does_not_freeze_a_stance(steps: list[tuple[float, float]], back: float) -> None:
    rungs, now = GROUND, 1e6
    for wait, value in steps:
        now += wait
        rungs = advance(rungs, value, now, RULES)
    now -= back
    rungs = advance(rungs, 0.0, now, RULES)
    assert advance(rungs, 0.0, now + TOP * RULES.dwell + 1, RULES).level == 0


evalues = st.tuples(*[st.floats(0, 1e12)] * 6)


@given(
    st.sampled_from(FAMILIES), st.floats(0, 1e300), st.lists(st.floats(0, FLOOR * 0.999), min_size=6, max_size=6)
)
def test_one_family_alone_moves_nothing(family: tuple[Signal, ...], loud: float, others: list[float]) -> None:
    found = [loud if signal in family else others[signal] for signal in Signal]
    assert score((found[0], found[1], found[2], found[3], found[4], found[5])) == 0


@given(evalues, st.integers(0, 5), st.floats(1, 1e6))
def test_the_score_is_monotone_and_never_above_the_mean(
    six: tuple[float, float, float, float, float, float], which: int, factor: float
) -> None:
    louder = tuple(value * factor if i == which else value for i, value in enumerate(six))
    assert score(louder) >= score(six)  # type: ignore[arg-type]
    assert score(six) <= sum(six) / 6 * (1 + 1e-9)


def test_the_score_caps_at_the_second_family() -> None:
    assert score(SILENT) == 0
    assert score((3.0, 1.0, 1.0, 1.0, 1e12, 1.0)) == pytest.approx((3 + 4 + 3 * CAP) / 6)
    assert score((0.0, 0.0, 1e6, 1e6, 0.0, 0.0)) == 0, "coverage and drift are one family"


def test_a_declaration_holds_until_its_end_and_up_to_its_volume() -> None:
    profile = BatchProfile(tenant="t", until=100.0, tokens_per_day=1000.0)
    assert profile.holds(99.0, 1000 / 0.7)
    assert not profile.holds(100.0, 0.0)
    assert not profile.holds(0.0, 1500.0)
    assert BatchProfile(tenant="t", until=100.0).holds(0.0, 1e12)
    for wrong in ({"tenant": ""}, {"until": float("inf")}, {"tokens_per_day": -1.0}):
        with pytest.raises(ConfigError, match="batch profile"):
            BatchProfile(**{"tenant": "t", "until": 1.0, **wrong})


def test_settings_are_checked() -> None:
    with pytest.raises(ValidationError, match="more tenants than keys"):
        WatchSettings(keys=10, tenants=20)
    with pytest.raises(ValidationError, match="extra"):
        WatchSettings.model_validate({"kys": 10})
