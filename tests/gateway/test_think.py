"""Reasoning between tags: any cut, several blocks, tags that the template opened."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azeotrope.core.errors import ConfigError
from azeotrope.gateway.wire.think import Splitter, inside


def split(*parts: str, opened: bool = False) -> tuple[str, str]:
    """Reasoning and answer."""
    splitter = Splitter(opened=opened)
    pieces = [piece for part in parts for piece in splitter.feed(part)] + splitter.close()
    return tuple("".join(p.text for p in pieces if p.reasoning is kind) for kind in (True, False))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("text", "opened", "reasoning", "answer"),
    [
        ("<think>a</think>b", False, "a", "b"),
        ("a</think>b", True, "a", "b"),
        ("a", True, "a", ""),
        ("no tags, 1 < 2", False, "", "no tags, 1 < 2"),
        ("<think>a</think>b<think>c</think>d", False, "ac", "bd"),
        ("<think>never closed", False, "never closed", ""),
        ("<thinking>a</think>b</thinking>c", False, "a</think>b", "c"),
        ("<think>a<think>b</think>c", False, "a<think>b", "c"),
        ("[THINK]a[/THINK]b", False, "a", "b"),
        ("x<thin", False, "", "x<thin"),
        ("<think>x</thin", False, "x</thin", ""),
        ("<<think>a</think>>", False, "a", "<>"),
        ("", False, "", ""),
    ],
)
def test_reasoning_is_told_apart(text: str, opened: bool, reasoning: str, answer: str) -> None:
    assert split(text, opened=opened) == split(*text, opened=opened) == (reasoning, answer)


TOKENS = st.lists(
    st.sampled_from(["<think>", "</think>", "<thinking>", "</thinking>", "<", "</", "think>", "a", "é", " "])
)


@given(TOKENS, st.lists(st.integers(0, 80)), st.booleans())
def test_cuts_do_not_matter(tokens: list[str], cuts: list[int], opened: bool) -> None:
    text = "".join(tokens)
    at = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[a:b] for a, b in pairwise(at)]
    assert split(*pieces, opened=opened) == split(text, opened=opened) == split(*text, opened=opened)


@given(st.text())
def test_text_without_tags_is_kept(text: str) -> None:
    assert split(*text) == ("", text) or "think" in text.lower()


def test_little_is_held_back() -> None:
    splitter = Splitter()
    assert [p.text for p in splitter.feed("hello <thi")] == ["hello "]
    assert splitter.pending
    assert [p.text for p in splitter.feed("s")] == ["<this"]
    assert not splitter.pending


def test_a_stray_closing_tag_is_said_and_does_not_pass() -> None:
    splitter = Splitter()
    assert [(p.text, p.reasoning) for p in splitter.feed("a</think>b")] == [("a", False), ("b", False)]
    assert splitter.stray


def test_empty_tags_are_refused() -> None:
    with pytest.raises(ConfigError, match="both must hold characters"):
        Splitter([("<think>", "")])
    with pytest.raises(ConfigError, match="both must hold characters"):
        Splitter([])


def test_tags_and_nothing_else() -> None:
    """Time is linear: searching for every tag anew from each would take minutes."""
    splitter = Splitter()
    assert splitter.feed("<think></think>" * 100_000) == []
    assert splitter.feed("</thinking>" * 100_000) == []
    assert splitter.stray


@pytest.mark.parametrize(
    ("before", "text", "reasoning", "answer"),
    [
        ("Q <think", ">why</think>so", "why", "so"),
        ("Q <think", "er said", "", "er said"),
        ("Q <", "b", "", "b"),
        ("Q <", "think>why</think>so", "why", "so"),
        ("Q [THIN", "K]why[/THINK]so", "why", "so"),
        ("Q <think>\n", "why</think>so", "why", "so"),
        ("Q <think></thin", "k>so", "", "so"),
        ("Q <think", "", "", ""),
    ],
)
def test_a_tag_may_begin_in_the_prompt(before: str, text: str, reasoning: str, answer: str) -> None:
    for size in (1, 100):
        splitter = Splitter(opened=inside(before), before=before)
        pieces = [text[i : i + size] for i in range(0, len(text), size)]
        found = [piece for part in pieces for piece in splitter.feed(part)] + splitter.close()
        assert "".join(p.text for p in found if p.reasoning) == reasoning
        assert "".join(p.text for p in found if not p.reasoning) == answer
