from __future__ import annotations

import time
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from azeotrope.core.errors import ConfigError
from azeotrope.core.methods import parse_method
from azeotrope.core.types import split_answer
from azeotrope.defenses.summary import Summary, score
from azeotrope.defenses.traceguard import count_tokens, is_protected
from azeotrope.text.segment import segment
from defenses.trace_drive import HOSTILE, PROSE, anything, gone, make, record_is_true, spans

shares = st.floats(0.01, 1)


@settings(max_examples=300, deadline=None)
@given(anything, shares, st.integers(0, 3))
def test_what_holds_for_every_trace(text: str, share: float, seed: int) -> None:
    method = Summary(share=share)
    out = method.rewrite(make(text), Random(seed))
    assert out == method.rewrite(make(text), Random(seed + 1)), "no random numbers are used"
    record_is_true(text, out)
    reasoning, answer = split_answer(text)
    assert out.text.endswith(answer)
    assert split_answer(out.text)[1] == answer
    ends, at = {0}, 0
    for sentence in segment(reasoning):
        at += len(sentence)
        ends.add(at)
    assert all({start, end} <= ends for start, end in spans(out)), "whole sentences only"
    assert not any(is_protected(text, start, end) for start, end in spans(out))
    assert sum(item["tokens"] for item in out.meta["removed"]) <= share * count_tokens(reasoning) + 1e-6


@settings(max_examples=200, deadline=None)
@given(anything, shares, shares)
def test_a_larger_share_removes_a_superset(text: str, one: float, two: float) -> None:
    small, large = (gone(Summary(share=share).rewrite(make(text), Random(0))) for share in sorted((one, two)))
    assert small <= large


def test_share_zero_is_the_identity() -> None:
    trace = make(PROSE)
    assert Summary(share=0).rewrite(trace, Random(0)) is trace


def test_what_says_least_goes_first() -> None:
    text = "<think>The bridge leads north. Hmm. So the bridge costs 5.</think> 5"
    out = [Summary(share=share).rewrite(make(text), Random(0)).text for share in (0.1, 0.5, 1)]
    assert out == [
        "<think>The bridge leads north. So the bridge costs 5.</think> 5",
        "<think>So the bridge costs 5.</think> 5",
        "<think></think> 5",
    ]


def test_the_score() -> None:
    assert score([]) == []
    assert score(["?!"]) == [0.25]
    filler, number, plain, conclusion, _ = score(
        ["Let me see. ", "It is 12 now. ", "It is now. ", "Therefore it is now. ", "Fine."]
    )
    assert number > plain
    assert conclusion > plain
    assert filler > 0, "the first sentence counts"


def test_a_boxed_sentence_stays() -> None:
    out = Summary(share=1).rewrite(make("It is. So \\boxed{3} it is. Yes."), Random(0))
    assert out.text == "So \\boxed{3} it is. "


@pytest.mark.parametrize("wrong", [{"share": 1.1}, {"share": -0.1}, {"share": float("nan")}, {"shar": 1}])
def test_wrong_settings_are_one_sentence(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        parse_method(Summary, wrong, "defenses.0")


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_input_in_linear_time(name: str) -> None:
    begin = time.process_time()
    out = Summary(share=0.5).rewrite(make(HOSTILE[name]), Random(0))
    assert time.process_time() - begin < 5
    assert len(out.text) <= len(HOSTILE[name])


def test_real_traces(real_texts: dict[str, list[str]]) -> None:
    """Half of the tokens go, within a sentence; results are kept more often than hesitation."""
    removed = total = 0
    for text in (text for rows in real_texts.values() for text in rows[:40]):
        out = Summary(share=0.5).rewrite(make(text), Random(0))
        assert out.text.endswith(split_answer(text)[1])
        removed += sum(item["tokens"] for item in out.meta["removed"])
        total += count_tokens(split_answer(text)[0])
    assert 0.48 <= removed / total <= 0.5
