"""A map for every request: which one depends on the seed alone, and how large they are on what `cmi` trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from azeotrope.core.errors import ConfigError
from azeotrope.core.methods import parse_method
from azeotrope.core.sampling import Sampling
from azeotrope.defenses.base import Bench, assemble
from azeotrope.defenses.cmi import CMI
from azeotrope.defenses.drawn_map import DrawnMap
from azeotrope.maths import lowrank
from azeotrope.maths.hashrng import permutations, row_keys
from azeotrope.models.decode import Batch, StepView, decode
from azeotrope.models.edit_draw import DrawnEditRule, DrawnEdits
from azeotrope.models.head_edit import EditRule, LogitMap
from azeotrope.models.replay import replay
from azeotrope.models.sample import generate
from azeotrope.study.service import read_fitted, write_fitted
from tiny import Toy, fresh, prompts

DOUBLE = torch.float64
SEEDS = list(range(40, 52))
QUICK: dict[str, Any] = {
    "holdout": 12,
    "epochs": 3,
    "lr": 0.02,
    "checks": 2,
    "problems": 4,
    "batch_size": 4,
    "rank": 3,
}


def a_map(size: int, rank: int = 3, scale: float = 1.0) -> LogitMap:
    generator = torch.Generator().manual_seed(5)
    a, b = (0.5 * torch.randn(*s, generator=generator, dtype=DOUBLE) for s in ((size, rank), (rank, size)))
    return LogitMap(a, lowrank.centered(b), scale)


def view(logits_BV: Tensor) -> StepView:
    rows = torch.zeros(len(logits_BV), dtype=torch.int64)
    return StepView(t_B=rows, tokens_B=None, logits_BV=logits_BV, hidden_BD=None, seeds_B=rows)


def matrix(order_V: Tensor) -> Tensor:
    return torch.eye(len(order_V), dtype=DOUBLE)[order_V]


def workplace() -> Bench:
    teacher = fresh("llama", spread=0.2)
    load = lambda ref: fresh("gpt2", spread=0.2, seed=len(ref))  # noqa: E731
    return Bench(teacher, Toy(), Sampling(temperature=0.7), seed=3, load=load)


def written(bench: Bench, defense: DrawnMap) -> list[tuple[int, ...] | None]:
    rules = assemble([defense], bench).rules
    traces = generate(bench.teacher, Toy().problems("release", 6), Toy(), bench.sampling, rules=rules, seed=3)
    return [trace.token_ids for trace in traces]


def test_a_row_goes_through_the_matrix_that_its_seed_deals() -> None:
    edit, seeds = a_map(11, scale=0.7), torch.tensor([3, 4, 3])
    logits = torch.randn(3, 11, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    moved = DrawnEdits(edit, seeds).step(view(logits))
    for row, seed in enumerate(seeds):
        read, wrote = (permutations(row_keys(seed[None], stream, 0), 11)[0] for stream in (32, 33))
        map_VV = torch.eye(11, dtype=DOUBLE) + 0.7 * matrix(wrote) @ edit.a_VR @ edit.b_RV @ matrix(read)
        assert torch.allclose(moved[row], map_VV @ logits[row], atol=1e-12)
    added = moved - logits
    assert not torch.allclose(added[0].sort().values, added[1].sort().values), "another seed reads other tokens"


def test_masked_tokens_stay_masked_and_constants_stay_constants() -> None:
    rule = DrawnEdits(a_map(11), torch.tensor([1, 2]))
    logits = torch.randn(2, 11, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(rule.step(view(logits + 5.0)), rule.step(view(logits)) + 5.0)
    logits[:, 4] = -torch.inf
    moved = rule.step(view(logits))
    assert torch.equal(moved.isneginf(), logits.isneginf())
    assert torch.isfinite(moved[:, :4]).all()


def test_rows_leave_and_join_with_their_maps() -> None:
    edit, logits = a_map(11), torch.randn(4, 11, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    whole = DrawnEdits(edit, torch.tensor([5, 6, 7, 8])).step(view(logits))
    one, other = (DrawnEditRule(edit).open(Batch(((1,),), torch.tensor(s))) for s in ([9, 5, 6], [7, 8]))
    one.select(torch.tensor([1, 2]))
    one.join(other)
    assert torch.equal(one.step(view(logits)), whole)


def test_neither_batch_nor_order_deals() -> None:
    lm = fresh("llama", dtype=DOUBLE)
    rule, rows, sampling = DrawnEditRule(a_map(lm.vocab_size)), prompts(len(SEEDS)), Sampling(temperature=0.7)
    whole = decode(lm, rows, SEEDS, sampling, rules=[rule], max_new_tokens=8)
    turned = decode(lm, rows[::-1], SEEDS[::-1], sampling, rules=[rule], max_new_tokens=8, batch_size=5)
    assert [s.ids for s in whole] == [s.ids for s in turned[::-1]]
    same = decode(lm, rows, SEEDS, sampling, rules=[EditRule(rule.edit, 0.7)], max_new_tokens=8)
    assert [s.ids for s in whole] != [s.ids for s in same]


def test_what_is_shown_of_a_text_came_through_the_map_that_drew_it() -> None:
    lm = fresh("llama", dtype=DOUBLE)
    rule, sampling = DrawnEditRule(a_map(lm.vocab_size)), Sampling(temperature=0.7)
    pairs = [(prompt, [5, 9, 3, 7]) for prompt in prompts(4)]
    together = replay(lm, pairs, sampling, rules=[rule], seeds=SEEDS[:4])
    for pair, seed, logs in zip(pairs, SEEDS, together, strict=False):
        (alone,), (other,) = (replay(lm, [pair], sampling, rules=[rule], seeds=[s]) for s in (seed, seed + 99))
        assert torch.allclose(logs, alone, atol=1e-5)
        assert not torch.allclose(logs, other, atol=1e-2)


def test_the_maps_are_as_large_as_the_one_that_was_trained() -> None:
    bench = workplace()
    CMI(**{**QUICK, "lam": 3.0}).bind(bench)
    DrawnMap(**{**QUICK, "lam": 3.0}).bind(bench)
    trained, drawn = bench.notes["cmi"], bench.notes["drawn_map"]
    assert drawn["kl"] == pytest.approx(trained["kl"], rel=1e-3)
    assert drawn["kl_wanted"] == trained["kl"]
    one, other = (bench.fitted[cls(**{**QUICK, "lam": 3.0}).key()] for cls in (CMI, DrawnMap))
    assert torch.equal(one["b_RV"], other["b_RV"]), "the same map, to the letter"
    ratio = other["a_VR"] / one["a_VR"]
    assert torch.allclose(ratio, ratio[0, 0].expand_as(ratio), rtol=1e-4)


def test_what_was_found_is_stored_and_serves_every_strength(tmp_path: Path) -> None:
    first, second = workplace(), workplace()
    texts = written(first, DrawnMap(**QUICK))
    write_fitted(first, tmp_path / "fitted.safetensors")
    read_fitted(second, tmp_path / "fitted.safetensors")
    assert written(second, DrawnMap(**QUICK)) == texts
    assert second.notes == first.notes
    plain = generate(first.teacher, Toy().problems("release", 6), Toy(), first.sampling, seed=3)
    assert written(second, DrawnMap(**QUICK, scale=0.0)) == [trace.token_ids for trace in plain]
    rule = DrawnMap(**QUICK, scale=0.5).bind(second)
    assert isinstance(rule, DrawnEditRule)
    assert rule.edit.scale == 0.5
    assert set(second.fitted) == set(first.fitted)


def test_a_projection_onto_what_logits_can_be_takes_off_most() -> None:
    size, width, texts = 256, 16, 64
    generator = torch.Generator().manual_seed(2)
    head_DV, hidden_ND = (
        torch.randn(*s, generator=generator, dtype=DOUBLE) for s in ((width, size), (texts, width))
    )
    logits = hidden_ND @ head_DV
    added = DrawnEdits(a_map(size, rank=8), torch.arange(texts)).shift(logits) - logits
    basis_VD = torch.linalg.qr(head_DV.T).Q
    left = float((added @ basis_VD).square().sum() / added.square().sum())
    assert left == pytest.approx(width / size, rel=0.25), "the D/V of the docstring"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"serve": "merged"}, "cannot be merged into one head; leave serve at unmerged"),
        ({"maps": 2}, "every request has a map of its own already; leave maps at 1"),
        ({"lam": -1.0}, "greater than or equal to 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_method(DrawnMap, settings, "d")


def test_there_is_no_one_head_to_fold_it_into() -> None:
    with pytest.raises(ConfigError, match="one head holds one map"):
        DrawnMap(**QUICK).fold(workplace())
