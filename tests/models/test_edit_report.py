"""What is reported of an edit: the change in information and its standard error, by brute force."""

from __future__ import annotations

import pytest
import torch

from azeotrope.maths import cmi
from azeotrope.models.corpus import Corpus, View
from azeotrope.models.edit_report import edited, reported
from azeotrope.models.head_edit import LogitMap
from tiny import toy_traces


def test_the_standard_error_leaves_out_whole_traces() -> None:
    generator = torch.Generator().manual_seed(0)
    texts, length, size = 24, 12, 9
    n = texts * length
    logits, hidden = torch.randn(n, size, generator=generator), torch.zeros(n, 2)
    view = View(2.0 * logits, hidden)
    corpus = Corpus(
        traces=tuple(toy_traces(texts)),
        slices=tuple(slice(i * length, (i + 1) * length) for i in range(texts)),
        labels_N=torch.randint(0, 3, (n,), generator=generator),
        reasoning_N=torch.ones(n, dtype=torch.bool),
        teacher=view,
        others=(),
    )
    edit = LogitMap(torch.randn(size, 2, generator=generator), torch.randn(2, size, generator=generator))
    chosen = list(range(4, 24))
    rows = corpus.rows(chosen)
    told = reported(corpus, rows, edited(corpus, rows, edit))
    after = edit.shift(view.logits_NV, hidden, 1.0)

    def change(kept: list[int]) -> float:
        mine = corpus.rows(kept)
        pair = [cmi.information(z[mine], corpus.labels_N[mine]).cmi for z in (view.logits_NV, after)]
        return pair[1] - pair[0]

    assert told["cmi_change"] == pytest.approx(change(chosen))
    left = torch.tensor([change([i for k, i in enumerate(chosen) if k % 10 != g]) for g in range(10)])
    expected = (0.9 * (left - left.mean()).square().sum()).sqrt()
    assert told["cmi_change_se"] == pytest.approx(expected.item(), rel=1e-4)
    assert told["cmi_change_se"] > 0
