"""Text that is gone through in pieces gives what it gives whole, and no more logits than fit are held."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from azeotrope.maths.divergences import forward_kl
from azeotrope.models import corpus as corpora
from azeotrope.models.cluster import Clusters
from azeotrope.models.corpus import Corpus, View
from azeotrope.models.edit_report import edited, moved_by
from azeotrope.models.head_training import Objective, _Loop, cross_entropy
from azeotrope.models.learnable import learnable
from azeotrope.models.purify import Cosine, cosine
from azeotrope.models.repel import Repulsion
from models.learning_drive import DOUBLE, QUICK, corpus, models, shake

Make = Callable[..., Objective]
OBJECTIVES: dict[str, Make] = {
    "cosine in the head": lambda teacher, proxy, text, *t: Cosine(text, learnable(teacher, 3, 1, *t), proxy),
    "cosine in a block": lambda teacher, proxy, text, *t: Cosine(
        text, learnable(teacher, 3, 1, *t), proxy, layer="block"
    ),
    "repulsion": lambda teacher, proxy, text, *t: Repulsion(text, learnable(teacher, 0, 1, *t)),
    "clusters": lambda teacher, proxy, text, *t: Clusters(
        text, learnable(teacher, 3, 1, *t), sign=1.0, powers=(0.5, 1.0, 2.0), draws=2, least=3
    ),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_held_out_text_in_pieces(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, found = corpus(24)
    objective = OBJECTIVES[name](teacher, models()[1][0], found)
    shake(objective, 0.3)
    chosen = list(found.held_out)
    assert len(list(found.parts(chosen))) == 1
    whole = objective.held_out(chosen, objective.moved), cross_entropy(found, chosen, objective.moved, 0.7)
    rows = found.rows(chosen)
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(objective.moved(rows) / 0.7, found.labels_N[rows])
    assert whole[1] == pytest.approx(loss.item(), rel=1e-6)
    monkeypatch.setattr(corpora, "ROOM", 67 * 60)
    parts = list(found.parts(chosen))
    assert 1 < len(parts) < len(chosen)
    assert [i for part in parts for i in part] == chosen
    assert objective.held_out(chosen, objective.moved) == pytest.approx(whole[0], rel=1e-5)
    assert cross_entropy(found, chosen, objective.moved, 0.7) == pytest.approx(whole[1], rel=1e-6)
    asked = watch(found, monkeypatch)
    objective.held_out(chosen, objective.moved)
    objective.report(rows, objective.head.edit())
    assert max(asked) <= 60


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_step_in_pieces_has_the_same_gradient(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, found = corpus(24, DOUBLE)
    proxy = models(DOUBLE)[1][0]
    chosen, ends = list(found.training), []
    for room in (corpora.ROOM, 67 * 60):
        monkeypatch.setattr(corpora, "ROOM", room)
        objective = OBJECTIVES[name](teacher, proxy, found, DOUBLE)
        assert (len(objective.parts(chosen)) == 1) == (room != 67 * 60)
        shake(objective, 0.3)
        objective.begin(0)
        loop = _Loop(objective, QUICK)
        measure = loop._backward(chosen)
        ends.append((measure, [p.grad.clone() for p in objective.head.parameters if p.grad is not None]))
    (whole, first), (pieces, second) = ends
    assert pieces == pytest.approx(whole, rel=1e-7)
    assert len(first) == len(second) > 0
    for one, other in zip(first, second, strict=True):
        assert torch.allclose(one, other, rtol=1e-6, atol=1e-9 * float(one.abs().max()))


def test_a_trace_that_is_too_long_is_a_part_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    _, found = corpus(8)
    monkeypatch.setattr(corpora, "ROOM", 1)
    assert list(found.parts([5, 2])) == [[5], [2]]
    assert list(found.parts([])) == []


def test_a_trace_without_rows_is_in_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, whole = corpus(8)
    slices = tuple(slice(s.start, s.start) if i == 5 else s for i, s in enumerate(whole.slices))
    found = replace(whole, slices=slices)
    for room in (corpora.ROOM, 1):
        monkeypatch.setattr(corpora, "ROOM", room)
        objective = OBJECTIVES["repulsion"](teacher, teacher, found)
        assert [i for part in found.parts([5, 6, 7]) for i in part] == [6, 7]
        assert math.isfinite(_Loop(objective, QUICK)._backward([5, 6, 7]))
        assert _Loop(objective, QUICK)._backward([5]) == 0.0


def test_the_cosine_of_long_gradients() -> None:
    """Sums over as many numbers as a head has must not lose them."""
    generator = torch.Generator().manual_seed(0)
    g = torch.randn(20_000_000, generator=generator)
    other = g + 0.5 * torch.randn(len(g), generator=generator)
    exact = (g.double() @ other.double()) / (g.double().norm() * other.double().norm())
    assert cosine(g, other).item() == pytest.approx(exact.item(), rel=1e-5)
    assert cosine(g, g).item() == pytest.approx(1.0, abs=1e-5)
    assert cosine(torch.zeros(3), torch.ones(3)).item() == 0.0


def test_the_divergence_of_an_edit_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, found = corpus(8)
    objective = OBJECTIVES["repulsion"](teacher, teacher, found)
    shake(objective, 0.3)
    moved, rows = edited(found, objective.head.edit()), found.rows([0, 1, 2, 3])
    logs, other = (torch.log_softmax(z(rows).double(), -1) for z in (found.teacher.logits, moved))
    expected = forward_kl(logs, other).mean().item()
    for room in (corpora.ROOM, 67 * 5):
        monkeypatch.setattr(corpora, "ROOM", room)
        assert moved_by(found, rows, moved) == pytest.approx(expected, rel=1e-6)


def watch(found: Corpus, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows of logits are asked for at a time from here on."""
    asked: list[int] = []
    inner = View.logits

    def logits(view: View, rows: torch.Tensor | slice) -> torch.Tensor:
        out = inner(view, rows)
        asked.append(len(out))
        return out

    monkeypatch.setattr(View, "logits", logits)
    return asked
