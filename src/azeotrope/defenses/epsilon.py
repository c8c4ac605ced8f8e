"""Choosing the finite-difference step of antidistillation sampling (arXiv 2504.13146, §3 and App. on ε)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from azeotrope.core.types import Trace
from azeotrope.defenses.ads import ADS, Direction
from azeotrope.maths.antidistill import direction_error
from azeotrope.models.gradients import ProxyGradient
from azeotrope.models.lm import LM

LADDER = tuple(10.0 ** (k / 2) for k in range(-12, 3))  # 1e-6 … 10, two steps a decade


@dataclass(frozen=True, slots=True)
class EpsilonPoint:
    """`error` is |sin| of the angle between the finite difference at step `epsilon` and the exact Δ."""

    epsilon: float
    error: float


def epsilon_curve(
    lm: LM, gradient: ProxyGradient, traces: Sequence[Trace], epsilons: Sequence[float] = LADDER
) -> list[EpsilonPoint]:
    """Err(ε) of the finite-difference back-end against forward mode, on the completions of `traces`.

    ε is the length of the step along the *unit* gradient, as in `ADS.epsilon`. The curve is U-shaped:
    round-off rises as 1/ε on the left, truncation as ε² on the right; its place depends on the model and its
    precision. Costs one forward-mode pass and two passes per ε; memory is [completion tokens, V] three times.
    """
    exact = Direction(ADS(backend="jvp", normalize=False), lm, gradient, traces).delta_on(traces)
    points = []
    for epsilon in epsilons:
        settings = ADS(backend="finite_difference", epsilon=epsilon, normalize=False)
        estimate = Direction(settings, lm, gradient, traces).delta_on(traces)
        points.append(EpsilonPoint(epsilon, direction_error(estimate, exact)))
    return points


def best(points: Sequence[EpsilonPoint]) -> EpsilonPoint:
    """The point with the least error."""
    return min(points, key=lambda point: point.error)
