"""Conditional mutual information of a model's outputs: how much they say about the input beyond the label.

With labels Y → inputs X → outputs Ŷ and P_x the output distribution at x, I(X; Ŷ | Y) is the mean divergence
of P_x from the centroid of its class (arXiv 2309.09123, 2602.03396). A measure of dark knowledge: 0 if and only if
the outputs within each class are identical. It is a functional of the *softmax*: an invertible map of the logits
leaves I(X; Z | Y) of the logits as it was and changes this number, so neither may be reported as the other.

The plug-in estimate is biased low (a sample belongs to its own centroid: by about 1 − 1/n per class of n), the
leave-one-out estimate high; both are given. Classes with few samples are pooled by exclusion: they are left out,
and their share is told. Work is in float64.

Shapes: N samples, V vocabulary, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from azeotrope.core.errors import ConfigError
from azeotrope.maths.checks import require_logits

MIN_COUNT = 20
PIECE = 2**15  # samples whose outputs are held at a time

Rows = Callable[[Tensor], Tensor]  # the logits [n, V] of samples with the given indices
TEMPERATURES = (0.5, 1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Information:
    """Estimates in nats over the `n` samples of `classes` classes that were large enough (`covered` of all).

    `cmi` is the plug-in, `cmi_loo` leave-one-out; `separation` Γ the mean cross-entropy between outputs of
    different classes, `ncmi` = CMI / Γ; `entropy` H(Ŷ | X), `class_entropy` H(Ŷ | Y) = entropy + cmi.
    """

    cmi: float
    cmi_loo: float
    separation: float
    ncmi: float
    entropy: float
    class_entropy: float
    n: int
    classes: int
    covered: float


def information(
    logits_NV: Tensor | Rows,
    labels_N: Tensor,
    *,
    temperature: float = 1.0,
    least: int = MIN_COUNT,
    piece: int = PIECE,
) -> Information:
    """Estimate from logits and labels, using classes with at least `least` samples.

    Instead of logits, a function that makes those of given samples (indices [n] → [n, V]): it is asked for at most
    `piece` of them at a time, twice for larger classes.

    Raises ConfigError for a temperature that is not positive, `least` below 2, logits that are not finite, or if
    no class is large enough.
    """
    if isinstance(logits_NV, Tensor):
        require_logits(logits_NV, "a CMI estimate")
    if not temperature > 0.0:
        raise ConfigError(f"The temperature of a CMI estimate must be positive, not {temperature}.")
    if least < 2:
        raise ConfigError(f"A class centroid needs at least 2 samples, not {least}.")
    groups = list(classes(labels_N, least))
    if not groups:
        raise ConfigError(f"No class has {least} samples; give more text or lower `least`.")
    inside = loo = entropy = within = 0.0
    sums_V = logs_V = torch.zeros((), dtype=torch.float64)
    for index in groups:
        one = _class(_outputs(logits_NV, index, temperature, piece), len(index))
        inside, loo, entropy = inside + one.inside, loo + one.loo, entropy + one.entropy
        sums_V, logs_V = sums_V + one.sum_V, logs_V + one.logs_V
        within -= float(one.sum_V @ one.logs_V)
    n = sum(len(index) for index in groups)
    # Γ = 1/N² Σ_{y_m ≠ y_n} H(P_m, P_n): all pairs minus those within a class.
    separation = max(0.0, (-float(sums_V @ logs_V) - within) / n**2)
    cmi = max(0.0, inside / n)
    return Information(
        cmi=cmi,
        cmi_loo=max(0.0, loo / n),
        separation=separation,
        ncmi=cmi / separation if separation > 0 else float("inf"),
        entropy=entropy / n,
        class_entropy=entropy / n + cmi,
        n=n,
        classes=len(groups),
        covered=n / max(1, len(labels_N)),
    )


@dataclass(frozen=True, slots=True)
class _Class:
    """Sums over the samples of one class: divergence from its mean and from the others', entropy, P and log P."""

    inside: float
    loo: float
    entropy: float
    sum_V: Tensor
    logs_V: Tensor


def _class(outputs: Callable[[], Iterable[Tensor]], n: int) -> _Class:
    entropy = 0.0
    sum_V = finite_V = torch.zeros((), dtype=torch.float64)
    for logs_nV in outputs():
        probs_nV = logs_nV.exp()
        entropy += float(_entropy(probs_nV, logs_nV).sum())
        sum_V, finite_V = sum_V + probs_nV.sum(0), finite_V + _finite(logs_nV).sum(0)
    inside = loo = -entropy
    for logs_nV in outputs():
        probs_nV = logs_nV.exp()
        inside += float(_cross(probs_nV, sum_V / n).sum())
        others_nV = (sum_V - probs_nV) / (n - 1)
        loo += float(_cross(probs_nV, others_nV.clamp(min=torch.finfo(torch.float64).tiny)).sum())
    return _Class(inside, loo, entropy, sum_V, finite_V)


def _outputs(
    logits_NV: Tensor | Rows, index: Tensor, temperature: float, piece: int
) -> Callable[[], Iterable[Tensor]]:
    """log P of some samples [n, V] in float64, piece by piece, as often as it is asked for."""

    def read(part: Tensor) -> Tensor:
        z_nV = logits_NV[part] if isinstance(logits_NV, Tensor) else logits_NV(part)
        require_logits(z_nV, "a CMI estimate")
        return torch.log_softmax(z_nV.double() / temperature, -1)

    parts = torch.split(index, piece)
    if len(parts) == 1:
        kept = [read(parts[0])]
        return lambda: kept
    return lambda: map(read, parts)


def without_each(
    logits_NV: Tensor | Rows, labels_N: Tensor, groups_N: Tensor, *, least: int = MIN_COUNT, piece: int = PIECE
) -> Tensor:
    """The plug-in at temperature 1 without the samples of each group 0 … G − 1 in turn. float64 [G].

    One pass over the outputs, by the entropy form. Raises ConfigError for logits that are not finite, or if no
    class is large enough without some group.
    """
    count = int(groups_N.max()) + 1
    total_G, n_G = torch.zeros(count, dtype=torch.float64), torch.zeros(count, dtype=torch.long)
    for index in classes(labels_N, least):
        sizes_G = torch.bincount(groups_N[index], minlength=count)
        outputs = _outputs(logits_NV, index, 1.0, piece)()
        own_G, sums_GV = _sums(outputs, torch.split(groups_N[index], piece), count)
        left_G = len(index) - sizes_G
        mean_GV = ((sums_GV.sum(0) - sums_GV) / left_G.clamp(min=1)[:, None]).clamp(min=0.0)
        spread_G = left_G * _entropy(mean_GV, mean_GV.log()) - (own_G.sum() - own_G)
        enough_G = left_G >= least
        total_G += torch.where(enough_G, spread_G, 0.0)
        n_G += torch.where(enough_G, left_G, 0)
    if not (n_G > 0).all():
        raise ConfigError(f"No class has {least} samples without some group; give more text or lower `least`.")
    return (total_G / n_G).clamp(min=0.0)


def _sums(outputs: Iterable[Tensor], owners: Iterable[Tensor], count: int) -> tuple[Tensor, Tensor]:
    """Entropies [G] and outputs [G, V] of the samples of a class, summed by owner."""
    own_G, sums_GV = torch.zeros(count, dtype=torch.float64), torch.zeros(count, 0, dtype=torch.float64)
    for logs_nV, mine_n in zip(outputs, owners, strict=True):
        probs_nV = logs_nV.exp()
        own_G.index_add_(0, mine_n, _entropy(probs_nV, logs_nV))
        if not sums_GV.shape[1]:
            sums_GV = probs_nV.new_zeros(count, probs_nV.shape[1])
        sums_GV.index_add_(0, mine_n, probs_nV)
    return own_G, sums_GV


def classes(labels_N: Tensor, least: int) -> Iterator[Tensor]:
    """Indices of the samples of each class with at least `least` of them."""
    _, inverse, counts = torch.unique(labels_N, return_inverse=True, return_counts=True)
    order = inverse.argsort(stable=True)
    for index, count in zip(order.split(counts.tolist()), counts.tolist(), strict=True):
        if count >= least:
            yield index


def frequent(labels_N: Tensor, least: int) -> Tensor:
    """The labels that occur at least `least` times, ascending. [C]."""
    ids, counts = torch.unique(labels_N, return_counts=True)
    found: Tensor = ids[counts >= least]
    return found


def places(labels_N: Tensor, classes_C: Tensor) -> Tensor:
    """Which of the classes (ascending labels) every label is, −1 for none of them. int64 [N]."""
    if not len(classes_C):
        return torch.full_like(labels_N, -1)
    found_N = torch.searchsorted(classes_C, labels_N).clamp(max=len(classes_C) - 1)
    return torch.where(classes_C[found_N] == labels_N, found_N, -1)


def entropy_form(
    logits_NV: Tensor, labels_N: Tensor, *, temperature: float = 1.0, least: int = MIN_COUNT
) -> float:
    """The same plug-in as Σ_y P(y) [H(Q^y) − E H(P_x)]; one pass over the outputs, no divergence per sample.

    Raises ConfigError for logits that are not finite, or if no class is large enough.
    """
    require_logits(logits_NV, "a CMI estimate")
    total, n = 0.0, 0
    for index in classes(labels_N, least):
        outputs = _outputs(logits_NV, index, temperature, len(index))()
        own_G, sums_GV = _sums(outputs, [torch.zeros_like(index)], 1)
        centroid_V = sums_GV[0] / len(index)
        total += len(index) * float(_entropy(centroid_V, centroid_V.log())) - float(own_G)
        n += len(index)
    if not n:
        raise ConfigError(f"No class has {least} samples; give more text or lower `least`.")
    return max(0.0, total / n)


def sweep(
    logits_NV: Tensor | Rows,
    labels_N: Tensor,
    temperatures: Sequence[float] = TEMPERATURES,
    least: int = MIN_COUNT,
    piece: int = PIECE,
) -> dict[float, Information]:
    """The estimates of P^(1/T) for every temperature: what an attacker who softens the outputs finds."""
    return {t: information(logits_NV, labels_N, temperature=t, least=least, piece=piece) for t in temperatures}


@dataclass(frozen=True, slots=True)
class Centroids:
    """Sparse class centroids: the `k` largest probabilities of each class and the mass of the rest.

    `ids_Ck` and `probs_Ck` list them, `rest_C` is spread evenly over the V − k other tokens.
    """

    ids_Ck: Tensor
    probs_Ck: Tensor
    rest_C: Tensor
    size: int

    @classmethod
    def of(cls, dense_CV: Tensor, k: int = 512) -> Centroids:
        """Keep the `k` largest entries of each row of a table of distributions."""
        kept = dense_CV.topk(min(k, dense_CV.shape[-1]), -1)
        rest_C = (1.0 - kept.values.sum(-1)).clamp(min=0.0)
        return cls(kept.indices, kept.values, rest_C, dense_CV.shape[-1])

    def dense(self, rows: Tensor | None = None) -> Tensor:
        """The distributions of the chosen classes (all by default), [rows, V]."""
        ids, probs, rest = self.ids_Ck, self.probs_Ck, self.rest_C
        if rows is not None:
            ids, probs, rest = ids[rows], probs[rows], rest[rows]
        others = self.size - ids.shape[-1]
        base = (rest / others if others else torch.zeros_like(rest))[:, None].expand(-1, self.size)
        return base.scatter(-1, ids, probs)


def power(logits_NV: Tensor, alpha: float) -> Tensor:
    """log P^(α), the power transform P_x^α / Σ P_x^α = softmax(α z); α = 1/T (arXiv 2507.00012)."""
    return torch.log_softmax(alpha * logits_NV, -1)


def _entropy(probs: Tensor, logs: Tensor) -> Tensor:
    return -(probs * _finite(logs)).sum(-1)


def _cross(probs_nV: Tensor, reference: Tensor) -> Tensor:
    """−Σ p log q with 0 · log 0 = 0."""
    logs = reference.log().expand_as(probs_nV)
    return -torch.where(probs_nV > 0, probs_nV * logs, 0.0).sum(-1)


def _finite(logs: Tensor) -> Tensor:
    return logs.clamp(min=-745.0)  # the logarithm of the smallest float64
