"""Undoing one of several linear maps of the logits, from texts along which the originals are known too.

Two facts tell maps apart. What a low-rank map adds to the logits of a text lies in one small subspace, the same
for every text that went through it. And a model's logits span a subspace of the size of its hidden layer only, so
that undoing the wrong map leaves it. The second fact has a consequence: K maps of rank R lead D dimensions into at
most D + K·R, and to at most K·D; while either is no more than V, a single linear map can undo all of them.

Shapes: T tokens of one text, N of many, V vocabulary, D dimensions of a subspace.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from azeotrope.core.errors import ConfigError
from azeotrope.maths import lowrank

ENERGY = 0.99  # of what a text's map added, by which its subspace is known
NOISE = 1e-5  # of the largest singular value of the known logits; below, it is rounding
ROUNDS = 20


@dataclass(frozen=True, slots=True)
class Unmapping:
    """Learned inverses, the text each pair was assigned to, and the subspace of the originals."""

    maps: tuple[lowrank.Fitted, ...]
    owners: tuple[int, ...]  # of the texts that were learned from
    basis_DV: Tensor

    def undo(self, seen_TV: Tensor) -> Tensor:
        """The originals behind one text's logits, centered, in float64, by the map that leads back best."""
        found = [fitted(_centered(seen_TV)) for fitted in self.maps]
        return min(found, key=self._outside) if len(found) > 1 else found[0]

    def _outside(self, logits_TV: Tensor) -> float:
        """The share of the energy that lies outside of the subspace of the originals."""
        inside_TD = logits_TV @ self.basis_DV.T
        return 1.0 - float(inside_TD.square().sum() / logits_TV.square().sum().clamp(min=1e-300))


def learn(seen: Sequence[Tensor], known: Sequence[Tensor], ridge: float, maps: int = 1) -> Unmapping:
    """Learn `maps` inverses from texts' logits as they are shown and as they were, each [T, V].

    Texts are dealt to the maps by what was added to them, then inverses and owners are fitted in turn. Raises
    ConfigError if there are fewer texts than maps, or as `lowrank.fit_map` does.
    """
    if not 1 <= maps <= len(seen):
        raise ConfigError(
            f"{len(seen)} texts cannot tell {maps} maps apart; give more pairs or look for fewer maps."
        )
    originals_NV = torch.cat([_centered(one) for one in known])
    _, sizes_D, basis_DV = torch.linalg.svd(originals_NV, full_matrices=False)
    basis_DV = basis_DV[sizes_D > NOISE * sizes_D[0]]
    owners = [0] * len(seen) if maps == 1 else _dealt([b - a for a, b in _pairs(known, seen)], maps)
    for _ in range(ROUNDS):
        found = tuple(_fitted(seen, known, owners, k, ridge) for k in range(maps))
        errors = [
            [float((fitted(_centered(s)) - _centered(z)).square().sum()) for fitted in found]
            for z, s in _pairs(known, seen)
        ]
        nearest = [row.index(min(row)) for row in errors]
        if nearest == owners or len(set(nearest)) < maps:
            break
        owners = nearest
    return Unmapping(found, tuple(owners), basis_DV)


def _fitted(
    seen: Sequence[Tensor], known: Sequence[Tensor], owners: Sequence[int], k: int, ridge: float
) -> lowrank.Fitted:
    mine = [i for i, owner in enumerate(owners) if owner == k]
    return lowrank.fit_map(torch.cat([seen[i] for i in mine]), torch.cat([known[i] for i in mine]), ridge)


def _dealt(added: Sequence[Tensor], maps: int) -> list[int]:
    """An owner for every text: texts least alike found the groups, the others join the one they are most like."""
    spans = [_span(_centered(one)) for one in added]
    alike = torch.tensor([[_captured(_centered(one), span_DV) for span_DV in spans] for one in added])
    alike = torch.minimum(alike, alike.T)
    founders = [int(alike.sum(0).argmax())]
    while len(founders) < maps:
        nearest_N = alike[:, founders].amax(1)
        nearest_N[founders] = torch.inf  # texts to which nothing was added are not even like themselves
        founders.append(int(nearest_N.argmin()))
    owners: list[int] = alike[:, founders].argmax(1).tolist()
    for k, founder in enumerate(founders):  # so that no group is empty
        owners[founder] = k
    return owners


def _span(added_TV: Tensor) -> Tensor:
    """Directions that hold `ENERGY` of what was added. [D, V]."""
    _, sizes_T, directions_TV = torch.linalg.svd(added_TV, full_matrices=False)
    energy_T = sizes_T.square().cumsum(0) / sizes_T.square().sum().clamp(min=1e-300)
    found_DV: Tensor = directions_TV[: int((energy_T < ENERGY).sum()) + 1]
    return found_DV


def _captured(added_TV: Tensor, span_DV: Tensor) -> float:
    return float((added_TV @ span_DV.T).square().sum() / added_TV.square().sum().clamp(min=1e-300))


def _pairs(first: Sequence[Tensor], second: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    return [(a.double(), b.double()) for a, b in zip(first, second, strict=True)]


def _centered(logits_TV: Tensor) -> Tensor:
    exact = logits_TV.double()
    return exact - exact.mean(-1, keepdim=True)
