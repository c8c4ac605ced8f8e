"""Losses and gradients of holdout traces against brute force and autograd."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from azeotrope.core.errors import ConfigError
from azeotrope.core.types import Trace
from azeotrope.models.gradients import (
    IGNORE,
    head_gradient,
    head_inputs,
    nll,
    pad_batch,
    proxy_gradient,
    token_batches,
)
from azeotrope.models.lm import LM
from tiny import FAMILIES, fresh, tiny, toy_traces

DOUBLE = torch.float64


def traces(n: int = 7) -> list[Trace]:
    """Different lengths, one of them unfinished."""
    first, *rest = toy_traces(n)
    cut = Trace(problem_id="cut", prompt=first.prompt, text=first.text, finished=False)
    return [cut, *rest]


def brute_loss(lm: LM, some: list[Trace]) -> tuple[torch.Tensor, int]:
    """Token by token: −Σ log p(y_t | prompt, y_<t), including the end of a finished trace."""
    total, count = torch.zeros((), dtype=DOUBLE), 0
    for trace in some:
        prompt = lm.encode(trace.prompt)
        completion = lm.encode(trace.text) + ([lm.eos] if trace.finished else [])
        for t, token in enumerate(completion):
            logits = lm.model(torch.tensor([prompt + completion[:t]])).logits[0, -1]
            total = total - torch.log_softmax(logits, -1)[token]
            count += 1
    return total, count


@pytest.mark.parametrize("family", FAMILIES)
def test_nll_against_a_loop(family: str) -> None:
    lm = tiny(family, dtype=DOUBLE)
    with torch.no_grad():
        total, count = brute_loss(lm, traces())
    for size in (1, 3, 64):
        assert nll(lm, traces(), batch_size=size) == pytest.approx(total.item() / count, rel=1e-7)
    assert nll(lm, []) == 0.0


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_proxy_gradient_is_autograd_on_all_data(family: str, tied: bool) -> None:
    lm = fresh(family, dtype=DOUBLE, tied=tied)
    got = proxy_gradient(lm, traces(), batch_size=2)
    total, count = brute_loss(lm, traces())
    lm.model.zero_grad()
    (total / count).backward()
    assert set(got.vectors) == {name for name, _ in lm.model.named_parameters()}
    for name, parameter in lm.model.named_parameters():
        assert torch.allclose(got.vectors[name], parameter.grad, atol=1e-6), name
    assert got.loss == pytest.approx(total.item() / count, rel=1e-7)
    assert got.n == 7
    flat = torch.cat([p.grad.flatten() for p in lm.model.parameters()])
    assert got.norm == pytest.approx(flat.norm().item(), rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_head_gradient_is_autograd_on_the_head(family: str) -> None:
    lm = fresh(family, dtype=DOUBLE)
    got = head_gradient(lm, traces(), batch_size=2)
    total, count = brute_loss(lm, traces())
    lm.model.zero_grad()
    (total / count).backward()
    assert torch.allclose(got.vectors["head"], lm.head.weight.grad, atol=1e-6)
    assert got.loss == pytest.approx(total.item() / count, rel=1e-7)
    assert got.vectors["head"].sum(0).abs().max() < 1e-12, "Σ_v (p − e_y) = 0"


@pytest.mark.parametrize("take", [proxy_gradient, head_gradient])
def test_split_half_cosine_compares_odd_with_even_traces(take) -> None:
    lm, data = fresh("gpt2", dtype=DOUBLE), traces(8)
    flat = []
    for half in (data[0::2], data[1::2]):
        doubled = [*half, *half]  # twice the data has the same direction
        vectors = take(lm, doubled).vectors
        flat.append(torch.cat([vectors[name].flatten() for name in sorted(vectors)]))
    expected = torch.dot(flat[0], flat[1]) / flat[0].norm() / flat[1].norm()
    assert take(lm, data).split_half_cosine == pytest.approx(expected.item(), abs=1e-9)
    same = [data[0], data[0], data[1], data[1]]
    assert take(lm, same).split_half_cosine == pytest.approx(1.0)


@pytest.mark.parametrize("take", [proxy_gradient, head_gradient])
def test_one_trace_has_no_halves(take) -> None:
    with pytest.raises(ConfigError, match="two"):
        take(tiny("gpt2"), traces(1))


@pytest.mark.parametrize("take", [proxy_gradient, head_gradient])
def test_nothing_is_left_behind(take) -> None:
    lm = fresh("llama")
    before = {n: p.detach().clone() for n, p in lm.model.named_parameters()}
    take(lm, traces())
    assert all(p.grad is None for p in lm.model.parameters())
    assert all(torch.equal(before[n], p) for n, p in lm.model.named_parameters())
    assert not lm.model.training


def test_pad_batch_labels_completions_only() -> None:
    batch = pad_batch([([5, 6, 7], [8, 1]), ([9], [1])], pad=0)
    assert batch.ids_BT.tolist() == [[5, 6, 7, 8, 1], [9, 1, 0, 0, 0]]
    assert batch.mask_BT.tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
    assert batch.labels_BT.tolist() == [
        [IGNORE, IGNORE, IGNORE, 8, 1],
        [IGNORE, 1, IGNORE, IGNORE, IGNORE],
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_head_inputs_give_the_logits(family: str) -> None:
    lm = tiny(family, dtype=DOUBLE)
    with torch.no_grad():
        for batch in token_batches(lm, traces(), 3):
            hidden, logits, labels = head_inputs(lm, batch)
            assert torch.allclose(lm.head(hidden), logits, atol=1e-10)
            expected = F.cross_entropy(logits, labels, reduction="sum")
            assert torch.isfinite(expected)
            assert len(labels) == int((batch.labels_BT != IGNORE).sum())
