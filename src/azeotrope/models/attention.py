"""Attention of one new token over a long cache, on a CPU: two matrix products instead of the fused kernel.
And switches of the attention kernel.

For a single query the fused kernel's tiling has nothing to win, and the plain products read keys and values in
order: .90 ms instead of 1.56 (192 rows × 4 heads × 96 slots × 32), .17 instead of .20 (64 × 3 × 80 × 32), best
of five on one core of an AMD EPYC. Everything else (prompts, other
devices, half precision, position biases) goes to transformers' own `sdpa` function.

Shapes: B rows, H query heads, K key heads, G = H / K, C cache slots, D head dimension.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from azeotrope.models.lm import LM

NAME = "azeotrope_step"
_PLAIN = frozenset({"dropout", "scaling", "sliding_window", "position_ids", "use_cache"})


def step_attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **settings: Any
) -> tuple[Tensor, None]:
    """softmax(q·kᵀ·scale + mask)·v for queries [B, H, 1, D]; returns [B, 1, H, D]. As `sdpa` for all others."""
    unusual = {name for name, given in settings.items() if given is not None} - _PLAIN
    exact = query.dtype in (torch.float32, torch.float64)
    shared = mask is None or mask.shape[1] == 1  # one mask for all heads
    if query.shape[2] != 1 or not exact or not shared or unusual or settings.get("dropout"):
        out: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, mask, **settings)
        return out
    rows, heads, _, width = query.shape
    groups = heads // key.shape[1]
    scale = settings.get("scaling") or width**-0.5
    scores_BKGC = torch.matmul(query.view(rows, -1, groups, width), key.transpose(-1, -2)).mul_(scale)
    if mask is not None and mask.dtype == torch.bool:
        scores_BKGC.masked_fill_(~mask[..., : key.shape[2]], float("-inf"))
    elif mask is not None:
        scores_BKGC += mask[..., : key.shape[2]]
    seen = torch.matmul(scores_BKGC.softmax(-1), value)
    return seen.view(rows, 1, heads, value.shape[-1]), None


AttentionInterface.register(NAME, step_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


@contextmanager
def stepping(model: PreTrainedModel) -> Iterator[None]:
    """Within, a model set to `sdpa` attention on a CPU uses `step_attention`; others are left alone."""
    config = model.config
    if config._attn_implementation != "sdpa" or model.device.type != "cpu":
        yield
        return
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = "sdpa"


@contextmanager
def eager_attention(lm: LM) -> Iterator[None]:
    """Within, the model runs with eager attention: fused kernels have no forward-mode or second derivative."""
    before = lm.model.config._attn_implementation
    lm.model.set_attn_implementation("eager")
    try:
        yield
    finally:
        lm.model.set_attn_implementation(before)


def fast_attention(lm: LM) -> AbstractContextManager[None]:
    """For training: eager on a CPU, where the fused kernel's backward is several times slower; else as it is."""
    return eager_attention(lm) if lm.model.device.type == "cpu" else nullcontext()
