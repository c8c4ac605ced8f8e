"""What numbers must be before anything is computed from them.

Shapes: N rows, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from azeotrope.core.errors import ConfigError


def require_logits(logits_NV: Tensor, whose: str) -> None:
    """Raise ConfigError, naming `whose`, for NaN, for +inf, and for a row without any finite entry.

    −inf is a token that was ruled out.
    """
    top_N = logits_NV.amax(-1) if logits_NV.numel() else logits_NV.new_zeros(0)
    if logits_NV.isnan().any() or not torch.isfinite(top_N).all():
        raise ConfigError(
            f"The logits of {whose} are not finite; check the model's weights and its number format."
        )
