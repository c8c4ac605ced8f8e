"""Known log-probabilities beside a full distribution, and the rules for what is missing."""

from __future__ import annotations

import math

import pytest
import torch

from azeotrope.core.errors import ConfigError
from azeotrope.maths import divergences as dv
from azeotrope.maths import truncated as tr

V = 11


def logs(seed: int, rows: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.log_softmax(2.0 * torch.randn(rows, V, generator=generator, dtype=torch.float64), -1)


def test_everything_known_is_the_full_divergence() -> None:
    p, q = logs(0), logs(1)
    known, ids = tr.top_k(p, V)
    full = dv.forward_kl(p, q)
    for rule in ("rest", "renormalize", "ignore"):
        a, b = tr.pair(known, ids, q, rule)  # type: ignore[arg-type]
        assert torch.allclose(dv.forward_kl(a, b), full, atol=1e-9)


def test_the_rest_is_one_bucket() -> None:
    p, q = logs(2), logs(3)
    known, ids = tr.top_k(p, 3)
    a, b = tr.pair(known, ids, q, "rest")
    for row in range(len(p)):
        top = ids[row].tolist()
        rest_p, rest_q = (1 - math.fsum(x[row].exp()[top].tolist()) for x in (p, q))
        expected = math.fsum(p[row, i].exp().item() * (p[row, i] - q[row, i]).item() for i in top)
        expected += rest_p * math.log(rest_p / rest_q)
        assert dv.forward_kl(a, b)[row].item() == pytest.approx(expected)
    assert torch.allclose(a.logsumexp(-1), torch.zeros(4, dtype=torch.float64), atol=1e-12)
    assert (dv.forward_kl(a, b) <= dv.forward_kl(p, q) + 1e-12).all(), "merging tokens cannot add information"


def test_renormalized_are_conditional_distributions() -> None:
    known, ids = tr.top_k(logs(4), 3)
    a, b = tr.pair(known, ids, logs(5), "renormalize")
    for x in (a, b):
        assert torch.allclose(x.logsumexp(-1), torch.zeros(4, dtype=torch.float64), atol=1e-12)


def test_empty_slots_do_not_count() -> None:
    p, q = logs(6), logs(7).requires_grad_()
    known, ids = tr.top_k(p, 3)
    wide = torch.cat((known, torch.full((4, 2), float("-inf"), dtype=torch.float64)), -1)
    wide_ids = torch.cat((ids, torch.full((4, 2), -1)), -1)
    for rule in ("rest", "renormalize", "ignore"):
        lean = dv.forward_kl(*tr.pair(known, ids, q, rule))  # type: ignore[arg-type]
        padded = dv.forward_kl(*tr.pair(wide, wide_ids, q, rule))  # type: ignore[arg-type]
        assert torch.allclose(lean, padded)
        gradient = torch.autograd.grad(padded.sum(), q)[0]
        assert gradient.isfinite().all()


def test_rounded_values_that_sum_to_more_than_one() -> None:
    p = torch.tensor([[0.5, 0.49999, 1e-5]], dtype=torch.float64).log()
    assert tr.rounded(p, 0.1)[0, :2].tolist() == pytest.approx([-0.7, -0.7])
    assert torch.equal(tr.rounded(p, 0.0), p)
    over = torch.full((1, 2), -0.69, dtype=torch.float64)
    a, _ = tr.pair(over, torch.tensor([[0, 1]]), p, "rest")
    assert a.isfinite().all()


def test_wrong_arguments() -> None:
    p = logs(8)
    with pytest.raises(ConfigError, match="between 1"):
        tr.top_k(p, 0)
    with pytest.raises(ConfigError, match="between 1"):
        tr.top_k(p, V + 1)
    with pytest.raises(ConfigError, match="0 or more"):
        tr.rounded(p, -0.1)
    with pytest.raises(ConfigError, match="Unknown rule"):
        tr.pair(*tr.top_k(p, 2), p, "guess")  # type: ignore[arg-type]


def test_the_largest_are_as_many_as_are_known() -> None:
    """By hand: rows with 2, 0 and 3 known tokens of 4, a student of 5 (or of fewer than are known)."""
    nowhere = float("-inf")
    known = torch.tensor([[0.5, nowhere, 0.25, nowhere], [nowhere] * 4, [nowhere, 0.1, 0.2, 0.3]]).log()
    known = known.nan_to_num(nan=nowhere)
    own = torch.tensor([[0.1, 0.2, 0.3, 0.15, 0.25]] * 3).log()
    p, q = (x.exp() for x in tr.largest(known, own))
    assert torch.allclose(p, torch.tensor([[0.5, 0.25, 0.0], [0.0, 0.0, 0.0], [0.3, 0.2, 0.1]]))
    assert torch.allclose(q, torch.tensor([[0.3, 0.25, 0.0], [0.0, 0.0, 0.0], [0.3, 0.25, 0.2]]))
    with_rest = tr.with_rest(q.log())
    assert torch.allclose(with_rest.exp()[:, -1], torch.tensor([0.45, 1.0, 0.25]))
    few = tr.largest(known, own[:, :2].log_softmax(-1))[1]
    assert few.shape == (3, 3)
    assert few[2, 2].isneginf()
    assert [x.shape for x in tr.largest(known[:0], own[:0])] == [(0, 0), (0, 0)]
