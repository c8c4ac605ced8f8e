"""Spans that two tokenizers share, and chunks of distributions."""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from azeotrope.core.errors import ConfigError
from azeotrope.core.types import Trace
from azeotrope.models.alignment import by_position, byte_ends, chunks, dense, matched, shared_spans
from azeotrope.models.exposure import Exposure
from azeotrope.models.lm import load

TEXTS = ("The clerk is called Ada. <think>Wait, 17 + 5 = 22.</think>", "naïve — 日本語 😀!", " ", "a\n\nb")
lengths = st.lists(st.integers(0, 4), max_size=30).map(lambda sizes: list(accumulate(sizes)))


@given(lengths, lengths)
def test_spans_are_the_finest_common_cut(first: list[int], second: list[int]) -> None:
    spans = shared_spans(first, second)
    for (a, b, c, d), (e, _, f, _) in pairwise(spans):
        assert (b, d) == (e, f), "spans follow each other"
        assert a < b
        assert c < d
    ends = [first[b - 1] for _, b, _, _ in spans]
    assert ends == sorted(set(first) & set(second)), "one span per end that both have"
    for _, b, _, d in spans:
        assert first[b - 1] == second[d - 1]
        assert b == len(first) or first[b] > first[b - 1], "tokens without width belong to the span before"


def test_token_against_token() -> None:
    assert by_position([1, 2, 3], [9, 9]) == [(0, 1, 0, 1), (1, 2, 1, 2)]


@pytest.fixture(scope="module")
def tokenizers() -> tuple[Any, Any]:
    return load("embedded/student-othertok-0").tokenizer, load("embedded/teacher").tokenizer


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("finished", [False, True])
def test_ends_are_those_of_the_bytes(tokenizers: tuple[Any, Any], text: str, finished: bool) -> None:
    size = len(text.encode())
    for tokenizer in tokenizers:
        ids, ends = byte_ends(tokenizer, text, finished)
        assert len(ids) == len(ends)
        assert ends == sorted(ends)
        assert ends[-1] == size + finished
        for place, end in enumerate(ends[: len(ends) - finished]):
            if place + 1 == len(ends) or ends[place + 1] > end:
                assert tokenizer.decode(ids[: place + 1]).encode() == text.encode()[:end]


def test_a_chunk_holds_what_both_sides_say(tokenizers: tuple[Any, Any]) -> None:
    student, teacher = tokenizers
    trace = Trace(problem_id="a", prompt="", text=TEXTS[0])
    ids, ends = byte_ends(teacher, trace.text, True)
    own_ids, own_ends = byte_ends(student, trace.text, True)
    assert ids != own_ids, "the two cut the text differently"
    size = len(teacher.get_vocab())
    known = torch.log_softmax(torch.randn(len(ids), size, generator=torch.Generator().manual_seed(0)), -1)
    found = chunks(student, teacher, trace, Exposure(tuple(ids), known), shared_spans, size)
    said = known[torch.arange(len(ids)), ids]
    assert found.total_M.sum().item() == pytest.approx(said.sum().item(), rel=1e-5), "the chunks are the text"
    assert int(found.end_M[-1]) == len(own_ids)
    for m, (a, b, c, d) in enumerate(shared_spans(own_ends, ends)):
        assert (found.first_M[m], found.end_M[m]) == (a, b)
        assert torch.allclose(found.known_MV[m], known[c], atol=1e-6)
        assert found.total_M[m].item() == pytest.approx(float(said[c:d].sum()), abs=1e-5)
        assert found.rest_M[m].item() == pytest.approx(float(said[c + 1 : d].sum()), abs=1e-5)
    short = found.within(7)
    assert len(short.end_M) < len(found.end_M)
    assert int(short.end_M.max()) <= 7
    few = chunks(student, teacher, trace, Exposure(tuple(ids), known).top(2), shared_spans, size)
    assert few.total_M.isnan().any(), "random opinions seldom have the words among their top two"
    with pytest.raises(ConfigError, match="other tokens"):
        chunks(student, teacher, trace, Exposure((5, *ids[1:]), known), shared_spans, size)


def test_dense_and_matched(tokenizers: tuple[Any, Any]) -> None:
    student, teacher = tokenizers
    full = Exposure((1, 2), torch.log_softmax(torch.randn(2, 9, generator=torch.Generator().manual_seed(0)), -1))
    top = dense(full.top(3), 9)
    assert torch.equal(top[top.isfinite()].sort().values, full.top(3).known_TK.flatten().sort().values)
    assert dense(full.nothing(), 9).isneginf().all()
    for coarse in (full.rounded(2.0), full.rounded(2.0).top(3)):
        mass = dense(coarse, 9).exp().sum(-1)
        assert torch.allclose(
            mass, coarse.known_TK.exp().sum(-1).clamp(max=1.0) if coarse.ids_TK is not None else torch.ones(2)
        )
    ours, theirs = matched(student, teacher)
    assert student.convert_ids_to_tokens(ours[:50].tolist()) == teacher.convert_ids_to_tokens(theirs[:50].tolist())
    assert 0 < len(ours) < len(teacher.get_vocab())


def test_a_slow_tokenizer_is_refused() -> None:
    def slow(*_: object, **__: object) -> None:
        raise NotImplementedError

    with pytest.raises(ConfigError, match="fast tokenizer"):
        byte_ends(slow, "a", True)
