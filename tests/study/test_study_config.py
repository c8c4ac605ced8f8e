from __future__ import annotations

from pathlib import Path

import pytest
from study_fakes import study

from azeotrope.core.errors import ConfigError, MissingError
from azeotrope.study.arms import expand
from azeotrope.study.config import apply_override, dump_study, load_study

GOOD = """
name: demo
teacher: embedded/teacher
tasks: [{kind: facts}]
defenses:
  - {kind: ads, lam: [0.1, 0.2]}
attacks: [{kind: sft}]
detectors: []
students: [{family: embedded/student, bases: 2}]
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_study_survives_being_written_and_read(tmp_path: Path) -> None:
    first = load_study(write(tmp_path, GOOD))
    again = load_study(write(tmp_path, dump_study(first)))
    assert again == first
    assert again.hash == first.hash


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("teacher:", "techer:", "Unknown setting 'techer'. Did you mean 'teacher'?"),
        ("lam: [0.1, 0.2]", "lamb: 0.1", "Unknown setting 'defenses.0.lamb'. Did you mean 'lam'?"),
        ("lam: [0.1, 0.2]", "lam: [0.1, much]", "'defenses.0.lam'"),
        ("lam: [0.1, 0.2]", "lam: []", "'defenses.0.lam' is an empty list"),
        ("kind: ads", "kind: adz", "'defenses.0.kind': There is no defense 'adz'. Did you mean 'ads'?"),
        ("kind: sft", "knd: sft", "'attacks.0' needs a 'kind'"),
        ("bases: 2", "bases: 0", "'students.0.bases'"),
        ("bases: 2", "base: 2", "Unknown setting 'students.0.base'. Did you mean 'bases'?"),
        ("name: demo", "name: demo\ndraws: {fact: 2}", "'draws': no task 'fact'. Did you mean 'facts'?"),
        ("name: demo", "name: demo\ndraws: {}", "'draws' does not say how many draws facts gets"),
        ("name: demo", "name: demo\ndraws: {facts: 0}", "'draws': should be a whole number of at least 1"),
        ("name: demo", "name: ../demo", "'name'"),
        ("name: demo", "name: steps", "choose another name"),
        ("name: demo", "", "'name' is required."),
        ("tasks: [{kind: facts}]", "tasks: [{kind: facts, levl: 2}]", "Did you mean 'level'?"),
        ("attacks: [{kind: sft}]", "attacks: [{kind: sft}, {kind: sft, epochs: 3}]", "lists sft twice"),
        ("lam: [0.1, 0.2]", "lam: [0.1, 0.1]", "lists ads(lam=0.1) twice"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_study(write(tmp_path, GOOD.replace(old, new)))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_file_trouble(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no study file"):
        load_study(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="line 4, column 1"):
        load_study(write(tmp_path, "name: demo\nteacher: x\ntasks: [{kind: facts}\nattacks: []"))
    with pytest.raises(ConfigError, match="does not hold a study"):
        load_study(write(tmp_path, "- a\n- b"))
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00name")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_study(tmp_path / "binary.yaml")


def test_overrides(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    changed = load_study(path, ["defenses.0.lam=[0.3]", "release.n=5", "students.0.bases=4", "seed = 7"])
    assert changed.defenses[0]["lam"] == [0.3]
    assert (changed.release.n, changed.students[0].bases, changed.seed) == (5, 4, 7)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("release", "not of the form"),
        ("a..b=1", "not of the form"),
        ("defenses.5.lam=1", "has 1 entries"),
        ("defenses.x.lam=1", "has 1 entries"),
        ("teacher.x=1", "single value"),
        ("seed=[1", "not valid YAML"),
    ],
)
def test_wrong_overrides(override: str, message: str) -> None:
    raw = {"teacher": "t", "defenses": [{"kind": "ads"}]}
    with pytest.raises(ConfigError, match=message):
        apply_override(raw, override)


def test_unknown_override_is_caught_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'release\.sampling\.temprature'. Did you mean 'temperature'"):
        load_study(write(tmp_path, GOOD), ["release.sampling.temprature=0.7"])


def test_sweeps_expand_and_none_is_always_first() -> None:
    arms = expand(study(defenses=[{"kind": "ads", "lam": [0.1, 0.2]}, {"kind": "none"}])).arms
    assert [arm.label for arm in arms] == ["none", "ads(lam=0.1)", "ads(lam=0.2)"]
    assert [arm.strength for arm in arms] == [0.0, 0.1, 0.2]
    assert arms[0].settings == ()
    assert arms[1].settings == ({"kind": "ads", "lam": 0.1, "proxy": "embedded/proxy"},)
    assert {arm.curve for arm in arms} == {"none", "ads"}


def test_two_sweeps_of_a_kind_are_two_curves() -> None:
    arms = expand(
        study(defenses=[{"kind": "ads", "lam": [0.1, 0.2]}, {"kind": "ads", "lam": [0.1, 0.2], "proxy": "other"}])
    ).arms
    assert [arm.curve for arm in arms] == ["none", "ads", "ads", "ads(proxy=other)", "ads(proxy=other)"]
    assert len({arm.label for arm in arms}) == 5


def test_composition_is_ordered_by_stage_and_multiplies_out() -> None:
    entry = {"compose": [{"kind": "traceguard", "budget": [0.1, 0.2]}, {"kind": "ads", "lam": 0.3}]}
    arms = expand(study(defenses=[entry])).arms[1:]
    assert [arm.defense for arm in arms] == ["ads+traceguard"] * 2
    assert [arm.label for arm in arms] == [
        "ads(lam=0.3) + traceguard(budget=0.1)",
        "ads(lam=0.3) + traceguard(budget=0.2)",
    ]
    assert [arm.strength for arm in arms] == [0.1, 0.2]
    assert {arm.curve for arm in arms} == {"ads(lam=0.3) + traceguard"}
    nested = {"compose": [{"kind": "ads", "lam": [0.1, 0.2]}, {"kind": "traceguard", "budget": [0.1, 0.2]}]}
    assert len(expand(study(defenses=[nested])).arms) == 5
    with pytest.raises(ConfigError, match=r"defenses\.0\.compose\.0\.lamb"):
        study(defenses=[{"compose": [{"kind": "ads", "lamb": 1}]}])
    with pytest.raises(ConfigError, match="the key 'compose' only"):
        study(defenses=[{"compose": [{"kind": "ads"}], "lam": 1}])
    with pytest.raises(ConfigError, match="list of defenses"):
        study(defenses=[{"compose": []}])


def test_controls_are_marked() -> None:
    arms = expand(study()).arms
    assert {arm.label: arm.is_control for arm in arms if arm.strength > 0.2} == {
        "temperature(delta=0.3)": True,
        "ads(lam=0.4)": False,
    }
