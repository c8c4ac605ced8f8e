from __future__ import annotations

import time
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from azeotrope.text import cuts as module
from azeotrope.text.cuts import CutSentences, CutText
from azeotrope.text.segment import MAX_SEGMENT, boundaries, segment

# Everything whose meaning depends on what follows, or on what came before.
PARTS = [
    *("The road leads to Oslen. ", "Wait, no. ", "Hmm.\n\n", "So x is 5.\n", "1. ", "e.g. ", "Step 2.\n"),
    *("$", "$$", "\\(", "\\)", "\\[\nx\n", "\\]", "\\begin{a}", "\\end{a}", "```\n", "$x$ ", " = 3. ", "... "),
    *("<think>", "</think>", "<thi", "nk>", "  ", "\n", "no final word", "Dr. ", "$5 and $6. ", '."', " \n\n "),
]
texts = st.lists(st.sampled_from(PARTS), max_size=40).map("".join)
LONG = ["x" * MAX_SEGMENT, "word " * 900, " " * 5000, "$" + "y" * 450, "```" + "z. " * 1000]
long_texts = st.lists(st.one_of(st.sampled_from(PARTS), st.sampled_from(LONG)), max_size=14).map("".join)


def spans_of(text: str, rng: Random, whole: bool) -> list[tuple[int, int]]:
    """Disjoint spans in random order: sentences, or anything."""
    ends = boundaries(text) if whole else sorted({rng.randint(0, len(text)) for _ in range(rng.randint(1, 12))})
    spans = [span for span in zip([0, *ends], ends, strict=False) if span[0] < span[1] and rng.random() < 0.7]
    rng.shuffle(spans)
    return spans[:12]


def left(text: str, gone: list[tuple[int, int]]) -> list[int]:
    kept = set(range(len(text))).difference(*(range(start, end) for start, end in gone))
    return sorted(kept)


@settings(max_examples=300, deadline=None)
@given(texts, st.integers(0, 99), st.booleans())
def test_the_text_around_a_place(text: str, seed: int, whole: bool) -> None:
    rng, cuts, gone = Random(seed), CutText(text), []
    for start, end in spans_of(text, rng, whole):
        kept, length = left(text, gone), rng.choice([1, 5, 40, 1000])
        before = "".join(text[at] for at in kept if at < start)
        after = "".join(text[at] for at in kept if at >= end)
        assert cuts.before(start, length) == before[-length:]
        assert cuts.after(end, length) == after[:length]
        pieces = list(cuts.pieces(0, end))
        assert "".join(piece for _, piece in pieces) == before + text[start:end]
        assert all(text[at : at + len(piece)] == piece for at, piece in pieces)
        cuts.cut(start, end)
        gone.append((start, end))
    assert cuts.after(0, len(text) + 1) == "".join(text[at] for at in left(text, gone))


def follow(text: str, rng: Random, whole: bool) -> None:
    """Cut `text` to pieces; the sentences are those of what is left after every cut."""
    sentences, gone = CutSentences(text), []
    assert list(sentences.sentences) == segment(text)
    for start, end in spans_of(text, rng, whole):
        after = segment("".join(text[at] for at in left(text, [*gone, (start, end)])))
        before = list(sentences.sentences)
        change = sentences.change(start, end)
        assert list(sentences.sentences) == before, "asking changes nothing"
        assert sorted([*before, *change.come]) == sorted([*after, *change.gone])
        if rng.random() < 0.7:
            sentences.apply(change)
            gone.append((start, end))
            assert list(sentences.sentences) == after


@pytest.mark.parametrize("piece", [1, 16, 128])
def test_sentences_are_those_of_what_is_left(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much is read at a time."""
    monkeypatch.setattr(module, "_PIECE", piece)
    for seed in range(250):
        rng = Random(seed)
        follow("".join(rng.choices(PARTS, k=rng.randint(0, 60))), rng, whole=seed % 2 == 0)


@settings(max_examples=200, deadline=None)
@given(texts, st.integers(0, 99), st.booleans())
def test_sentences_of_any_text(text: str, seed: int, whole: bool) -> None:
    follow(text, Random(seed), whole)


@settings(max_examples=30, deadline=None)
@given(long_texts, st.integers(0, 99), st.booleans())
def test_sentences_beyond_every_cap(text: str, seed: int, whole: bool) -> None:
    follow(text, Random(seed), whole)


def apply_all(text: str, gone: list[tuple[int, int]]) -> CutSentences:
    sentences = CutSentences(text)
    for start, end in gone:
        sentences.apply(sentences.change(start, end))
    assert list(sentences.sentences) == segment("".join(text[at] for at in left(text, gone)))
    return sentences


def test_a_sentence_that_was_cut_for_its_length_is_no_place_to_start_from() -> None:
    """The cut falls into code, where a fresh start would find sentences."""
    text = "word " * 700 + "```" + "z. " * 900 + "``` so. " + "Wait, no. It is. " * 20
    assert len(segment(text)[0]) == MAX_SEGMENT
    assert len(segment(text)[1]) > 1000
    apply_all(text, [(6300, 6330), (3600, 3900), (100, 700), (6203, 6206)])
    for seed in range(30):
        follow(text, Random(seed), whole=seed % 2 == 0)


def test_a_sentence_is_only_certain_where_those_before_it_are() -> None:
    """The first cut opens a formula that a far blank line rules out; the second takes the blank line away."""
    text = "It is \\[ b. \\] c. " + "So it goes. " * 40 + "Then.\n\nHere \\] it ends. " + "So it goes. " * 40
    closer, blank = text.index("\\]"), text.index("\n\n")
    opened = apply_all(text, [(closer, closer + 3)]).sentences
    closed = apply_all(text, [(closer, closer + 3), (blank, blank + 2)]).sentences
    assert len(opened) - len(closed) > 40


def test_only_the_neighborhood_is_segmented_again() -> None:
    text = "The road leads to Oslen, over the hills. Wait, no. " * 4000
    sentences = CutSentences(text)
    begin = time.process_time()
    for start in range(40, len(text), 102):
        change = sentences.change(start, start + 11)
        assert (len(change.gone), len(change.come)) < (12, 12)
        sentences.apply(change)
    assert time.process_time() - begin < 2  # 2,000 cuts of 200,000 characters
