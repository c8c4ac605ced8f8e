"""Which tokens count as reasoning, token by token, with tokenizers that do and do not respect the tags."""

from __future__ import annotations

import pytest

from azeotrope.core.types import Trace
from azeotrope.models.gradients import completions
from azeotrope.models.lm import LM, load
from azeotrope.models.reasoning import reasoning_masks, reasoning_span
from azeotrope.tasks.lookup import Lookup
from tiny import FakeTokenizer, fresh

TEXTS = (
    ("<think>abc</think> d", "abc"),
    ("  <think>abc</think> d", "abc"),
    ("<think>ab</think>c</think> d", "ab</think>c"),
    ("<think></think> d", ""),
    ("<think>abc", "abc"),
    ("abc. The answer is d", "abc. The answer is d"),
    ("see <think>abc</think> d", "see <think>abc"),
    ("abc</think> d", "abc"),
    ("</think>", ""),
    ("", ""),
)


def trace(text: str, finished: bool = True) -> Trace:
    return Trace(problem_id="x", prompt="q", text=text, finished=finished)


@pytest.mark.parametrize(("text", "inside"), TEXTS)
def test_the_span(text: str, inside: str) -> None:
    start, end = reasoning_span(text)
    assert text[start:end] == inside


@pytest.mark.parametrize("finished", [True, False])
def test_every_character_is_in_its_place(finished: bool) -> None:
    """With one token a character, the mask is the span, and the end of sequence is outside."""
    lm = fresh("llama")
    traces = [trace(text, finished) for text, _ in TEXTS]
    for (text, inside), mask in zip(TEXTS, reasoning_masks(lm, traces), strict=True):
        assert len(mask) == len(text) + finished
        assert "".join(c for c, flag in zip(text, mask, strict=False) if flag) == inside
        assert not any(mask[len(text) :])


class Pairs(FakeTokenizer):
    """Two characters a token, whatever they are: tokens reach over the tags."""

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        pairs = [text[i : i + 2] for i in range(0, len(text), 2)]
        return [2 + sum(ord(c) * 37**k for k, c in enumerate(pair)) for pair in pairs]


def test_a_token_that_reaches_into_the_answer_does_not_count() -> None:
    tokenizer = Pairs(67)
    lm = LM(fresh("llama").model, tokenizer, "tiny/pairs", "0")  # type: ignore[arg-type]
    (mask,) = reasoning_masks(lm, [trace("<think>abcd</think>x", finished=False)])
    assert mask == [False] * 3 + [True] * 2 + [False] * 5, "'>a' and 'bc' count, 'd<' does not"


def test_the_teacher_masks_exactly_what_stands_between_its_tags() -> None:
    lm, task = load("embedded/teacher"), Lookup()
    traces = [t for t in task.gold_traces(task.problems("holdout", 20)) if "</think>" in t.text]
    assert len(traces) > 10
    for one, mask, row in zip(traces, reasoning_masks(lm, traces), completions(lm, traces), strict=True):
        assert len(mask) == len(row)
        inside = lm.decode([token for token, flag in zip(row, mask, strict=True) if flag])
        assert inside == one.text.partition("<think>")[2].rpartition("</think>")[0]
        assert 0 < sum(mask) < len(row)
