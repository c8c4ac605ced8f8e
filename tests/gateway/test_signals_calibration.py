"""Calibrations: e-values against benign traffic, and files that are checked before they are believed."""

from __future__ import annotations

import math
from pathlib import Path
from random import Random

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from signals_drive import SECRET, calibration, harvest, talk

from azeotrope.core.errors import ConfigError, MissingError, RunError
from azeotrope.gateway.signals.calibration import (
    SCALES,
    SIZED,
    SIZES,
    Null,
    Nulls,
    load,
    save,
    size_of,
    weigh,
)
from azeotrope.gateway.signals.evidence import Reading, Signal
from azeotrope.gateway.signals.fit import Labeled, fit, nulls_of, pooled
from azeotrope.gateway.signals.settings import WatchSettings

QUIET = (math.nan,) * 6


def reading(n: float = 100.0, **scores: float) -> Reading:
    found = [scores.get(signal.name.lower(), math.nan) for signal in Signal]
    return Reading(n, (found[0], found[1], found[2], found[3], found[4], found[5]))


@given(
    st.lists(st.floats(-20, 20), min_size=1, max_size=12), st.sampled_from([s for s in SCALES if s not in SIZED])
)
def test_exchangeable_days_have_e_values_of_mean_one(values: list[float], signal: Signal) -> None:
    found = []
    for i, value in enumerate(values):
        others = values[:i] + values[i + 1 :]
        if not others:
            return
        null = Null("tenant", int(signal), "", 0, len(others), sum(weigh(signal, other) for other in others))
        found.append(Nulls((null,)).evalues("tenant", reading(**{signal.name.lower(): value}))[signal])
    assert sum(found) / len(found) == pytest.approx(1, rel=1e-6)


def test_silence_and_the_unknown_are_neutral() -> None:
    nulls = Nulls(calibration().nulls)
    assert nulls.evalues("key", Reading(0.0, QUIET)) == (1.0,) * 6
    assert Nulls(()).evalues("key", reading(volume=5.0, drift=1.0))[:4] == (1.0,) * 4
    assert Nulls(()).evalues("key", reading(conduct=7.0))[Signal.CONDUCT] == 7.0


@pytest.mark.parametrize("signal", [signal for signal in Signal if signal is not Signal.CONDUCT])
def test_e_values_grow_with_the_score_and_are_bounded(signal: Signal) -> None:
    nulls = Nulls(calibration(count=50).nulls)
    level = "tenant"
    found = [
        nulls.evalues(level, reading(**{signal.name.lower(): value}))[signal] for value in (-5, 0, 1, 5, 50, 1e9)
    ]
    assert found == sorted(found)
    assert found[-1] <= 51
    assert nulls.evalues("key", reading(volume=-math.inf))[Signal.VOLUME] == 0


def test_a_cluster_is_compared_with_tenants_and_clusters() -> None:
    nulls = Nulls((Null("tenant", 0, "", 0, 3, 3.0), Null("cluster", 0, "", 0, 1, 10.0)))
    one = reading(volume=0.0)
    assert nulls.evalues("tenant", one)[0] == pytest.approx(1)
    assert nulls.evalues("cluster", one)[0] == pytest.approx(5 / 14)


def test_volume_has_to_be_unusual_in_every_group() -> None:
    nulls = Nulls((Null("key", 0, "chat", 0, 9, 9.0), Null("key", 0, "batch", 0, 9, 900.0)))
    assert nulls.evalues("key", reading(volume=5.0))[0] == pytest.approx(10 * 32 / 932)


def test_a_size_that_was_not_seen_takes_the_nearest_smaller_one() -> None:
    nulls = Nulls((Null("key", int(Signal.DRIFT), "", 3, 9, 9.0), Null("key", int(Signal.DRIFT), "", 5, 9, 90.0)))
    at = [nulls.evalues("key", reading(n=2.0**size, drift=0.0))[Signal.DRIFT] for size in range(8)]
    assert at[:5] == [pytest.approx(1)] * 5
    assert at[5:] == [pytest.approx(10 / 91)] * 3


def test_nulls_take_the_largest_at_a_size_or_what_was_reached() -> None:
    drift = int(Signal.DRIFT)
    peaks = {
        ("key", drift, "", 3, "a", 0): 0.05, ("key", drift, "", 5, "a", 0): 0.1,
        ("key", drift, "", 4, "b", 0): 0.0,
        ("key", 0, "chat", 0, "a", 0): 1.0, ("key", 0, "batch", 0, "a", 1): 2.0,
    }  # fmt: skip
    nulls = {(null.signal, null.size): null for null in nulls_of(peaks)}
    expected = math.exp(0.1 / SCALES[Signal.DRIFT]) + 1
    assert nulls[drift, 0].total == pytest.approx(expected)
    assert nulls[drift, 5].total == pytest.approx(expected)
    assert len([key for key in nulls if key[0] == drift]) == SIZES
    assert (nulls[0, 0].count, nulls[0, 0].total) == (2, pytest.approx(6)), "small groups are taken together"
    assert nulls[0, 0].group == "others"


@given(st.floats(0, 1e9))
def test_sizes_are_powers_of_two(n: float) -> None:
    size = size_of(n)
    assert 0 <= size < SIZES
    if 1 <= n < 2**SIZES:
        assert 2**size <= n < 2 ** (size + 1)


@given(st.lists(st.lists(st.floats(0, 9), min_size=1, max_size=6), max_size=6), st.integers(1, 12))
def test_groups_are_pooled_until_they_are_large_enough(groups: list[list[float]], least: int) -> None:
    found = pooled(groups, least)
    total = sorted(value for group in groups for value in group)
    if len(total) < least:
        assert found == []
    else:
        assert sorted(value for group in found for value in group) == total
        assert all(len(group) >= least for group in found)


def test_a_calibration_survives_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    save(calibration(), path)
    assert load(path) == calibration()


def test_missing_and_damaged_files_say_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    with pytest.raises(MissingError, match="calibrate"):
        load(path)
    with pytest.raises(RunError, match="cannot be read"):
        load(tmp_path)
    with pytest.raises(RunError, match="cannot be written"):
        save(calibration(), tmp_path / "no" / "c.json")
    good = msgspec.to_builtins(calibration())
    bad: list[dict[str, object]] = [
        {"p0": 1.5}, {"p0": "x"}, {"volumes": [1.0]}, {"volumes": [0.0, 1.0, 1.0, 1.0]}, {"mean": "AAAA"},
        {"rises": [8.0, 4.0, 16.0, 32.0]}, {"rises": [0.0, 4.0, 16.0, 32.0]}, {"format": 99}, {"more": 1},
        {"nulls": [{"level": "key"}]},
        {"nulls": [{"level": "moon", "signal": 0, "group": "", "size": 0, "count": 1, "total": 1.0}]},
        {"nulls": [{"level": "key", "signal": 0, "group": "", "size": 99, "count": 1, "total": 1.0}]},
        {"nulls": [{"level": "key", "signal": 0, "group": "", "size": 0, "count": 0, "total": 1.0}]},
    ]  # fmt: skip
    for change in bad:
        path.write_bytes(msgspec.json.encode({**good, **change}))
        with pytest.raises(ConfigError, match="not a calibration"):
            load(path)
    for text in (b"", b"{", b"\xff\xfe", b"[1]"):
        path.write_bytes(text)
        with pytest.raises(ConfigError, match="not a calibration"):
            load(path)


def people(seed: int, keys: int, group: str = "people") -> list[Labeled]:
    rng = Random(seed)
    found = [
        Labeled(talk(i, rng, key=f"{group}{seed}-{key}", gap=300.0), group)
        for key in range(keys)
        for i in range(30)
    ]
    return sorted(found, key=lambda item: item.seen.time)


def test_a_fit_learns_what_is_usual_and_raises_what_is_not() -> None:
    settings = WatchSettings(keys=128, tenants=128)
    made = fit([people(seed, keys) for seed, keys in ((1, 20), (2, 20), (3, 12))], settings, SECRET, alpha=0.1)
    assert 0 < made.p0 < 0.2, "nobody's conduct is suspicious, so p0 is at its floor or near"
    assert made.rises == tuple(made.rises[0] * 2**i for i in range(4))
    assert made.key_days == 12
    profile = made.profile()
    assert profile.shares.sum() == pytest.approx(1, abs=1e-3)
    assert np.linalg.norm(made.directions(), axis=1) == pytest.approx(np.ones(256), abs=1e-3)
    from azeotrope.gateway.signals.watch import Watch

    found, rng = Watch(settings, made, secret=SECRET), Random(9)
    for i in range(150):
        found.observe(harvest(i, rng))
        found.observe(talk(i, rng, gap=20.0))
        found.drain()
    assert found.stance("thief", 3000.0).level >= 2
    assert found.stance("person", 3000.0).level == 0


def test_a_fit_says_what_is_missing() -> None:
    settings = WatchSettings(keys=64, tenants=64)
    with pytest.raises(ConfigError, match="three parts"):
        fit([], settings)
    with pytest.raises(ConfigError, match="prompts to learn from"):
        fit([people(1, 3), [], []], settings)
    with pytest.raises(ConfigError, match="p0 needs 99 benign keys"):
        fit([people(1, 20), [], []], settings)
    with pytest.raises(ConfigError, match="needs 9 benign key-days"):
        fit([people(1, 20), people(2, 3), people(3, 4)], settings, alpha=0.1)
