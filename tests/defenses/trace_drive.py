"""What the tests of text defenses share."""

from __future__ import annotations

from typing import Any, Protocol

from hypothesis import strategies as st

from azeotrope.core.types import Trace

PROSE = "<think>\nThe road leads to Oslen. Hmm. So it costs 5. Wait, no.\n</think>\n\nThe answer is C. Bye."
SENTENCES = [
    *("The road leads to Oslen. ", "Wait, that is wrong. ", "Hmm. ", "So x is 5.\n\n", "\\[\nx = 5.\n\\]\n"),
    *("No, it is 7.\n", "So it is \\boxed{5}. ", "<think>\n", "1. Perhaps this one.\n", "Actually... no. ", " "),
]
ANSWERS = [
    "",
    "</think> The answer is C.",
    "</think>\n\nWait, it is 5. Hmm.",
    "</think>",
    "</think> a </think> b.",
]
texts = st.tuples(st.lists(st.sampled_from(SENTENCES), max_size=20).map("".join), st.sampled_from(ANSWERS)).map(
    "".join
)
anything = st.one_of(texts, st.text(max_size=60), st.text("<>/think. \n\\$`A", max_size=80))
HOSTILE = {
    "empty": "",
    "blank": " \n ",
    "no tags": "It is so. It is not.",
    "unclosed": "<think>It is so. It is n",
    "only tags": "<think></think>",
    "closed first": "</think></think><think>",
    "one word": "x" * 500_000,
    "one sentence": "word " * 100_000,
    "many sentences": "It is. " * 30_000 + "</think> A.",
    "many tags": "<think></think>" * 10_000,
    "dollars": "$" * 100_000,
}


class Stream(Protocol):
    def feed(self, chunk: str) -> str: ...

    def close(self) -> str: ...


def make(text: str) -> Trace:
    return Trace(
        problem_id="p", prompt="?", text=text, n_tokens=9, token_ids=(1, 2), moved=(0.1, 0.2), meta={"k": 1}
    )


def spans(trace: Trace) -> list[tuple[int, int]]:
    return [(item["start"], item["end"]) for item in trace.meta.get("removed", [])]


def gone(trace: Trace) -> set[int]:
    """The offsets of the original that were left out."""
    return {at for start, end in spans(trace) for at in range(start, end)}


def cut(text: str, out: Trace) -> str:
    """`text` without what `out` says was removed."""
    parts, at = [], 0
    for start, end in spans(out):
        parts.append(text[at:start])
        at = end
    return "".join([*parts, text[at:]])


def record_is_true(text: str, out: Trace) -> None:
    """The record explains the text, and what described the original is gone."""
    assert cut(text, out) == out.text
    assert (out.problem_id, out.prompt, out.meta["k"]) == ("p", "?", 1)
    if spans(out):
        assert (out.n_tokens, out.token_ids, out.moved, out.meta["undefended"]) == (0, None, None, False)
    else:
        assert (out.text, out.n_tokens, out.token_ids, out.meta["undefended"]) == (text, 9, (1, 2), True)


def drain(stream: Stream, text: str, sizes: list[int]) -> str:
    out: list[Any] = []
    at = turn = 0
    while at < len(text):
        size = sizes[turn % len(sizes)]
        out.append(stream.feed(text[at : at + size]))
        at, turn = at + size, turn + 1
    return "".join([*out, stream.close()])
