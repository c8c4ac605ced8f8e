"""Conditional mutual information against double loops, identities and known cases."""

from __future__ import annotations

import math
from dataclasses import asdict
from functools import partial

import pytest
import torch
from torch import Tensor

from azeotrope.core.errors import ConfigError
from azeotrope.maths import cmi

V = 13


def sample(n: int = 90, seed: int = 0, groups: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, groups, (n,), generator=generator)
    centers = 2.0 * torch.randn(groups, V, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, V, generator=generator, dtype=torch.float64)
    return centers[labels] + noise, labels


def brute(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> tuple[float, float, float]:
    probs = torch.softmax(logits / temperature, -1).tolist()
    names = labels.tolist()
    inside = loo = gamma = 0.0
    for i, (row, y) in enumerate(zip(probs, names, strict=True)):
        mates = [p for p, z in zip(probs, names, strict=True) if z == y]
        others = [p for j, (p, z) in enumerate(zip(probs, names, strict=True)) if z == y and j != i]
        for group, which in ((mates, "in"), (others, "out")):
            centroid = [math.fsum(c) / len(group) for c in zip(*group, strict=True)]
            value = math.fsum(p * math.log(p / q) for p, q in zip(row, centroid, strict=True))
            if which == "in":
                inside += value
            else:
                loo += value
        for other, z in zip(probs, names, strict=True):
            if z != y:
                gamma -= math.fsum(p * math.log(q) for p, q in zip(row, other, strict=True))
    n = len(names)
    return inside / n, loo / n, gamma / n**2


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_against_loops(temperature: float) -> None:
    logits, labels = sample()
    found = cmi.information(logits, labels, temperature=temperature, least=2)
    inside, loo, gamma = brute(logits, labels, temperature)
    assert found.cmi == pytest.approx(inside, rel=1e-9)
    assert found.cmi_loo == pytest.approx(loo, rel=1e-9)
    assert found.separation == pytest.approx(gamma, rel=1e-9)
    assert found.ncmi == pytest.approx(inside / gamma, rel=1e-9)
    assert cmi.entropy_form(logits, labels, temperature=temperature, least=2) == pytest.approx(inside, rel=1e-9)


@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_samples_may_come_in_pieces(piece: int) -> None:
    logits, labels = sample(seed=8)
    asked: list[int] = []

    def rows(index: torch.Tensor) -> torch.Tensor:
        asked.append(len(index))
        return logits[index]

    found = cmi.information(rows, labels, temperature=0.5, least=2, piece=piece)
    whole = cmi.information(logits, labels, temperature=0.5, least=2)
    assert asdict(found) == pytest.approx(asdict(whole), rel=1e-12)
    assert max(asked) <= piece
    logits[3] = float("nan")
    for estimate in (cmi.information, partial(cmi.without_each, groups_N=labels)):
        with pytest.raises(ConfigError, match="not finite"):
            estimate(rows, labels, least=2, piece=piece)


@pytest.mark.parametrize("piece", [5, 1000])
def test_without_each_group_in_turn(piece: int) -> None:
    logits, labels = sample(seed=9)
    logits[4, 2] = float("-inf")
    groups = torch.arange(len(labels)) % 4
    found = cmi.without_each(logits, labels, groups, least=24, piece=piece)
    expected = [cmi.information(logits[groups != g], labels[groups != g], least=24).cmi for g in range(4)]
    assert found.tolist() == pytest.approx(expected, rel=1e-9)
    kept = [len(list(cmi.classes(labels[groups != g], 24))) for g in range(4)]
    assert min(kept) < len(list(cmi.classes(labels, 24))), "a class that is large enough with all groups only"
    with pytest.raises(ConfigError, match="without some group"):
        cmi.without_each(logits, labels, labels.clamp(max=0), least=20)


def test_zero_if_and_only_if_outputs_agree_within_classes() -> None:
    logits, labels = sample(seed=1)
    centers = torch.stack([logits[labels == y][0] for y in range(3)])
    same = cmi.information(centers[labels] + torch.randn(90, 1, dtype=torch.float64), labels)
    assert same.cmi < 1e-12, "a constant per sample is no information"
    assert cmi.information(logits, labels).cmi > 0.01


def test_an_invertible_map_changes_the_number_but_not_what_is_known() -> None:
    logits, labels = sample(seed=2)
    generator = torch.Generator().manual_seed(3)
    a, b = (0.3 * torch.randn(*s, generator=generator, dtype=torch.float64) for s in ((V, 2), (2, V)))
    matrix = torch.eye(V, dtype=torch.float64) + a @ b
    moved = logits @ matrix.T
    assert torch.allclose(moved @ torch.linalg.inv(matrix).T, logits, atol=1e-9)
    assert cmi.information(moved, labels).cmi != pytest.approx(cmi.information(logits, labels).cmi, rel=1e-3)


def test_leave_one_out_is_above_and_both_meet_with_many_samples() -> None:
    few, many = (cmi.information(*sample(n, seed=4), least=2) for n in (60, 6000))
    for found in (few, many):
        assert found.cmi_loo > found.cmi
    assert (many.cmi_loo - many.cmi) < 0.05 * (few.cmi_loo - few.cmi)
    assert few.cmi < many.cmi < few.cmi_loo


def test_entropies_add_up_and_temperature_flattens() -> None:
    logits, labels = sample(seed=5)
    swept = cmi.sweep(logits, labels)
    values = [swept[t].cmi for t in cmi.TEMPERATURES]
    assert values[-1] < values[1]
    for found in swept.values():
        assert found.class_entropy == pytest.approx(found.entropy + found.cmi)
        assert found.class_entropy <= math.log(V) + 1e-9


def test_small_classes_are_left_out_and_told() -> None:
    logits, labels = sample(seed=6)
    labels[:5] = 99
    found = cmi.information(logits, labels, least=20)
    assert found.n == sum(int((labels == y).sum()) for y in range(3) if int((labels == y).sum()) >= 20)
    assert found.covered == pytest.approx(found.n / 90)
    with pytest.raises(ConfigError, match="No class has 1000"):
        cmi.information(logits, labels, least=1000)
    with pytest.raises(ConfigError, match="No class has 1000"):
        cmi.entropy_form(logits, labels, least=1000)
    with pytest.raises(ConfigError, match="positive"):
        cmi.information(logits, labels, temperature=0.0)
    with pytest.raises(ConfigError, match="at least 2"):
        cmi.information(logits, labels, least=1)


def test_sparse_centroids_keep_the_head_and_the_mass() -> None:
    table = torch.softmax(2.0 * torch.randn(4, V, dtype=torch.float64), -1)
    sparse = cmi.Centroids.of(table, 5)
    dense = sparse.dense()
    assert torch.allclose(dense.sum(-1), torch.ones(4, dtype=torch.float64))
    assert torch.allclose(dense.topk(5, -1).values, table.topk(5, -1).values)
    assert torch.allclose(cmi.Centroids.of(table, 999).dense(), table)
    assert torch.allclose(sparse.dense(torch.tensor([2, 2])), dense[[2, 2]])


def test_the_power_transform_is_a_temperature() -> None:
    logits, _ = sample(seed=7)
    p = torch.softmax(logits, -1)
    expected = p**0.4 / (p**0.4).sum(-1, keepdim=True)
    assert torch.allclose(cmi.power(logits, 0.4).exp(), expected)
    hard = cmi.information(
        torch.tensor([[1e4, 0.0], [1e4, 0.0], [0.0, 1e4], [0.0, 1e4]]), torch.tensor([0, 0, 1, 1]), least=2
    )
    assert hard.cmi == 0.0
    assert math.isfinite(hard.separation)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_refused(value: float) -> None:
    logits, labels = torch.randn(60, 13), torch.arange(60) % 3
    logits[7, 4] = value
    for estimate in (cmi.information, cmi.entropy_form):
        with pytest.raises(ConfigError, match="a CMI estimate are not finite"):
            estimate(logits, labels, least=5)
    logits[7] = float("-inf")
    with pytest.raises(ConfigError, match="not finite"):
        cmi.information(logits, labels, least=5)
    logits[7] = 0.0
    logits[7, 4] = float("-inf")
    assert cmi.information(logits, labels, least=5).cmi > 0.0, "a token that is ruled out is none"
