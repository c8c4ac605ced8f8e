"""Several copies of one architecture as one module: the rows of a batch are shared out among the copies.

Row block i of N equal blocks goes through copy i. Everything without weights (attention, rotations, caches)
runs once over all rows. Shapes: N copies, D, E features.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


def stack_into(target: nn.Module, copies: Sequence[nn.Module]) -> None:
    """Replace every module of `target` that owns weights by one that holds those of all `copies`.

    `target` must have the copies' architecture. Raises ValueError for a module that cannot be stacked.
    """
    for name, child in list(target.named_children()):
        parts = [getattr(module, name) for module in copies]
        if next(iter(child.parameters(recurse=False)), None) is None:
            stack_into(child, parts)
        else:
            setattr(target, name, stacked(parts))


def stacked(parts: Sequence[nn.Module]) -> nn.Module:
    """One module for several of a kind."""
    linear = [part for part in parts if isinstance(part, nn.Linear)]
    turned = [part for part in parts if isinstance(part, Conv1D)]
    tables = [part for part in parts if isinstance(part, nn.Embedding)]
    if len(linear) == len(parts):
        return StackedLinear([part.weight for part in linear], [part.bias for part in linear])
    if len(turned) == len(parts):
        return StackedLinear([part.weight.T for part in turned], [part.bias for part in turned])
    if len(tables) == len(parts):
        return StackedEmbedding(tables)
    return StackedNorm(parts) if scales_by_weight(parts[0]) else StackedAny(parts)


class StackedLinear(nn.Module):
    """N linear maps as one batched product."""

    def __init__(self, weights_ED: Sequence[Tensor], biases_E: Sequence[Tensor | None]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack([weight.detach() for weight in weights_ED]))
        given = [bias.detach() for bias in biases_E if bias is not None]
        self.bias = nn.Parameter(torch.stack(given)[:, None]) if given else None

    def forward(self, x: Tensor) -> Tensor:
        """Map [N·B, …, D] to [N·B, …, E]."""
        rows = x.reshape(len(self.weight), -1, x.shape[-1])
        turned = self.weight.transpose(1, 2)
        out = torch.bmm(rows, turned) if self.bias is None else torch.baddbmm(self.bias, rows, turned)
        return out.view(*x.shape[:-1], -1)


class StackedEmbedding(nn.Module):
    """N embedding tables as one long table."""

    def __init__(self, tables: Sequence[nn.Embedding]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.cat([table.weight.detach() for table in tables]))
        self.copies, self.size = len(tables), tables[0].num_embeddings

    def forward(self, ids: Tensor) -> Tensor:
        """Look up ids [N·B, …]; raises ValueError if the rows cannot be shared out."""
        if len(ids) % self.copies:
            raise ValueError(f"{len(ids)} rows cannot be shared out among {self.copies} copies.")
        offset = torch.arange(self.copies, device=ids.device).repeat_interleave(len(ids) // self.copies)
        offset = self.size * offset.view(-1, *[1] * (ids.dim() - 1))
        return nn.functional.embedding(ids + offset, self.weight)


class StackedNorm(nn.Module):
    """N normalizations whose output is proportional to their weight: normalize once, scale by blocks."""

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.plain = copy.deepcopy(parts[0]).requires_grad_(False)
        with torch.no_grad():
            self.plain.get_parameter("weight").fill_(1.0)
        self.weight = nn.Parameter(torch.stack([p.get_parameter("weight").detach() for p in parts])[:, None])

    def forward(self, x: Tensor) -> Tensor:
        """Normalize [N·B, …, D]."""
        normal: Tensor = self.plain(x)
        return (normal.reshape(len(self.weight), -1, x.shape[-1]) * self.weight).view(x.shape)


class StackedAny(nn.Module):
    """Anything else runs N times, each on its block of rows."""

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(copy.deepcopy(part) for part in parts)

    def forward(self, x: Tensor) -> Tensor:
        """Apply copy i to block i of [N·B, …]."""
        blocks = x.chunk(len(self.parts))
        return torch.cat([part(block) for part, block in zip(self.parts, blocks, strict=True)])


def scales_by_weight(module: nn.Module) -> bool:
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
