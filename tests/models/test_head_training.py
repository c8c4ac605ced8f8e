"""One loop for all methods: against a loop written out, and what must not depend on what."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest
import torch
from torch import Tensor

from azeotrope.maths import lowrank
from azeotrope.models.cluster import Clusters
from azeotrope.models.corpus import Corpus
from azeotrope.models.head_edit import HeadShift, LogitMap
from azeotrope.models.head_training import Objective
from azeotrope.models.learnable import Learnable, learnable
from azeotrope.models.lm import LM
from azeotrope.models.purify import Cosine
from azeotrope.models.repel import Repulsion
from models.learning_drive import QUICK, corpus, learn, models

Make = Callable[[LM, Corpus, Learnable], Objective]
EVERY: dict[str, Make] = {
    "cosine": lambda _, c, head: Cosine(c, head, models()[1][0]),
    "repulsion": lambda _, c, head: Repulsion(c, head),
    "drawn": lambda _, c, head: Clusters(c, head, sign=1.0, powers=(0.5, 1.0, 2.0), draws=2, least=3),
    "driven": lambda _, c, head: Clusters(c, head, sign=-1.0, least=3, cap=4.0),
}


def written_out(found: Corpus, head: Learnable, extra: Callable[[Tensor, Tensor], Tensor] | None) -> list[Tensor]:
    """The training loop of QUICK, spelled out; `extra` takes rows and edited logits."""
    optimizer = torch.optim.AdamW(head.parameters, lr=QUICK.lr, betas=(0.9, 0.999), weight_decay=0.01)
    order, rng = list(found.training), Random(1)
    steps = QUICK.epochs * math.ceil(len(order) / 8)
    done = 0
    for _ in range(QUICK.epochs):
        rng.shuffle(order)
        for start in range(0, len(order), 8):
            at = (done + 0.5) / steps
            warm = at / 0.1 if at < 0.1 else 1.0
            fall = 0.5 * (1 + math.cos(math.pi * (at - 0.1) / 0.9)) if at > 0.1 else 1.0
            optimizer.param_groups[0]["lr"] = QUICK.lr * warm * fall
            rows = torch.cat(
                [torch.arange(found.slices[i].start, found.slices[i].stop) for i in order[start : start + 8]]
            )
            moved = head.moved(found.teacher.logits(rows), found.teacher.hidden_ND[rows])
            logs = torch.log_softmax(moved / 0.7, -1)
            loss = -logs[torch.arange(len(rows)), found.labels_N[rows]].mean()
            if extra is not None:
                loss = loss + extra(rows, moved)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            done += 1
    return [p.detach() for p in head.parameters]


@pytest.mark.parametrize("rank", [0, 3])
@pytest.mark.parametrize("name", EVERY)
def test_without_lambda_every_method_is_plain_training(name: str, rank: int) -> None:
    teacher, found = corpus()
    plain = written_out(found, learnable(teacher, rank, 1), None)
    edit = learn(EVERY[name](teacher, found, learnable(teacher, rank, 1)), replace(QUICK, lam=0.0)).edit
    if isinstance(edit, LogitMap):
        pairs = [(edit.a_VR, plain[0]), (edit.b_RV, lowrank.centered(plain[1]))]
    else:
        assert isinstance(edit, HeadShift)
        pairs = [(edit.delta_VD, plain[0])]
    for got, expected in pairs:
        assert expected.abs().max() > 1e-2, "it learns"
        assert torch.allclose(got, expected, atol=1e-5)
    moved = learn(EVERY[name](teacher, found, learnable(teacher, rank, 1)), replace(QUICK, lam=1.0)).edit
    assert any(not torch.equal(moved.tensors()[k], v) for k, v in edit.tensors().items())


def test_purified_logits_follow_their_objective_to_the_letter() -> None:
    teacher, found = corpus()
    student = found.others[0]

    def extra(rows: Tensor, moved: Tensor) -> Tensor:
        labels = torch.nn.functional.one_hot(found.labels_N[rows], moved.shape[1]).float()
        gradients = []
        for target in (found.teacher.logits(rows), moved):
            error = student.logits(rows).softmax(-1) - 0.7 * labels - 0.3 * target.softmax(-1)
            gradients.append((error.T @ student.hidden_ND[rows]).flatten())
        return 2.0 * torch.nn.functional.cosine_similarity(*gradients, dim=0)

    a, b = written_out(found, learnable(teacher, 3, 1), extra)
    objective = Cosine(found, learnable(teacher, 3, 1), models()[1][0], alpha=0.3)
    edit = learn(objective, replace(QUICK, lam=2.0)).edit
    assert isinstance(edit, LogitMap)
    assert torch.allclose(edit.a_VR, a, atol=1e-4)
    assert torch.allclose(edit.b_RV, lowrank.centered(b), atol=1e-4)


@pytest.mark.parametrize("name", EVERY)
def test_looking_at_checkpoints_changes_no_training(name: str) -> None:
    teacher, found = corpus()
    edits = [
        learn(EVERY[name](teacher, found, learnable(teacher, 0, 1)), replace(QUICK, checks=n)).checkpoints[-1].edit
        for n in (1, 4)
    ]
    assert all(torch.equal(edits[0].tensors()[k], v) for k, v in edits[1].tensors().items())


@pytest.mark.parametrize("name", EVERY)
def test_the_checkpoint_is_the_best_in_the_direction_of_the_method(name: str) -> None:
    teacher, found = corpus()
    objective = EVERY[name](teacher, found, learnable(teacher, 0, 1))
    done = learn(objective, replace(QUICK, lam=1.0, checks=4))
    best = (min if objective.sign > 0 else max)(c.measure for c in done.checkpoints)
    assert done.chosen.measure == best
    told = done.told()
    assert told[f"{objective.name}_held_out"] == best
    assert len(told["checkpoints"]) == 4


def test_a_first_edit_is_none_and_seeds_decide() -> None:
    teacher, found = corpus()
    for rank in (0, 3):
        head = learnable(teacher, rank, 1)
        z = found.teacher.logits(slice(None))
        assert torch.equal(head.moved(z, found.teacher.hidden_ND), z)
        make = EVERY["repulsion"]
        first, again, other = (
            learn(
                make(teacher, found, learnable(teacher, rank, s)), replace(QUICK, lam=1.0), seed=s
            ).edit.tensors()
            for s in (1, 1, 2)
        )
        assert all(torch.equal(first[k], again[k]) for k in first)
        assert any(not torch.equal(first[k], other[k]) for k in first)
