"""The arithmetic of antidistillation sampling (arXiv 2504.13146), free of models and I/O.

Shapes: B rows (contexts), V vocabulary, D hidden size. All results are in nats per unit of parameter step
unless a scale has been divided out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from azeotrope.maths import hashrng


def finite_difference(plus_BV: Tensor, minus_BV: Tensor, epsilon: float) -> Tensor:
    """Central difference of log-probabilities, Δ̂ = [log p(θ+εg) − log p(θ−εg)] / 2ε (§1.1). [B, V]."""
    return (torch.log_softmax(plus_BV, -1) - torch.log_softmax(minus_BV, -1)) / (2.0 * epsilon)


def center(u_BV: Tensor, logits_BV: Tensor) -> Tensor:
    """From logit tangents u = J_z g to Δ = u − ⟨p, u⟩: the derivative of log p along g. [B, V]."""
    return u_BV - (torch.softmax(logits_BV, -1) * u_BV).sum(-1, keepdim=True)


def spread(delta_BV: Tensor) -> float:
    """Mean over contexts of the standard deviation over the vocabulary: the unit of a strength."""
    return float(delta_BV.std(-1, correction=0).mean())


def scramble(delta_BV: Tensor, seeds_B: Tensor, t_B: int | Tensor) -> Tensor:
    """The permutation control: Δ' = s ⊙ (Δ − mean Δ)[π], fresh π and signs per row and step.

    Centered first: the common offset of Δ is irrelevant to a tilt, but would become noise under sign flips.
    """
    centered = delta_BV - delta_BV.mean(-1, keepdim=True)
    size = delta_BV.shape[-1]
    order = hashrng.permutations(hashrng.row_keys(seeds_B, 11, t_B), size)
    flips = hashrng.signs(hashrng.row_keys(seeds_B, 12, t_B), size)
    return centered.gather(-1, order) * flips.to(delta_BV.dtype)


def tilt_kl(logits_BV: Tensor, delta_BV: Tensor, lam_B: Tensor) -> Tensor:
    """KL(softmax(z + λΔ) ‖ softmax(z)) in nats, per row. [B]."""
    tilted = torch.log_softmax(logits_BV + lam_B[:, None] * delta_BV, -1)
    base = torch.log_softmax(logits_BV, -1)
    return torch.where(tilted.isneginf(), 0.0, tilted.exp() * (tilted - base)).sum(-1)


def solve_kl_budget(logits_BV: Tensor, delta_BV: Tensor, budget: float, iterations: int = 40) -> Tensor:
    """Return λ_B ≥ 0 with KL(softmax(z + λΔ) ‖ softmax(z)) = `budget` nats, by bisection.

    The KL grows monotonically with λ. Where even a huge λ cannot spend the budget (Δ constant on the
    support), the largest λ tried is returned. Budget 0 gives λ = 0 exactly.
    """
    low = torch.zeros(len(logits_BV), dtype=logits_BV.dtype, device=logits_BV.device)
    if budget == 0.0:
        return low
    high = torch.ones_like(low)
    for _ in range(30):
        short = tilt_kl(logits_BV, delta_BV, high) < budget
        if not short.any():
            break
        high = torch.where(short, high * 2.0, high)
    for _ in range(iterations):
        middle = 0.5 * (low + high)
        over = tilt_kl(logits_BV, delta_BV, middle) > budget
        low, high = torch.where(over, low, middle), torch.where(over, middle, high)
    return low


def direction_error(estimate_BV: Tensor, exact_BV: Tensor) -> float:
    """|sin| of the angle between two Δ fields (both centered over V per row), as in the paper's Fig. 8."""
    a = (estimate_BV - estimate_BV.mean(-1, keepdim=True)).double().flatten()
    b = (exact_BV - exact_BV.mean(-1, keepdim=True)).double().flatten()
    cosine = torch.dot(a, b) / (a.norm() * b.norm()).clamp(min=1e-300)
    return float((1.0 - cosine.clamp(-1.0, 1.0) ** 2).clamp(min=0.0).sqrt())
