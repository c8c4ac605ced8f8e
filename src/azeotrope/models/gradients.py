"""Downstream losses and their gradients: what the defender knows about how a proxy learns.

Shapes: B rows, T tokens, V vocabulary, D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from azeotrope.core.errors import ConfigError
from azeotrope.core.types import Trace
from azeotrope.models.lm import LM

IGNORE = -100
_TOO_FEW = "A gradient and its split-half cosine need at least two holdout traces; raise `holdout`."


@dataclass(frozen=True, slots=True)
class ProxyGradient:
    """∇ℓ on holdout traces: `vectors` by parameter name, mean loss (nats/token), split-half cosine, n traces."""

    vectors: Mapping[str, Tensor]
    loss: float
    split_half_cosine: float
    n: int

    @property
    def norm(self) -> float:
        """The Euclidean norm over all parameters."""
        return float(torch.sqrt(sum((v.double() ** 2).sum() for v in self.vectors.values())))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Right-padded ids, mask and labels, all [B, T]; labels are `IGNORE` on prompts and padding."""

    ids_BT: Tensor
    mask_BT: Tensor
    labels_BT: Tensor


def token_batches(lm: LM, traces: Sequence[Trace], batch_size: int) -> Iterator[TokenBatch]:
    """Tokenize prompt and completion (with end of sequence where the trace finished) into batches."""
    pairs = list(zip(lm.encode_many([t.prompt for t in traces]), completions(lm, traces), strict=True))
    pairs.sort(key=lambda pair: len(pair[0]) + len(pair[1]))
    for start in range(0, len(pairs), batch_size):
        yield pad_batch(pairs[start : start + batch_size], lm.pad)


def completions(lm: LM, traces: Sequence[Trace]) -> list[list[int]]:
    """Token ids of the completions; finished ones end with the end-of-sequence token."""
    ids = lm.encode_many([t.text for t in traces])
    return [[*row, lm.eos] if trace.finished else row for row, trace in zip(ids, traces, strict=True)]


def pad_batch(pairs: Sequence[tuple[list[int], list[int]]], pad: int) -> TokenBatch:
    """Right-pad (prompt, completion) pairs; only completions carry labels."""
    longest = max(len(a) + len(b) for a, b in pairs)
    ids_BT = torch.full((len(pairs), longest), pad, dtype=torch.long)
    labels_BT = torch.full((len(pairs), longest), IGNORE, dtype=torch.long)
    mask_BT = torch.zeros((len(pairs), longest), dtype=torch.long)
    for i, (prompt, completion) in enumerate(pairs):
        n = len(prompt) + len(completion)
        ids_BT[i, :n] = torch.tensor(prompt + completion)
        labels_BT[i, len(prompt) : n] = torch.tensor(completion)
        mask_BT[i, :n] = 1
    return TokenBatch(ids_BT, mask_BT, labels_BT)


def nll(lm: LM, traces: Sequence[Trace], batch_size: int = 64) -> float:
    """Mean negative log-likelihood of the completions in nats per token."""
    total, count = 0.0, 0
    with torch.no_grad():
        for batch in token_batches(lm, traces, batch_size):
            loss, n = _summed_loss(lm, batch)
            total, count = total + float(loss), count + n
    return total / max(1, count)


def _summed_loss(lm: LM, batch: TokenBatch) -> tuple[Tensor, int]:
    labels_N = batch.labels_BT[:, 1:][batch.labels_BT[:, 1:] != IGNORE]
    with labeled_logits(lm.head, batch.labels_BT):
        logits_NV = lm.model(input_ids=batch.ids_BT, attention_mask=batch.mask_BT).logits
    return F.cross_entropy(logits_NV, labels_N, reduction="sum"), len(labels_N)


@contextmanager
def labeled_logits(head: nn.Module, labels_BT: Tensor) -> Iterator[None]:
    """Inside, the model's logits are [N, V]: only those that predict the N labeled tokens, row after row.

    Those of prompts and padding are never computed.
    """
    keep_BT = labels_BT[:, 1:] != IGNORE

    def choose(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return args[0][:, :-1][keep_BT], *args[1:]

    handle = head.register_forward_pre_hook(choose)
    try:
        yield
    finally:
        handle.remove()


def proxy_gradient(lm: LM, traces: Sequence[Trace], batch_size: int = 32) -> ProxyGradient:
    """Gradient of the mean token loss on `traces` with its split-half cosine (odd against even traces).

    Raises ConfigError with fewer than two traces.
    """
    if len(traces) < 2:
        raise ConfigError(_TOO_FEW)
    halves = [_gradient_of(lm, traces[i::2], batch_size) for i in (0, 1)]
    (g0, loss0, n0), (g1, loss1, n1) = halves
    total = n0 + n1
    vectors = {name: (g0[name] + g1[name]) / total for name in g0}
    dot = sum(float((g0[k].double() * g1[k].double()).sum()) for k in g0)
    norms = [sum(float((g[k].double() ** 2).sum()) for k in g) ** 0.5 for g in (g0, g1)]
    cosine = dot / max(norms[0] * norms[1], 1e-300)
    return ProxyGradient(vectors, (loss0 + loss1) / total, cosine, len(traces))


def _gradient_of(lm: LM, traces: Sequence[Trace], batch_size: int) -> tuple[dict[str, Tensor], float, int]:
    """Summed (not averaged) gradient, summed loss and token count."""
    lm.model.zero_grad(set_to_none=True)
    total, count = 0.0, 0
    with torch.enable_grad():
        for batch in token_batches(lm, traces, batch_size):
            loss, n = _summed_loss(lm, batch)
            loss.backward()  # type: ignore[no-untyped-call]
            total, count = total + float(loss.detach()), count + n
    grads = {
        name: (torch.zeros_like(p) if p.grad is None else p.grad.detach().clone())
        for name, p in lm.model.named_parameters()
    }
    lm.model.zero_grad(set_to_none=True)
    return grads, total, count


def head_gradient(lm: LM, traces: Sequence[Trace], batch_size: int = 64) -> ProxyGradient:
    """Closed-form ∂ℓ/∂W of the LM head alone, G = Σ (p − e_y) hᵀ / N, [V, D], key ``head``.

    Only the head's own use of W counts, also where W is tied to the input embedding.
    Raises ConfigError with fewer than two traces.
    """
    if len(traces) < 2:
        raise ConfigError(_TOO_FEW)
    halves = []
    for part in (traces[0::2], traces[1::2]):
        total_VD = torch.zeros_like(lm.head.weight)
        loss, count = 0.0, 0
        with torch.no_grad():
            for batch in token_batches(lm, part, batch_size):
                hidden_ND, logits_NV, labels_N = head_inputs(lm, batch)
                error_NV = torch.softmax(logits_NV, -1)
                error_NV[torch.arange(len(labels_N)), labels_N] -= 1.0
                total_VD += error_NV.T @ hidden_ND
                loss += float(F.cross_entropy(logits_NV, labels_N, reduction="sum"))
                count += len(labels_N)
        halves.append((total_VD, loss, count))
    (g0, l0, n0), (g1, l1, n1) = halves
    cosine = float(F.cosine_similarity(g0.double().flatten(), g1.double().flatten(), dim=0))
    return ProxyGradient({"head": (g0 + g1) / (n0 + n1)}, (l0 + l1) / (n0 + n1), cosine, len(traces))


def head_inputs(lm: LM, batch: TokenBatch) -> tuple[Tensor, Tensor, Tensor]:
    """At labeled positions: LM-head inputs [N, D], logits [N, V], labels [N]."""
    captured: list[Tensor] = []
    handle = lm.head.register_forward_pre_hook(lambda _m, args: captured.append(args[0]))
    try:
        logits = lm.model(input_ids=batch.ids_BT, attention_mask=batch.mask_BT).logits[:, :-1]
    finally:
        handle.remove()
    labels = batch.labels_BT[:, 1:]
    keep = labels != IGNORE
    return captured[0][:, :-1][keep], logits[keep], labels[keep]
