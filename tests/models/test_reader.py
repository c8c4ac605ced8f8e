"""The reader: what of a trace is shown to him, and that he is graded on where it leads."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azeotrope.core.types import THINK_CLOSE
from azeotrope.models.lm import load
from azeotrope.models.reader import prefix_of, reader_accuracy
from azeotrope.tasks import grammar
from azeotrope.tasks.lookup import Lookup

TEXT = "<think> One. Two.\n\nThree. Wait, four.</think> The answer is 5."


@pytest.mark.parametrize(
    ("share", "shown"),
    [
        (0.0, "<think>"),
        (0.25, "<think> One."),
        (0.3, "<think> One. Two."),
        (1.0, "<think> One. Two.\n\nThree. Wait, four."),
    ],
)
def test_prefixes_end_at_sentences(share: float, shown: str) -> None:
    assert prefix_of(TEXT, share) == shown


def test_an_unfinished_trace_is_all_reasoning() -> None:
    assert prefix_of("<think> One. Two", 1.0) == "<think> One. Two"


@given(text=st.text(alphabet="AB. \n", max_size=60), share=st.floats(0, 1), answer=st.text(max_size=20))
def test_the_answer_is_never_shown(text: str, share: float, answer: str) -> None:
    whole = f"<think>{text}{THINK_CLOSE}{answer.replace('<', '')}"
    shown = prefix_of(whole, share)
    assert whole.startswith(shown)
    assert len(shown) <= len(f"<think>{text}")
    assert len(prefix_of(whole, share / 2)) <= len(shown)


def test_a_reader_gains_from_a_true_trace_and_loses_by_a_false_one() -> None:
    task, reader = Lookup(), load("embedded/student-neox-4")
    problems = task.problems("test", 24, 5)
    true = [task.write(p, Random(i), grammar.Style(check=0, doubt=0)) for i, p in enumerate(problems)]
    bare = [replace(trace, text=f"<think></think> The answer is {p.answer}.")
            for trace, p in zip(true, problems, strict=True)]  # fmt: skip
    turned = [replace(trace, prompt=p.prompt) for trace, p in zip(true[1:] + true[:1], problems, strict=True)]
    found = [
        sum(reader_accuracy(reader, task, problems, traces, (1.0,))) / len(problems)
        for traces in (true, bare, turned)
    ]
    assert found[0] >= 0.9
    assert found[1] <= 0.6, "the answer itself was shown to the reader"
    assert found[2] <= 0.3
