"""DOGe's term against loops and finite differences, its mask and its bound."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from azeotrope.core.errors import ConfigError
from azeotrope.models.corpus import read
from azeotrope.models.learnable import learnable
from azeotrope.models.repel import Repulsion
from models.learning_drive import DOUBLE, QUICK, along, corpus, learn, models, reasoned, shake, slope
from tiny import fresh, toy_traces


def brute(objective: Repulsion, chosen: list[int]) -> float:
    """Token by token over the reasoning of the chosen traces, proxy by proxy."""
    found, values = objective.corpus, []
    for i in chosen:
        rows = torch.arange(found.slices[i].start, found.slices[i].stop)
        moved = objective.moved(rows)
        text = found.traces[i].text
        for position, row in enumerate(rows.tolist()):
            start, end = len("<think>"), text.find("</think>") if "</think>" in text else len(text)
            if not start <= position < end:
                continue
            p = torch.softmax(moved[position] / objective.alpha, -1).tolist()
            for view in found.others:
                q = torch.softmax(view.logits(slice(row, row + 1))[0] / objective.alpha, -1).tolist()
                kl = math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
                values.append(min(kl, objective.cap))
    return math.fsum(values) / len(values)


@pytest.mark.parametrize("rank", [0, 3])
@pytest.mark.parametrize("capped", [False, True])
def test_the_term_and_its_gradient(rank: int, capped: bool) -> None:
    teacher, found = corpus(8, DOUBLE, proxies=2)
    objective = Repulsion(found, learnable(teacher, rank, 1, DOUBLE), alpha=1.7, cap=1e9)
    shake(objective)
    chosen = [2, 5, 0]
    rows = found.rows(chosen)
    free = objective.measure(chosen, rows, objective.moved(rows)).item()
    if capped:
        objective.cap = free  # about half of the tokens are above their mean
    value = objective.measure(chosen, rows, objective.moved(rows))
    assert (0.3 * free < value.item() < 0.95 * free) if capped else (value.item() == free)
    with torch.no_grad():
        assert value.item() == pytest.approx(brute(objective, chosen), rel=1e-9)
    parameters = objective.head.parameters
    got = along(value, parameters)
    assert abs(got) > 1e-3
    expected = slope(lambda: objective.measure(chosen, rows, objective.moved(rows)), parameters)
    assert got == pytest.approx(expected, rel=1e-5)


def test_only_reasoning_is_repelled() -> None:
    """What the teacher says outside of its reasoning can be anything: the term does not see it."""
    teacher, found = corpus(8, DOUBLE)
    objective = Repulsion(found, learnable(teacher, 0, 1, DOUBLE))
    chosen = list(range(8))
    rows = found.rows(chosen)
    moved = objective.moved(rows).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(objective.measure(chosen, rows, moved), moved)
    moves = gradient.abs().amax(-1) > 0
    assert torch.equal(moves, found.reasoning_N[rows])
    assert 0.2 < moves.double().mean() < 0.8
    elsewhere = torch.where(found.reasoning_N[rows][:, None], moved, torch.randn_like(moved))
    assert objective.measure(chosen, rows, elsewhere) == objective.measure(chosen, rows, moved)


@pytest.mark.parametrize("size", [0.0, 1.0, 100.0, 1e4])
def test_the_term_is_bounded_whatever_the_edit(size: float) -> None:
    teacher, found = corpus(8)
    objective = Repulsion(found, learnable(teacher, 0, 1), cap=2.5)
    shake(objective, size)
    rows = found.rows(range(8))
    value = objective.measure(list(range(8)), rows, objective.moved(rows)).item()
    assert 0.0 <= value <= 2.5
    if size > 10.0:
        unbounded = Repulsion(found, objective.head, cap=1e9)
        assert unbounded.measure(list(range(8)), rows, objective.moved(rows)).item() > 3.0


def test_the_teacher_moves_away_more_where_it_reasons_than_elsewhere() -> None:
    teacher, found = corpus(60)
    done = learn(Repulsion(found, learnable(teacher, 0, 1), cap=5.0), replace(QUICK, lam=1.0, epochs=15, checks=2))
    notes = done.notes
    grown = {
        part: notes[f"divergence_{part}_after"] / notes[f"divergence_{part}_before"]
        for part in ("reasoning", "rest")
    }
    assert grown["reasoning"] > 1.5
    assert grown["reasoning"] > grown["rest"]
    assert notes["reasoning_share"] == pytest.approx(
        found.reasoning_N[found.rows(found.held_out)].double().mean().item()
    )
    control = learn(
        Repulsion(found, learnable(teacher, 0, 1), cap=5.0), replace(QUICK, lam=0.0, epochs=15, checks=2)
    )
    assert done.chosen.measure > 1.5 * control.chosen.measure


def test_traces_without_reasoning_are_refused_and_batches_without_it_are_not() -> None:
    teacher, (proxy,) = models()
    silent = [replace(t, text="<think></think> a") for t in toy_traces(8)]
    with pytest.raises(ConfigError, match="None of the 6 training traces has a reasoning token"):
        Repulsion(read(teacher, [proxy], silent), learnable(teacher, 0, 1))
    with pytest.raises(ConfigError, match="None of the 2 held-out traces has a reasoning token"):
        Repulsion(read(teacher, [proxy], silent[:2] + reasoned(6)), learnable(teacher, 0, 1))
    mixed = read(teacher, [proxy], reasoned(4) + silent[:4])
    objective = Repulsion(mixed, learnable(teacher, 0, 1))
    rows = mixed.rows([6, 7])
    assert objective.measure([6, 7], rows, objective.moved(rows)).item() == 0.0
    with pytest.raises(ConfigError, match="vocabulary of 40 tokens but the teacher"):
        read(teacher, [proxy, fresh("qwen2", vocab=40)], reasoned(8))
