from __future__ import annotations

import random

import pytest
import torch

from azeotrope.core.errors import ConfigError
from azeotrope.core.sampling import GREEDY, Sampling
from azeotrope.models.decode import Batch, LogitRule, Run, Session, decode
from azeotrope.models.drawing import keep_top
from tiny import FAMILIES, prompts, tiny

WARM = Sampling(temperature=1.0)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_equals_generate(family: str) -> None:
    lm = tiny(family)
    rows = prompts(7)
    ours = decode(lm, rows, [0] * len(rows), GREEDY, max_new_tokens=24, batch_size=4)
    for prompt, sample in zip(rows, ours, strict=True):
        out = lm.model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=24,
            pad_token_id=0,
            eos_token_id=1,
        )
        assert list(sample.ids) == out[0, len(prompt) :].tolist()
        assert sample.finished == (sample.ids[-1] == 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_depends_on_its_seed_and_not_on_its_batch(family: str) -> None:
    lm = tiny(family, dtype=torch.float64)
    rows, seeds = prompts(24), list(range(100, 124))
    whole = decode(lm, rows, seeds, WARM, max_new_tokens=30, batch_size=24)
    alone = [decode(lm, [r], [s], WARM, max_new_tokens=30)[0] for r, s in zip(rows, seeds, strict=True)]
    assert [w.ids for w in whole] == [a.ids for a in alone]
    order = list(range(24))
    random.Random(1).shuffle(order)
    shuffled = decode(
        lm, [rows[i] for i in order], [seeds[i] for i in order], WARM, max_new_tokens=30, batch_size=5
    )
    assert [shuffled[order.index(i)].ids for i in range(24)] == [w.ids for w in whole]
    lengths = {len(w.ids) for w in whole}
    assert len(lengths) > 3, "rows must end at different times, or compaction is not tested"


@pytest.mark.parametrize("family", FAMILIES)
def test_float32_differs_only_at_thin_margins(family: str) -> None:
    lm = tiny(family)
    rows, seeds = prompts(32), list(range(32))
    whole = decode(lm, rows, seeds, WARM, max_new_tokens=30, batch_size=32, record=True)
    alone = decode(lm, rows, seeds, WARM, max_new_tokens=30, batch_size=1, record=True)
    differing = [(w, a) for w, a in zip(whole, alone, strict=True) if w.ids != a.ids]
    assert all(min(w.margin, a.margin) < 1e-4 for w, a in differing)
    assert len(differing) <= 3


def test_other_seed_other_sample() -> None:
    lm = tiny("llama")
    rows = prompts(16)
    a = decode(lm, rows, list(range(16)), WARM, max_new_tokens=20)
    b = decode(lm, rows, list(range(16, 32)), WARM, max_new_tokens=20)
    assert sum(x.ids != y.ids for x, y in zip(a, b, strict=True)) >= 14


def test_sampling_follows_the_distribution() -> None:
    lm = tiny("llama")
    n = 4000
    with torch.no_grad():
        p = torch.softmax(lm.model(torch.tensor([[5, 9]])).logits[0, -1], -1)
    got = decode(lm, [[5, 9]] * n, list(range(n)), WARM, max_new_tokens=1, batch_size=n)
    counts = torch.bincount(torch.tensor([s.ids[0] for s in got]), minlength=67) / n
    assert (counts - p).abs().max() < 4.5 * (0.25 / n) ** 0.5


class Shift(LogitRule, Session):
    """Adds a constant to one token; stateless."""

    def __init__(self, token: int, by: float) -> None:
        self.token, self.by = token, by

    def open(self, batch: object) -> Session:
        return self

    def step(self, view: object) -> torch.Tensor:
        out = view.logits_BV.clone()
        out[:, self.token] += self.by
        return out


def test_order_of_operations() -> None:
    """The defense acts after temperature and before top-k: a lifted token survives top_k=1."""
    lm = tiny("llama")
    hot = Sampling(temperature=5.0, top_k=1)
    got = decode(lm, [[3, 4]], [0], hot, rules=[Shift(50, 40.0)], max_new_tokens=5)
    assert set(got[0].ids) == {50}
    greedy = decode(lm, [[3, 4]], [0], GREEDY, rules=[Shift(50, 1000.0)], max_new_tokens=5)
    assert set(greedy[0].ids) == {50}


def test_movement_is_recorded_in_nats() -> None:
    lm = tiny("llama")
    rows = prompts(3)
    still = decode(lm, rows, [1, 2, 3], WARM, rules=[Shift(50, 0.0)], max_new_tokens=9, record=True)
    assert all(m == pytest.approx(0.0, abs=1e-6) for s in still for m in s.moved)
    moved = decode(lm, rows, [1, 2, 3], WARM, rules=[Shift(50, 9.0)], max_new_tokens=9, record=True)
    assert all(len(s.moved) == len(s.ids) for s in moved)
    assert sum(sum(s.moved) for s in moved) > 1.0


def test_repetition_penalty_equals_generate() -> None:
    lm = tiny("llama")
    penalized = Sampling(temperature=0.0, repetition_penalty=1.7)
    for prompt in prompts(4):
        ours = decode(lm, [prompt], [0], penalized, max_new_tokens=20)[0]
        out = lm.model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            repetition_penalty=1.7,
            max_new_tokens=20,
            pad_token_id=0,
            eos_token_id=1,
        )
        assert list(ours.ids) == out[0, len(prompt) :].tolist()


def test_rows_of_one_batch_may_be_drawn_differently() -> None:
    """Also when some end before others, and when batches become one on the way."""
    lm = tiny("llama", dtype=torch.float64)
    rows, seeds = prompts(12), torch.arange(12)
    kinds = [Sampling(temperature=t, top_k=k, top_p=p) for t, k, p in ((0, 0, 1), (0.7, 3, 1), (1.5, 0, 0.8))]
    samplings = [kinds[i % 3] for i in range(12)]
    alone = [
        decode(lm, [row], [int(seed)], one, max_new_tokens=16)[0].ids
        for row, seed, one in zip(rows, seeds, samplings, strict=True)
    ]
    with torch.no_grad():
        whole = Run(lm, Batch(tuple(map(tuple, rows)), seeds), samplings, ()).all(16)
        assert [sample.ids for sample in whole] == alone
        parts = [Run(lm, Batch(tuple(map(tuple, rows[i::3])), seeds[i::3]), kinds[i], ()) for i in range(3)]
        first = [row for run in parts for row in run.rows]
        for run in parts:
            run.step()
        for run in parts[1:]:
            parts[0].join(run)
        while any(len(row.ids) < 16 for row in parts[0].live) and parts[0].step():
            pass
        over = Run(lm, Batch((tuple(rows[0]),), seeds[:1]), GREEDY, ())
        while over.step() and len(over.rows[0].ids) < 60:
            pass
    wanted = [alone[i] for k in range(3) for i in range(k, 12, 3)]
    assert [tuple(row.ids[:16]) for row in first] == wanted
    assert over.rows[0].finished
    assert not parts[0].can_join(over), "all of its rows have ended"
    with pytest.raises(ConfigError, match="repetition penalty"):
        Run(lm, Batch(tuple(map(tuple, rows)), seeds), [*samplings[1:], Sampling(repetition_penalty=1.2)], ())


def test_keep_top() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    assert torch.isfinite(keep_top(logits, 2, 1.0)).tolist() == [[True, True, False, False]]
    assert torch.isfinite(keep_top(logits, 0, 0.6)).tolist() == [[True, True, False, False]]
    assert torch.isfinite(keep_top(logits, 0, 0.05)).tolist() == [[True, False, False, False]]
    assert torch.equal(keep_top(logits, 0, 1.0), logits)


def test_empty_prompt_is_refused() -> None:
    with pytest.raises(ConfigError, match="empty prompt"):
        decode(tiny("llama"), [[3], []], [0, 1], WARM, max_new_tokens=3)
