"""Two copies of one model with different weights, walked as one: rows of the first half see the first copy.

A step of a small model is mostly overhead, and a step of any model reads its cache and builds its mask once a
call; walking both copies together pays for that once. Shapes: B rows, T tokens, D, E features, V vocabulary.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from azeotrope.models.lm import LM
from azeotrope.models.stack import stack_into
from azeotrope.models.stepper import is_plain, trunk


class Twin:
    """`lm` runs the trunks of `first` and `second` on 2B stacked rows; the heads are applied here."""

    def __init__(self, lm: LM, first: LM, second: LM) -> None:
        self.lm = lm
        self.heads_VD = (first.head.weight.detach(), second.head.weight.detach())
        self.biases_V = (first.head.bias, second.head.bias)
        self.stacked_VD = torch.cat([self.heads_VD[0], -self.heads_VD[1]], dim=1)

    def difference(self, hidden_2BD: Tensor, onto_BV: Tensor | None = None, scale: float = 1.0) -> Tensor:
        """Return `onto` + scale·(logits of the first copy − logits of the second), [B, V]: one product."""
        both_BD = torch.cat(hidden_2BD.chunk(2), dim=1)
        if onto_BV is None:
            out = both_BD @ self.stacked_VD.T
            out = out * scale if scale != 1.0 else out
        else:
            out = torch.addmm(onto_BV, both_BD, self.stacked_VD.T, alpha=scale)
        plus, minus = self.biases_V
        return out if plus is None or minus is None else out + scale * (plus - minus)

    def logits(self, hidden_2BD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of both copies, each [B, V]."""
        halves = hidden_2BD.chunk(2)
        first, second = (
            nn.functional.linear(h, w, b) for h, w, b in zip(halves, self.heads_VD, self.biases_V, strict=True)
        )
        return first, second


def make_twin(first: LM, second: LM) -> Twin | None:
    """Stack two copies of one architecture, or return None where that does not reproduce their outputs.

    Tried on a small batch before use: models whose logits are more than head(trunk), or that mix rows, or
    hold weights in unknown ways, keep being walked one after the other.
    """
    if not (is_plain(first) and is_plain(second)):
        return None
    model = copy.deepcopy(first.model)
    body = LM(model, first.tokenizer, first.ref, first.revision)
    try:
        stack_into(trunk(body), [trunk(first), trunk(second)])
        found = Twin(body, first, second)
        return found if _agrees(found, first, second) else None
    except (RuntimeError, TypeError, AttributeError, ValueError, IndexError):
        return None


def _agrees(twin: Twin, first: LM, second: LM) -> bool:
    device = first.model.device
    ids_BT = torch.arange(6, device=device).view(2, 3) % first.vocab_size
    mask_BT = torch.tensor([[0, 1, 1], [1, 1, 1]], device=device)

    def run(lm: LM, copies: int) -> Tensor:
        inputs: dict[str, Any] = {
            "input_ids": ids_BT.repeat(copies, 1),
            "attention_mask": mask_BT.repeat(copies, 1),
            "use_cache": False,
        }
        if "position_ids" in lm.forward_keys:
            inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        hidden: Tensor = trunk(lm)(**inputs).last_hidden_state[:, -1]
        return hidden

    with torch.no_grad():
        wanted = torch.cat([run(first, 1), run(second, 1)])
        got = run(twin.lm, 2)
    tolerance = 1e-4 if wanted.dtype in (torch.float32, torch.float64) else 3e-2
    return bool(torch.allclose(got.double(), wanted.double(), rtol=tolerance, atol=tolerance))
