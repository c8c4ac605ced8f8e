"""Each control does what its attack does, minus the idea, and is matched to it as it says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azeotrope.attacks.base import AttackRun, Service
from azeotrope.attacks.clean_matched import CleanMatched
from azeotrope.attacks.filtered_sft import FilteredSFT
from azeotrope.attacks.infill import Infill
from azeotrope.attacks.random_drop import RandomDrop
from azeotrope.attacks.random_infill import RandomInfill
from azeotrope.attacks.random_resample import RandomResample
from azeotrope.attacks.random_weights import RandomWeights
from azeotrope.attacks.resampled_sft import ResampledSFT
from azeotrope.attacks.reweighted_sft import ReweightedSFT
from azeotrope.attacks.sft import SFT
from azeotrope.attacks.strip_random import StripRandom, nearest
from azeotrope.attacks.strip_style import StripStyle
from azeotrope.core.errors import ConfigError, RunError
from azeotrope.core.methods import Maturity
from azeotrope.core.release import Release
from azeotrope.core.types import THINK_CLOSE, THINK_OPEN, Problem, Trace
from azeotrope.models.decode import Sample
from azeotrope.models.lm import LM
from azeotrope.tasks.base import Grade
from tiny import Toy, fresh, tiny

QUICK = SFT(epochs=1, lr=1e-2, batch_size=8, curve_points=0)
CONTROLS = (RandomDrop, RandomInfill, RandomResample, RandomWeights, StripRandom, CleanMatched)


def said(*texts: str, **more: object) -> list[Trace]:
    problems = Toy().problems("release", len(texts))
    return [
        Trace(problem_id=p.id, prompt=p.prompt, text=text, **more)  # type: ignore[arg-type]
        for p, text in zip(problems, texts, strict=True)
    ]


class Numbered(Service):
    """Says which call it answers; tells everything undefended in `clean`."""

    def __init__(self, clean: Sequence[Trace] = ()) -> None:
        super().__init__()
        self.clean, self.seeds = list(clean), list[int]()

    def ask(
        self, problems: Sequence[Problem], *, seed: int, prefix: str = "", greedy: bool = False
    ) -> list[Trace]:
        self.seeds.append(seed)
        self.queries += len(problems)
        text = f"a{len(self.seeds)}"
        return [Trace(problem_id=p.id, prompt=p.prompt, text=text) for p in problems]

    def leak(self, problems: Sequence[Problem], *, seed: int) -> list[Trace]:
        assert [p.id for p in problems] == [t.problem_id for t in self.clean]
        self.queries += len(problems)
        return self.clean


def around(n: int, service: Service | None = None, seed: int = 3) -> AttackRun:
    return AttackRun(seed=seed, task=Toy(), problems=Toy().problems("release", n), service=service)


def mixed() -> list[Trace]:
    """Traces of which the filter drops a known part, and an empty one."""
    good = [f"abc{'de' * k} </think> a" for k in range(16)]
    *traces, cut = said(*good, "a b c d " * 6, "b c d a " * 6, "", "cut")
    return [*traces, replace(cut, finished=False)]


@pytest.mark.parametrize("control", CONTROLS)
def test_a_control_is_called_one(control: type) -> None:
    assert control.maturity == Maturity.CONTROL  # type: ignore[attr-defined]
    assert "ontrol of" in (control.__doc__ or "")


@pytest.mark.parametrize("outliers", [0.0, 0.3])
def test_random_drop_drops_as_many_as_the_filter(outliers: float) -> None:
    traces, lm = mixed(), tiny("llama")
    settings = {"sft": QUICK, "outliers": outliers}
    kept = FilteredSFT(**settings).prepare(lm, traces, around(20)).traces  # type: ignore[arg-type]
    drawn = [RandomDrop(**settings).prepare(lm, traces, around(20, seed=s)) for s in (3, 3, 4)]  # type: ignore[arg-type]
    ids = [[t.problem_id for t in lessons.traces] for lessons in drawn]
    assert len(ids[0]) == len(kept) < 20
    assert drawn[0].notes == {"dropped": 20 - len(kept)}
    assert ids[0] == ids[1] != ids[2]
    assert ids[0] != [t.problem_id for t in kept], "by chance, and not by the filter"
    assert all(t in traces and t.text for t in drawn[0].traces)
    with pytest.raises(RunError, match="left no trace"):
        RandomDrop(outliers=0.0).prepare(lm, [replace(t, finished=False) for t in traces], around(20))


def test_random_resample_asks_the_same_and_keeps_any() -> None:
    traces, ours, theirs = said(*["a0"] * 30), Numbered(), Numbered()
    lessons = RandomResample(sft=QUICK, queries=4).prepare(tiny("llama"), traces, around(30, ours))
    best = ResampledSFT(sft=QUICK, queries=4).prepare(tiny("llama"), traces, around(30, theirs))
    assert ours.seeds == theirs.seeds
    assert (ours.queries, len(lessons.traces)) == (90, len(best.traces))
    assert [t.problem_id for t in lessons.traces] == [t.problem_id for t in traces]
    texts = [t.text for t in lessons.traces]
    assert set(texts) == {"a0", "a1", "a2", "a3"}
    assert lessons.notes == {"from_the_release": texts.count("a0")}
    again = RandomResample(sft=QUICK, queries=4).prepare(tiny("llama"), traces, around(30, Numbered()))
    assert [t.text for t in again.traces] == texts


def test_strip_random_drops_other_sentences_of_the_same_length() -> None:
    plain = f"{THINK_OPEN} One is two. Then three.{THINK_CLOSE} 3."
    style = f"{THINK_OPEN} Aa bb. Wait, ab. Ccccc, dd. Eeeeee ff.{THINK_CLOSE} 3."  # 7, 10, 11 and 11 tokens
    found = set()
    for seed in range(12):
        lessons = StripRandom().prepare(tiny("llama"), said(plain, style), around(2, seed=seed))
        assert lessons.traces[0].text == plain
        found.add(lessons.traces[1].text)
        assert lessons.notes == {"changed": 1, "tokens": 11, "tokens_of_style": 10}
    assert found == {style.replace("Ccccc, dd. ", ""), style.replace("Eeeeee ff.", "")}


def test_strip_random_leaves_what_it_must() -> None:
    reasoning = "One is two. Wait, noo. \\boxed{4}. No more."  # the boxed sentence has the length of the style
    (trace,) = said(f"{THINK_OPEN} {reasoning}{THINK_CLOSE} Wait. 4.", n_tokens=9)
    for seed in range(12):
        lessons = StripRandom().prepare(tiny("llama"), [trace], around(1, seed=seed))
        assert lessons.traces[0].text == trace.text.replace("One is two. ", "")
        assert lessons.traces[0].n_tokens == 0
    assert StripStyle().strip(trace).text == trace.text.replace("Wait, noo. ", "")


@given(st.lists(st.integers(0, 12), max_size=9), st.integers(0, 40))
def test_nearest_is_as_near_as_whole_sentences_allow(sizes: list[int], target: int) -> None:
    chosen = nearest(sizes, target)
    assert sorted(set(chosen)) == chosen
    sums = {0}
    for size in sizes:
        sums |= {s + size for s in sums}
    assert abs(sum(sizes[i] for i in chosen) - target) == min(abs(s - target) for s in sums)


def test_clean_matched_is_cut_to_the_tokens_of_the_release() -> None:
    clean = [replace(t, n_tokens=8 + i % 3) for i, t in enumerate(said(*["clean text"] * 30))]
    released = said(*["short"] * 30, n_tokens=4)
    service = Numbered(clean)
    lessons = CleanMatched().prepare(tiny("llama"), released, around(30, service))
    size = sum(t.n_tokens for t in lessons.traces)
    assert lessons.notes == {"counted": "tokens", "size": size, "size_of_release": 120}
    assert 120 - 10 < size <= 120
    assert service.queries == 30
    ids = [t.problem_id for t in lessons.traces]
    assert ids == [t.problem_id for t in clean if t in lessons.traces]
    other = CleanMatched().prepare(tiny("llama"), released, around(30, Numbered(clean), seed=4))
    assert {t.problem_id for t in other.traces} != set(ids)


def test_clean_matched_counts_words_where_tokens_are_unknown() -> None:
    clean = said(*["a b c"] * 10, n_tokens=7)
    released = [*said(*["a b"] * 10, n_tokens=5)[:-1], replace(clean[-1], text="a", n_tokens=0)]
    lessons = CleanMatched().prepare(tiny("llama"), released, around(10, Numbered(clean)))
    assert lessons.notes == {"counted": "words", "size": 18, "size_of_release": 19}
    long = said(*["a b c d"] * 10)
    assert len(CleanMatched().prepare(tiny("llama"), long, around(10, Numbered(clean))).traces) == 10


def test_clean_matched_may_have_room_for_nothing() -> None:
    clean, released = said(*["a b c"] * 4), said("a", "", "", "")
    outcome = CleanMatched(sft=QUICK).train([fresh("llama")], Release.of(released), around(4, Numbered(clean)))
    assert (outcome.tokens, outcome.notes["bases"][0]["traces"]) == (0, 0)


@pytest.mark.parametrize("control", [RandomResample, CleanMatched])
def test_controls_that_need_a_service_say_so(control: type[RandomResample]) -> None:
    with pytest.raises(ConfigError, match="inside a study"):
        control().train([fresh("llama")], Release.of(said("a")), around(1))


def test_random_infill_puts_in_as_many_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    traces = said(*[f"{THINK_OPEN} Aa bb. Cc dd. Ee ff. Gg hh.{THINK_CLOSE} h."] * 8)

    def finished(lm: LM, prompts: Sequence[Sequence[int]], *_: object, **__: object) -> list[Sample]:
        return [Sample((1, 2, 3), True) for _ in prompts]

    monkeypatch.setattr("azeotrope.attacks.infill.decode", finished)
    monkeypatch.setattr(LM, "decode", lambda lm, ids: " Nn oo. Pp")

    def likely(lm: LM, judged: Sequence[Trace]) -> list[float]:
        return [0.0 if "Nn oo." in t.prompt else 1.0 for t in judged]  # every bridge helps

    monkeypatch.setattr("azeotrope.attacks.infill.trace_nll", likely)
    settings = {"sft": QUICK, "share": 0.5}
    infilled = Infill(**settings).prepare(tiny("llama"), traces, around(8))  # type: ignore[arg-type]
    drawn = [RandomInfill(**settings).prepare(tiny("llama"), traces, around(8, seed=s)) for s in (3, 3, 4)]  # type: ignore[arg-type]
    texts = [[t.text for t in lessons.traces] for lessons in drawn]
    assert infilled.notes["bridged"] > 8
    count = sum(t.text.count("Nn oo.") for t in infilled.traces)
    assert all(sum(text.count("Nn oo.") for text in each) == count for each in texts)
    assert texts[0] == texts[1] != texts[2]
    assert texts[0] != [t.text for t in infilled.traces]
    assert drawn[0].notes == {"bridged": count, "bridged_by_infill": count}
    assert [text.replace("Nn oo. ", "") for text in texts[0]] == [t.text for t in traces]
    assert drawn[0].own_tokens > infilled.own_tokens


def test_random_infill_gives_up_where_no_sentence_ends() -> None:
    traces = said(*[f"{THINK_OPEN} Aa bb. Cc dd.{THINK_CLOSE} d."] * 3)
    lessons = RandomInfill(sft=QUICK, tokens=1).prepare(tiny("llama"), traces, around(3))
    assert [t.text for t in lessons.traces] == [t.text for t in traces]
    assert lessons.notes == {"bridged": 0, "bridged_by_infill": 0}


def test_random_weights_deals_the_same_weights_out() -> None:
    class Refusing(Toy):
        def grade(self, problem: Problem, text: str) -> Grade:
            return replace(super().grade(problem, text), refused="cannot" in text)

    traces = said(*[f"abc{'de' * k} </think> a" for k in range(12)], "no </think>I cannot", "no </think>I cannot")
    run = replace(around(14), task=Refusing())
    theirs = ReweightedSFT(sft=QUICK).prepare(fresh("llama"), traces, run)
    ours = [RandomWeights(sft=QUICK).prepare(fresh("llama"), traces, replace(run, seed=s)) for s in (3, 3)]
    assert theirs.weights is not None
    assert ours[0].weights is not None
    assert sorted(ours[0].weights) == pytest.approx(sorted(theirs.weights))
    assert ours[0].weights[:12] != theirs.weights[:12]
    assert ours[0].weights[12:] == [1.0, 1.0]
    assert ours[0].weights == ours[1].weights
