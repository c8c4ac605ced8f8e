"""Defenses that train the head: trained once, stored, served alike in every way; settings that make no sense."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from azeotrope.core.errors import ConfigError
from azeotrope.core.methods import parse_method
from azeotrope.core.sampling import Sampling
from azeotrope.core.types import Trace
from azeotrope.defenses import trained_head
from azeotrope.defenses.base import Bench, assemble
from azeotrope.defenses.cmi import CMI
from azeotrope.defenses.cmim import CMIM
from azeotrope.defenses.doge import DOGe
from azeotrope.defenses.mcmi import MCMI
from azeotrope.defenses.shuffled_map import ShuffledMap, matched, shuffled
from azeotrope.defenses.trained_head import TrainedHead
from azeotrope.maths import divergences
from azeotrope.models.edit_choice import ChosenEditRule
from azeotrope.models.head_edit import EditRule, HeadShift, LogitMap
from azeotrope.models.sample import generate
from azeotrope.study.service import read_fitted, write_fitted
from tiny import Toy, fresh, toy_traces

QUICK: dict[str, Any] = {"holdout": 12, "epochs": 3, "lr": 0.02, "checks": 2, "problems": 4, "batch_size": 4}
METHODS: dict[str, Callable[..., TrainedHead]] = {
    "cmi": lambda **more: CMI(**{**QUICK, "rank": 3, **more}),
    "shuffled_map": lambda **more: ShuffledMap(**{**QUICK, "rank": 3, **more}),
    "doge": lambda **more: DOGe(**{**QUICK, **more}),
    "doge, low rank": lambda **more: DOGe(**{**QUICK, "rank": 3, **more}),
    "cmim": lambda **more: CMIM(**{**QUICK, "least": 3, **more}),
    "cmim, low rank": lambda **more: CMIM(**{**QUICK, "least": 3, "rank": 3, **more}),
    "mcmi": lambda **more: MCMI(**{**QUICK, "least": 3, **more}),
}
every = pytest.mark.parametrize("name", METHODS)


def workplace(temperature: float = 0.7, dtype: torch.dtype = torch.float32) -> Bench:
    return Bench(
        fresh("llama", spread=0.2, dtype=dtype),
        Toy(),
        Sampling(temperature=temperature),
        seed=3,
        load=lambda ref: fresh("gpt2", spread=0.2, seed=len(ref), dtype=dtype),
    )


def written(bench: Bench, defense: TrainedHead) -> list[tuple[int, ...] | None]:
    rules = assemble([defense], bench).rules
    traces = generate(bench.teacher, Toy().problems("release", 6), Toy(), bench.sampling, rules=rules, seed=3)
    return [trace.token_ids for trace in traces]


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seeds of the trainings that have been run."""
    seeds: list[int] = []
    inner = trained_head.train

    def watch(*args: Any, **more: Any) -> Any:
        seeds.append(more["seed"])
        return inner(*args, **more)

    monkeypatch.setattr(trained_head, "train", watch)
    return seeds


@every
def test_merged_and_unmerged_say_the_same_and_differ_from_the_teacher(name: str) -> None:
    bench, make = workplace(dtype=torch.float64), METHODS[name]
    texts = [written(bench, make(serve=serve)) for serve in ("merged", "unmerged")]
    assert texts[0] == texts[1]
    plain = generate(bench.teacher, Toy().problems("release", 6), Toy(), bench.sampling, seed=3)
    assert texts[0] != [trace.token_ids for trace in plain]


@every
def test_one_training_serves_every_strength_and_way_of_serving(name: str, trainings: list[int]) -> None:
    bench, make = workplace(), METHODS[name]
    rules = [make(scale=scale, serve=serve).bind(bench) for scale, serve in ((1.0, "merged"), (0.5, "unmerged"))]
    assert len(trainings) == 1
    edits = [rule.edit for rule in rules if isinstance(rule, EditRule)]
    assert [edit.scale for edit in edits] == [1.0, 0.5]
    assert type(edits[0]) is (HeadShift if name in ("doge", "cmim", "mcmi") else LogitMap)
    make(lam=0.123).bind(bench)
    assert len(trainings) == 2
    again = workplace()
    (rule,) = (make().bind(again),)
    assert isinstance(rule, EditRule)
    for key, tensor in edits[0].tensors().items():
        assert torch.equal(rule.edit.tensors()[key], tensor), "a function of settings, bench and seed"


@every
def test_what_was_learned_is_stored_and_read_again(name: str, trainings: list[int], tmp_path: Path) -> None:
    first, second, make = workplace(), workplace(), METHODS[name]
    texts = written(first, make())
    write_fitted(first, tmp_path / "fitted.safetensors")
    read_fitted(second, tmp_path / "fitted.safetensors")
    assert written(second, make()) == texts
    assert len(trainings) == 1
    assert second.notes == first.notes != {}
    (key,) = second.used
    assert key == make().key()
    for part, tensor in first.fitted[key].items():
        assert torch.equal(second.fitted[key][part], tensor)


@every
def test_the_record_says_what_was_done(name: str) -> None:
    bench, make = workplace(), METHODS[name]
    make().bind(bench)
    (notes,) = bench.notes.values()
    assert notes["measured_at_scale"] == 1.0
    steps = [4, 9]  # 3 epochs of 3 steps: 9 traces, 4 at a time
    shown = [c["step"] for c in notes["checkpoints"]]
    assert shown == (steps if name != "shuffled_map" else [notes["chosen_step"]])
    assert notes["chosen_step"] in (4, 9)
    assert {"agreement", "kl", "tokens", "clean_accuracy", "kept"} <= set(notes)
    named = {"cmi": "cosine_held_out", "shuffled_map": "kl_wanted", "doge": "divergence_reasoning_after"}
    own = named.get(bench_kind(name), "classes_cover")
    assert own in notes


def bench_kind(name: str) -> str:
    return name.partition(",")[0]


def test_several_maps_serve_by_seed_and_are_stored_each(trainings: list[int], tmp_path: Path) -> None:
    bench = workplace()
    one = METHODS["cmi"]().bind(bench)
    assert isinstance(one, EditRule)
    several = METHODS["cmi"](maps=3, serve="unmerged", scale=0.5)
    rule = several.bind(bench)
    assert isinstance(rule, ChosenEditRule)
    assert len(trainings) == len(set(trainings)) == 3, "the first map is the one that was there"
    assert torch.equal(rule.edits[0].tensors()["b_RV"], one.edit.tensors()["b_RV"])
    assert len({float(edit.tensors()["b_RV"].norm()) for edit in rule.edits}) == 3
    assert {edit.scale for edit in rule.edits} == {0.5}
    notes = bench.notes["cmi"]
    assert notes["maps"] == len(notes["each"]) == 3
    assert "inverts each" in notes["caution"]
    texts = written(bench, several)
    write_fitted(bench, tmp_path / "fitted.safetensors")
    other = workplace()
    read_fitted(other, tmp_path / "fitted.safetensors")
    assert written(other, several) == texts
    assert len(trainings) == 3
    assert other.notes["cmi"] == notes


def test_several_proxies_are_averaged() -> None:
    bench = workplace()
    for proxy, more in (("a", ()), ("bb", ()), ("a", ("bb",))):
        METHODS["doge"](proxy=proxy, more_proxies=more, lr=1e-9).bind(bench)
    found = {key: bench.memory[key]["divergence_reasoning_before"] for key in bench.memory}
    assert len(found) == 3
    one, two, both = found.values()
    assert both == pytest.approx((one + two) / 2, rel=1e-5)
    assert one != two
    assert DOGe(proxy="a", more_proxies=("bb", "c")).label == "doge(proxy=a, more_proxies=bb+c)"


@pytest.mark.parametrize(
    ("cls", "settings", "says"),
    [
        (DOGe, {"lam": -0.1}, "'d.lam': input should be greater than or equal to 0"),
        (CMIM, {"lam": -1}, "'d.lam': input should be greater than or equal to 0"),
        (MCMI, {"lam": -1}, "'d.lam': input should be greater than or equal to 0"),
        (DOGe, {"cap": 0}, "'d.cap': input should be greater than 0"),
        (DOGe, {"proxy": "a", "more_proxies": ["b", "a"]}, "a proxy is named twice"),
        (CMIM, {"grid": 2, "draws": 3}, "draws cannot exceed grid"),
        (CMI, {"maps": 2}, "several maps cannot be merged into one head; set serve: unmerged"),
        (CMI, {"rank": 0}, "'d.rank': input should be greater than or equal to 1"),
    ],
)
def test_settings_that_make_no_sense_are_named(cls: type[TrainedHead], settings: Any, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_method(cls, settings, "d")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@every
def test_a_rank_beyond_the_vocabulary_is_refused_before_anything_is_written(name: str) -> None:
    bench = workplace()
    with pytest.raises(ConfigError, match=r"rank 68 .* has 67 tokens"):
        METHODS[name](rank=68).bind(bench)
    assert bench._traces == {}


@pytest.mark.parametrize("name", ["cmi", "doge"])
def test_another_vocabulary_is_refused_before_anything_is_written(name: str) -> None:
    bench = Bench(fresh("llama"), Toy(), Sampling(), load=lambda _: fresh("gpt2", vocab=71))
    with pytest.raises(ConfigError, match="71 tokens but the teacher"):
        METHODS[name]().bind(bench)
    assert bench._traces == {}


def test_a_task_without_reasoning_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = [Trace(problem_id=t.problem_id, prompt=t.prompt, text="<think></think> a") for t in toy_traces(12)]
    bench = workplace()
    monkeypatch.setattr(bench, "holdout", lambda n: silent[:n])
    with pytest.raises(ConfigError, match="has a reasoning token"):
        METHODS["doge"]().bind(bench)


def test_the_shuffled_map_is_as_large_as_the_trained_one_and_no_more() -> None:
    bench = workplace()
    for make in (METHODS["cmi"], METHODS["shuffled_map"]):
        make(lam=3.0).bind(bench)
    trained, control = bench.notes["cmi"], bench.notes["shuffled_map"]
    assert control["kl"] == pytest.approx(trained["kl"], rel=1e-3)
    assert control["kl_wanted"] == trained["kl"], "the same map was trained for both"
    assert control["trained_measure"] == trained["cosine_held_out"]
    one, other = (edit for key, edit in sorted(bench.fitted.items()) if "map" in key or key.startswith("cmi"))
    assert torch.equal(one["b_RV"].sort(-1).values, other["b_RV"].sort(-1).values), "the same numbers elsewhere"
    ratio = other["a_VR"].sort(0).values / one["a_VR"].sort(0).values
    assert torch.allclose(ratio, ratio[0, 0].expand_as(ratio), rtol=1e-4)
    assert not torch.equal(one["b_RV"], other["b_RV"])


def test_a_map_is_scaled_to_a_divergence() -> None:
    generator = torch.Generator().manual_seed(0)
    a_VR, b_RV = torch.randn(9, 2, generator=generator), torch.randn(2, 9, generator=generator)
    edit, logits = LogitMap(a_VR, b_RV - b_RV.mean(-1, keepdim=True)), torch.randn(50, 9, generator=generator)
    clean = torch.log_softmax(logits.double(), -1)

    def reached(edit: LogitMap) -> float:
        moved = torch.log_softmax(edit.shift(logits, None, 1.0).double(), -1)
        return float(divergences.forward_kl(clean, moved).mean())

    for size in (0.0, 0.01, 0.3):
        assert reached(matched(shuffled(edit, 1), reached, size)) == pytest.approx(size, rel=1e-3, abs=1e-6)
