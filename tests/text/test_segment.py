from __future__ import annotations

import hashlib
import json
import random
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from azeotrope.text.segment import (
    DISPLAY_CAP,
    FENCE_CAP,
    LOOK_AHEAD,
    MAX_SEGMENT,
    Segmenter,
    boundaries,
    segment,
)

MARKED = Path(__file__).parent.parent / "data" / "segment_boundaries.json"

# Fragments that make a scanner stumble; joined at random they beat random characters by far.
FRAGMENTS = [
    *(". ", ".", "! ", "? ", "...", "… ", " ", "\n", "\n\n", "\r\n", "\t", ": ", "\u00a0"),
    *("$", "$$", "\\(", "\\)", "\\[", "\\]", "\\begin{a}", "\\end{a}", "\\end{b}", "```", "\\", "\\$"),
    *(
        "<think>",
        "</think>",
        "<",
        "think>",
        "e.g",
        "vs",
        "Dr",
        "No",
        "etc",
        "A",
        "1.",
        "5",
        "5!",
        "**",
        '"',
        ")",
    ),
    *("foo", "Bar", "and ", "n = 3", " = ", "I", "α", "É", "- "),
]
soup = st.lists(st.sampled_from(FRAGMENTS), max_size=60).map("".join)
texts = soup | st.text(max_size=200)


def streamed(text: str, sizes: list[int]) -> list[str]:
    segmenter, parts, at, turn = Segmenter(), [], 0, 0
    while at < len(text):
        size = sizes[turn % len(sizes)]
        parts += segmenter.feed(text[at : at + size])
        at, turn = at + size, turn + 1
    return parts + segmenter.close()


@settings(max_examples=400, deadline=None)
@given(texts)
def test_segments_tile_the_text(text: str) -> None:
    parts = segment(text)
    assert "".join(parts) == text
    assert all(parts)


@settings(max_examples=600, deadline=None)
@given(texts, st.lists(st.integers(1, 40), min_size=1, max_size=8))
def test_every_cut_gives_the_same_segments(text: str, sizes: list[int]) -> None:
    assert streamed(text, sizes) == segment(text)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=3), st.integers(1, 3000), st.integers(1, 900))
def test_long_runs_are_cut_alike_and_held_within_bounds(unit: list[str], repeats: int, size: int) -> None:
    text = ("".join(unit) * repeats)[:20_000]
    segmenter, parts, most = Segmenter(), [], 0
    for at in range(0, len(text), size):
        parts += segmenter.feed(text[at : at + size])
        most = max(most, segmenter.held)
    assert parts + segmenter.close() == segment(text)
    assert most <= 2 * MAX_SEGMENT + max(DISPLAY_CAP, FENCE_CAP) + LOOK_AHEAD + size


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It is 5. Then we stop.", ["It is 5. ", "Then we stop."]),
        ("Pi is 3.14. So e.g. this holds.", ["Pi is 3.14. ", "So e.g. this holds."]),
        ("Use 24 vs. 19 inches.", ["Use 24 vs. 19 inches."]),
        ("So 5! is 120. Good!", ["So 5! is 120. ", "Good!"]),
        ("That leaves... no one? That is odd.", ["That leaves... no one? ", "That is odd."]),
        ("Hmm... Let me see.", ["Hmm... ", "Let me see."]),
        ("1. First item\n2. Second item", ["1. First item\n", "2. Second item"]),
        ("Step 1. Compute it. Then stop.", ["Step 1. Compute it. ", "Then stop."]),
        ("We have:\n\nSo it is", ["We have:\n\n", "So it is"]),
        ("We get:\n\\[\nx = 5.\n\\]\nNow stop.", ["We get:\n", "\\[\nx = 5.\n\\]\n", "Now stop."]),
        ("Here \\(a. B\\) holds. Yes.", ["Here \\(a. B\\) holds. ", "Yes."]),
        ("Here $x = 5.$ Then go.", ["Here $x = 5.$ ", "Then go."]),
        ("It costs $5. Then $6. Done.", ["It costs $5. ", "Then $6. ", "Done."]),
        ("It costs $5 and $6. Done.", ["It costs $5 and $6. ", "Done."]),
        ("An open $ sign. Then more.\nEnd.", ["An open $ sign. ", "Then more.\n", "End."]),
        ("```\na. B\n\nc = 1\n```\nDone.", ["```\na. B\n\nc = 1\n```\n", "Done."]),
        ("\\begin{align}\na. B\n\\end{align}\nSo.", ["\\begin{align}\na. B\n\\end{align}\n", "So."]),
        (
            "<think>\nOkay. So.\n</think>\n\nIt is 5.",
            ["<think>\n", "Okay. ", "So.\n", "</think>\n\n", "It is 5."],
        ),
        ("It is C.</think> The answer", ["It is C.", "</think> ", "The answer"]),
        ("P(a)\n= P(b)\n= 1\n\nSo", ["P(a)\n= P(b)\n= 1\n\n", "So"]),
        ("What about n = 3? n = 9 is odd.", ["What about n = 3? ", "n = 9 is odd."]),
        ('He said "stop." Then left.', ['He said "stop." ', "Then left."]),
        ('He asked "why?" and left.', ['He asked "why?" and left.']),
        ("J. R. Smith came. He left.", ["J. R. Smith came. ", "He left."]),
        ("It is option C. The rest fail.", ["It is option C. ", "The rest fail."]),
        ("", []),
        ("\n\n Foo.", ["\n\n Foo."]),
    ],
)
def test_conventions(text: str, expected: list[str]) -> None:
    assert segment(text) == expected


def test_an_unclosed_opener_swallows_nothing() -> None:
    tail = "Next one. Last one."
    for opener in ("$", "$$", "\\(", "\\[", "```", "\\begin{align}"):
        assert segment(f"Open {opener}x here. {tail}")[-2:] == ["Next one. ", "Last one."]


@pytest.mark.parametrize(
    "unit",
    [
        *(".", ". ", "...", '.)"', "\\[", "\\(", "\\begin{a}", "\\begin{a}\\end{b}", "$", "$$", "$a ", "```"),
        *(
            "\n",
            " ",
            " \n",
            "\n=",
            "\n a",
            "<",
            "<think>",
            "</think>x",
            "1.",
            "A. ",
            "e.g. ",
            "a",
            "\\",
            "\\[\n    ",
        ),
    ],
)
def test_hostile_text_takes_linear_time(unit: str) -> None:
    """Four times the text takes about four times as long: quadratic time would show as sixteen."""

    def seconds(size: int) -> float:
        text = (unit * size)[:size]
        runs = []
        for _ in range(3):
            begin = time.perf_counter()
            parts = boundaries(text)
            runs.append(time.perf_counter() - begin)
            assert parts[-1] == size
        return min(runs)

    assert seconds(120_000) < 10 * seconds(30_000) + 0.02


def test_a_stream_of_single_characters_on_hostile_text_stays_cheap() -> None:
    for unit in ("\\[", " ", "a", "$a "):
        begin = time.perf_counter()
        streamed((unit * 3000)[:3000], [1])
        assert time.perf_counter() - begin < 3


def test_real_traces_tile_and_stream(real_texts: dict[str, list[str]]) -> None:
    rng = random.Random(0)
    for number, text in enumerate(text for rows in real_texts.values() for text in rows):
        parts = segment(text)
        assert "".join(parts) == text
        sizes = [1] if number % 25 == 0 else [rng.randint(1, 30) for _ in range(9)]
        assert streamed(text, sizes) == parts


@pytest.mark.parametrize("split", ["tuning", "heldout", "hard"])
def test_marked_boundaries(real_texts: dict[str, list[str]], split: str) -> None:
    hits = wrong = missed = 0
    for passage in json.loads(MARKED.read_text())["passages"]:
        if passage["split"] != split:
            continue
        text = real_texts[passage["source"]][passage["row"]][passage["start"] : passage["end"]]
        assert hashlib.sha256(text.encode()).hexdigest() == passage["sha256"]
        marked, found = set(passage["boundaries"]), set(boundaries(text)[:-1])
        hits += len(marked & found)
        wrong += len(found - marked)
        missed += len(marked - found)
    assert 2 * hits / (2 * hits + wrong + missed) >= 0.95


def test_enough_boundaries_are_marked() -> None:
    passages = json.loads(MARKED.read_text())["passages"]
    assert sum(len(passage["boundaries"]) for passage in passages) >= 500
    assert len({(passage["source"], passage["row"]) for passage in passages}) >= 25
    halves = [{(p["source"], p["row"]) for p in passages if p["split"] == s} for s in ("tuning", "heldout")]
    assert not halves[0] & halves[1]
