"""Training of purified logits: where the cosine starts, that it falls, which checkpoint is taken."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from azeotrope.core.errors import ConfigError, RunError
from azeotrope.core.types import Trace
from azeotrope.models.head_edit import LogitMap
from azeotrope.models.purify import Purified, Recipe, block_cosine, head_cosine, last_block, purify, read
from tiny import fresh, toy_traces

RECIPE = Recipe(lam=5.0, rank=4, kd_only=True, epochs=30, lr=0.02, batch_size=8, temperature=1.0, checks=3)


def always(_: LogitMap | None) -> float:
    return 1.0


def run(recipe: Recipe = RECIPE, accuracy: object = always, keep: float = 0.01, n: int = 24) -> Purified:
    teacher, surrogate = fresh("llama", spread=0.2), fresh("gpt2", spread=0.2)
    return purify(teacher, surrogate, traces(n), recipe, seed=1, accuracy=accuracy, keep=keep)  # type: ignore[arg-type]


def traces(n: int) -> list[Trace]:
    return toy_traces(n)


@pytest.mark.parametrize("layer", ["head", "block"])
def test_the_cosine_starts_at_one_and_falls_for_traces_not_trained_on(layer: str) -> None:
    found = run(replace(RECIPE, layer=layer, epochs=12 if layer == "block" else 30))  # type: ignore[arg-type]
    assert found.cosines[0] == pytest.approx(1.0, abs=1e-4)
    assert found.chosen.cosine < 0.8
    assert found.chosen.cosine == min(c.cosine for c in found.checkpoints)
    assert [c.step for c in found.checkpoints] == sorted({c.step for c in found.checkpoints})
    assert found.notes["kept"] is True
    assert float(found.notes["kl"]) > 0.0  # type: ignore[arg-type]
    assert torch.allclose(found.edit.b_RV.sum(-1), torch.zeros(4), atol=1e-5), "the gauge"


def test_without_the_cosine_nothing_pushes_it_down() -> None:
    assert run(replace(RECIPE, lam=0.0)).chosen.cosine > run().chosen.cosine


def test_a_checkpoint_that_costs_the_teacher_is_not_taken() -> None:
    def answers(values: list[float]) -> Iterator[float]:
        yield from values

    for values, step, kept in (
        ([0.9, 0.5, 0.5, 1.0], 0, False),  # the last value is the undefended teacher's
        ([0.2, 0.995, 0.5, 1.0], 1, True),
        ([1.0, 1.0, 1.0, 1.0], None, True),
    ):
        replies = answers(values)
        found = run(accuracy=lambda _, replies=replies: next(replies))
        assert found.notes["kept"] is kept
        assert found.notes["clean_accuracy"] == 1.0
        if step is not None:
            assert found.chosen is found.checkpoints[step]


def test_the_block_gradient_is_that_of_the_loss() -> None:
    surrogate, some = fresh("gpt2", spread=0.2), traces(3)
    corpus = read(surrogate, surrogate, traces(4))
    rows = corpus.rows([0, 1, 2])
    error = torch.randn(len(rows), surrogate.vocab_size, generator=torch.Generator().manual_seed(0))
    assert block_cosine(surrogate, some, error, error).item() == pytest.approx(1.0, abs=1e-5)
    assert block_cosine(surrogate, some, error, -2.0 * error).item() == pytest.approx(-1.0, abs=1e-5)
    moving = error.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(block_cosine(surrogate, some, error.roll(1, 0), moving), moving)
    step = 1e-2 * gradient / gradient.norm()
    up, down = (float(block_cosine(surrogate, some, error.roll(1, 0), error + s * step)) for s in (1, -1))
    assert (up - down) / 2e-2 == pytest.approx(float(gradient.norm()), rel=0.05)


def test_the_gram_trick_is_used_where_it_is_smaller() -> None:
    generator = torch.Generator().manual_seed(0)
    for n in (3, 90):  # 9 < 40 · 5 < 8100
        u, v, h = (torch.randn(n, size, generator=generator) for size in (40, 40, 5))
        expected = torch.nn.functional.cosine_similarity((u.T @ h).flatten(), (v.T @ h).flatten(), dim=0)
        assert head_cosine(u, v, h).item() == pytest.approx(expected.item(), abs=1e-5)


def test_bad_input_is_named() -> None:
    with pytest.raises(ConfigError, match="rank"):
        run(replace(RECIPE, rank=1000))
    with pytest.raises(ConfigError, match="at least 4"):
        run(n=3)
    with pytest.raises(ConfigError, match="vocabulary"):
        read(fresh("llama"), fresh("gpt2", vocab=40), traces(4))
    with pytest.raises(RunError, match="diverged"):
        run(replace(RECIPE, lr=1e30))
    bare = fresh("llama")
    bare.model.model.layers = torch.nn.ModuleList()  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="layer: head"):
        last_block(bare)
