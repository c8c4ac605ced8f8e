"""Stacked copies give each copy's outputs and gradients on its block of rows."""

from __future__ import annotations

import copy

import pytest
import torch

from azeotrope.models.stack import StackedEmbedding, stack_into, stacked
from azeotrope.models.stepper import trunk
from tiny import FAMILIES, fresh


@pytest.mark.parametrize("family", FAMILIES)
def test_three_copies_forward_and_backward(family: str) -> None:
    copies = [fresh(family, seed=seed, dtype=torch.float64) for seed in (1, 2, 3)]
    whole = copy.deepcopy(copies[0])
    stack_into(trunk(whole), [trunk(lm) for lm in copies])
    head = stacked([lm.head for lm in copies])
    ids_BT = torch.randint(3, 60, (6, 7), generator=torch.Generator().manual_seed(0))
    mask_BT = torch.ones_like(ids_BT)
    positions_BT = torch.arange(7).expand(6, 7)
    inputs = {"input_ids": ids_BT, "attention_mask": mask_BT, "position_ids": positions_BT}
    got = head(trunk(whole)(**inputs).last_hidden_state)
    got.square().sum().backward()
    for i, lm in enumerate(copies):
        rows = slice(2 * i, 2 * i + 2)
        part = {name: value[rows] for name, value in inputs.items()}
        wanted = lm.head(trunk(lm)(**part).last_hidden_state)
        torch.testing.assert_close(got[rows], wanted, rtol=1e-6, atol=1e-6)
        wanted.square().sum().backward()
        size = len(lm.model.get_input_embeddings().weight)
        table = next(m for m in trunk(whole).modules() if isinstance(m, StackedEmbedding) and m.size == size)
        learned = table.weight.grad[i * size : (i + 1) * size]
        torch.testing.assert_close(learned, lm.model.get_input_embeddings().weight.grad, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(head.weight.grad[i], lm.head.weight.grad, rtol=1e-5, atol=1e-6)


def test_rows_that_cannot_be_shared_out_are_refused() -> None:
    tables = [torch.nn.Embedding(4, 2) for _ in range(3)]
    with pytest.raises(ValueError, match="7 rows cannot be shared out among 3"):
        stacked(tables)(torch.zeros((7, 1), dtype=torch.long))
