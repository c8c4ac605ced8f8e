"""Training of purified logits: where the cosine starts, that it falls, which checkpoint is taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from azeotrope.core.errors import ConfigError, RunError
from azeotrope.core.types import Trace
from azeotrope.defenses.cmi import CMI
from azeotrope.maths import lowrank
from azeotrope.models.corpus import read
from azeotrope.models.head_edit import HeadEdit, LogitMap
from azeotrope.models.head_training import Trained, Training, train
from azeotrope.models.learnable import learnable
from azeotrope.models.purify import Cosine, Layer, block, block_gradients, cosine, head_cosine
from models.learning_drive import always
from tiny import fresh, toy_traces

TRAINING: dict[str, Any] = {
    "lam": 5.0, "epochs": 30, "lr": 0.02, "batch_size": 8, "temperature": 1.0, "checks": 3
}  # fmt: skip


def run(
    *,
    layer: Layer = "head",
    rank: int = 4,
    n: int = 24,
    accuracy: Callable[[HeadEdit | None], float] = always,
    **training: Any,
) -> Trained:
    teacher, surrogate = fresh("llama", spread=0.2), fresh("gpt2", spread=0.2)
    head = learnable(teacher, rank, 1)
    objective = Cosine(read(teacher, [surrogate], traces(n)), head, surrogate, alpha=1.0, layer=layer)
    return train(objective, Training(**{**TRAINING, **training}), seed=1, accuracy=accuracy)


def traces(n: int) -> list[Trace]:
    return toy_traces(n)


@pytest.mark.parametrize("layer", ["head", "block"])
def test_the_cosine_starts_at_one_and_falls_for_traces_not_trained_on(layer: Layer) -> None:
    found = run(layer=layer, epochs=12 if layer == "block" else 30)
    assert found.curve[0] == pytest.approx(1.0, abs=1e-4)
    assert found.chosen.measure < 0.8
    assert found.chosen.measure == min(c.measure for c in found.checkpoints)
    assert [c.step for c in found.checkpoints] == sorted({c.step for c in found.checkpoints})
    assert found.notes["kept"] is True
    assert found.notes["kl"] > 0.0
    assert isinstance(found.edit, LogitMap)
    assert torch.allclose(found.edit.b_RV.sum(-1), torch.zeros(4), atol=1e-5), "the gauge"
    told = found.told()
    assert told["cosine_first"] == found.curve[0]
    assert told["cosine_held_out"] == found.chosen.measure
    assert {"step", "cosine", "cross_entropy", "accuracy"} == set(told["checkpoints"][0])


def test_without_the_cosine_nothing_pushes_it_down() -> None:
    assert run(lam=0.0).chosen.measure > run().chosen.measure


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
    corpus = read(surrogate, [surrogate], traces(4))
    rows = corpus.rows([0, 1, 2])
    error = torch.randn(len(rows), surrogate.vocab_size, generator=torch.Generator().manual_seed(0))

    def turned(clean: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return cosine(*block_gradients(surrogate, some, clean, other))

    assert turned(error, error).item() == pytest.approx(1.0, abs=1e-5)
    assert turned(error, -2.0 * error).item() == pytest.approx(-1.0, abs=1e-5)
    moving = error.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(turned(error.roll(1, 0), moving), moving)
    step = 1e-2 * gradient / gradient.norm()
    up, down = (float(turned(error.roll(1, 0), error + s * step)) for s in (1, -1))
    assert (up - down) / 2e-2 == pytest.approx(float(gradient.norm()), rel=0.05)


def test_the_gram_trick_is_used_where_it_is_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    inner, used = lowrank.cosine, []
    monkeypatch.setattr(lowrank, "cosine", lambda u, v, h: used.append(len(h)) or inner(u, v, h))
    for n in (3, 14, 15, 90):  # 14² < 40 · 5 < 15²
        u, v, h = (torch.randn(n, size, generator=generator) for size in (40, 40, 5))
        expected = torch.nn.functional.cosine_similarity((u.T @ h).flatten(), (v.T @ h).flatten(), dim=0)
        assert head_cosine(u, v, h).item() == pytest.approx(expected.item(), abs=1e-5)
    assert used == [3, 14]


def test_bad_input_is_named() -> None:
    with pytest.raises(ConfigError, match=r"rank 1000 .* has 67 tokens"):
        run(rank=1000)
    with pytest.raises(ConfigError, match="at least 4"):
        run(n=3)
    with pytest.raises(ConfigError, match="vocabulary"):
        read(fresh("llama"), [fresh("gpt2", vocab=40)], traces(4))
    with pytest.raises(RunError, match="diverged"):
        run(lr=1e30)
    bare = fresh("llama")
    bare.model.model.layers = torch.nn.ModuleList()  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="layer: head"):
        block(bare, -1)
    with pytest.raises(ConfigError, match="has 2 blocks, numbered from 0; there is no layer 7"):
        block(fresh("llama"), 7)
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        CMI(layer=-1)


def test_the_layer_is_a_block_by_its_number() -> None:
    surrogate = fresh("gpt2", spread=0.2)
    corpus = read(surrogate, [surrogate], traces(4))
    rows = corpus.rows([0, 1, 2])
    moved = corpus.teacher.logits(rows).roll(1, 0)

    def measure(layer: Layer) -> float:
        found = Cosine(corpus, learnable(surrogate, 2, 0), surrogate, layer=layer)
        return found.measure([0, 1, 2], rows, moved).item()

    count = surrogate.model.config.num_hidden_layers
    assert measure(count - 1) == measure("block")
    assert len({measure(0), measure("block"), measure("head")}) == 3
