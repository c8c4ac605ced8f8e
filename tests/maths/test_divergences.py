"""Divergences against float64 brute force, identities, limits and gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from azeotrope.core.errors import ConfigError
from azeotrope.maths import divergences as dv

V = 17
INF = float("inf")


def logs(rows: int = 5, size: int = V, seed: int = 0, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.log_softmax(scale * torch.randn(rows, size, generator=generator, dtype=torch.float64), -1)


def brute(logp: Tensor, logq: Tensor, term: Callable[[float, float], float]) -> list[float]:
    p, q = logp.exp().tolist(), logq.exp().tolist()
    return [math.fsum(term(a, b) for a, b in zip(x, y, strict=True)) for x, y in zip(p, q, strict=True)]


def kl(a: float, b: float) -> float:
    return a * math.log(a / b)


def ab(a: float, b: float, x: float, y: float) -> float:
    s = x + y
    return -(a**x * b**y - x / s * a**s - y / s * b**s) / (x * y)


CASES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[float, float], float]]] = {
    "forward": (dv.forward_kl, kl),
    "reverse": (dv.reverse_kl, lambda a, b: kl(b, a)),
    "jsd": (
        lambda p, q: dv.jensen_shannon(p, q, 0.3),
        lambda a, b: 0.3 * kl(a, 0.3 * a + 0.7 * b) + 0.7 * kl(b, 0.3 * a + 0.7 * b),
    ),
    "tv": (dv.total_variation, lambda a, b: abs(a - b) / 2),
    "skew": (lambda p, q: dv.skew_kl(p, q, 0.1), lambda a, b: kl(a, 0.1 * a + 0.9 * b)),
    "skew_reverse": (lambda p, q: dv.skew_reverse_kl(p, q, 0.1), lambda a, b: kl(b, 0.9 * a + 0.1 * b)),
    "alpha_beta": (lambda p, q: dv.alpha_beta(p, q, 0.1, 0.8), lambda a, b: ab(a, b, 0.1, 0.8)),
    "alpha_beta_negative": (lambda p, q: dv.alpha_beta(p, q, 1.5, -0.5), lambda a, b: ab(a, b, 1.5, -0.5)),
}


@pytest.mark.parametrize("name", CASES)
def test_against_a_loop(name: str) -> None:
    ours, term = CASES[name]
    p, q = logs(seed=1), logs(seed=2)
    assert ours(p, q).tolist() == pytest.approx(brute(p, q, term), rel=1e-10)
    assert ours(p.float(), q.float()).tolist() == pytest.approx(brute(p, q, term), rel=2e-4)


@pytest.mark.parametrize("name", CASES)
def test_never_negative_and_zero_for_equal(name: str) -> None:
    ours, _ = CASES[name]
    p, q = logs(rows=50, seed=3), logs(rows=50, seed=4)
    assert (ours(p, q) > 0).all()
    assert ours(p, p).abs().max() < 1e-12


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    ours, _ = CASES[name]
    p, z = logs(rows=2, size=5, seed=5), torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: ours(p, torch.log_softmax(x, -1)), (z,))


def test_the_gradient_of_the_forward_kl_is_q_minus_p() -> None:
    p, z = logs(seed=6), torch.randn(5, V, dtype=torch.float64, requires_grad=True)
    dv.forward_kl(p, torch.log_softmax(z, -1)).sum().backward()
    assert z.grad is not None
    assert torch.allclose(z.grad, torch.softmax(z.detach(), -1) - p.exp(), atol=1e-12)


def test_the_ends_of_the_families() -> None:
    p, q = logs(seed=7), logs(seed=8)
    forward, reverse = dv.forward_kl(p, q), dv.reverse_kl(p, q)
    for same in (dv.jensen_shannon(p, q, 0.0), dv.skew_kl(p, q, 0.0), dv.alpha_beta(p, q, 1.0, 0.0)):
        assert torch.allclose(same, forward, rtol=1e-12)
    for same in (dv.jensen_shannon(p, q, 1.0), dv.skew_reverse_kl(p, q, 0.0), dv.alpha_beta(p, q, 0.0, 1.0)):
        assert torch.allclose(same, reverse, rtol=1e-12)
    assert torch.allclose(dv.jensen_shannon(p, q, 1e-7) / 1e-7, forward, rtol=1e-4)
    assert torch.allclose(dv.jensen_shannon(p, q, 1 - 1e-7) / 1e-7, reverse, rtol=1e-4)
    assert torch.allclose(dv.jensen_shannon(p, q), dv.jensen_shannon(q, p), rtol=1e-12)
    assert (dv.jensen_shannon(p, q) <= math.log(2)).all()


@pytest.mark.parametrize("beta", [0.8, -0.6])
def test_alpha_beta_is_continuous_at_its_axes(beta: float) -> None:
    """The limits meet the formula from both sides; a factor of 1/β instead of 1/β² would not."""
    p, q = logs(seed=9), logs(seed=10)
    near = 1.01 * dv.LIMIT
    for at, close in (
        ((0.0, beta), (near, beta)),
        ((beta, 0.0), (beta, near)),
        ((beta, -beta), (beta, near - beta)),
    ):
        limit = dv.alpha_beta(p, q, *at)
        for sign in (1, -1):
            shifted = tuple(a + sign * (c - a) for a, c in zip(at, close, strict=True))
            assert torch.allclose(dv.alpha_beta(p, q, *shifted), limit, rtol=0.03)
    assert torch.allclose(dv.alpha_beta(p, q, near, near), dv.alpha_beta(p, q, 0.0, 0.0), rtol=0.05)


@given(seed=st.integers(0, 10_000), alpha=st.floats(-1.5, 1.5), beta=st.floats(-1.5, 1.5))
@settings(max_examples=60, deadline=None)
def test_alpha_beta_is_a_divergence_everywhere(seed: int, alpha: float, beta: float) -> None:
    p, q = logs(rows=3, seed=seed, scale=1.0), logs(rows=3, seed=seed + 1, scale=1.0)
    found = dv.alpha_beta(p, q, alpha, beta)
    assert torch.isfinite(found).all()
    assert (found > 0).all()
    assert dv.alpha_beta(p, p, alpha, beta).abs().max() < 1e-6


def test_impossible_tokens() -> None:
    p = torch.tensor([[0.5, 0.5, 0.0, 0.0]], dtype=torch.float64).log()
    q = torch.tensor([[0.25, 0.25, 0.5, 0.0]], dtype=torch.float64).log().requires_grad_()
    assert dv.forward_kl(p, q).item() == pytest.approx(math.log(2))
    assert dv.reverse_kl(p, q).item() == INF
    assert dv.total_variation(p, q).item() == pytest.approx(0.5)
    skewed = dv.skew_kl(p, q, 0.1) + dv.jensen_shannon(p, q, 0.5) + dv.alpha_beta(p, q, 0.2, 0.7)
    assert torch.isfinite(skewed).all()
    (dv.forward_kl(p, q) + dv.skew_kl(p, q, 0.1) + dv.jensen_shannon(p, q)).sum().backward()
    assert q.grad is not None
    assert not q.grad.isnan().any()


def test_adaptive_kl_follows_where_the_difference_lies() -> None:
    p = torch.tensor([[0.6, 0.2, 0.1, 0.1]], dtype=torch.float64)
    in_head = torch.tensor([[0.5, 0.3, 0.1, 0.1]], dtype=torch.float64)
    q = in_head.log().requires_grad_()
    found = dv.adaptive_kl(p.log(), q)  # half of Σ|p − q| is in the head, which is the first token alone
    assert found.item() == pytest.approx(0.5 * (dv.forward_kl(p.log(), q) + dv.reverse_kl(p.log(), q)).item())
    tail = torch.tensor([[0.6, 0.3, 0.05, 0.05]], dtype=torch.float64).log()
    assert dv.adaptive_kl(p.log(), tail).item() == pytest.approx(dv.reverse_kl(p.log(), tail).item())
    assert dv.adaptive_kl(p.log(), tail, head=1.0).item() == pytest.approx(dv.forward_kl(p.log(), tail).item())
    assert dv.adaptive_kl(p.log(), p.log()).item() == 0.0
    assert torch.autograd.grad(found.sum(), q)[0].isfinite().all()


@given(seed=st.integers(0, 10_000), first=st.integers(2, 9), second=st.integers(2, 9))
@settings(max_examples=40, deadline=None)
def test_sorted_l1_is_a_metric_of_profiles(seed: int, first: int, second: int) -> None:
    p, q = logs(3, first, seed), logs(3, second, seed + 1)
    found = dv.sorted_l1(p, q)
    assert torch.allclose(found, dv.sorted_l1(q, p))
    assert (found <= 2.0 + 1e-12).all()
    assert torch.allclose(found, dv.sorted_l1(p.flip(-1), q), atol=1e-12), "order must not matter"
    expected = []
    for a, b in zip(p.exp().tolist(), q.exp().tolist(), strict=True):
        size = max(len(a), len(b))
        a, b = (sorted(x, reverse=True) + [0.0] * (size - len(x)) for x in (a, b))
        expected.append(math.fsum(abs(x - y) for x, y in zip(a, b, strict=True)))
    assert found.tolist() == pytest.approx(expected, abs=1e-12)


def test_adaptive_kl_against_a_loop() -> None:
    p, q = logs(rows=20, seed=21), logs(rows=20, seed=22)
    expected = []
    for a, b in zip(p.exp().tolist(), q.exp().tolist(), strict=True):
        head, mass = set(), 0.0
        for i in sorted(range(len(a)), key=lambda i: -a[i]):
            if mass >= 0.5:
                break
            head.add(i)
            mass += a[i]
        gap = [abs(x - y) for x, y in zip(a, b, strict=True)]
        weight = math.fsum(gap[i] for i in head) / math.fsum(gap)
        forward = math.fsum(kl(x, y) for x, y in zip(a, b, strict=True))
        reverse = math.fsum(kl(y, x) for x, y in zip(a, b, strict=True))
        expected.append(weight * forward + (1 - weight) * reverse)
    assert dv.adaptive_kl(p, q).tolist() == pytest.approx(expected, rel=1e-10)


def test_the_adaptive_kl_has_the_gradient_of_its_parts_at_fixed_weights() -> None:
    p, z = logs(rows=3, seed=23), torch.randn(3, V, dtype=torch.float64, requires_grad=True)
    q = torch.log_softmax(z, -1)
    forward, reverse = dv.forward_kl(p, q), dv.reverse_kl(p, q)
    weight = ((dv.adaptive_kl(p, q) - reverse) / (forward - reverse)).detach()
    expected = torch.autograd.grad((weight * forward + (1 - weight) * reverse).sum(), z, retain_graph=True)[0]
    assert torch.allclose(torch.autograd.grad(dv.adaptive_kl(p, q).sum(), z)[0], expected, atol=1e-10)


@pytest.mark.parametrize("ours", [dv.sorted_l1, lambda p, q: dv.bernoulli_kl(p[..., 0], q[..., 0])])
def test_gradients_across_vocabularies_are_those_of_finite_differences(
    ours: Callable[[Tensor, Tensor], Tensor],
) -> None:
    p, z = logs(rows=2, size=5, seed=24), torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: ours(p, torch.log_softmax(x, -1)), (z,))


def test_a_fixed_mixture_has_the_same_value_and_another_gradient() -> None:
    p, z = logs(seed=25), torch.randn(5, V, dtype=torch.float64, requires_grad=True)
    q = torch.log_softmax(z, -1)
    free, fixed = dv.skew_reverse_kl(p, q, 0.3), dv.skew_reverse_kl(p, q, 0.3, fixed=True)
    assert torch.allclose(free, fixed)
    mixture = (0.7 * p.exp() + 0.3 * q.exp()).detach().log()
    expected = torch.autograd.grad((q.exp() * (q - mixture)).sum(), z, retain_graph=True)[0]
    assert torch.allclose(torch.autograd.grad(fixed.sum(), z, retain_graph=True)[0], expected)
    assert not torch.allclose(torch.autograd.grad(free.sum(), z)[0], expected)


def test_the_moving_target_goes_from_student_to_teacher() -> None:
    p, z = logs(seed=11), torch.randn(5, V, dtype=torch.float64, requires_grad=True)
    assert torch.allclose(dv.interpolated(p, z, 0.0), torch.log_softmax(z, -1))
    assert torch.allclose(dv.interpolated(p, z, 1.0), p)
    assert not dv.interpolated(p, z, 0.5).requires_grad


@pytest.mark.parametrize(
    "wrong",
    [
        lambda p: dv.jensen_shannon(p, p, 1.2),
        lambda p: dv.skew_kl(p, p, -0.1),
        lambda p: dv.skew_reverse_kl(p, p, 2.0),
        lambda p: dv.adaptive_kl(p, p, 0.0),
    ],
)
def test_wrong_parameters_are_named(wrong: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(ConfigError, match="must"):
        wrong(logs())


def test_bernoulli_kl_is_that_of_two_events() -> None:
    p, q = torch.tensor([0.2, 0.9, 0.5], dtype=torch.float64), torch.tensor([0.6, 0.3, 0.5], dtype=torch.float64)
    found = dv.bernoulli_kl(p.log(), q.log())
    both = (torch.stack([x, 1 - x], -1).log() for x in (p, q))
    assert torch.allclose(found, dv.forward_kl(*both))
    sure = dv.bernoulli_kl(torch.zeros(1), torch.tensor([-50.0]))
    assert torch.isfinite(sure).all()
    assert sure > 40
