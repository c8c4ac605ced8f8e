"""What an attack declares: its identity, its access and its budget."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import Field

from azeotrope.attacks.base import AttackRun, Outcome, StudentAttack
from azeotrope.cli import tracefile
from azeotrope.cli.catalog import headings
from azeotrope.cli.describe import budget, describe
from azeotrope.cli.entry import call
from azeotrope.core import plugins
from azeotrope.core.access import Access
from azeotrope.core.budget import Budget
from azeotrope.core.errors import ConfigError
from azeotrope.core.methods import Attack, Maturity, parse_method
from azeotrope.core.release import Release
from azeotrope.core.seeds import fingerprint
from azeotrope.models.lm import LM
from azeotrope.study.vocabulary import CONTROL_ATTACKS, is_control
from tiny import toy_traces

# Stored steps are found by these. One that changes makes every study pay for its students again: raise
# `version` (and change the line here) only if the attack's numbers change.
IDENTITIES = {
    "agreement_kd": "28a9a40a26a9b322",
    "akl": "7fe6dbd69645bf1b",
    "tvd": "8d36275130eff3bb",
    "extracted_kd": "ed66768af72d8865",
    "alm": "e280141296354eac",
    "clean_kd": "c5ee3ab494c4aae8",
    "distillm2": "d4e6ed3d1a50d524",
    "gold": "339d74746e765549",
    "inverse_map": "9f623c64b28702a8",
    "minillm": "ecb878fb184ebb82",
    "sampled_kd": "d98fa080aa65f9ec",
    "greedy_sft": "bd7d1da8e5436203",
    "reweighted_kd": "447529ad284e5c74",
    "leaked_kd": "1f8f52b97c2da8a2",
    "top1_kd": "d89eefaed7638432",
    "uld": "3535ba79d873c21a",
    "topk_kd": "5ffb20932431e74e",
    "taid": "ba9ef29712005ec2",
    "rkl": "6a0613e7714fb428",
    "gkd": "c4ad3f33995b133b",
    "fkl": "dabde85991258798",
    "distillm": "8642c7e08ce6523c",
    "abkd": "46b3bd79aa54fc3a",
    "answers_only": "328db080716882d7",
    "clean_mix": "3246c21c955795e3",
    "filtered_sft": "f1838e1e936cbbba",
    "infill": "83ca55be251f72bf",
    "paraphrase": "7fa8b97c706c608f",
    "prefill": "dffad8aba42aa1c5",
    "resampled_sft": "fe4bf7ffd4f0cd53",
    "reweighted_sft": "73348e07d8e7116c",
    "self_generated": "13f9b0b41f1f8a4f",
    "sft": "a44379d0a8cb7a49",
    "strip_style": "f65d78b15e0d022e",
    "trace_inversion": "c30b8c44e43a8f4d",
}


@pytest.mark.parametrize("kind", IDENTITIES)
def test_identities_are_what_they_were(kind: str) -> None:
    assert fingerprint(plugins.load("attacks", kind)().identity()) == IDENTITIES[kind]


@pytest.mark.parametrize(
    ("spent", "words", "billed"),
    [
        (Budget(), "asks nothing; trains on at most 1 trace per released trace", 0),
        (Budget(queries=1.0), "asks 1 further query per released trace; trains on at most 1 trace", 10),
        (Budget(queries=3, data=0.5), "asks 3 further queries per released trace; trains on at most 0.5", 30),
        (Budget(leaks=0.25), "assumes 0.25 leaked traces per released trace", 2),
        (Budget(queries=1, leaks=1), "assumes 1 leaked trace per released trace", 20),
        (Budget(leaked=64), "assumes 64 leaked traces in all", 10),
        (Budget(leaked=4), "assumes 4 leaked traces in all", 4),
    ],
)
def test_a_budget_in_words_and_in_completions(spent: Budget, words: str, billed: int) -> None:
    assert words in str(spent)
    assert ("assumes" in str(spent)) == bool(spent.leaks or spent.leaked)
    assert spent.billed(10) == billed
    assert spent.billed(0) == 0


def test_show_says_what_is_spent_by_default() -> None:
    about = describe("attacks", "resampled_sft")
    assert about["budget"] == {
        "queries": 2, "data": 1.0, "leaks": 0.0, "leaked": 0, "probes": False,
        "words": "asks 2 further queries per released trace; trains on at most 1 trace per released trace",
    }  # fmt: skip
    assert ("budget", f"{about['budget']['words']} (default settings)") in headings(about)

    class Particular(Attack):
        kind: ClassVar[str] = "particular"
        target: str = Field()

    assert budget(Particular) is None
    assert "budget" not in dict(headings({**about, "budget": None}))


class Logits(StudentAttack):
    """Needs what no release exposes yet."""

    kind: ClassVar[str] = "logits"
    summary: ClassVar[str] = "match the teacher's distribution"
    needs: ClassVar[Access] = Access.FULL_LOGITS

    def train(self, bases: Sequence[LM], release: Release, run: AttackRun) -> Outcome:
        release.view(self.needs, reader=f"The attack '{self.kind}'")
        raise AssertionError("it saw what was not released")


@pytest.mark.parametrize(("kind", "needs"), [("logits", None), ("sft", Access.TOPK_LOGPROBS)])
def test_more_access_than_released_is_refused_on_the_command_line(
    kind: str, needs: Access | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    known = plugins.load
    monkeypatch.setattr(plugins, "load", lambda group, name: Logits if name == "logits" else known(group, name))
    if needs is not None:
        monkeypatch.setattr(known("attacks", kind), "needs", needs)
    release, out = tmp_path / "release.jsonl", tmp_path / "student"
    tracefile.write(toy_traces(4), release)
    arguments = ["attack", "--release", release, "--student", "embedded/student-gpt2-0", "--out", out, "--attack"]
    assert call([*map(str, arguments), kind]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("azeotrope: ")]
    wanted = "FULL_LOGITS" if needs is None else needs.name
    assert said == [
        f"azeotrope: The attack '{kind}' needs access {wanted}, but the release only exposes TEXT; "
        "choose another attack or release more."
    ]
    assert not out.exists()


def test_controls_of_attacks_are_known_by_name() -> None:
    kinds = {kind for kind in plugins.catalogue("attacks") if is_control(kind)}
    declared = {k for k in plugins.catalogue("attacks") if plugins.load("attacks", k).maturity is Maturity.CONTROL}
    assert kinds == declared == CONTROL_ATTACKS


@pytest.mark.parametrize("value", [float("inf"), float("nan"), "inf"])
def test_numbers_that_are_not_finite_are_refused(value: float | str) -> None:
    """For every method and every settings file: the rule stands in their common base."""
    for group, kind, name in (
        ("defenses", "cmi", "lam"),
        ("defenses", "traceguard", "budget"),
        ("attacks", "sft", "lr"),
    ):
        with pytest.raises(ValueError, match="finite"):
            plugins.load(group, kind)(**{name: value})


@pytest.mark.parametrize(
    ("group", "kind", "settings", "sentence"),
    [
        ("attacks", "gkd", {"sft": {"epochs": 2}}, "2 epochs of warmup leave none of 2"),
        ("attacks", "minillm", {"sft": {"epochs": 1}}, "2 epochs of warmup leave none of 1"),
        ("attacks", "gold", {"on_policy": 0.5, "warmup": 9}, "9 epochs of warmup leave none of 5"),
        ("attacks", "inverse_map", {"maps": 40, "pairs": 20}, "20 texts cannot tell 40 maps apart"),
        ("attacks", "inverse_map", {"sibling": ""}, "'attacks.sibling': string should have at least 1"),
        ("attacks", "sft", {"epochs": True}, "epochs is no switch and cannot be true"),
        ("defenses", "topk_logprobs", {"k": True}, "k is no switch and cannot be true"),
        ("defenses", "cmi", {"layer": False}, "layer is no switch and cannot be false"),
        (
            "defenses",
            "cmi",
            {"layer": "hed"},
            "'defenses.layer': input should be 'head' or 'block' or a valid integer ",
        ),
        ("defenses", "cmi", {"proxy": ""}, "'defenses.proxy': string should have at least 1"),
        ("defenses", "round_logprobs", {"step": 1e-40}, "float32, which has no steps of 1e-40 nats"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(
    group: str, kind: str, settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_method(plugins.load(group, kind), settings, group)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_settings_at_the_edge_of_what_works_are_taken() -> None:
    for group, kind, settings in (
        ("attacks", "gkd", {"sft": {"epochs": 3}}),
        ("attacks", "gkd", {"on_policy": 0.0, "sft": {"epochs": 1}}),
        ("attacks", "inverse_map", {"maps": 40, "pairs": 20, "sibling": "embedded/proxy"}),
        ("defenses", "cmi", {"kd_only": True, "layer": 1}),
        ("defenses", "round_logprobs", {"step": 0.0}),
        ("defenses", "round_logprobs", {"step": 1e-6}),
    ):
        parse_method(plugins.load(group, kind), settings, group)
