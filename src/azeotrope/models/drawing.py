"""From logits to one token a row: temperature, top-k, top-p and the draw, by one setting for all rows or one each.

A row's token depends on its logits, its seed, its step and its own setting, and on nothing else of the batch.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from azeotrope.core.sampling import Sampling
from azeotrope.maths.hashrng import row_keys, uniforms

_STREAM = 0


@dataclass(frozen=True, slots=True)
class Drawn:
    """Tokens [B] (int64), which rows' logits were finite [B] (the others' tokens mean nothing), and how far each
    draw was from another token [B], if it was asked for and anything was drawn.
    """

    tokens_B: Tensor
    finite_B: Tensor
    margin_B: Tensor | None = None


class Drawing:
    """The settings of a batch's rows, in their order."""

    def __init__(self, samplings: Sequence[Sampling]) -> None:
        self.samplings = tuple(samplings)
        self.one = self.samplings[0] if len(set(self.samplings)) == 1 else None  # where all are alike
        divisors = {one.divisor for one in self.samplings}
        self.divisor = divisors.pop() if len(divisors) == 1 else None  # where it is that of all rows
        self._greedy = [one.greedy for one in self.samplings]

    def select(self, rows: Sequence[int]) -> Drawing:
        """Those of some rows."""
        return self if self.one is not None else Drawing([self.samplings[i] for i in rows])

    def join(self, other: Drawing, mine: int, theirs: int) -> Drawing:
        """Those of so many rows of this batch, and after them of another's."""
        if self.one is not None and self.one == other.one:
            return self
        return Drawing([*self._each(mine), *other._each(theirs)])

    def _each(self, rows: int) -> Sequence[Sampling]:
        return self.samplings if self.one is None else [self.one] * rows

    def scaled(self, logits_BV: Tensor) -> Tensor:
        """Logits over the temperature; as they are where the likeliest token is taken."""
        if self.divisor is not None:
            return logits_BV if self.divisor == 1.0 else logits_BV / self.divisor
        divisors = [one.divisor for one in self.samplings]
        wide = torch.promote_types(logits_BV.dtype, torch.float32)
        divisor_B1 = torch.tensor(divisors, dtype=wide, device=logits_BV.device)[:, None]
        return (logits_BV.to(wide) / divisor_B1).to(logits_BV.dtype)

    def tokens(self, logits_BV: Tensor, seeds_B: Tensor, t_B: Tensor, *, margins: bool = False) -> Drawn:
        """One token a row, from scaled logits."""
        if all(self._greedy):
            return Drawn(logits_BV.argmax(-1), torch.isfinite(logits_BV.amax(-1)))
        cdf_BV = torch.softmax(self._cut(logits_BV), -1).to(torch.float64).cumsum(-1)
        u_B1 = uniforms(row_keys(seeds_B, _STREAM, t_B), 1) * cdf_BV[:, -1:]
        drawn_B = torch.searchsorted(cdf_BV, u_B1, right=True)[:, 0].clamp(max=cdf_BV.shape[-1] - 1)
        if any(self._greedy):
            greedy_B = torch.tensor(self._greedy, device=drawn_B.device)
            drawn_B = torch.where(greedy_B, logits_BV.argmax(-1), drawn_B)
        margin_B = (cdf_BV - u_B1).abs().amin(-1) if margins else None
        return Drawn(drawn_B, torch.isfinite(u_B1[:, 0]), margin_B)

    def _cut(self, logits_BV: Tensor) -> Tensor:
        """Logits with −inf outside the top k and the top p."""
        if self.one is not None:
            return keep_top(logits_BV, self.one.top_k, self.one.top_p)
        groups: dict[tuple[int, float], list[int]] = {}
        for row, one in enumerate(self.samplings):
            groups.setdefault((one.top_k, one.top_p), []).append(row)
        if set(groups) == {(0, 1.0)}:
            return logits_BV
        out_BV = logits_BV.clone()
        for (k, p), rows in groups.items():
            out_BV[rows] = keep_top(logits_BV[rows], k, p)
        return out_BV


def keep_top(logits_BV: Tensor, k: int, p: float) -> Tensor:
    """Mask everything outside the top `k` tokens, then outside the smallest set of mass ≥ `p`, with −inf.

    The likeliest token always stays.
    """
    if 0 < k < logits_BV.shape[-1]:
        floor = logits_BV.topk(k, dim=-1).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < floor, float("-inf"))
    if p < 1.0:
        ordered, index = logits_BV.sort(dim=-1, descending=True)
        mass = torch.softmax(ordered, -1)
        drop = mass.cumsum(-1) - mass >= p
        drop[..., 0] = False  # a tiny p is 0 in single precision
        logits_BV = logits_BV.masked_fill(drop.scatter(-1, index, drop), float("-inf"))
    return logits_BV
