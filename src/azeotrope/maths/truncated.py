"""Distributions of which only some log-probabilities are known: the k largest, or the sampled token's.

What is known is compared with the student's full distribution over the same tokens; the rule for the missing mass
is explicit. Every rule returns a pair of log-probability tensors that the divergences accept.

Shapes: N positions, V vocabulary, K known tokens.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from azeotrope.core.errors import ConfigError

Missing = Literal["rest", "renormalize", "ignore"]


def pair(known_NK: Tensor, ids_NK: Tensor, logq_NV: Tensor, missing: Missing) -> tuple[Tensor, Tensor]:
    """Teacher's and student's log-probabilities over the known tokens, [N, K] or [N, K + 1].

    `known_NK` are log-probabilities (−inf for a slot that was not filled, whose id is ignored), `logq_NV` the
    student's. `rest` adds one bucket for all other tokens; `renormalize` conditions both on the known tokens;
    `ignore` leaves both unnormalized: the forward KL then has its minimum at the shown part, renormalized, with
    nothing left for the other tokens (other divergences have theirs where the student does not say what is shown).
    Rounded values that sum to more than 1 are normalized first.
    Raises ConfigError for another rule.
    """
    known_NK = known_NK - known_NK.logsumexp(-1, keepdim=True).clamp(min=0.0)
    empty_NK = known_NK.isneginf()
    logq_NK = logq_NV.gather(-1, ids_NK.masked_fill(empty_NK, 0)).masked_fill(empty_NK, float("-inf"))
    if missing == "ignore":
        return known_NK, logq_NK
    if missing == "renormalize":
        known, own = (x - x.logsumexp(-1, keepdim=True) for x in (known_NK, logq_NK))
        return known, own
    if missing == "rest":
        listed_NV = torch.zeros_like(logq_NV, dtype=torch.int8).scatter_add(
            -1, ids_NK.masked_fill(empty_NK, 0), (~empty_NK).to(torch.int8)
        )
        rest_N1 = logq_NV.masked_fill(listed_NV > 0, float("-inf")).logsumexp(-1, keepdim=True)
        rest_N1 = rest_N1.clamp(min=math.log(torch.finfo(logq_NV.dtype).eps))
        return with_rest(known_NK), torch.cat((logq_NK, rest_N1), -1)
    raise ConfigError(f"Unknown rule for the missing mass '{missing}'; known: {', '.join(get_args(Missing))}.")


def log_rest(logs_NK: Tensor) -> Tensor:
    """log(1 − Σ exp), [N, 1]: the mass of all tokens that are not listed, never below the type's precision.

    Below that, 1 − Σ is rounding error, and a reverse divergence would be made of it.
    """
    mass = logs_NK.exp().sum(-1, keepdim=True)
    return torch.log((1.0 - mass).clamp(min=torch.finfo(logs_NK.dtype).eps))


def with_rest(logs_NK: Tensor) -> Tensor:
    """Log-probabilities and one bucket for all tokens that are not listed, [N, K + 1]; see `log_rest`."""
    return torch.cat((logs_NK, log_rest(logs_NK)), -1)


def largest(known_NU: Tensor, logq_NV: Tensor) -> tuple[Tensor, Tensor]:
    """The teacher's known log-probabilities (−inf: not known) and as many of the student's largest, [N, K] each.

    Both from the largest down, whatever the tokens are; a row with fewer than K known ones is filled with −inf.
    """
    count_N1 = (~known_NU.isneginf()).sum(-1, keepdim=True)
    k = int(count_N1.max()) if count_N1.numel() else 0
    logp_NK, logq_NK = known_NU.topk(k, -1).values, logq_NV.topk(min(k, logq_NV.shape[-1]), -1).values
    logq_NK = torch.nn.functional.pad(logq_NK, (0, k - logq_NK.shape[-1]), value=-math.inf)
    return logp_NK, logq_NK.masked_fill(torch.arange(k) >= count_N1, -math.inf)


def top_k(logp_NV: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest log-probabilities and their ids, [N, k] each, largest first. Raises ConfigError for k < 1."""
    if not 1 <= k <= logp_NV.shape[-1]:
        raise ConfigError(f"k must lie between 1 and the vocabulary size {logp_NV.shape[-1]}, not {k}.")
    found = logp_NV.topk(k, -1)
    return found.values, found.indices


def rounded(logp: Tensor, step: float) -> Tensor:
    """Log-probabilities rounded to multiples of `step` nats, as an API may return them; 0 leaves them as they are.

    Raises ConfigError below 0.
    """
    if step < 0:
        raise ConfigError(f"Log-probabilities cannot be rounded to steps of {step} nats; give 0 or more.")
    return torch.round(logp / step) * step if step > 0 else logp
