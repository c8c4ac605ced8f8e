from __future__ import annotations

import time
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from azeotrope.core.errors import ConfigError
from azeotrope.core.methods import parse_method
from azeotrope.core.types import THINK_CLOSE, split_answer
from azeotrope.defenses.answer_only import AnswerOnly
from azeotrope.defenses.traceguard import is_protected
from azeotrope.text.segment import segment
from defenses.trace_drive import HOSTILE, PROSE, anything, drain, gone, make, record_is_true, texts

shares = st.floats(0.01, 1)
seeds = st.integers(0, 50)


@settings(max_examples=300, deadline=None)
@given(anything, shares, seeds)
def test_all_of_the_reasoning_or_nothing(text: str, share: float, seed: int) -> None:
    method = AnswerOnly(share=share)
    out = method.rewrite(make(text), Random(seed))
    assert out == method.rewrite(make(text), Random(seed))
    record_is_true(text, out)
    reasoning, answer = split_answer(text)
    stays = "".join(part for part in segment(reasoning) if is_protected(part, 0, len(part)))
    assert out.text == (stays + answer if Random(seed).random() < share else text)
    assert split_answer(out.text)[1] == answer
    for sign in ("<think>", "</think>", "\\boxed"):
        assert out.text.count(sign) == text.count(sign)


@settings(max_examples=200, deadline=None)
@given(anything, shares, shares, seeds)
def test_a_larger_share_removes_a_superset(text: str, one: float, two: float, seed: int) -> None:
    small, large = (
        gone(AnswerOnly(share=share).rewrite(make(text), Random(seed))) for share in sorted((one, two))
    )
    assert small <= large


def test_share_zero_is_the_identity() -> None:
    trace = make(PROSE)
    assert AnswerOnly(share=0).rewrite(trace, Random(0)) is trace


def test_the_block_stays_empty() -> None:
    out = AnswerOnly(share=1).rewrite(make(PROSE), Random(0))
    assert out.text == "<think>\n</think>\n\nThe answer is C. Bye."
    assert [item["marker"] for item in out.meta["removed"]] == ["reasoning"]


def test_the_share_is_one_of_traces() -> None:
    rewritten = [AnswerOnly(share=0.3).rewrite(make(PROSE), Random(seed)).text for seed in range(1000)]
    assert set(rewritten) == {PROSE, "<think>\n</think>\n\nThe answer is C. Bye."}
    assert 250 <= sum(text != PROSE for text in rewritten) <= 350


@settings(max_examples=300, deadline=None)
@given(texts, shares, seeds, st.lists(st.integers(1, 30), min_size=1, max_size=6))
def test_streaming_equals_offline(text: str, share: float, seed: int, sizes: list[int]) -> None:
    method = AnswerOnly(share=share)
    streamed = drain(method.stream(Random(seed)), text, sizes)
    if text.count(THINK_CLOSE) <= 1:
        assert streamed == method.rewrite(make(text), Random(seed)).text
    assert streamed == drain(method.stream(Random(seed)), text, [len(text) or 1])


def test_the_stream_passes_the_answer_at_once() -> None:
    stream = AnswerOnly(share=1).stream(Random(0))
    assert stream.feed("<think>It is so. It is not so, and ") == "<think>"
    assert stream.feed("so on.</think> The answer is long enough to be certain, ") == (
        "</think> The answer is long enough to be certain, "
    )
    assert stream.feed("a") == "a"
    assert stream.close() == ""
    assert AnswerOnly(share=0).stream(Random(0)).feed("x") == "x"


@pytest.mark.parametrize("wrong", [{"share": 1.1}, {"share": -0.1}, {"share": float("nan")}, {"shar": 1}])
def test_wrong_settings_are_one_sentence(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        parse_method(AnswerOnly, wrong, "defenses.0")


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_input_in_linear_time(name: str) -> None:
    begin = time.process_time()
    text = HOSTILE[name]
    out = AnswerOnly(share=1).rewrite(make(text), Random(0))
    if text.count(THINK_CLOSE) <= 1:
        assert drain(AnswerOnly(share=1).stream(Random(0)), text, [997]) == out.text
    assert time.process_time() - begin < 5


def test_real_traces(real_texts: dict[str, list[str]]) -> None:
    for text in (text for rows in real_texts.values() for text in rows[:40]):
        out = AnswerOnly(share=1).rewrite(make(text), Random(0)).text
        assert out.endswith(split_answer(text)[1])
        assert len(out) < 0.6 * len(text)
        if text.count(THINK_CLOSE) <= 1:
            assert drain(AnswerOnly(share=1).stream(Random(0)), text, [13, 5, 21]) == out
