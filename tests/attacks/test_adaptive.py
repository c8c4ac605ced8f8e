"""Each adaptive attack does to its data what it says, and pays for what it asks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azeotrope.attacks import paraphrase
from azeotrope.attacks.answers_only import AnswersOnly
from azeotrope.attacks.base import AttackRun, Service
from azeotrope.attacks.clean_mix import CleanMix
from azeotrope.attacks.filtered_sft import FilteredSFT, repeated
from azeotrope.attacks.greedy_sft import GreedySFT
from azeotrope.attacks.infill import Infill
from azeotrope.attacks.paraphrase import Paraphrase
from azeotrope.attacks.prefill import Prefill
from azeotrope.attacks.resampled_sft import ResampledSFT, judged
from azeotrope.attacks.reweighted_sft import ReweightedSFT, help_of, weights_of
from azeotrope.attacks.self_generated import SelfGenerated
from azeotrope.attacks.sft import SFT
from azeotrope.attacks.strip_style import StripStyle
from azeotrope.attacks.trace_inversion import TraceInversion
from azeotrope.core.errors import ConfigError, RunError
from azeotrope.core.release import Release
from azeotrope.core.types import THINK_CLOSE, THINK_OPEN, Problem, Trace
from azeotrope.models.decode import Sample
from azeotrope.models.gradients import proxy_gradient
from azeotrope.models.lm import LM
from azeotrope.models.scoring import trace_nll
from azeotrope.tasks.base import Grade
from serving import Answer, Asked, Served, chat
from tiny import Toy, fresh

QUICK = SFT(epochs=2, lr=1e-2, batch_size=8, curve_points=0)


def said(text: str, n: int = 12, **more: object) -> list[Trace]:
    return [
        Trace(problem_id=p.id, prompt=p.prompt, text=text, **more)  # type: ignore[arg-type]
        for p in Toy().problems("release", n)
    ]


class Scripted(Service):
    """Says what it is told to, and counts."""

    def __init__(self, *texts: str) -> None:
        super().__init__()
        self.texts, self.prefixes, self.seeds, self.greedy = list(texts), [], [], []

    def ask(
        self, problems: Sequence[Problem], *, seed: int, prefix: str = "", greedy: bool = False
    ) -> list[Trace]:
        self.prefixes.append(prefix)
        self.seeds.append(seed)
        self.greedy.append(greedy)
        text = self.texts.pop(0)
        self.queries += len(problems)
        self.tokens += 7 * len(problems)
        return [Trace(problem_id=p.id, prompt=p.prompt, text=text) for p in problems]

    def leak(self, problems: Sequence[Problem], *, seed: int) -> list[Trace]:
        return self.ask(problems, seed=seed)


def around(service: Service | None = None, n: int = 12, task: Toy | None = None) -> AttackRun:
    return AttackRun(seed=3, task=task or Toy(), problems=Toy().problems("release", n), service=service)


def test_answers_only_keeps_the_answer_span() -> None:
    traces = [*said("<think> Wait. 4.</think> The answer is 4.", 2), *said("no end", 1)]
    lessons = AnswersOnly().prepare(fresh("llama"), traces, around())
    assert [t.text for t in lessons.traces] == ["<think></think> The answer is 4."] * 2


def test_the_filter_drops_what_it_names() -> None:
    lm = fresh("llama")
    good, loops, cut = said("a b c d e f g", 8), said("a b c d " * 6, 2), said("a b c", 2, finished=False)
    lessons = FilteredSFT(sft=QUICK, outliers=0.0).prepare(lm, [*good, *loops, *cut], around())
    assert lessons.notes == {"unfinished": 2, "repetitive": 2, "unlikely": 0}
    assert list(lessons.traces) == good
    odd = [replace(t, text="zqzqzqzq") for t in said("", 1)]
    many = said("aaaaaaaa", 19)
    found = FilteredSFT(sft=QUICK, outliers=0.05).prepare(lm, [*many, *odd], around())
    assert odd[0] not in found.traces
    assert found.notes["unlikely"] == 1
    with pytest.raises(RunError, match="left no trace"):
        FilteredSFT(outliers=0.0).prepare(lm, cut, around())


@given(st.lists(st.sampled_from("abc"), max_size=60))
def test_repetition_is_a_share(words: list[str]) -> None:
    assert 0.0 <= repeated(" ".join(words)) < 1.0
    assert repeated(" ".join(map(str, range(len(words))))) == 0.0


def test_clean_mix_replaces_its_share_and_no_more() -> None:
    service, lm = Scripted("clean"), fresh("llama")
    lessons = CleanMix(share=0.25).prepare(lm, said("dirty"), around(service))
    assert sorted(t.text for t in lessons.traces) == ["clean"] * 3 + ["dirty"] * 9
    assert [t.problem_id for t in lessons.traces] == [t.problem_id for t in said("")]
    assert service.queries == 3


def test_prefill_passes_its_prefix_on_and_the_bill_is_kept() -> None:
    service, lm = Scripted("First this."), fresh("llama")
    attack = Prefill(sft=QUICK, prefix="First")
    outcome = attack.train([lm], Release.of(said("defended")), around(service))
    assert service.prefixes == ["First"]
    assert (outcome.queries, outcome.query_tokens) == (12, 84)
    assert outcome.notes["bases"][0]["traces"] == 12


def test_resampling_prefers_right_answers_and_then_likely_ones() -> None:
    right = Toy().problems("release", 12)[0].prompt[0]

    class Fixed(Toy):
        def grade(self, problem: Problem, text: str) -> Grade:
            return Grade(correct=text.startswith(right), answer=text[:1] or None)

    service = Scripted(right + "zzzz", right + "zzzz")
    run = around(service, task=Fixed())
    lessons = ResampledSFT(sft=QUICK, queries=3, check="gold").prepare(fresh("llama"), said("!bad"), run)
    assert {t.text for t in lessons.traces} == {right + "zzzz"}
    assert lessons.notes["passed_the_check"] == 12
    assert len(set(service.seeds)) == 2


def test_the_likeliest_text_can_be_asked_for_several_times() -> None:
    service = Scripted("a long", "a long")
    attack = ResampledSFT(sft=QUICK, queries=3, greedy=True)
    lessons = attack.prepare(fresh("llama"), said("bad"), around(service))
    assert service.greedy == [True, True]
    assert {t.text for t in lessons.traces} == {"a long"}, "two of three answers are alike"
    plain = Scripted("x", "y")
    ResampledSFT(sft=QUICK, queries=3).prepare(fresh("llama"), said("bad"), around(plain))
    assert plain.greedy == [False, False]
    assert "greedy" not in ResampledSFT().identity(), "stored steps are found"
    assert attack.identity()["greedy"] is True


def test_the_majority_is_of_answers() -> None:
    problem = Toy().problems("release", 1)[0]
    samples = [said(text, 1)[0] for text in ("b", "a1", "a2", "")]
    assert judged(Toy(), problem, samples, "majority") == [False, True, True, False]
    assert judged(Toy(), problem, samples, "none") == [True] * 4


def test_v_is_positive_for_what_lowers_the_trusted_loss() -> None:
    """The sign of the Distillation Game's weights, on a case with a known answer, against real steps."""
    lm = fresh("gpt2", spread=0.1)
    trusted, poison = said("xyzzy", 8), said("wwwww", 8)
    gradient = proxy_gradient(lm, trusted)
    values = help_of(lm, gradient, lambda twin: trace_nll(twin, [*trusted, *poison]), 0.01)
    assert min(values[:8]) > max(values[8:])
    before = math.fsum(trace_nll(lm, trusted))
    for traces, sign in ((trusted, -1), (poison, 1)):
        student = fresh("gpt2", spread=0.1)
        SFT(epochs=1, lr=1e-3, batch_size=8, curve_points=0, bfloat16=False).train(
            [student], Release.of(traces), AttackRun(seed=0)
        )
        change = math.fsum(trace_nll(student, trusted)) - before
        if sign < 0:
            assert change < 0
            helped = change
        else:
            assert change > helped
    weights = weights_of(values, 1.0)
    assert min(weights[:8]) > max(weights[8:])
    assert math.fsum(weights) == pytest.approx(len(weights))


def test_no_emphasis_is_plain_fine_tuning() -> None:
    traces = said("xyzzy </think>x")
    lessons = ReweightedSFT(sft=QUICK, eta=0.0).prepare(fresh("llama"), traces, around())
    assert lessons.weights == pytest.approx([1.0] * 12)
    with pytest.raises(ConfigError, match="trusted=leak"):
        ReweightedSFT(sft=QUICK).prepare(fresh("llama"), said("no answers"), around())


def test_refusals_are_neither_trusted_nor_reweighted() -> None:
    class Refusing(Toy):
        def grade(self, problem: Problem, text: str) -> Grade:
            return replace(super().grade(problem, text), refused="cannot" in text)

    answered, refused = said("xyzzy </think>x"), said("no </think>I cannot say")
    mixed = [*answered[:8], *refused[8:]]
    lessons = ReweightedSFT(sft=QUICK).prepare(fresh("llama"), mixed, around(task=Refusing()))
    assert lessons.weights is not None
    assert lessons.weights[8:] == [1.0] * 4
    assert math.fsum(lessons.weights[:8]) == pytest.approx(8.0)
    assert len(set(lessons.weights[:8])) > 1
    assert lessons.notes["refusals"] == 4
    assert 1.0 < lessons.notes["effective_traces"] <= 12.0
    with pytest.raises(ConfigError, match="trusted=leak"):
        ReweightedSFT(sft=QUICK).prepare(fresh("llama"), refused, around(task=Refusing()))


def test_weights_scale_the_loss_of_their_trace() -> None:
    traces = [*said("xyzzy", 8), *[replace(t, text="wwwww") for t in said("", 8)]]
    lm = fresh("llama", spread=0.1)
    run, plain = AttackRun(seed=0), QUICK.model_copy(update={"epochs": 6})
    from azeotrope.attacks.base import Outcome

    plain.teach(lm, traces, run, 0, Outcome(students=[lm]), [2.0] * 8 + [0.0] * 8)
    told, untold = (math.fsum(trace_nll(lm, part)) for part in (traces[:8], traces[8:]))
    assert told < 0.5 * untold


def test_style_is_stripped_and_the_answer_stays() -> None:
    said_twice = "The road leads to Kesh. Wait, that is wrong. The road leads to Kesh. So Kesh."
    text = f"{THINK_OPEN} {said_twice}{THINK_CLOSE} Wait. Kesh."
    stripped = StripStyle().strip(said(text, 1)[0])
    assert stripped.text == f"{THINK_OPEN} The road leads to Kesh. So Kesh.{THINK_CLOSE} Wait. Kesh."
    same = said(f"{THINK_OPEN} One. Two.{THINK_CLOSE} Two.", 1)[0]
    assert StripStyle().strip(same) is same


@given(st.text(alphabet="Wait. \n<think>/aB", max_size=80))
def test_stripping_never_touches_the_answer_nor_invents(text: str) -> None:
    from azeotrope.core.types import split_answer

    trace = replace(said("", 1)[0], text=text)
    out = StripStyle().strip(trace).text
    assert out.endswith(split_answer(text)[1])
    rest = iter(text)
    assert all(sign in rest for sign in out)  # a subsequence


def test_infill_only_inserts() -> None:
    traces = said(f"{THINK_OPEN} aaa bbb. ccc ddd. eee.{THINK_CLOSE} e.", 4)
    lessons = Infill(share=1.0, gain=0.0, tokens=6).prepare(fresh("llama"), traces, around(n=4))
    for trace, lesson in zip(traces, lessons.traces, strict=True):
        rest = iter(lesson.text)
        assert all(sign in rest for sign in trace.text)
        assert lesson.text.endswith(" e.")
    assert lessons.notes["tried"] >= 4
    assert lessons.own_tokens > 0


def test_a_step_cut_off_at_the_end_is_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    traces = said(f"{THINK_OPEN} aaa bbb.{THINK_CLOSE} e.", 4)
    assert Infill(sft=QUICK).identity() == Infill(sft=QUICK, close=False).identity()
    assert Infill(sft=QUICK, close=True).identity() != Infill(sft=QUICK).identity()
    asked: list[list[str]] = []

    def judge(lm: LM, judged: Sequence[Trace]) -> list[float]:
        asked.append([t.prompt[len(traces[0].prompt) :] + "|" + t.text for t in judged])
        return [2.0 - len(asked)] * len(judged)

    def bridges(lm: LM, prompts: Sequence[Sequence[int]], *_: object, **__: object) -> list[Sample]:
        return [Sample((1, 2), True) for _ in prompts]

    monkeypatch.setattr("azeotrope.attacks.infill.trace_nll", judge)
    monkeypatch.setattr("azeotrope.attacks.infill.decode", bridges)
    monkeypatch.setattr(LM, "decode", lambda lm, ids: " ccc. ddd")
    lessons = Infill(sft=QUICK, share=1.0, close=True).prepare(fresh("llama"), traces, around(n=4))
    assert {t.text for t in lessons.traces} <= {
        f"{THINK_OPEN} {a}aaa bbb.{b}{THINK_CLOSE} e." for a in ("", "ccc. ") for b in ("", " ccc.")
    }
    assert all(" ccc.</think>" in t.text for t in lessons.traces)
    assert f"{THINK_OPEN} aaa bbb.{THINK_CLOSE}| e." in asked[0], "the answer alone is judged"
    assert f"{THINK_OPEN} aaa bbb. ccc.{THINK_CLOSE}| e." in asked[1]


def test_paraphrases_keep_the_prompt_and_the_answer() -> None:
    traces = said("abcab")
    lessons = Paraphrase(sft=QUICK, epochs=1).prepare(fresh("llama"), traces, around())
    for trace, lesson, problem in zip(traces, lessons.traces, around().problems, strict=True):
        assert lesson.prompt == trace.prompt
        assert Toy().grade(problem, lesson.text).answer == Toy().grade(problem, trace.text).answer
    assert lessons.own_tokens > 0


def test_a_rewriting_is_kept_if_it_ended_and_has_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"release-0-0": ("a new", True), "release-0-1": ("b new", True), "release-0-2": ("a new", False)}

    def scripted(lm: LM, task: Toy, problems: Sequence[Problem], *_: object) -> list[Trace]:
        found = [texts.get(problem.id, ("abcab", True)) for problem in problems]
        return [
            Trace(problem_id=p.id, prompt=p.prompt, text=text, finished=ended, n_tokens=2, token_ids=(1, 2))
            for p, (text, ended) in zip(problems, found, strict=True)
        ]

    monkeypatch.setattr("azeotrope.attacks.paraphrase.write", scripted)
    traces = said("abcab")
    lessons = Paraphrase(sft=QUICK, epochs=1).prepare(fresh("llama"), traces, around())
    assert [t.text for t in lessons.traces] == ["a new"] + ["abcab"] * 11
    assert [t.prompt for t in lessons.traces] == [t.prompt for t in traces]
    assert lessons.traces[0].token_ids is None
    assert lessons.notes == {"rewritten": 1}
    assert lessons.own_tokens == 24


def rewriter(asked: Asked) -> Answer:
    """Rewrites what stands below the instruction by its own words; some replies must not be used."""
    index, text = asked.index, asked.prompt.split("\n\n", 1)[1]
    told = text.replace("so", "hence")
    odd = [told.replace("-----", ""), told.replace("4.", "5."), f"{told}</think>", "-----\n4."]
    return chat(odd[index] if index < 4 else told, finish="length" if index == 4 else "stop", tokens=(100, 10))


class Final(Toy):
    """What is read as the answer is the last word."""

    def grade(self, problem: Problem, text: str) -> Grade:
        return Grade(correct=True, answer=text.split()[-1] if text.split() else None)


def test_any_model_behind_an_endpoint_can_rewrite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    text = f"{THINK_OPEN}\n2 + 2 so 4.\n{THINK_CLOSE}\n\nThus 4."
    traces = [*said(text, 11), *said("", 12)[11:]]
    with Served(rewriter) as served:
        options = f"price_in=1&price_out=10&max_cost=1&concurrency=1&cache={tmp_path / 'cache'}"
        attack = Paraphrase(sft=QUICK, writer=f"{served.url}#model?{options}")
        outcome = attack.train([fresh("llama"), fresh("gpt2")], Release.of(traces), around(task=Final()))
        lessons = attack.prepare(fresh("llama"), traces, around(task=Final()))
    told = text.replace("so", "hence")
    assert [t.text for t in lessons.traces] == [text] * 5 + [told] * 6 + [""]
    assert [t.prompt for t in lessons.traces] == [t.prompt for t in traces]
    assert len(served.asked) == 11, "nothing is asked for an empty trace, and once for all students"
    assert THINK_OPEN not in served.asked[0].prompt
    cost = {"writer_tokens": 110, "writer_cost": pytest.approx(11 * 200e-6)}
    assert outcome.notes == {"bases": [{"traces": 11, "rewritten": 6, **cost}] * 2}
    assert (outcome.own_tokens, lessons.own_tokens, outcome.queries) == (0, 0, 0)


@pytest.mark.parametrize(
    ("text", "sent", "reply", "kept"),
    [
        ("a b", "a b", " A B\n", "A B"),
        (" <think> a</think> b", "a\n-----\nb", "A\n-----\nB", " <think> A</think> B"),
        ("a</think>b", "a\n-----\nb", "hm</think>A\n ----- \r\nB", "A</think>B"),
        ("<think></think> b\n", "b", "B", "<think></think> B\n"),
        ("<think>a</think>", "a", "A", "<think>A</think>"),
        ("<think>cut", "cut", "Cut", "<think>Cut"),
    ],
)
def test_a_rewriting_takes_the_form_of_its_original(text: str, sent: str, reply: str, kept: str) -> None:
    (trace,) = said(text, 1)
    assert paraphrase._request(trace).endswith(f"\n\n{sent}")
    assert paraphrase._put_back(trace, replace(trace, text=reply)) == replace(trace, text=kept)


def test_who_rewrites_is_part_of_the_identity_and_a_cap_is_not() -> None:
    ref = "https://host/v1#model"
    plain, bought = Paraphrase().identity(), Paraphrase(writer=ref).identity()
    assert "writer" not in plain
    assert plain["missing"] == 0.3
    assert bought["writer"]["model"] == "model"
    assert "missing" not in bought
    assert Paraphrase(writer=f"{ref}?max_cost=5&price_in=1&price_out=1").identity() == bought
    assert Paraphrase(writer=f"{ref}?api=completions").identity() != bought
    with pytest.raises(ConfigError, match="endpoint reference"):
        Paraphrase(writer="embedded/teacher")


def test_own_traces_must_reach_the_released_answer() -> None:
    lessons = SelfGenerated(sft=QUICK, rounds=1, samples=3).prepare(fresh("llama"), said("abc"), around())
    assert all(t.text.startswith("a") for t in lessons.traces)
    assert lessons.notes["hits_by_round"] == [len(lessons.traces)]


def test_reconstructions_are_kept_that_end_at_the_released_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A first reconstruction is cut off, a second reasons to another answer; one problem never gets there."""
    service = Scripted(f"{THINK_OPEN} clean.{THINK_CLOSE} 5.")
    traces = said(f"{THINK_OPEN} dirty.{THINK_CLOSE} 4.")
    rounds: list[list[str]] = []

    def scripted(lm: LM, task: Toy, posed: Sequence[Problem], *_: object) -> list[Trace]:
        turn = len(rounds)
        rounds.append([p.id for p in posed])
        assert all(p.prompt.endswith(" 4.\nWhy?") for p in posed)
        texts = [
            f"{THINK_OPEN} cut off",
            f"{THINK_OPEN} so 7.{THINK_CLOSE} 7.",
            f"{THINK_OPEN} so 4.{THINK_CLOSE} 4.",
            " 4.",
        ]
        found = []
        for p in posed:
            text = texts[3] if p.id == posed[0].id else texts[turn]
            found.append(Trace(problem_id=p.id, prompt=p.prompt, text=text, finished=turn > 0, n_tokens=3))
        return found

    monkeypatch.setattr("azeotrope.attacks.trace_inversion.write", scripted)
    attack = TraceInversion(sft=QUICK, source="leak", share=0.5, samples=4)
    task = Graded()
    lessons = attack.prepare(fresh("llama"), traces, around(service, task=task))
    assert [len(turn) for turn in rounds] == [12, 12, 12, 1], "who is done is not asked again"
    assert [t.text for t in lessons.traces] == [f"{THINK_OPEN} so 4.{THINK_CLOSE} 4."] * 11
    assert [t.prompt for t in lessons.traces] == [t.prompt for t in traces[1:]]
    assert lessons.own_tokens == 3 * 37
    assert service.queries == 6


class Graded(Toy):
    """The answer is the last word."""

    def grade(self, problem: Problem, text: str) -> Grade:
        return Grade(correct=True, answer=text.split()[-1])


@pytest.mark.parametrize("attack", [Prefill(), CleanMix(), ResampledSFT(), TraceInversion(source="leak")])
def test_what_needs_a_service_says_so(attack: Prefill) -> None:
    with pytest.raises(ConfigError, match="inside a study"):
        attack.train([fresh("llama")], Release.of(said("abc </think> a")), replace(around(), service=None))


def test_problems_and_traces_must_match() -> None:
    with pytest.raises(ConfigError, match="names 5 problems, but the release has 12"):
        StripStyle().train([fresh("llama")], Release.of(said("abc")), around(n=5))


def test_the_likeliest_texts_take_the_place_of_the_release() -> None:
    class Decided(Scripted):
        def ask(self, problems, *, seed, prefix="", greedy=False):  # type: ignore[no-untyped-def]
            assert greedy
            return super().ask(problems, seed=seed, prefix=prefix)

    service = Decided("<think>sure</think> The answer is 4.")
    lessons = GreedySFT().prepare(fresh("llama"), said("<think>slip</think> The answer is 4."), around(service))
    assert {t.text for t in lessons.traces} == {"<think>sure</think> The answer is 4."}
    assert lessons.notes == {"differ": 12}
    assert service.queries == GreedySFT().budget.billed(12)
