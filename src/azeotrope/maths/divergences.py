"""Divergences between a teacher's and a student's next-token distributions, each exactly once.

All take log-probabilities: `logp` of the teacher (p), `logq` of the student (q), of equal shape [..., V], and
return [...] in nats (total variation and sorted L1: without unit). They need not be normalized over the whole
vocabulary: `maths/truncated.py` makes them from the k largest. −inf (a token that cannot occur) is allowed; a
divergence that is infinite there is returned as infinite.

Shapes: N positions, V vocabulary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from azeotrope.core.errors import ConfigError

LIMIT = 1e-3  # |α|, |β| or |α + β| below this is taken as 0, where the closed form loses its digits


def forward_kl(logp: Tensor, logq: Tensor) -> Tensor:
    """KL(p ‖ q) = Σ p (log p − log q): covers all that the teacher would say (arXiv 1503.02531)."""
    inside = ~logp.isneginf()
    gap = logp.masked_fill(~inside, 0.0) - torch.where(inside, logq, 0.0)
    return (logp.exp() * gap).sum(-1)


def reverse_kl(logp: Tensor, logq: Tensor) -> Tensor:
    """KL(q ‖ p): avoids what the teacher would not say (arXiv 2306.08543, single step)."""
    return forward_kl(logq, logp)


def mix(logp: Tensor, logq: Tensor, share: float) -> Tensor:
    """log(share · p + (1 − share) · q)."""
    if share in (0.0, 1.0):
        return logp if share else logq
    nowhere = logp.isneginf() & logq.isneginf()  # logaddexp has no gradient there
    one, other = (x.masked_fill(nowhere, 0.0) for x in (logp, logq))
    found = torch.logaddexp(one + math.log(share), other + math.log1p(-share))
    return found.masked_fill(nowhere, float("-inf"))


def jensen_shannon(logp: Tensor, logq: Tensor, beta: float = 0.5) -> Tensor:
    """β KL(p ‖ m) + (1 − β) KL(q ‖ m) with m = βp + (1 − β)q (GKD, arXiv 2306.13649, eq. 1).

    Divided by β it tends to KL(p ‖ q) for β → 0, divided by 1 − β to KL(q ‖ p) for β → 1; as trainers of
    GKD do, the ends themselves are KL(p ‖ q) (β = 0) and KL(q ‖ p) (β = 1). Raises ConfigError outside [0, 1].
    """
    _share("β", beta)
    if beta == 0.0:
        return forward_kl(logp, logq)
    if beta == 1.0:
        return reverse_kl(logp, logq)
    middle = mix(logp, logq, beta)
    return beta * forward_kl(logp, middle) + (1.0 - beta) * forward_kl(logq, middle)


def total_variation(logp: Tensor, logq: Tensor) -> Tensor:
    """½ Σ |p − q|, in [0, 1]."""
    return 0.5 * (logp.exp() - logq.exp()).abs().sum(-1)


def skew_kl(logp: Tensor, logq: Tensor, alpha: float = 0.1) -> Tensor:
    """KL(p ‖ αp + (1 − α)q); α = 0 is KL(p ‖ q) (DistiLLM, 2402.03898). Raises ConfigError outside [0, 1]."""
    _share("α", alpha)
    return forward_kl(logp, mix(logp, logq, alpha))


def skew_reverse_kl(logp: Tensor, logq: Tensor, alpha: float = 0.1, *, fixed: bool = False) -> Tensor:
    """KL(q ‖ (1 − α)p + αq); α = 0 is KL(q ‖ p) (DistiLLM). Raises ConfigError outside [0, 1].

    `fixed`: no gradient into the mixture (DistiLLM-2), which changes no value.
    """
    _share("α", alpha)
    return forward_kl(logq, mix(logq.detach() if fixed else logq, logp, alpha))


def alpha_beta(logp: Tensor, logq: Tensor, alpha: float, beta: float) -> Tensor:
    """The α-β family (ABKD, arXiv 2505.04560), with its analytic limits; (1, 0) is KL(p ‖ q), (0, 1) KL(q ‖ p).

    D = −1/(αβ) Σ [p^α q^β − α/(α+β) p^(α+β) − β/(α+β) q^(α+β)]. A parameter (or α + β) nearer to 0 than
    `LIMIT` is taken as 0. The limits are those of the formula; a released implementation has 1/β and 1/α
    where 1/β² and 1/α² belong, which makes the loss jump at the axes. A token that both sides rule out adds
    nothing.
    """
    neither = logp.isneginf() & logq.isneginf()
    logp, logq = (x.masked_fill(neither, 0.0) for x in (logp, logq))
    if abs(alpha) < LIMIT and abs(beta) < LIMIT:
        return 0.5 * (logp - logq).square().sum(-1)
    if abs(alpha) < LIMIT:
        return _beta_alone(logp, logq, beta)
    if abs(beta) < LIMIT:
        return _beta_alone(logq, logp, alpha)
    if abs(alpha + beta) < LIMIT:
        gap = logp - logq
        return (torch.exp(alpha * gap) - 1.0 - alpha * gap).sum(-1) / alpha**2
    total = alpha + beta
    cross = torch.exp(alpha * logp + beta * logq)
    own = (alpha * torch.exp(total * logp) + beta * torch.exp(total * logq)) / total
    return (own - cross).sum(-1) / (alpha * beta)


def _beta_alone(logp: Tensor, logq: Tensor, beta: float) -> Tensor:
    """α → 0: 1/β² Σ [q^β ln(q^β / p^β) − q^β + p^β]; by symmetry also β → 0 with p and q exchanged."""
    inside = ~logq.isneginf() if beta > 0 else torch.ones_like(logq, dtype=torch.bool)
    gap = torch.where(inside, logq, 0.0) - torch.where(inside, logp, 0.0)
    q, p = torch.exp(beta * logq), torch.exp(beta * logp)
    return (q * (beta * gap) - q + p).sum(-1) / beta**2


def adaptive_kl(logp: Tensor, logq: Tensor, head: float = 0.5) -> Tensor:
    """Forward and reverse KL weighted by where p and q differ (AKL, arXiv 2404.02657).

    The head is the smallest set of most likely tokens with at least `head` of the teacher's mass. Its share of
    Σ |p − q| weights the forward KL, that of the tail the reverse KL; weights carry no gradient. Raises
    ConfigError for a `head` outside (0, 1].
    """
    if not 0.0 < head <= 1.0:
        raise ConfigError(f"The head of the adaptive KL must hold a share in (0, 1] of the mass, not {head}.")
    p, q = logp.detach().exp(), logq.detach().exp()
    ordered, index = p.sort(-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    in_head = torch.zeros_like(p).scatter(-1, index, (before < head).to(p.dtype))
    gap = (p - q).abs()
    whole = gap.sum(-1)
    weight = torch.where(whole > 0, (gap * in_head).sum(-1) / whole.clamp(min=1e-30), 0.5)
    return weight * forward_kl(logp, logq) + (1.0 - weight) * reverse_kl(logp, logq)


def sorted_l1(logp: Tensor, logq: Tensor) -> Tensor:
    """Σ |sort(p) − sort(q)|: needs no shared vocabulary (ULD, arXiv 2402.12030, eq. 5). Sizes may differ.

    The shorter of the two is padded with zeros. The Wasserstein-1 distance for a constant cost of moving.
    """
    p, q = (x.exp().sort(-1, descending=True).values for x in (logp, logq))
    short = p.shape[-1] - q.shape[-1]
    p = torch.nn.functional.pad(p, (0, max(0, -short)))
    q = torch.nn.functional.pad(q, (0, max(0, short)))
    return (p - q).abs().sum(-1)


def bernoulli_kl(logp: Tensor, logq: Tensor) -> Tensor:
    """KL between two events of log-probabilities [...]: p log(p/q) + (1 − p) log((1 − p)/(1 − q)), elementwise.

    For log-likelihoods of chunks of text, which need no common vocabulary (ALM, arXiv 2503.20083). Logarithms are
    cut off 1e-6 below 0, so that certain events have finite divergences.
    """
    one, other = (x.clamp(max=-1e-6) for x in (logp, logq))
    not_one, not_other = (torch.log(-torch.expm1(x)) for x in (one, other))
    return one.exp() * (one - other) + not_one.exp() * (not_one - not_other)


def interpolated(logits_p: Tensor, logits_q: Tensor, t: float) -> Tensor:
    """log softmax((1 − t)·z_q + t·z_p), TAID's moving target (2501.16937); no gradient into z_q."""
    if t == 0.0:
        return torch.log_softmax(logits_q.detach(), -1)  # 0 · (−inf) is no number
    return torch.log_softmax((1.0 - t) * logits_q.detach() + t * logits_p, -1)


def _share(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ConfigError(f"{name} must lie in [0, 1], not {value}.")
