"""One of several edits a request: chosen by the seed, and nothing else."""

from __future__ import annotations

import pytest
import torch

from azeotrope.core.errors import ConfigError
from azeotrope.core.sampling import Sampling
from azeotrope.maths import lowrank
from azeotrope.models.decode import decode
from azeotrope.models.edit_choice import ChosenEditRule
from azeotrope.models.head_edit import EditRule, HeadEdit, HeadShift, LogitMap
from azeotrope.models.lm import LM
from azeotrope.models.replay import replay
from tiny import drive, fresh, path, prompts

DOUBLE = torch.float64
SEEDS = list(range(40, 64))


def edits(lm: LM) -> list[HeadEdit]:
    generator = torch.Generator().manual_seed(5)
    size, width = lm.head.weight.shape
    found: list[HeadEdit] = []
    for _ in range(2):
        a, b = (0.3 * torch.randn(*s, generator=generator, dtype=DOUBLE) for s in ((size, 3), (3, size)))
        found.append(LogitMap(a, lowrank.centered(b)))
    return [*found, HeadShift(0.3 * torch.randn(size, width, generator=generator, dtype=DOUBLE))]


def test_every_edit_serves_about_as_many_requests() -> None:
    lm = fresh("llama", dtype=DOUBLE)
    choice = ChosenEditRule(edits(lm), 1.0).choice(torch.arange(3000) * 7919)
    counts = torch.bincount(choice, minlength=3)
    assert len(counts) == 3
    assert (counts - 1000).abs().max() < 130, "five standard deviations"


def test_a_row_is_edited_as_by_its_own_edit_alone() -> None:
    lm = fresh("llama", dtype=DOUBLE)
    rule = ChosenEditRule(edits(lm), 0.7)
    rows, forced = prompts(len(SEEDS)), path(len(SEEDS), 5)
    choice = rule.choice(torch.tensor(SEEDS)).tolist()
    assert set(choice) == {0, 1, 2}
    together = drive(lm, rule, rows, SEEDS, forced, temperature=0.7)
    for number, edit in enumerate(rule.edits):
        alone = drive(lm, EditRule(edit, 0.7, merge=False), rows, SEEDS, forced, temperature=0.7)
        for (_, after), (_, single) in zip(together, alone, strict=True):
            for row, chosen in enumerate(choice):
                same = torch.allclose(after[row], single[row], atol=1e-9)
                assert same == (chosen == number)


def test_neither_batch_nor_order_chooses() -> None:
    lm = fresh("llama", dtype=DOUBLE)
    rule, rows, sampling = ChosenEditRule(edits(lm), 0.7), prompts(len(SEEDS)), Sampling(temperature=0.7)
    whole = decode(lm, rows, SEEDS, sampling, rules=[rule], max_new_tokens=8)
    turned = decode(lm, rows[::-1], SEEDS[::-1], sampling, rules=[rule], max_new_tokens=8, batch_size=5)
    assert [s.ids for s in whole] == [s.ids for s in turned[::-1]]
    single = decode(lm, rows, SEEDS, sampling, rules=[EditRule(rule.edits[0], 0.7)], max_new_tokens=8)
    assert [s.ids for s in whole] != [s.ids for s in single]


def test_what_is_shown_later_is_the_map_that_drew_the_text() -> None:
    lm = fresh("llama", dtype=DOUBLE)
    rule, sampling = ChosenEditRule(edits(lm), 0.7), Sampling(temperature=0.7)
    pairs = [(prompt, [5, 9, 3, 7]) for prompt in prompts(6)]
    shown = replay(lm, pairs, sampling, rules=[rule], seeds=SEEDS[:6])
    for pair, seed, logs, number in zip(
        pairs, SEEDS, shown, rule.choice(torch.tensor(SEEDS[:6])).tolist(), strict=False
    ):
        (alone,) = replay(lm, [pair], sampling, rules=[EditRule(rule.edits[number], 0.7)], seeds=[seed])
        assert torch.allclose(logs, alone, atol=1e-5)


def test_there_must_be_something_to_choose_from() -> None:
    with pytest.raises(ConfigError, match="at least one"):
        ChosenEditRule([], 1.0)
