from __future__ import annotations

import time
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from azeotrope.core.errors import ConfigError
from azeotrope.core.methods import parse_method
from azeotrope.core.types import THINK_CLOSE, split_answer
from azeotrope.defenses.hide_reasoning import HideReasoning
from azeotrope.defenses.traceguard import is_protected, is_tag
from azeotrope.text.segment import segment
from defenses.trace_drive import HOSTILE, PROSE, anything, drain, gone, make, record_is_true, texts

shares = st.one_of(st.floats(0.01, 1), st.just(1.0))
sides = st.sampled_from(["end", "start"])


def method(share: float, side: str = "end") -> HideReasoning:
    return parse_method(HideReasoning, {"share": share, "side": side}, "d")


@settings(max_examples=400, deadline=None)
@given(anything, shares, sides)
def test_what_holds_for_every_trace(text: str, share: float, side: str) -> None:
    out = method(share, side).rewrite(make(text), Random(0))
    record_is_true(text, out)
    reasoning, answer = split_answer(text)
    assert out.text.endswith(answer)
    may_go = [part for part in segment(reasoning) if not is_protected(part, 0, len(part))]
    if share < 1:
        assert split_answer(out.text)[1] == answer
        taken = [text[item["start"] : item["end"]] for item in out.meta["removed"]]
        assert taken == ([] if not taken else may_go[-len(taken) :] if side == "end" else may_go[: len(taken)])
        assert share * len(may_go) - 1 < len(taken) <= share * len(may_go) + 1e-6
    elif THINK_CLOSE in text:
        assert out.text == answer
    else:
        assert [part for part in segment(out.text) if not is_protected(part, 0, len(part))] == []
        assert not any(map(is_tag, segment(out.text)))
        assert out.text.count("\\boxed") == text.count("\\boxed")


@settings(max_examples=300, deadline=None)
@given(anything, shares, shares, sides)
def test_a_larger_share_hides_a_superset(text: str, one: float, two: float, side: str) -> None:
    small, large = (gone(method(share, side).rewrite(make(text), Random(0))) for share in sorted((one, two)))
    assert small <= large


def test_share_zero_is_the_identity() -> None:
    trace = make(PROSE)
    assert method(0).rewrite(trace, Random(0)) is trace
    assert method(0).stream().feed("x") == "x"


def test_what_is_shown() -> None:
    shown = [method(share).rewrite(make(PROSE), Random(0)).text for share in (0.2, 0.5, 0.99, 1)]
    answer = "\n\nThe answer is C. Bye."
    assert shown == [
        PROSE,
        f"<think>\nThe road leads to Oslen. Hmm. </think>{answer}",
        f"<think>\nThe road leads to Oslen. </think>{answer}",
        answer,
    ]
    late = method(0.5, "start").rewrite(make(PROSE), Random(0)).text
    assert late == f"<think>\nSo it costs 5. Wait, no.\n</think>{answer}"


def test_a_boxed_sentence_is_an_answer_only_where_no_other_is_declared() -> None:
    for share in (0.9, 1):
        out = method(share).rewrite(make("<think>It is. So \\boxed{3} it is. Yes."), Random(0))
        assert "\\boxed{3}" in out.text
    assert method(1).rewrite(make("<think>So \\boxed{3}.</think> 3"), Random(0)).text == " 3"


@settings(max_examples=400, deadline=None)
@given(texts, shares, st.lists(st.integers(1, 30), min_size=1, max_size=6))
def test_streaming_equals_offline(text: str, share: float, sizes: list[int]) -> None:
    streamed = drain(method(share).stream(), text, sizes)
    assert streamed == drain(method(share).stream(), text, [len(text) or 1])
    if text.count(THINK_CLOSE) <= 1:
        assert streamed == method(share).rewrite(make(text), Random(0)).text


def test_the_stream_shows_what_cannot_be_hidden_any_more() -> None:
    stream = method(0.5).stream()
    rest = "and what follows is long enough"
    assert stream.feed(f"<think>One is one. Two is two. Three is three. Four is four. Five is five, {rest}") == (
        "<think>One is one. Two is two. "
    )
    assert stream.feed(f".</think> The answer, {rest}") == f"Three is three. </think> The answer, {rest}"
    assert stream.feed("x") == "x"
    assert method(1, "start").stream().feed("One is one. Two is two. Three.") == ""
    with pytest.raises(ConfigError, match="cannot stream"):
        method(0.5, "start").stream()


@pytest.mark.parametrize(
    "wrong", [{"share": 1.1}, {"share": -0.1}, {"share": float("nan")}, {"side": "middle"}, {"shar": 1}]
)
def test_wrong_settings_are_one_sentence(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        parse_method(HideReasoning, wrong, "defenses.0")


@pytest.mark.parametrize("share", [0.5, 1])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_input_in_linear_time(name: str, share: float) -> None:
    begin = time.process_time()
    text = HOSTILE[name]
    out = method(share).rewrite(make(text), Random(0))
    if text.count(THINK_CLOSE) <= 1:
        assert drain(method(share).stream(), text, [997]) == out.text
    assert time.process_time() - begin < 5


def test_real_traces(real_texts: dict[str, list[str]]) -> None:
    for text in (text for rows in real_texts.values() for text in rows[:40]):
        for share in (0.5, 1):
            out = method(share).rewrite(make(text), Random(0)).text
            assert out.endswith(split_answer(text)[1])
            if text.count(THINK_CLOSE) <= 1:
                assert drain(method(share).stream(), text, [13, 5, 21]) == out
