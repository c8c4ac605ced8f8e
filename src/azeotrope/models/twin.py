"""Two copies of one model with different weights, walked as one: rows of the first half see the first copy.

A step of a small model is mostly overhead, and a step of any model reads its cache and builds its mask once a
call; walking both copies together pays for that once. Shapes: B rows, T tokens, D, E features, V vocabulary.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from azeotrope.models.lm import LM
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
        _pair_up(trunk(body), trunk(first), trunk(second))
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


def _pair_up(target: nn.Module, first: nn.Module, second: nn.Module) -> None:
    """Replace every module of `target` that owns weights by a pair of those of `first` and `second`."""
    for name, child in list(target.named_children()):
        a, b = getattr(first, name), getattr(second, name)
        if next(iter(child.parameters(recurse=False)), None) is not None:
            setattr(target, name, _paired(a, b))
        else:
            _pair_up(child, a, b)


def _paired(a: nn.Module, b: nn.Module) -> nn.Module:
    if isinstance(a, nn.Linear) and isinstance(b, nn.Linear):
        return _PairedLinear((a.weight, b.weight), (a.bias, b.bias))
    if isinstance(a, Conv1D) and isinstance(b, Conv1D):
        return _PairedLinear((a.weight.T, b.weight.T), (a.bias, b.bias))
    if isinstance(a, nn.Embedding) and isinstance(b, nn.Embedding):
        return _PairedEmbedding(a, b)
    return _PairedNorm(a, b) if _scales_by_weight(a) else _PairedAny(a, b)


class _PairedLinear(nn.Module):
    def __init__(self, weights_ED: tuple[Tensor, Tensor], biases_E: tuple[Tensor | None, Tensor | None]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack([w.detach() for w in weights_ED]), requires_grad=False)
        given = [b.detach() for b in biases_E if b is not None]
        self.bias = nn.Parameter(torch.stack(given)[:, None], requires_grad=False) if given else None

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(2, -1, x.shape[-1])
        turned = self.weight.transpose(1, 2)
        out = torch.bmm(rows, turned) if self.bias is None else torch.baddbmm(self.bias, rows, turned)
        return out.view(*x.shape[:-1], -1)


class _PairedEmbedding(nn.Module):
    def __init__(self, a: nn.Embedding, b: nn.Embedding) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.cat([a.weight.detach(), b.weight.detach()]), requires_grad=False)
        self.size = a.num_embeddings

    def forward(self, ids: Tensor) -> Tensor:
        half = len(ids) // 2
        return nn.functional.embedding(torch.cat([ids[:half], ids[half:] + self.size]), self.weight)


class _PairedNorm(nn.Module):
    """A normalization whose output is proportional to its weight: normalize once, scale by halves."""

    def __init__(self, a: nn.Module, b: nn.Module) -> None:
        super().__init__()
        self.plain = copy.deepcopy(a)
        with torch.no_grad():
            self.plain.get_parameter("weight").fill_(1.0)
        weights = [module.get_parameter("weight").detach() for module in (a, b)]
        self.weight = nn.Parameter(torch.stack(weights)[:, None], requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        normal: Tensor = self.plain(x)
        return (normal.reshape(2, -1, x.shape[-1]) * self.weight).view(x.shape)


class _PairedAny(nn.Module):
    """Anything else runs twice, on its half of the rows."""

    def __init__(self, a: nn.Module, b: nn.Module) -> None:
        super().__init__()
        self.a, self.b = copy.deepcopy(a), copy.deepcopy(b)

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2)
        return torch.cat([self.a(first), self.b(second)])


def _scales_by_weight(module: nn.Module) -> bool:
    """Whether the only parameter is a weight vector w and the output is w times that for w = 1."""
    if {name for name, _ in module.named_parameters()} != {"weight"}:
        return False
    weight = module.get_parameter("weight")
    if weight.dim() != 1:
        return False
    plain, other = copy.deepcopy(module), copy.deepcopy(module)
    ramp = torch.linspace(-1.0, 2.0, len(weight), dtype=weight.dtype, device=weight.device)
    with torch.no_grad():
        plain.get_parameter("weight").fill_(1.0)
        other.get_parameter("weight").copy_(ramp)
        return bool(torch.equal(plain(ramp.flip(0)[None]) * ramp, other(ramp.flip(0)[None])))
