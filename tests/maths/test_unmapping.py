"""Undoing one of several maps: they are told apart, texts that were not learned from are recovered."""

from __future__ import annotations

from random import Random

import pytest
import torch

from azeotrope.core.errors import ConfigError
from azeotrope.maths import lowrank, unmapping

V, D, R, T = 60, 12, 4, 15


def world(
    maps: int, texts: int, size: int = V, seed: int = 0
) -> tuple[list[torch.Tensor], list[torch.Tensor], list[int]]:
    """Originals W·h, what is shown of each through one of several maps up to a constant a row, and which."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    head_VD = 3.0 * normal(size, D) / D**0.5
    edits = [(normal(size, R) / R**0.5, lowrank.centered(normal(R, size)) / size**0.5) for _ in range(maps)]
    owners = [*range(maps), *Random(seed).choices(range(maps), k=texts - maps)]
    known = [normal(T, D) @ head_VD.T for _ in range(texts)]
    seen = [lowrank.transform(z, *edits[k]) + normal(T, 1) for z, k in zip(known, owners, strict=True)]
    return known, seen, owners


def centered(z: torch.Tensor) -> torch.Tensor:
    return z - z.mean(-1, keepdim=True)


@pytest.mark.parametrize("maps", [1, 2, 4])
def test_maps_are_told_apart_and_undone(maps: int) -> None:
    known, seen, owners = world(maps, 40)
    learned = 32
    found = unmapping.learn(seen[:learned], known[:learned], 1e-9, maps)
    names = {(a, b) for a, b in zip(owners[:learned], found.owners, strict=True)}
    assert len(names) == maps, "one name for each map"
    assert found.basis_DV.shape[0] == D
    for z, shown in zip(known[learned:], seen[learned:], strict=True):
        gap = (found.undo(shown) - centered(z)).norm() / centered(z).norm()
        assert gap < 1e-4, "also texts of which nothing was known"


@pytest.mark.parametrize(("size", "undone"), [(V, True), (D + 4, False)])
def test_one_inverse_undoes_several_maps_where_there_is_room(size: int, undone: bool) -> None:
    """Maps of rank R lead D dimensions into at most D + 3R: below V, one linear map leads back from all."""
    known, seen, _ = world(3, 200, size)
    one, three = (unmapping.learn(seen[:160], known[:160], 1e-9, maps) for maps in (1, 3))

    def worst(found: unmapping.Unmapping) -> float:
        return max(
            float((found.undo(s) - centered(z)).norm()) for z, s in zip(known[160:], seen[160:], strict=True)
        )

    assert worst(three) < 1e-2
    assert (worst(one) < 1e-2) is undone


def test_nothing_to_undo_is_left_as_it_is() -> None:
    known, _, _ = world(1, 6)
    found = unmapping.learn(known, known, 1e-3, 1)
    assert torch.allclose(found.undo(known[0]), centered(known[0]), atol=1e-9)


def test_texts_that_no_map_touched_are_left_as_they_are() -> None:
    known, _, _ = world(1, 40)
    seen = list(known)
    found = unmapping.learn(seen, known, 1e-9, 3)
    assert set(found.owners) == {0, 1, 2}
    for shown, original in zip(seen, known, strict=True):
        assert torch.allclose(found.undo(shown), original - original.mean(-1, keepdim=True), atol=1e-6)


@pytest.mark.parametrize("maps", [0, 7])
def test_more_maps_than_texts_are_refused(maps: int) -> None:
    known, seen, _ = world(1, 6)
    with pytest.raises(ConfigError, match=f"6 texts cannot tell {maps} maps apart"):
        unmapping.learn(seen, known, 1e-3, maps)
