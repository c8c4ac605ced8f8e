"""Recovering logits from an API that returns a few log-probabilities and lets its caller bias tokens.

All in float64 and in logarithms: with a bias of 30 nats a float32 exponential already loses four digits
(arXiv 2403.06634, 2403.09539).

Shapes: N queries or positions, V vocabulary, K known tokens, D hidden size.
"""

from __future__ import annotations

import math

import torch
from scipy import linalg
from torch import Tensor

from azeotrope.core.errors import ConfigError


def relative(shown_K: Tensor, reference: float) -> Tensor:
    """z_i − z_R of K tokens from log-probabilities shown in one reply in which all carried the same bias as R.

    The bias and the normalization cancel: z_i − z_R = lp_i − lp_R.
    """
    return shown_K.double() - reference


def unbiased(logprob: Tensor, bias: float) -> Tensor:
    """log p of a token from its log-probability under a bias B: p = P / (P + e^B (1 − P)), P the biased one.

    Precise where P is neither near 0 nor near 1, so B should be about −log p.
    """
    shown = logprob.double().clamp(max=-1e-300)
    rest = torch.log(-torch.expm1(shown))
    return shown - torch.logaddexp(shown, bias + rest)


def queries_needed(vocabulary: int, k: int) -> int:
    """Replies of k log-probabilities that show a whole vocabulary: one of them is always the reference.

    Raises ConfigError for k < 2.
    """
    if k < 2:
        raise ConfigError(f"A reply must show at least 2 log-probabilities to compare tokens, not {k}.")
    return math.ceil((vocabulary - 1) / (k - 1))


def singular_values(logits_NV: Tensor) -> Tensor:
    """Singular values of logit vectors whose rows have been centered, largest first."""
    rows = logits_NV.double()
    found: Tensor = torch.linalg.svdvals(rows - rows.mean(-1, keepdim=True))
    return found


def rank_gap(logits_NV: Tensor) -> tuple[int, float]:
    """The rank at which the singular values fall most, and by what factor they fall there.

    The last tenth of the spectrum is left out of the search: it is noise against noise. A factor of a few says
    that there is no gap, that is, too few vectors. Raises ConfigError with fewer than 4 rows.
    """
    if len(logits_NV) < 4:
        raise ConfigError(
            f"The hidden size needs more logit vectors than it is large, and at least 4; got {len(logits_NV)}."
        )
    values = singular_values(logits_NV).clamp(min=1e-300).log()
    drops = (values[:-1] - values[1:])[: max(1, int(0.9 * len(values)))]
    rank = int(drops.argmax()) + 1
    return rank, float(drops[rank - 1].clamp(max=700).exp())


def hidden_size(logits_NV: Tensor) -> int:
    """The rank of logit vectors: the hidden size, if N exceeds it (2403.06634, §4); one more with a biased head.

    Raises ConfigError with fewer than 4 rows.
    """
    return rank_gap(logits_NV)[0]


def span(logits_NV: Tensor, rank: int) -> Tensor:
    """An orthonormal basis of the `rank` directions in which logit vectors (relative to one token) differ most.

    [rank, V]; what noise adds in all other directions is left out.
    """
    basis: Tensor = torch.linalg.svd(logits_NV.double(), full_matrices=False).Vh[:rank]
    return basis


def telling(basis_DV: Tensor, n: int, seed: int = 0) -> Tensor:
    """Which `n` tokens to ask for so that least squares on `basis_DV` is well conditioned. [n], ascending.

    QR with column pivoting picks D columns, and again among the others until there are n. In vocabularies much
    larger than D the choice is among 8·n tokens drawn at random. Raises ConfigError if V < n.
    """
    width = basis_DV.shape[1]
    if width < n:
        raise ConfigError(f"{n} tokens cannot be chosen among {width}.")
    shuffled = torch.randperm(width, generator=torch.Generator().manual_seed(seed % 2**63))
    left = shuffled[: min(width, 8 * n)].sort().values
    chosen = left[:0]
    while len(chosen) < n:
        columns = basis_DV[:, left].double().numpy()
        order = torch.from_numpy(linalg.qr(columns, mode="r", pivoting=True)[1].astype("int64"))
        best = order[: min(len(basis_DV), n - len(chosen))]
        chosen = torch.cat([chosen, left[best]])
        keep = torch.ones(len(left), dtype=torch.bool)
        keep[best] = False
        left = left[keep]
    return chosen.sort().values


def complete(known_NK: Tensor, ids_K: Tensor, basis_DV: Tensor) -> Tensor:
    """Whole logit vectors from their values at K tokens and D full vectors that span the output space. [N, V].

    Known values and basis are relative to one reference token, so that no offset is left; the rest follows by
    least squares, exact with K ≥ D known values. Raises ConfigError with fewer.
    """
    if len(ids_K) < len(basis_DV):
        raise ConfigError(
            f"{len(ids_K)} known values do not determine a vector in a space of {len(basis_DV)} dimensions."
        )
    basis = basis_DV.double()
    found = torch.linalg.lstsq(basis[:, ids_K].T, known_NK.double().T)
    whole: Tensor = found.solution.T @ basis
    return whole
