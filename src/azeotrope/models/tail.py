"""What a model makes of its head's input: its logits, without the model.

Shapes: N tokens, V vocabulary, D hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from azeotrope.core.errors import ConfigError
from azeotrope.models.lm import LM


@dataclass(frozen=True, slots=True)
class Tail:
    """c·tanh(f·(W h + b)/c): the head, a factor f (Granite, Cohere; 1 for most), a soft cap c (Gemma 2)."""

    head: nn.Linear
    factor: float = 1.0
    cap: float | None = None

    @torch.no_grad()
    def __call__(self, hidden_ND: Tensor) -> Tensor:
        """Logits [N, V] in the format of `hidden_ND`, without gradients; the head computes in its own."""
        logits_NV: Tensor = self.bent(self.head(hidden_ND.to(self.head.weight.dtype)) * self.factor)
        return logits_NV.to(hidden_ND.dtype)

    def bent(self, logits_NV: Tensor) -> Tensor:
        """The logits under the soft cap."""
        return logits_NV if self.cap is None else self.cap * torch.tanh(logits_NV / self.cap)


def tail(lm: LM) -> Tail:
    """The tail of a model, tried on two tokens.

    Raises ConfigError where the logits are not made of the head's output by a factor and a soft cap.
    """
    outputs: list[Tensor] = []
    handle = lm.head.register_forward_hook(lambda module, given, output: outputs.append(output.detach()))
    ids = torch.tensor([[0, 1]], device=lm.model.device)
    try:
        with torch.no_grad():
            given = lm.model(input_ids=ids, use_cache=False).logits
    finally:
        handle.remove()
    logits, rtol = given.double(), max(1e-3, 8.0 * torch.finfo(given.dtype).eps)
    raw = outputs[0].double() if len(outputs) == 1 else torch.zeros_like(logits)
    cap = soft_cap(lm)
    straight = logits if cap is None else cap * torch.atanh((logits / cap).clamp(-1 + 1e-9, 1 - 1e-9))
    factor = float((straight * raw).sum() / raw.square().sum().clamp(min=1e-300))
    found = Tail(lm.head, 1.0 if abs(factor - 1.0) < rtol else factor, cap)
    if not torch.allclose(logits, found.bent(factor * raw), rtol=rtol, atol=rtol * float(logits.abs().max())):
        raise ConfigError(f"The logits of '{lm.ref}' are not its head's, times a factor and under a soft cap.")
    return found


def soft_cap(lm: LM) -> float | None:
    """The cap by which a model bends its logits after the head (Gemma 2), if it has one."""
    settings = lm.model.config.get_text_config()
    return getattr(settings, "final_logit_softcapping", None) or None
