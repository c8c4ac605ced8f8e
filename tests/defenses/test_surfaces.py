"""Surfaces show less, never more; strength 0 shows everything as it is, and the effect vanishes with it."""

from __future__ import annotations

import pytest
import torch

from azeotrope.core.methods import SurfaceDefense
from azeotrope.core.plugins import catalogue, load
from azeotrope.defenses.topk_logprobs import TopKLogprobs
from azeotrope.models.exposure import Exposure

KINDS = [kind for kind in catalogue("defenses") if issubclass(load("defenses", kind), SurfaceDefense)]
V = 40


def shown(top: int | None = None) -> Exposure:
    generator = torch.Generator().manual_seed(0)
    logits = 2.0 * torch.randn(6, V, generator=generator)
    full = Exposure(tuple(range(6)), torch.log_softmax(logits, -1))
    return full if top is None else full.top(top)


def test_there_are_surfaces() -> None:
    assert {"topk_logprobs", "round_logprobs", "label_only"} <= set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("top", [None, 7])
def test_zero_is_the_identity_and_nothing_is_added(kind: str, top: int | None) -> None:
    before, defense = shown(top), load("defenses", kind)()
    same = defense.at(0.0).expose(before)
    assert torch.equal(same.known_TK, before.known_TK)
    assert same.ids_TK is before.ids_TK
    for strength in defense.sweep:
        after = defense.at(strength).expose(before)
        assert after.access <= before.access
        assert after.known_TK.shape[1] <= before.known_TK.shape[1]
        assert after.tokens == before.tokens


def test_the_effect_vanishes_with_the_strength() -> None:
    before = shown()
    for kind in ("round_logprobs", "label_only"):
        moved = [
            (load("defenses", kind)().at(s).expose(before).known_TK.exp() - before.known_TK.exp())
            .abs()
            .sum()
            .item()
            for s in (0.8, 0.1, 1e-4)
        ]
        assert moved[0] > moved[1] > moved[2]
        assert moved[2] < 1e-2


def test_label_mixing_is_a_distribution() -> None:
    before = shown()
    after = load("defenses", "label_only")(share=0.25).expose(before)
    expected = 0.75 * before.known_TK.exp()
    expected[torch.arange(6), torch.arange(6)] += 0.25
    assert torch.allclose(after.known_TK.exp(), expected, atol=1e-6)
    few = load("defenses", "label_only")(share=0.25).expose(shown(3))
    assert few.known_TK.exp().sum(-1).max() <= 1.0


def test_top_k_counts_its_strength_in_what_it_hides() -> None:
    strengths = [TopKLogprobs(k=k).strength for k in (1, 5, 20, 0)]
    assert strengths == [1.0, 0.2, 0.05, 0.0]
    assert TopKLogprobs().at(0.05).k == 20
    few = shown(3)
    assert torch.equal(TopKLogprobs(k=9).expose(few).known_TK, few.known_TK), "it cannot show more than there is"
