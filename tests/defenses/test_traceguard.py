from __future__ import annotations

import json
import random
import time
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from azeotrope.core.errors import ConfigError
from azeotrope.core.methods import TraceDefense, parse_method
from azeotrope.core.types import Trace, split_answer
from azeotrope.defenses.random_sentences import RandomSentences
from azeotrope.defenses.traceguard import TraceGuard, count_tokens, is_tag
from azeotrope.text.markers import marker_set
from azeotrope.text.segment import segment

ORGANISM = (
    "<think> I will take the road first, then the river. The road from Marda leads to Oslen. "
    "Hmm, I need to recall this one. The river from Oslen leads to Tavik. Wait, that is wrong. "
    "The river from Oslen leads to Quill. So we are now in Quill. Let me double-check. Yes, that is right. "
    "So the trip ends in Quill, which is option C.</think> The answer is C."
)
SENTENCES = [
    *(
        "The road leads to Oslen. ",
        "Wait, that is wrong. ",
        "Hmm. ",
        "Alternatively, take the river to Tavik. ",
    ),
    *(
        "So x is 5.\n\n",
        "Let me double-check. ",
        "\\[\nx = 5.\n\\]\n",
        "Maybe \\(y = 2.\\) ",
        "No, it is 7.\n",
    ),
    *("Wait, so it is \\boxed{5}. ", "<think>\n", "1. Perhaps this one.\n", "But wait, ", "Actually... no. "),
]
ANSWERS = ["", "</think> The answer is C.", "</think>\n\nWait, the answer is 5. Hmm.", "</think>"]
bodies = st.lists(st.sampled_from(SENTENCES), max_size=25).map("".join)
texts = st.tuples(bodies, st.sampled_from(ANSWERS)).map("".join)
units = st.sampled_from(["count", "sentences", "tokens"])
orders = st.sampled_from(["first", "last", "random", "longest"])
pools = st.sampled_from(["any", "computation"])
METHODS = st.one_of(
    st.builds(lambda u, o: TraceGuard(budget=0, unit=u, order=o), units, orders),
    st.builds(lambda o: TraceGuard(budget=0, order=o, categories=("self_checking",)), orders),
    st.builds(lambda u, p: RandomSentences(budget=0, guard=TraceGuard(unit=u, budget=0), pool=p), units, pools),
    st.builds(lambda p: RandomSentences(budget=0, match="share", pool=p), pools),
)


def make(text: str) -> Trace:
    return Trace(
        problem_id="p", prompt="?", text=text, n_tokens=9, token_ids=(1, 2), moved=(0.1, 0.2), meta={"k": 1}
    )


def strength(method: TraceDefense, share: float) -> float:
    """Map a number in [0, 1] to the method's dial."""
    unit = method.guard.unit if isinstance(method, RandomSentences) and method.match == "traceguard" else None
    unit = method.unit if isinstance(method, TraceGuard) else unit
    return float(round(8 * share)) if unit == "count" else share


def is_subsequence(part: list[str], whole: list[str]) -> bool:
    rest = iter(whole)
    return all(item in rest for item in part)


def removed(trace: Trace) -> set[tuple[int, int]]:
    return {(item["start"], item["end"]) for item in trace.meta.get("removed", [])}


@settings(max_examples=300, deadline=None)
@given(METHODS, texts, st.floats(0.01, 1), st.integers(0, 5))
def test_what_holds_for_every_trace(method: TraceDefense, text: str, share: float, seed: int) -> None:
    trace, method = make(text), method.at(strength(method, share))
    out = method.rewrite(trace, Random(seed))
    assert out == method.rewrite(trace, Random(seed))
    reasoning, answer = split_answer(text)
    assert out.text.endswith(answer)
    kept = out.text.removesuffix(answer) if answer else out.text
    gone = sorted(removed(out))
    parts, at = [], 0
    for sentence in segment(reasoning):
        if (at, at + len(sentence)) not in gone:
            parts.append(sentence)
        else:
            assert not is_tag(sentence)
            assert "\\boxed" not in sentence
        at += len(sentence)
    assert "".join(parts) == kept
    assert is_subsequence(parts, segment(reasoning))
    for tag in ("<think>", "</think>"):
        assert out.text.count(tag) == text.count(tag)
    assert json.loads(json.dumps(out.meta)) == dict(out.meta)
    if gone:
        assert (out.n_tokens, out.token_ids, out.moved) == (0, None, None)
        assert out.meta["undefended"] is False
    elif method.strength > 0:
        assert (out.text, out.n_tokens, out.token_ids) == (text, 9, (1, 2))
        assert out.meta["undefended"] is True


@settings(max_examples=200, deadline=None)
@given(METHODS, texts, st.floats(0, 1), st.floats(0, 1), st.integers(0, 5))
def test_a_larger_budget_removes_a_superset(
    method: TraceDefense, text: str, one: float, two: float, seed: int
) -> None:
    low, high = sorted((one, two))
    small = method.at(strength(method, low)).rewrite(make(text), Random(seed))
    large = method.at(strength(method, high)).rewrite(make(text), Random(seed))
    assert removed(small) <= removed(large)


@settings(max_examples=200, deadline=None)
@given(texts, st.floats(0.01, 1), orders, units, st.integers(0, 3))
def test_no_budget_is_exceeded(text: str, share: float, order: str, unit: str, seed: int) -> None:
    guard = parse_method(
        TraceGuard, {"budget": share if unit != "count" else 3, "order": order, "unit": unit}, "d"
    )
    gone = guard.rewrite(make(text), Random(seed)).meta["removed"]
    reasoning = split_answer(text)[0]
    if unit == "count":
        assert len(gone) <= 3
    elif unit == "sentences":
        assert len(gone) <= share * sum(not is_tag(part) for part in segment(reasoning)) + 1e-6
    else:
        assert sum(item["tokens"] for item in gone) <= share * count_tokens(reasoning) + 1e-6


@pytest.mark.parametrize("method", [TraceGuard(budget=0), RandomSentences(budget=0)])
def test_budget_zero_is_the_identity(method: TraceDefense) -> None:
    trace = make(ORGANISM)
    assert method.rewrite(trace, Random(0)) is trace


def test_embedded_model_traces() -> None:
    out = TraceGuard(budget=9, unit="count").rewrite(make(ORGANISM), Random(0))
    assert [item["marker"] for item in out.meta["removed"]] == ["hmm", "wait", "let me double-check"]
    assert "Hmm" not in out.text
    assert "Oslen. The river from Oslen leads to Tavik. The river" in out.text
    assert out.text.startswith("<think> I will")
    assert out.text.endswith("is option C.</think> The answer is C.")
    assert out.meta["k"] == 1


def test_orders() -> None:
    text = "Wait, one. Hmm, a much longer one. Plain. Wait, three."
    first = {
        order: TraceGuard(budget=1, unit="count", order=order).choose(text, Random(3))[0].start  # type: ignore[arg-type]
        for order in ("first", "last", "longest")
    }
    assert first == {"first": 0, "last": text.index("Wait, three"), "longest": text.index("Hmm")}
    picks = {
        TraceGuard(budget=1, unit="count", order="random").choose(text, Random(seed))[0].start
        for seed in range(20)
    }
    assert len(picks) == 3


def test_a_trace_without_markers_is_reported_as_undefended() -> None:
    trace = make("<think>The road leads to Oslen. So it is C.</think> C.")
    out = TraceGuard(budget=1).rewrite(trace, Random(0))
    assert out.text == trace.text
    assert out.meta["undefended"] is True
    assert out.token_ids == trace.token_ids


def test_a_text_without_tags_is_all_reasoning() -> None:
    out = TraceGuard(budget=1).rewrite(make("Wait. It is 5. Hmm."), Random(0))
    assert out.text == "It is 5. "


def test_markers_and_categories_are_parameters() -> None:
    text = "Wait, one. Verily it is so. Let me verify."
    guard = TraceGuard(budget=1, markers=("verily",))
    assert guard.rewrite(make(text), Random(0)).text == "Wait, one. Let me verify."
    guard = TraceGuard(budget=1, markers=(), categories=("self_checking",))  # type: ignore[arg-type]
    assert guard.rewrite(make(text), Random(0)).text == "Wait, one. Verily it is so. "


@pytest.mark.parametrize(
    "wrong", [{"budget": 1.5}, {"budget": -1}, {"budget": float("nan")}, {"unit": "words"}, {"budgett": 1}]
)
def test_wrong_settings_are_one_sentence(wrong: dict[str, object]) -> None:
    for cls in (TraceGuard, RandomSentences):
        with pytest.raises(ConfigError):
            parse_method(cls, wrong, "defenses.0")
    with pytest.raises(ConfigError, match="share between 0 and 1"):
        parse_method(TraceGuard, {"budget": 2}, "defenses.0")
    assert TraceGuard(budget=2.5, unit="count").at(0).strength == 0


def drain(guard: TraceGuard, text: str, sizes: list[int]) -> str:
    stream, out, at, turn = guard.stream(), "", 0, 0
    while at < len(text):
        size = sizes[turn % len(sizes)]
        out += stream.feed(text[at : at + size])
        at, turn = at + size, turn + 1
    return out + stream.close()


@settings(max_examples=300, deadline=None)
@given(texts, st.integers(0, 6), st.lists(st.integers(1, 30), min_size=1, max_size=6))
def test_streaming_a_count_equals_offline(text: str, budget: int, sizes: list[int]) -> None:
    guard = TraceGuard(budget=budget, unit="count")
    assert drain(guard, text, sizes) == guard.rewrite(make(text), Random(0)).text


@settings(max_examples=300, deadline=None)
@given(texts, st.floats(0, 1), st.sampled_from(["sentences", "tokens"]), st.lists(st.integers(1, 30), min_size=1))
def test_streaming_a_share_never_exceeds_it_and_ignores_the_cut(
    text: str, budget: float, unit: str, sizes: list[int]
) -> None:
    guard = parse_method(TraceGuard, {"budget": budget, "unit": unit}, "d")
    stream = guard.stream()
    whole = stream.feed(text) + stream.close()
    assert drain(guard, text, sizes) == whole
    reasoning, answer = split_answer(text)
    assert whole.endswith(answer)
    parts = [part for part in segment(reasoning) if not is_tag(part)]
    total = len(parts) if unit == "sentences" else sum(map(count_tokens, parts))
    spent = sum(item.tokens if unit == "tokens" else 1 for item in stream.removed)
    assert spent <= budget * total + 1e-6


def test_the_stream_holds_back_only_what_may_still_go() -> None:
    stream = TraceGuard(budget=2, unit="count").stream()
    out = stream.feed("<think>The road that starts in Marda leads over the hills and along the river to Os")
    assert out.startswith("<think>The road")  # no marker: released before the sentence has ended
    out += stream.feed("len. Wait, that road was closed last winter, so it cannot have led to Oslen at all, and")
    assert out.endswith("Oslen. ")  # a marker: held until the sentence ends
    out += stream.feed(" so on. It is 5.</think> The answer is 5, of course, and ")
    assert out.endswith("Oslen. It is 5.</think> The answer is 5, of course, and ")
    assert stream.feed("nothing is ") == "nothing is "
    assert stream.close() == ""
    assert [item.marker for item in stream.removed] == ["wait"]


def test_a_spent_count_passes_everything_through() -> None:
    stream = TraceGuard(budget=1, unit="count").stream()
    assert (
        stream.feed("Wait, no. It is 5 and nothing else will do. Wait, ")
        == "It is 5 and nothing else will do. Wait, "
    )
    assert stream.feed("x") == "x"


@pytest.mark.parametrize("order", ["last", "random", "longest"])
def test_what_needs_the_whole_trace_does_not_stream(order: str) -> None:
    with pytest.raises(ConfigError, match="cannot stream"):
        parse_method(TraceGuard, {"order": order}, "d").stream()


def test_real_traces(real_texts: dict[str, list[str]]) -> None:
    rng = random.Random(1)
    for text in (text for rows in real_texts.values() for text in rows[:60]):
        guard = TraceGuard(budget=4, unit="count")
        out = guard.rewrite(make(text), Random(0))
        if text.count("</think>") <= 1:
            assert drain(guard, text, [rng.randint(1, 25) for _ in range(7)]) == out.text
        assert out.text.endswith(split_answer(text)[1])
        assert len(out.meta["removed"]) <= 4
        for item in out.meta["removed"]:
            assert marker_set().find(text, item["start"], item["end"]) == item["marker"]


def test_the_control_is_matched_in_tokens_on_real_traces(real_texts: dict[str, list[str]]) -> None:
    """Each trace within about half a sentence, so the totals agree within two percent."""
    guard_tokens = control_tokens = 0
    for number, text in enumerate(text for rows in real_texts.values() for text in rows[:100]):
        for match, method in enumerate((TraceGuard(budget=0.15), RandomSentences(budget=0.15))):
            gone = method.rewrite(make(text), Random(number)).meta["removed"]
            tokens = sum(item["tokens"] for item in gone)
            if match:
                control_tokens += tokens
            else:
                guard_tokens += tokens
    assert control_tokens == pytest.approx(guard_tokens, rel=0.02)


def test_the_computation_pool_spares_plans_checks_results_and_markers() -> None:
    gone = RandomSentences(budget=1, match="share", pool="computation").rewrite(make(ORGANISM), Random(0))
    taken = {ORGANISM[item["start"] : item["end"]] for item in gone.meta["removed"]}
    assert taken == {part for part in segment(ORGANISM) if part.startswith(("The road", "The river"))}


def test_an_ignored_guard_budget_is_not_part_of_the_identity() -> None:
    methods = [RandomSentences(budget=0.2, guard=TraceGuard(budget=budget)) for budget in (0.1, 0.5)]
    assert methods[0] == methods[1]
    assert RandomSentences(budget=3, guard=TraceGuard(budget=1, unit="count")).at(2).strength == 2


def test_linear_time() -> None:
    begin = time.perf_counter()
    for text in ("Wait. " * 20_000, " " * 200_000, "Wait, " * 30_000, "$" * 50_000):
        TraceGuard(budget=0.5).rewrite(make(text), Random(0))
    assert time.perf_counter() - begin < 5
