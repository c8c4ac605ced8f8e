"""The policy file: what it may say, what a request gets, and how it is swapped."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from threading import Event, Thread

import pytest

from azeotrope.core.errors import ConfigError, MissingError
from azeotrope.gateway.policy import DEFAULT
from azeotrope.gateway.table import Facts, PolicyBox, snapshot

GOOD = """
azeotrope_gateway: 1
stances:
  plain: {}
  guard: {fidelity: omission, distillability: lowered, defenses: [{kind: traceguard, budget: 0.1}]}
  hide: {disclose: none}
contexts:
  - {name: vip, when: {tier: [gold, silver]}, stance: plain, raised: {2: guard, 4: hide}}
  - {name: short, when: {most_tokens: 100, tools: false}, stance: hide}
  - {name: rest, stance: guard}
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("facts", "context", "stance", "raised"),
    [
        (Facts(tier="gold"), "vip", "plain", 0),
        (Facts(tier="gold", level=1), "vip", "plain", 0),
        (Facts(tier="silver", level=3), "vip", "guard", 2),
        (Facts(tier="gold", level=4), "vip", "hide", 4),
        (Facts(most_tokens=100), "short", "hide", 0),
        (Facts(most_tokens=101), "rest", "guard", 0),
        (Facts(most_tokens=50, tools=True), "rest", "guard", 0),
        (Facts(), "rest", "guard", 0),
    ],
)
def test_the_first_context_that_fits_gives_the_stance(
    tmp_path: Path, facts: Facts, context: str, stance: str, raised: int
) -> None:
    found = snapshot(write(tmp_path, GOOD))
    decision = found.decide(facts)
    assert (decision.context, decision.stance.name, decision.raised) == (context, stance, raised)
    assert decision.policy == found.hash
    lines = found.explain(facts)
    assert any(line.startswith(f"{context}: yes, stance '{stance}'") for line in lines)


def test_an_explanation_says_why_not() -> None:
    lines = snapshot(DEFAULT).explain(Facts(tier="premium", level=3))
    assert lines[0] == "research contract: no, tier 'premium' is not research"
    assert "premium by contract: yes, stance 'answer', raised from level 3 on" in lines


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("plain: {}", "plain: {disclos: full}", "Did you mean 'disclose'?"),
        ("kind: traceguard", "kind: tracegard", "Did you mean 'traceguard'?"),
        ("budget: 0.1", "budget: 7", "share between 0 and 1"),
        ("budget: 0.1", "budgett: 0.1", "Did you mean 'budget'?"),
        ("stance: hide}", "stance: hid}", "no stance 'hid'. Did you mean 'hide'?"),
        ("{name: rest, stance: guard}", "{name: rest, when: {tier: x}, stance: guard}", "must have no conditions"),
        ("when: {most_tokens: 100, tools: false}, ", "", "nothing below it is ever reached"),
        ("name: short", "name: vip", "two contexts 'vip'"),
        ("fidelity: omission, ", "", "'exact', but traceguard alters the reply"),
        ("distillability: lowered, ", "", "set distillability to 'lowered'"),
        ("plain: {}", "plain: {distillability: lowered}", "lowered' by nothing"),
        ("plain: {}", "plain: {disclose: summary}", "set fidelity to 'omission'"),
        ("plain: {}", "plain: {logprobs: asked, logit_bias: true}", "give away the whole distribution"),
        ("disclose: none", "disclose: none, fidelity: omission, distillability: lowered, defenses: "
         "[{kind: traceguard, budget: 0.1}]", "nothing is shown that traceguard could act on"),
        ("budget: 0.1}]", "budget: 0.1}], logprobs: asked", "they teach more than the text"),
        ("raised: {2: guard", "raised: {7: guard", "levels of 'raised' are 1 to 4"),
        ("azeotrope_gateway: 1", "azeotrope_gateway: 2", "azeotrope_gateway"),
        ("plain: {}", "plain: {", "is not valid YAML"),
    ],
)  # fmt: skip
def test_mistakes_are_one_sentence(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError) as caught:
        snapshot(write(tmp_path, GOOD.replace(old, new)))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no policy file"):
        snapshot(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="does not hold a policy"):
        snapshot(write(tmp_path, "- a"))


def recommended(tmp_path: Path, budget: float) -> str:
    """A policy that takes its defenses from a file of `azeotrope recommend`, and adds nothing."""
    (tmp_path / "chosen.yaml").write_text(
        f"azeotrope_policy: 1\ndefenses: [{{kind: traceguard, budget: {budget}}}]\n"
        "run: {name: r, study_hash: abc123}\n",
        encoding="utf-8",
    )
    return GOOD.replace("defenses: [{kind: traceguard, budget: 0.1}]", "study: chosen.yaml")


def test_what_a_study_recommended_is_taken_with_its_hash(tmp_path: Path) -> None:
    found = snapshot(write(tmp_path, recommended(tmp_path, 0.2)))
    guard = found.stances["guard"]
    assert guard.labels == ("traceguard(budget=0.2)",)
    assert guard.study == "abc123"
    assert found.warnings == []
    assert "measured by the study abc123" in "\n".join(found.explain(Facts()))
    other = snapshot(write(tmp_path, recommended(tmp_path, 0.3)))
    assert other.hash != found.hash


def test_strengths_that_no_study_measured_are_named(tmp_path: Path) -> None:
    assert snapshot(write(tmp_path, GOOD)).warnings == [
        "stance 'guard': no study measured traceguard(budget=0.1) at this strength"
    ]


def test_the_hash_is_that_of_the_meaning(tmp_path: Path) -> None:
    one = snapshot(write(tmp_path, GOOD)).hash
    assert snapshot(write(tmp_path, "# a comment\n" + GOOD)).hash == one
    assert snapshot(write(tmp_path, GOOD.replace("0.1", "0.2"))).hash != one


def test_a_bad_file_leaves_the_old_policy_in_force(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    box = PolicyBox(path)
    first = box.current
    assert not box.changed()
    write(tmp_path, GOOD.replace("disclose: none", "disclose: nothing"))
    assert box.changed()
    assert box.reload() is False
    assert box.current is first
    assert "disclose" in box.error
    write(tmp_path, GOOD.replace("0.1", "0.25"))
    assert box.reload() is True
    assert box.error == ""
    assert first.stances["guard"].labels == ("traceguard(budget=0.1)",)
    assert box.current.stances["guard"].labels == ("traceguard(budget=0.25)",)


def test_a_reload_is_seen_whole(tmp_path: Path) -> None:
    """Whoever reads while others reload sees one policy or the other, never parts of both."""
    texts = [GOOD, GOOD.replace("0.1", "0.25").replace("most_tokens: 100", "most_tokens: 200")]
    path = write(tmp_path, texts[0])
    box, stop, seen = PolicyBox(path), Event(), set()

    def read() -> None:
        while not stop.is_set():
            policy = box.current
            label = policy.stances["guard"].labels[0]
            seen.add((label, policy.decide(Facts(most_tokens=150)).context))

    reader = Thread(target=read)
    reader.start()
    for turn in range(20):
        path.write_text(texts[turn % 2], encoding="utf-8")
        box.reload()
    stop.set()
    reader.join()
    assert seen <= {("traceguard(budget=0.1)", "rest"), ("traceguard(budget=0.25)", "short")}


def test_the_command(tmp_path: Path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", "from azeotrope.cli import main; main()", "policy", *words],
            capture_output=True,
            text=True,
            check=False,
        )

    path = write(tmp_path, GOOD)
    done = run("explain", str(path), "--tier", "gold", "--level", "2", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["context"], told["stance"], told["raised_by_level"]) == ("vip", "guard", 2)
    assert told["unmeasured"] == ["traceguard(budget=0.1)"]
    assert run("check", str(path)).returncode == 0
    assert "no study measured" in run("check", str(path)).stderr
    bad = run("check", str(write(tmp_path, "azeotrope_gateway: 1")))
    assert bad.returncode == 2
    assert bad.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "text",
    ["note: 2026-02-30", "note: !!timestamp x", "note: " + "[" * 5000, "note: !!int x", "? {a: 1}\n: 2"],
)
def test_no_file_ends_the_reading_of_later_ones(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, GOOD)
    box = PolicyBox(path)
    write(tmp_path, text)
    assert box.reload() is False
    assert str(path) in box.error
    write(tmp_path, GOOD.replace("0.1", "0.25"))
    assert box.reload() is True
    assert box.error == ""
