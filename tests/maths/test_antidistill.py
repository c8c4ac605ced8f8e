"""The arithmetic of antidistillation against brute force, identities and exact integrals."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from azeotrope.maths import antidistill

V = 29
INF = float("inf")


def field(rows: int = 6, size: int = V, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2.0 * torch.randn(rows, size, generator=generator, dtype=torch.float64)).to(dtype)


def test_finite_difference_against_a_loop() -> None:
    plus, minus, epsilon = field(seed=1), field(seed=2), 0.07
    got = antidistill.finite_difference(plus, minus, epsilon)
    for i in range(len(plus)):
        norm_plus = math.log(sum(math.exp(x) for x in plus[i].tolist()))
        norm_minus = math.log(sum(math.exp(x) for x in minus[i].tolist()))
        for v in range(V):
            expected = ((plus[i, v] - norm_plus) - (minus[i, v] - norm_minus)) / (2 * epsilon)
            assert got[i, v].item() == pytest.approx(expected.item(), rel=1e-10)


def test_center_is_the_derivative_of_log_softmax() -> None:
    z, u = field(seed=3), field(seed=4)
    _, tangent = torch.func.jvp(lambda x: torch.log_softmax(x, -1), (z,), (u,))
    assert torch.allclose(antidistill.center(u, z), tangent, atol=1e-12)
    assert torch.allclose(antidistill.center(u + 5.0, z), tangent, atol=1e-12), "offsets must not matter"


def test_score_identity_is_exact() -> None:
    z, u = field(seed=5), field(seed=6)
    assert (torch.softmax(z, -1) * antidistill.center(u, z)).sum(-1).abs().max() < 1e-14


def test_finite_difference_error_falls_as_epsilon_squared() -> None:
    """On curved logits, both the error and the score residual Σ p Δ̂ have slope 2 in ε."""
    z, u, w = field(seed=7), field(seed=8), field(seed=9)

    def logits(s: float) -> Tensor:
        return z + s * u + s * s * w + s**3 * u * w

    exact = antidistill.center(u, z)
    ladder = [0.08, 0.04, 0.02, 0.01]
    found = [antidistill.finite_difference(logits(e), logits(-e), e) for e in ladder]
    errors = [(f - exact).abs().max().item() for f in found]
    residues = [(torch.softmax(z, -1) * f).sum(-1).abs().max().item() for f in found]
    for values in (errors, residues):
        slope = np.polyfit(np.log(ladder), np.log(values), 1)[0]
        assert slope == pytest.approx(2.0, abs=0.1)


def test_spread_is_the_mean_standard_deviation() -> None:
    d = field(seed=10)
    assert antidistill.spread(d) == pytest.approx(float(np.mean([np.std(row) for row in d.numpy()])))
    assert antidistill.spread(d / antidistill.spread(d)) == pytest.approx(1.0)
    assert antidistill.spread(d + 7.0) == pytest.approx(antidistill.spread(d))
    assert antidistill.spread(torch.full((2, V), 3.0)) == 0.0


class TestScramble:
    seeds = torch.tensor([5, -9, 2**62, 7, 8, 123])

    def test_same_absolute_values_around_the_mean(self) -> None:
        d = field(seed=11) + 100.0
        got = antidistill.scramble(d, self.seeds, 3)
        centered = d - d.mean(-1, keepdim=True)
        assert torch.allclose(got.abs().sort(-1).values, centered.abs().sort(-1).values, atol=1e-12)

    def test_an_offset_changes_nothing(self) -> None:
        d = field(seed=12)
        a, b = (antidistill.scramble(x, self.seeds, 3) for x in (d, d + 50.0))
        assert torch.allclose(a, b, atol=1e-12)

    def test_fresh_per_row_and_step_but_reproducible(self) -> None:
        d = field(1, seed=13).expand(6, V)
        first = antidistill.scramble(d, self.seeds, 3)
        assert torch.equal(first, antidistill.scramble(d, self.seeds, 3))
        assert not torch.equal(first, antidistill.scramble(d, self.seeds, 4))
        for i, j in itertools.combinations(range(6), 2):
            assert not torch.equal(first[i], first[j])

    def test_a_row_does_not_depend_on_its_batch(self) -> None:
        d = field(seed=14)
        whole = antidistill.scramble(d, self.seeds, 2)
        for i in range(6):
            alone = antidistill.scramble(d[i : i + 1], self.seeds[i : i + 1], 2)
            assert torch.equal(alone, whole[i : i + 1])

    def test_it_carries_no_direction(self) -> None:
        """The mean of Δ'·Δ over many seeds vanishes: permutation and signs are both independent of Δ."""
        d = field(1, seed=15).expand(4000, V)
        c = d - d.mean(-1, keepdim=True)
        dots = (antidistill.scramble(d, torch.arange(4000), 0) * c).sum(-1)
        assert dots.mean().abs() < 4 * dots.std() / 4000**0.5
        flipped = (antidistill.scramble(d, torch.arange(4000), 0) < 0).double().mean()
        assert flipped == pytest.approx(0.5, abs=0.01)


class TestKlBudget:
    def test_tilt_kl_against_a_loop(self) -> None:
        z, d, lam = field(seed=16), field(seed=17), torch.tensor([0.0, 0.1, 0.5, 1.0, 2.0, -1.0]).double()
        got = antidistill.tilt_kl(z, d, lam)
        for i in range(6):
            p = np.exp(z[i].numpy() + lam[i].item() * d[i].numpy())
            q = np.exp(z[i].numpy())
            p, q = p / p.sum(), q / q.sum()
            assert got[i].item() == pytest.approx(float((p * np.log(p / q)).sum()), abs=1e-12)
        assert got[0] == 0.0

    def test_kl_grows_with_lambda(self) -> None:
        z, d = field(seed=18), field(seed=19)
        ladder = torch.linspace(0, 4, 41, dtype=torch.float64)
        values = torch.stack([antidistill.tilt_kl(z, d, x.expand(6)) for x in ladder])
        assert (values.diff(dim=0) > 0).all()

    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
    @pytest.mark.parametrize("budget", [0.003, 0.05, 0.5, 1.5])
    def test_the_budget_is_spent(self, dtype: torch.dtype, tolerance: float, budget: float) -> None:
        z, d = field(seed=20, dtype=dtype), field(seed=21, dtype=dtype)
        for scale in (1e-3, 1.0, 1e3):
            lam = antidistill.solve_kl_budget(z, scale * d, budget)
            spent = antidistill.tilt_kl(z.double(), scale * d.double(), lam.double())
            assert torch.allclose(spent, torch.full_like(spent, budget), rtol=10 * tolerance, atol=tolerance)

    def test_zero_budget_is_exactly_zero(self) -> None:
        lam = antidistill.solve_kl_budget(field(), field(seed=1), 0.0)
        assert torch.equal(lam, torch.zeros(6, dtype=torch.float64))

    def test_rows_are_solved_independently(self) -> None:
        z, d = field(seed=22), field(seed=23) * torch.logspace(-3, 3, 6, dtype=torch.float64)[:, None]
        whole = antidistill.solve_kl_budget(z, d, 0.2)
        for i in range(6):
            assert torch.equal(antidistill.solve_kl_budget(z[i : i + 1], d[i : i + 1], 0.2), whole[i : i + 1])

    def test_masked_tokens_and_unreachable_budgets(self) -> None:
        z, d = field(seed=24), field(seed=25)
        z[:, 5:] = -INF
        lam = antidistill.solve_kl_budget(z, d, 0.1)
        assert torch.allclose(antidistill.tilt_kl(z, d, lam), torch.tensor(0.1).double(), atol=1e-9)
        for flat in (torch.zeros(6, V), torch.ones(6, V)):
            lam = antidistill.solve_kl_budget(z, flat.double(), 0.1)
            tilted = z + lam[:, None] * flat
            assert torch.isfinite(lam).all()
            assert torch.allclose(torch.softmax(tilted, -1), torch.softmax(z, -1), atol=1e-6)


class TestDirectionError:
    def test_a_right_angle_and_no_angle(self) -> None:
        d = field(seed=26)
        assert antidistill.direction_error(3.0 * d + 8.0, d) == pytest.approx(0.0, abs=1e-7)
        assert antidistill.direction_error(-d, d) == pytest.approx(0.0, abs=1e-7), "an axis, as in the paper"
        a = torch.tensor([[1.0, -1.0, 0.0, 0.0]])
        b = torch.tensor([[0.0, 0.0, 1.0, -1.0]])
        assert antidistill.direction_error(a, b) == pytest.approx(1.0)

    def test_a_known_angle(self) -> None:
        a, b = torch.tensor([[1.0, -1.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 1.0, -1.0]])
        for angle in (0.1, 0.7, 1.3):
            mixed = math.cos(angle) * a + math.sin(angle) * b
            assert antidistill.direction_error(mixed, a) == pytest.approx(math.sin(angle), rel=1e-5)

    def test_small_errors_are_resolved(self) -> None:
        """sqrt(1 − cos²) loses everything below 1e-8; above that it must be right."""
        a, b = torch.tensor([[1.0, -1.0, 0.0, 0.0]]).double(), torch.tensor([[0.0, 0.0, 1.0, -1.0]]).double()
        assert antidistill.direction_error(a + 1e-5 * b, a) == pytest.approx(1e-5, rel=1e-3)


def expected_kl(p: np.ndarray, sigma: float, order: int = 40) -> float:
    """E KL(p ‖ softmax(log p + ξ)), ξ ~ N(0, σ² I), by Gauss–Hermite quadrature: E log Σ p e^ξ."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(order)
    weights = weights / weights.sum()
    grids = np.meshgrid(*[sigma * nodes] * len(p), indexing="ij")
    weight = np.ones_like(grids[0])
    for w in np.meshgrid(*[weights] * len(p), indexing="ij"):
        weight = weight * w
    mixture = sum(pv * np.exp(g) for pv, g in zip(p, grids, strict=True))
    linear = sum(pv * g for pv, g in zip(p, grids, strict=True))
    return float((weight * (np.log(mixture) - linear)).sum())


class TestGaussianBound:
    """What Gaussian logit noise of standard deviation σ can move."""

    @pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 2.0])
    def test_half_sigma_squared_holds(self, sigma: float) -> None:
        for p in ([0.5, 0.5], [1 / 3, 1 / 3, 1 / 3], [0.9, 0.05, 0.05], [0.98, 0.01, 0.01], [0.25] * 4):
            assert 0 < expected_kl(np.array(p), sigma, 40 if len(p) < 4 else 20) <= sigma**2 / 2

    @pytest.mark.parametrize("sigma", [0.1, 0.5])
    def test_a_quarter_does_not_hold_with_three_tokens(self, sigma: float) -> None:
        """σ²/4 is right for two tokens and wrong for three: a uniform p gives nearly σ²/3."""
        assert expected_kl(np.array([0.5, 0.5]), sigma) <= sigma**2 / 4
        three = expected_kl(np.full(3, 1 / 3), sigma)
        assert three > 1.2 * sigma**2 / 4
        assert expected_kl(np.full(3, 1 / 3), 0.1) == pytest.approx(0.1**2 / 3, rel=0.01)
