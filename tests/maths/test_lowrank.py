"""Maps of logits against dense linear algebra and autograd."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from azeotrope.core.errors import ConfigError
from azeotrope.maths import lowrank

V, R, D, N = 19, 3, 7, 40


def draw(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def pair(seed: int = 1) -> tuple[Tensor, Tensor]:
    return draw(V, R, seed=seed, scale=0.5), lowrank.centered(draw(R, V, seed=seed + 1, scale=0.5))


def test_the_gauge_makes_constants_irrelevant() -> None:
    a, b = pair()
    z = draw(N, V, seed=3)
    assert torch.allclose(lowrank.transform(z + 5.0, a, b), lowrank.transform(z, a, b) + 5.0)
    dense = torch.eye(V, dtype=torch.float64) + a @ b
    assert torch.allclose(lowrank.transform(z, a, b), z @ dense.T)


def test_the_inverse_undoes_the_map() -> None:
    a, b = pair()
    z = draw(N, V, seed=4)
    assert torch.allclose(lowrank.transform(lowrank.transform(z, a, b), lowrank.inverse(a, b), b), z, atol=1e-11)
    singular = -b[:1].T / float(b[:1] @ b[:1].T)  # sends b to zero
    with pytest.raises(ConfigError, match="singular"):
        lowrank.inverse(singular, b[:1])


def test_a_map_is_recovered_from_pairs() -> None:
    a, b = pair()
    z = draw(500, V, seed=5)
    moved = lowrank.transform(z, a, b)
    center = lambda x: x - x.mean(-1, keepdim=True)  # noqa: E731
    found = lowrank.fit_map(moved[:400], z[:400], 1e-10)
    assert torch.allclose(found(center(moved[400:])), center(z[400:]), atol=1e-6)
    few = lowrank.fit_map(moved[:5], z[:5], 1e-3)
    before = (center(moved[400:]) - center(z[400:])).norm()
    after = (few(center(moved[400:])) - center(z[400:])).norm()
    assert after < before, "with few pairs the map stays near the identity"
    with pytest.raises(ConfigError, match="positive"):
        lowrank.fit_map(z, moved, 0.0)
    with pytest.raises(ConfigError, match="pair"):
        lowrank.fit_map(z, moved[:3], 1.0)


@pytest.mark.parametrize("n", [3, V // 2, V, 40])
def test_a_fitted_map_solves_its_normal_equations(n: int) -> None:
    x, y, ridge = draw(n, V, seed=7), draw(n, V, seed=8), 0.3
    x, y = x - x.mean(-1, keepdim=True), y - y.mean(-1, keepdim=True)
    eye = torch.eye(V, dtype=torch.float64)
    solved = torch.linalg.solve(x.T @ x + ridge * n * eye, x.T @ y + ridge * n * eye)
    assert torch.allclose(lowrank.fit_map(x, y, ridge)(eye), solved, atol=1e-11)


@pytest.mark.parametrize("chunk", [1, 7, 512])
def test_the_gram_trick_is_the_inner_product_of_gradients(chunk: int) -> None:
    u, v, h = draw(N, V, seed=6), draw(N, V, seed=7), draw(N, D, seed=8)
    first, second = u.T @ h, v.T @ h
    assert lowrank.inner(u, v, h, chunk).item() == pytest.approx((first * second).sum().item())
    expected = torch.nn.functional.cosine_similarity(first.flatten(), second.flatten(), dim=0)
    assert lowrank.cosine(u, v, h, chunk).item() == pytest.approx(expected.item())
    assert lowrank.cosine(u, u, h).item() == pytest.approx(1.0)
    assert lowrank.cosine(u, torch.zeros_like(v), h).item() == 0.0


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_the_error_is_the_gradient_of_the_distillation_loss(alpha: float) -> None:
    w, h = draw(V, D, seed=9).requires_grad_(), draw(N, D, seed=10)
    teacher, labels = draw(N, V, seed=11), torch.arange(N) % V
    logq = torch.log_softmax(h @ w.T, -1)
    p = torch.softmax(teacher, -1)
    loss = (1 - alpha) * torch.nn.functional.nll_loss(logq, labels, reduction="sum")
    loss = loss + alpha * (p * (p.log() - logq)).sum()
    (expected,) = torch.autograd.grad(loss, w)
    error = lowrank.error_of((h @ w.T).detach(), teacher, labels, alpha)
    assert torch.allclose(error.T @ h, expected, atol=1e-10)


def test_the_cosine_can_be_trained_through() -> None:
    a, b = pair()
    z, student, h = draw(4, V, seed=12), draw(4, V, seed=13), draw(4, D, seed=14)
    labels = torch.arange(4)
    clean = lowrank.error_of(student, z, labels, 0.5)

    def objective(factor: Tensor) -> Tensor:
        return lowrank.cosine(clean, lowrank.error_of(student, lowrank.transform(z, a, factor), labels, 0.5), h)

    assert torch.autograd.gradcheck(objective, (b.clone().requires_grad_(),))
    assert objective(torch.zeros_like(b)).item() == pytest.approx(1.0)
