"""TraceGuard under a detector's limit."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from azeotrope.cli import methods
from azeotrope.core import plugins
from azeotrope.core.errors import ConfigError, MissingError
from azeotrope.core.methods import parse_method
from azeotrope.core.types import Trace, split_answer
from azeotrope.defenses.random_sentences import RandomSentences
from azeotrope.defenses.traceguard import TraceGuard
from azeotrope.defenses.unseen import trace_scorer
from azeotrope.detect.base import RunningScore, TraceScorer
from azeotrope.tasks import grammar
from azeotrope.tasks.lookup import Lookup
from defenses.trace_drive import anything, gone, make, record_is_true, spans, texts

KINDS = ("token_delta", "tfidf_cosine", "marker_rate")
INFINITY = float("inf")
kinds = st.sampled_from(KINDS)
units = st.sampled_from(["count", "sentences", "tokens"])
orders = st.sampled_from(["first", "last", "random", "longest"])
tags = st.sampled_from([(), ("self_checking", "fact_retrieval")])
limits = st.one_of(st.floats(0, 0.5), st.floats(0, 40), st.just(INFINITY))
forms = st.fixed_dictionaries({"unit": units, "order": orders, "categories": tags})


def guard(share: float, form: dict[str, Any], **more: Any) -> TraceGuard:
    budget = round(8 * share) if form.get("unit") == "count" else share
    return parse_method(TraceGuard, {"budget": budget, **form, **more}, "d")


def doubtful(n: int) -> list[Trace]:
    """Traces of the embedded grammar with many corrections and checks."""
    style = grammar.Style(slip=0.5, doubt=0.5, check=0.3)
    return [Lookup().write(p, Random(i), style) for i, p in enumerate(Lookup().problems("release", n))]


@settings(max_examples=400, deadline=None)
@given(st.one_of(texts, anything), st.floats(0, 1), forms, kinds, limits, st.integers(0, 3))
def test_the_limit_holds_for_every_trace(
    text: str, share: float, form: dict[str, Any], kind: str, most: float, seed: int
) -> None:
    method = guard(share, form, detector=kind, max_score=most)
    trace = make(text)
    out = method.rewrite(trace, Random(seed))
    assert out == method.rewrite(trace, Random(seed))
    if method.budget == 0:
        assert out is trace
        return
    assert trace_scorer(kind).score(out.text, text) <= most
    record_is_true(text, out)
    assert split_answer(out.text)[1] == split_answer(text)[1]
    assert json.loads(json.dumps(dict(out.meta), allow_nan=False)) == dict(out.meta)
    verdict = out.meta["detector"]
    assert verdict["kind"] == kind
    assert verdict["score"] == trace_scorer(kind).score(out.text, text)
    assert verdict["skipped"] == 0 or most < INFINITY


@settings(max_examples=300, deadline=None)
@given(texts, st.floats(0.01, 1), forms, kinds, st.integers(0, 3))
def test_without_a_limit_it_is_as_without_a_detector(
    text: str, share: float, form: dict[str, Any], kind: str, seed: int
) -> None:
    plain = guard(share, form).rewrite(make(text), Random(seed))
    free = guard(share, form, detector=kind, max_score=INFINITY).rewrite(make(text), Random(seed))
    assert free.text == plain.text
    assert {key: value for key, value in free.meta.items() if key != "detector"} == plain.meta
    assert "detector" not in plain.meta


@settings(max_examples=300, deadline=None)
@given(texts, st.floats(0, 1), st.floats(0, 1), forms, kinds, limits, st.integers(0, 3))
def test_budgets_nest_under_a_limit(
    text: str, one: float, two: float, form: dict[str, Any], kind: str, most: float, seed: int
) -> None:
    small, large = (
        guard(share, form, detector=kind, max_score=most).rewrite(make(text), Random(seed))
        for share in sorted((one, two))
    )
    assert gone(small) <= gone(large)


def test_limits_do_not_nest() -> None:
    """The larger limit admits the long sentence, and nothing more fits the budget."""
    text = "Wait, this is by far the longest of them all. Hmm. It is so. It is five. It is six. It is seven."
    strict, loose = (
        TraceGuard(budget=0.5, detector="token_delta", max_score=most).choose(text, Random(0))
        for most in (0.1, 0.45)
    )
    assert [item.marker for item in strict] == ["hmm"]
    assert [item.marker for item in loose] == ["wait"]


def test_what_the_detector_would_see_is_skipped() -> None:
    text = "<think>Wait, one two three four five. Six seven eight. Hmm, no. Ten eleven.</think> Twelve."
    out = TraceGuard(budget=1, detector="token_delta", max_score=0.2).rewrite(make(text), Random(0))
    assert out.text == "<think>Wait, one two three four five. Six seven eight. Ten eleven.</think> Twelve."
    assert out.meta["detector"] == {"kind": "token_delta", "score": 2 / 14, "skipped": 1}
    out = TraceGuard(budget=1, detector="token_delta", max_score=0.1).rewrite(make(text), Random(0))
    assert (out.text, out.meta["undefended"]) == (text, True)
    assert out.meta["detector"] == {"kind": "token_delta", "score": 0, "skipped": 2}


@pytest.mark.parametrize("kind", KINDS)
def test_the_effect_goes_to_zero_with_the_limit(kind: str) -> None:
    top = 20.0 if kind == "marker_rate" else 0.4
    removed = []
    for most in (INFINITY, *(top / 1.5**k for k in range(9)), top / 1000, 0.0):
        outs = [
            TraceGuard(budget=1, detector=kind, max_score=most).rewrite(trace, Random(i))
            for i, trace in enumerate(doubtful(40))
        ]
        removed.append(sum(item["tokens"] for out in outs for item in out.meta["removed"]))
    assert all(less <= more for more, less in pairwise(removed)), removed
    assert removed[0] > 100
    assert removed[-2:] == [0, 0]
    assert len(set(removed)) > 4, "a ladder, not a step"


def test_the_control_is_matched_under_a_limit() -> None:
    """`random_sentences` takes as many tokens as the limited TraceGuard, not as the unlimited one."""
    limited = TraceGuard(budget=0, detector="marker_rate", max_score=5)
    totals = dict.fromkeys(("free", "limited", "control"), 0)
    for i, trace in enumerate(doubtful(60)):
        for name, method in (
            ("free", TraceGuard(budget=0.5)),
            ("limited", limited.at(0.5)),
            ("control", RandomSentences(budget=0.5, guard=limited)),
        ):
            totals[name] += sum(item["tokens"] for item in method.rewrite(trace, Random(i)).meta["removed"])
    assert totals["limited"] < 0.8 * totals["free"]
    assert totals["control"] == pytest.approx(totals["limited"], rel=0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"detector": "marker_rate"}, "set both or neither"),
        ({"max_score": 1}, "set both or neither"),
        ({"detector": "marker_rat", "max_score": 1}, "no detector 'marker_rat'. Did you mean 'marker_rate'"),
        ({"detector": "ngram", "max_score": 1}, "'ngram' cannot limit a defense.* choose token_delta"),
        ({"detector": "marker_rate", "max_score": -1}, "max_score"),
        ({"detector": "marker_rate", "max_score": float("nan")}, "max_score"),
    ],
)
def test_wrong_settings_are_one_sentence(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_method(TraceGuard, settings, "defenses.0")


def test_a_detector_does_not_stream() -> None:
    with pytest.raises(ConfigError, match="cannot stream with the detector 'token_delta'"):
        TraceGuard(detector="token_delta", max_score=1).stream()


def test_settings_survive_json_and_the_command_line() -> None:
    for most in (0.0, 2.5, INFINITY):
        method = TraceGuard(detector="marker_rate", max_score=most)
        assert TraceGuard.model_validate_json(method.model_dump_json()) == method
        assert json.loads(json.dumps(method.identity(), allow_nan=False)) == method.identity()
        nested = RandomSentences(guard=method)
        assert RandomSentences.model_validate_json(nested.model_dump_json()) == nested
        assert method.at(0.3).max_score == most
    parsed = methods.parse("defenses", "traceguard:budget=0.2,detector=marker_rate,max_score=.inf")
    assert parsed == TraceGuard(budget=0.2, detector="marker_rate", max_score=INFINITY)
    assert parsed.label == "traceguard(budget=0.2, detector=marker_rate, max_score=inf)"


def test_without_a_detector_the_identity_is_what_it_was() -> None:
    """Stored results are found by it."""
    assert set(TraceGuard().identity()) == {"kind", "version", "budget", "unit", "order", "markers", "categories"}
    assert set(RandomSentences().identity()["guard"]) == set(TraceGuard().identity()) - {"kind", "version"}
    limited = [TraceGuard(detector="token_delta", max_score=most).identity() for most in (0.1, 0.2, INFINITY)]
    assert all(one != other for one, other in pairwise([TraceGuard().identity(), *limited]))


class Plugged(TraceScorer):
    """Another package's detector: more than two words fewer are seen."""

    def score(self, edited: str, original: str) -> float:
        return float(len(original.split()) - len(edited.split()) > 2)


class Careless(Plugged):
    """Its running score admits everything."""

    def running(self, original: str) -> RunningScore:
        class Yes(RunningScore):
            def try_cut(self, start: int, end: int, most: float) -> bool:
                return True

        return Yes()


def test_other_detectors_need_a_score_only(monkeypatch: pytest.MonkeyPatch) -> None:
    trace = make("Wait, no. It is 5. Hmm. Maybe so. Hm. Six.")
    for cls, kept in ((Plugged, "It is 5. Maybe so. Hm. Six."), (Careless, trace.text)):
        monkeypatch.setattr(plugins, "load", lambda group, name, cls=cls: cls)
        out = TraceGuard(budget=1, detector="plugged", max_score=0.5).rewrite(trace, Random(0))
        if cls is Plugged:
            assert trace_scorer("plugged").score(out.text, trace.text) == 0
            assert out.meta["detector"]["skipped"] == 3
        else:
            assert (out.text, spans(out)) == (kept, [])


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(group: str, name: str) -> Any:
        raise MissingError("The detector 'tfidf_cosine' needs the package 'sklearn', which is not installed.")

    monkeypatch.setattr(plugins, "load", absent)
    with pytest.raises(MissingError, match="sklearn"):
        parse_method(TraceGuard, {"detector": "tfidf_cosine", "max_score": 1}, "d")


def test_a_detector_is_imported_when_it_is_used() -> None:
    code = """
import sys
from random import Random
from azeotrope.core.types import Trace
from azeotrope.defenses.traceguard import TraceGuard
def run(**more):
    TraceGuard(budget=1, **more).rewrite(Trace(problem_id="p", prompt="", text="Wait, no. It is 5."), Random(0))
    return {"torch", "sklearn", "scipy", "numpy"} & set(sys.modules)
assert run() == set()
assert not run(detector="marker_rate", max_score=1) & {"torch", "sklearn"}
assert "sklearn" in run(detector="tfidf_cosine", max_score=1)
print("fine")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_linear_time(kind: str) -> None:
    """20,000 candidates in 260,000 characters; measured from the start each time, it would take hours."""
    method = TraceGuard(budget=0.5, detector=kind, max_score=INFINITY)
    begin = time.process_time()
    method.rewrite(make("Wait. It is. " * 20_000), Random(0))
    assert time.process_time() - begin < 20


@pytest.mark.parametrize("kind", KINDS)
def test_real_traces(kind: str, real_texts: dict[str, list[str]]) -> None:
    scorer, most = trace_scorer(kind), {"token_delta": 0.03, "tfidf_cosine": 0.003, "marker_rate": 1}[kind]
    skipped = removed = 0
    for number, text in enumerate(text for rows in real_texts.values() for text in rows[:40]):
        free = TraceGuard(budget=0.2).rewrite(make(text), Random(number))
        out = TraceGuard(budget=0.2, detector=kind, max_score=most).rewrite(make(text), Random(number))
        assert out.meta["detector"]["score"] == scorer.score(out.text, text) <= most
        assert out.text.endswith(split_answer(text)[1])
        if not out.meta["detector"]["skipped"]:
            assert out.text == free.text
        skipped += out.meta["detector"]["skipped"]
        removed += len(spans(out))
    assert skipped > 50
    assert removed > 50
