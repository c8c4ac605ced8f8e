"""Replayed distributions are those from which a defended sample was drawn."""

from __future__ import annotations

import pytest
import torch

from azeotrope.core.errors import RunError
from azeotrope.core.sampling import Sampling
from azeotrope.defenses.base import Bench
from azeotrope.defenses.poe import ProductOfExperts
from azeotrope.defenses.temperature import Temperature
from azeotrope.maths import lowrank
from azeotrope.models.decode import LogitRule
from azeotrope.models.head_edit import EditRule, LogitMap
from azeotrope.models.lm import LM
from azeotrope.models.replay import Pair, replay
from azeotrope.models.sample import generate
from tiny import Toy, fresh

SAMPLING = Sampling(temperature=0.7)


def rules_of(name: str, lm: LM) -> tuple[LogitRule, ...]:
    bench = Bench(lm, Toy(), SAMPLING, load=lambda _: fresh("gpt2", spread=0.2))
    generator = torch.Generator().manual_seed(5)
    a, b = (0.2 * torch.randn(*s, generator=generator) for s in ((lm.vocab_size, 3), (3, lm.vocab_size)))
    edit = LogitMap(a, lowrank.centered(b))
    return {
        "none": (),
        "map": (EditRule(edit, 0.7),),
        "unmerged": (EditRule(edit, 0.7, merge=False),),
        "poe": (ProductOfExperts(gamma=0.5).bind(bench),),
        "both": (Temperature(heat=0.5).bind(bench), ProductOfExperts(gamma=0.5).bind(bench)),
    }[name]


def sampled(lm: LM, rules: tuple[LogitRule, ...], n: int = 7) -> tuple[list[Pair], list[int]]:
    traces = generate(lm, Toy().problems("release", n), Toy(), SAMPLING, rules=rules, seed=3)
    return [(lm.encode(t.prompt), list(t.token_ids or ())) for t in traces], [t.seed for t in traces]


@pytest.mark.parametrize("name", ["none", "map", "unmerged", "poe", "both"])
def test_batches_do_not_matter_and_rows_are_distributions(name: str) -> None:
    lm = fresh("llama", spread=0.2)
    rules = rules_of(name, lm)
    pairs, seeds = sampled(lm, rules)
    together = replay(lm, pairs, SAMPLING, rules=rules, seeds=seeds)
    for pair, seed, whole in zip(pairs, seeds, together, strict=True):
        (alone,) = replay(lm, [pair], SAMPLING, rules=rules, seeds=[seed], batch_size=1)
        assert whole.shape == (len(pair[1]), lm.vocab_size)
        assert torch.allclose(alone, whole, atol=2e-5)
        assert torch.allclose(whole.logsumexp(-1), torch.zeros(len(whole)), atol=1e-5)


def test_merged_and_unmerged_edits_show_the_same() -> None:
    lm = fresh("gpt_neox", spread=0.2)
    pairs, seeds = sampled(lm, ())
    shown = [replay(lm, pairs, SAMPLING, rules=rules_of(n, lm), seeds=seeds) for n in ("map", "unmerged", "none")]
    for merged, unmerged, plain in zip(*shown, strict=True):
        assert torch.allclose(merged, unmerged, atol=2e-5)
        assert not torch.allclose(merged, plain, atol=1e-2)


def test_a_hotter_sampler_shows_flatter_log_probabilities() -> None:
    """The base temperature is undone, the defense is not."""
    lm = fresh("llama", spread=0.2)
    pairs, _ = sampled(lm, ())
    bench = Bench(lm, Toy(), SAMPLING)
    hot = replay(lm, pairs, SAMPLING, rules=(Temperature(heat=1.0).bind(bench),))
    plain = replay(lm, pairs, SAMPLING)
    for a, b in zip(hot, plain, strict=True):
        assert torch.allclose(a, torch.log_softmax(b / 2.0, -1), atol=2e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_told(bad: float) -> None:
    lm = fresh("llama", spread=0.2)
    pairs, _ = sampled(lm, ())
    with torch.no_grad():
        lm.head.weight[3] = bad
    with pytest.raises(RunError, match="The teacher's logits are not finite; check its weights"):
        replay(lm, pairs, SAMPLING)
