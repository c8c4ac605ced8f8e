"""What is reported of an edit: the change in information and its standard error, by brute force."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from azeotrope.maths import cmi
from azeotrope.models import corpus as corpora
from azeotrope.models.corpus import Corpus, View
from azeotrope.models.edit_report import edited, reported
from azeotrope.models.head_edit import LogitMap
from tiny import toy_traces


def test_the_standard_error_leaves_out_whole_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    texts, length, size = 24, 12, 9
    n = texts * length
    logits = 2.0 * torch.randn(n, size, generator=generator)
    view = View(logits, lambda hidden_ND: hidden_ND, size)
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
    told = reported(corpus, rows, edited(corpus, edit), (0.5,))
    after = edit.shift(logits, None, 1.0)

    def change(kept: list[int]) -> float:
        mine = corpus.rows(kept)
        pair = [cmi.information(z[mine], corpus.labels_N[mine]).cmi for z in (logits, after)]
        return pair[1] - pair[0]

    assert told["cmi_change"] == pytest.approx(change(chosen))
    left = torch.tensor([change([i for k, i in enumerate(chosen) if k % 10 != g]) for g in range(10)])
    expected = (0.9 * (left - left.mean()).square().sum()).sqrt()
    assert told["cmi_change_se"] == pytest.approx(expected.item(), rel=1e-4)
    assert told["cmi_change_se"] > 0
    monkeypatch.setattr(corpora, "ROOM", 7 * size)
    assert list(flat(reported(corpus, rows, edited(corpus, edit), (0.5,)))) == pytest.approx(list(flat(told)))


def flat(told: object) -> Iterator[float]:
    """All numbers of a report."""
    if isinstance(told, dict | list):
        for value in told.values() if isinstance(told, dict) else told:
            yield from flat(value)
    else:
        assert isinstance(told, int | float)
        yield told
