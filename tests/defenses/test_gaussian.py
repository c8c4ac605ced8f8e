"""Gaussian logit noise: its budget of positions and its bound; temperature, its simplest neighbor."""

from __future__ import annotations

import pytest
import torch

from azeotrope.core.sampling import Sampling
from azeotrope.defenses.base import assemble
from azeotrope.defenses.gaussian import Gaussian
from azeotrope.defenses.temperature import Temperature
from azeotrope.models.decode import Batch, StepView, decode
from tiny import bench, drive, path, prompts, tiny

DOUBLE = torch.float64


def open_session(settings: Gaussian, seeds_B: torch.Tensor):
    batch = Batch(tuple((2,) for _ in seeds_B), seeds_B)
    return settings.bind(bench()).open(batch)


@pytest.mark.parametrize("choose", ["random", "entropy"])
@pytest.mark.parametrize("k", [1, 3, 8])
def test_at_most_k_positions_of_a_row_are_perturbed(choose: str, k: int) -> None:
    lm = tiny("llama", dtype=DOUBLE)
    rule = Gaussian(sigma=1.0, tokens=k, choose=choose, threshold=0.2, rate=0.5).bind(bench())
    steps = drive(lm, rule, prompts(10), range(10), path(10, 29))
    touched = torch.stack([(a != b).any(-1) for b, a in steps], 1)
    assert touched.sum(1).max() == k, "a long row spends its whole budget"
    assert touched.sum(1).max() <= k
    whole = torch.stack([(a != b).all(-1) for b, a in steps], 1)
    assert torch.equal(whole, touched), "a chosen position is perturbed on the whole vocabulary"


def test_random_choice_has_its_rate_and_noise_its_standard_deviation() -> None:
    seeds = torch.arange(4000)
    session = open_session(Gaussian(sigma=1.7, tokens=99, rate=0.3), seeds)
    z = torch.zeros((4000, 16), dtype=DOUBLE)
    noise, chosen = [], []
    for t in range(5):
        out = session.step(StepView(torch.tensor(t), None, z, None, seeds))
        hit = (out != 0).any(-1)
        chosen.append(hit)
        noise.append(out[hit])
    share = torch.stack(chosen).double().mean().item()
    assert share == pytest.approx(0.3, abs=4 * (0.21 / 20_000) ** 0.5)
    values = torch.cat(noise).flatten()
    assert values.std().item() == pytest.approx(1.7, rel=0.02)
    assert values.mean().item() == pytest.approx(0.0, abs=0.03)
    pattern = torch.stack(chosen).double()
    assert abs(torch.corrcoef(pattern)[0, 1]) < 4 / 4000**0.5, "fresh choice at every step"


def test_entropy_choice_takes_the_first_uncertain_positions() -> None:
    lm = tiny("llama", dtype=DOUBLE)
    rule = Gaussian(sigma=1.0, tokens=4, choose="entropy", threshold=1.0).bind(bench())
    steps = drive(lm, rule, prompts(6), range(6), path(6, 19))
    for row in range(6):
        entropies = [torch.distributions.Categorical(logits=b[row]).entropy().item() for b, _ in steps]
        due = [t for t, h in enumerate(entropies) if h > 1.0][:4]
        assert [t for t, (b, a) in enumerate(steps) if (a[row] != b[row]).any()] == due


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.5])
def test_expected_kl_is_bounded_by_half_sigma_squared(sigma: float) -> None:
    """E KL(p‖p̃) ≤ σ²/2 at a masked position, whatever the vocabulary; Monte Carlo over 6,000 rows."""
    rows = 6000
    seeds = torch.arange(rows)
    for size, peak in ((3, 0.0), (67, 2.0), (300, 0.0)):
        z = peak * torch.randn(size, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
        session = open_session(Gaussian(sigma=sigma, tokens=1, rate=1.0), seeds)
        out = session.step(StepView(torch.tensor(0), None, z.expand(rows, size), None, seeds))
        p, log_p = torch.softmax(z, -1), torch.log_softmax(z, -1)
        kl_B = (p * (log_p - torch.log_softmax(out, -1))).sum(-1)
        standard_error = (kl_B.std() / rows**0.5).item()
        assert kl_B.mean().item() < sigma**2 / 2 + 4 * standard_error
        assert kl_B.min() >= -1e-12
        if (size, sigma) == (300, 0.3):
            assert kl_B.mean().item() > 0.45 * sigma**2, "with many tokens the bound is nearly met"
        if (size, sigma) == (3, 0.3):
            assert kl_B.mean().item() > 1.2 * sigma**2 / 4, "a quarter is not a bound for three tokens"


def test_masked_tokens_stay_masked() -> None:
    z = torch.zeros((50, 9), dtype=DOUBLE)
    z[:, 4:] = float("-inf")
    seeds = torch.arange(50)
    out = open_session(Gaussian(sigma=3.0, rate=1.0), seeds).step(StepView(torch.tensor(0), None, z, None, seeds))
    assert out[:, 4:].isneginf().all()
    assert torch.isfinite(out[:, :4]).all()


@pytest.mark.parametrize("base", [0.6, 1.0])
def test_temperature_multiplies_the_base_temperature(base: float) -> None:
    """Sampling at τ under heat h is, token for token, sampling at τ(1 + h)."""
    lm = tiny("llama", dtype=DOUBLE)
    rows, seeds = prompts(16), range(16)
    rules = assemble([Temperature(heat=0.5)], bench(temperature=base)).rules
    heated = decode(lm, rows, seeds, Sampling(temperature=base), rules=rules, max_new_tokens=15)
    direct = decode(lm, rows, seeds, Sampling(temperature=1.5 * base), max_new_tokens=15)
    assert [s.ids for s in heated] == [s.ids for s in direct]
