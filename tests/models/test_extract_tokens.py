"""Which token a reply means, and what is kept of a reply that may be anything."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from azeotrope.core.errors import ConfigError
from azeotrope.models.endpoint_cache import Reply
from azeotrope.models.extract_reply import Entry, Shown, fields, read_choice, shown
from azeotrope.models.extract_tokens import Vocabulary
from azeotrope.models.lm import load_tokenizer


class Listed:
    """A tokenizer with these pieces and texts, by id."""

    def __init__(self, *tokens: tuple[str, str]) -> None:
        self.tokens = tokens

    def get_vocab(self) -> dict[str, int]:
        return {piece: i for i, (piece, _) in enumerate(self.tokens)}

    def decode(self, ids: list[int]) -> str:
        return "".join(self.tokens[i][1] for i in ids)


PIECES = Vocabulary(
    Listed(("a", "a"), ("▁a", "a"), ("<0xE4>", "\ufffd"), ("<0xB8>", "\ufffd"), ("b", "b"), ("▁c", "c"))
)


@pytest.fixture(scope="module")
def embedded() -> Vocabulary:
    return Vocabulary(load_tokenizer("embedded/teacher"))


@pytest.mark.parametrize(
    ("entry", "asked", "token"),
    [
        (Entry("b", -1), [4, 5], 4),
        (Entry("token_id:3", -1), [2, 3], 3),
        (Entry("token_id:3", -1), [2], None),
        (Entry("\ufffd", -1), [2, 4], 2),
        (Entry("\ufffd", -1), [2, 3], None),
        (Entry("\ufffd", -1, b"\xb8"), [2, 3], 3),
        (Entry("\ufffd", -1, "\ufffd".encode()), [2, 4], 2),
        (Entry("bytes:\\xb8", -1), [2, 3], 3),
        (Entry("a", -1), [0, 1], None),
        (Entry("▁a", -1), [1, 4], 1),
        (Entry(" c", -1), [4, 5], 5),
        (Entry("d", -1), range(6), None),
    ],
)
def test_an_entry_is_one_of_the_tokens_asked_for(entry: Entry, asked: Any, token: int | None) -> None:
    assert PIECES.identify(entry, asked) == token


def test_without_a_question_only_unique_names_are_known() -> None:
    names = ["a", "b", "c", "▁a", "\ufffd", "token_id:2", "token_id:6", "d"]
    assert [PIECES.find(Entry(name, -1)) for name in names] == [None, 4, 5, 1, None, 2, None, None]
    assert PIECES.find(Entry("\ufffd", -1, b"\xe4")) == 2
    assert [PIECES.unique(i) for i in range(6)] == [False, False, False, False, True, True]


def test_byte_level_tokens_have_the_bytes_of_their_text(embedded: Vocabulary) -> None:
    """Against the tokenizer itself: tokens that decode to text have its bytes, all others are single bytes."""
    assert embedded.size == 1024
    for token, text in enumerate(embedded.texts):
        assert text is not None
        raw = embedded._raw[token]
        assert raw is not None
        assert embedded.find(Entry(text, -1, raw)) == token
        if "\ufffd" in text:
            assert len(raw) == 1
            assert raw[0] >= 0x80
        else:
            assert raw.decode() == text
    assert len(set(embedded._raw)) == embedded.size


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.integers(1, 9))
def test_groups_are_as_few_as_can_be_and_never_ambiguous(texts: list[int], size: int) -> None:
    words = Vocabulary(Listed(*((f"piece{i}", f"text{t}") for i, t in enumerate([*texts, 99]))))
    ids = list(range(len(texts)))
    groups = words.groups(ids, size)
    assert sorted(i for group in groups for i in group) == ids
    assert all(0 < len(group) <= size for group in groups)
    assert all(len({words.texts[i] for i in group}) == len(group) for group in groups)
    assert len(groups) == max(-(-len(ids) // size), max(texts.count(t) for t in texts))


def test_the_size_may_differ_from_the_tokenizers() -> None:
    larger = Vocabulary(Listed(("a", "a"), ("b", "b")), 4)
    assert (larger.size, larger.find(Entry("token_id:3", -1)), larger.identify(Entry("", -1), [2, 3])) == (
        4,
        3,
        None,
    )
    assert larger.groups([0, 1, 2, 3], 4) != []
    assert Vocabulary(Listed(("a", "a"), ("b", "b"), ("c", "c")), 2).find(Entry("c", -1)) is None
    with pytest.raises(ConfigError, match="no tokens"):
        Vocabulary(Listed())


# Replies


def kept(choice: dict[str, Any]) -> Shown:
    content, reasoning = read_choice(choice)
    assert reasoning == ""
    return shown(Reply(content, "", "length"))


def test_both_shapes_say_the_same() -> None:
    plain = kept({
        "text": "b",
        "logprobs": {"tokens": ["b"], "token_logprobs": [-0.5], "top_logprobs": [{"a": -2.0, "b": -0.5}]},
    })  # fmt: skip
    entries = [{"token": "a", "logprob": -2.0, "bytes": [97]}, {"token": "b", "logprob": -0.5, "bytes": [98]}]
    chat = kept({"message": {"content": "b"}, "logprobs": {"content": [{**entries[1], "top_logprobs": entries}]}})
    assert plain == Shown("b", "length", Entry("b", -0.5), (Entry("b", -0.5), Entry("a", -2.0)))
    assert chat == Shown("b", "length", Entry("b", -0.5, b"b"), (Entry("b", -0.5, b"b"), Entry("a", -2.0, b"a")))
    assert [e.name for e in chat.entries] == [e.name for e in plain.entries] == ["b", "a"]


def test_the_token_that_is_said_counts_even_if_it_is_not_among_the_likeliest() -> None:
    found = kept(
        {"text": "c", "logprobs": {"tokens": ["c"], "token_logprobs": [-9.0], "top_logprobs": [{"a": -1}]}}
    )
    assert found.entries == (Entry("a", -1.0), Entry("c", -9.0))


@pytest.mark.parametrize(
    "logprobs",
    [None, {}, [], "no", {"content": []}, {"content": None}, {"content": [7]},
     {"tokens": [], "top_logprobs": None},
     {"tokens": [3], "token_logprobs": ["x"], "top_logprobs": [None]},
     {"content": [{"token": "a", "logprob": None, "top_logprobs": [None, 3, {"token": 5, "logprob": -1}]}]},
     {"top_logprobs": [{"a": -9999.0, "b": float("nan"), "c": float("-inf"), "d": True}]}],
)  # fmt: skip
def test_what_is_no_log_probability_is_left_out(logprobs: Any) -> None:
    assert kept({"text": "a", "logprobs": logprobs}) == Shown("a", "length", None, ())


NAMES = ["token", "logprob", "bytes", "content", "tokens", "top_logprobs", "token_logprobs"]
json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text() | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner),
    max_leaves=20,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(json_values, json_values)
def test_no_reply_breaks_the_reader(logprobs: Any, text: Any) -> None:
    found = kept({"text": text, "logprobs": logprobs})
    assert all(entry.logprob <= 0 for entry in found.entries)
    assert json.loads(read_choice({"text": text, "logprobs": logprobs})[0])


def test_requests_are_in_the_words_of_each_interface() -> None:
    assert fields("completions", 5, {7: 1.0, 3: 2.0}) == {"logprobs": 5, "logit_bias": {"3": 2.0, "7": 1.0}}
    assert fields("chat", 5, {}) == {"logprobs": True, "top_logprobs": 5}
    assert fields("chat", 0, {1: -3.0}) == {"logit_bias": {"1": -3.0}}
    assert fields("completions", 1, {}, token_ids=True) == {"logprobs": 1, "return_tokens_as_token_ids": True}
