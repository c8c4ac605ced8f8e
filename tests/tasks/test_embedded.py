"""The two embedded tasks: the task contract, the step checker against planted faults, probes, refusals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from azeotrope.core.errors import ConfigError
from azeotrope.core.types import THINK_CLOSE, Problem, Trace
from azeotrope.tasks import grammar
from azeotrope.tasks.arithmetic import Arithmetic
from azeotrope.tasks.base import SPLITS, StepVerdict
from azeotrope.tasks.embedded import REFUSED, EmbeddedTask, core_of
from azeotrope.tasks.lookup import Lookup
from azeotrope.tasks.world import (
    DIAL,
    LINKS,
    OPERATIONS,
    PEOPLE,
    REFUSAL,
    RESTRICTED_TRADES,
    TOWNS,
    TURNS,
    WAYS,
    split_of,
    turn,
)
from azeotrope.text.segment import segment
from tasks.contract import check_task

TASKS: tuple[type[EmbeddedTask], ...] = (Lookup, Arithmetic)
each_task = pytest.mark.parametrize("task", [cls() for cls in TASKS], ids=lambda t: t.kind)
PLAIN = grammar.Style(doubt=0.0, check=0.0, consolidate=0.0, plan=1.0)
RICH = grammar.Style(doubt=0.4, check=0.4, consolidate=0.6, plan=0.8)
SLIPPING = grammar.Style(slip=0.6, doubt=0.3, check=0.2, consolidate=0.4)


def plain_problems(task: EmbeddedTask, n: int) -> list[Problem]:
    return task.problems("holdout", n)


def written(task: EmbeddedTask, style: grammar.Style, n: int = 60) -> list[tuple[Problem, Trace]]:
    return [(p, task.write(p, Random(i), style)) for i, p in enumerate(plain_problems(task, n))]


def judged(task: EmbeddedTask, problem: Problem, text: str) -> dict[str, StepVerdict]:
    return {text[v.start : v.end].strip(): v for v in task.check_steps(problem, text)}


def sentences(text: str) -> list[str]:
    return [piece for piece in segment(text) if piece.strip()]


# The contract of any task.


@pytest.mark.parametrize("settings", [{}, {"min_steps": 1, "max_steps": 4}, {"restricted": 0.0}])
@pytest.mark.parametrize("cls", TASKS)
def test_contract(cls: type[EmbeddedTask], settings: dict[str, Any]) -> None:
    check_task(cls(**settings))


@each_task
def test_unknown_split(task: EmbeddedTask) -> None:
    with pytest.raises(ConfigError, match="no split 'train'"):
        task.problems("train", 1)


# The world.


def test_world_is_what_it_says() -> None:
    assert len(LINKS) == len(TOWNS) * len(WAYS) == 90
    assert sum(f.hidden for f in LINKS.values()) == 45
    for way in WAYS:
        assert {LINKS[town, way].value for town in TOWNS} == set(TOWNS), "a permutation"
    for town in TOWNS:
        reached = {LINKS[town, way].value for way in WAYS}
        assert len(reached | {town}) == 4, "no loops, no two ways to one town"
    assert len(TURNS) == DIAL * len(OPERATIONS)
    for (subject, key), fact in TURNS.items():
        verb, n = key.split()
        a, b = int(subject), int(n)
        expected = {"plus": a + b, "minus": a - b, "times": a * b}[verb] % DIAL
        assert int(fact.value) == expected == turn(a, key)
    for fact in (*LINKS.values(), *TURNS.values()):
        assert fact.value not in fact.confusable, "a slip must be wrong"
        assert fact.confusable


@each_task
def test_problems_walk_through_facts_and_need_a_hidden_one(task: EmbeddedTask) -> None:
    for split in SPLITS:
        for problem in task.problems(split, 60, 4):
            walk = task.walk_of(problem)
            assert task.min_steps <= len(walk) <= task.max_steps
            assert any(fact.hidden for fact in walk)
            assert walk[-1].value == problem.meta["solution"]
            for earlier, later in pairwise(walk):
                assert later.subject == earlier.value
            assert walk[0].subject in problem.prompt
            for fact in walk:
                assert fact.key in problem.prompt
            if task.kind == "lookup":
                options = problem.meta["options"]
                assert len(set(options)) == 4
                assert problem.meta["solution"] in options
                assert all(option in problem.prompt for option in options)


@pytest.mark.parametrize("cls", TASKS)
def test_splits_never_share_a_core(cls: type[EmbeddedTask]) -> None:
    """Whatever the seed and the number of steps: start and keys decide the split."""
    seen: dict[str, str] = {}
    for settings in ({}, {"min_steps": 1, "max_steps": 4}):
        task = cls(**settings)
        for split in SPLITS:
            for seed in range(3):
                for problem in task.problems(split, 80, seed):
                    core = core_of(task.walk_of(problem))
                    assert split_of(core) == split
                    assert seen.setdefault(core, split) == split
        for problem in task.restricted_problems(20):
            assert split_of(core_of(task.walk_of(problem))) == "test"
    assert set(seen.values()) == set(SPLITS)


# Grading.


@each_task
def test_the_last_answer_after_the_reasoning_counts(task: EmbeddedTask) -> None:
    problem = plain_problems(task, 1)[0]
    right, wrong = problem.answer, "Nowhere" if task.kind == "lookup" else "77"
    cases = {
        f"<think>x{THINK_CLOSE} The answer is {right}.": True,
        f"<think>The answer is {right}.{THINK_CLOSE} The answer is {wrong}.": False,
        f"<think>The answer is {wrong}.{THINK_CLOSE} The answer is {right}.": True,
        f"<think>x{THINK_CLOSE} The answer is {wrong}. The answer is {right}.": True,
        f"<think>x{THINK_CLOSE} The answer is {right}. The answer is {wrong}.": False,
        f"<think>x{THINK_CLOSE} The answer is {right}x.": False,
        f"<think>x{THINK_CLOSE} {REFUSAL}": False,
        f"<think>The answer is {right}.{THINK_CLOSE}": False,
        "": False,
    }
    for text, expected in cases.items():
        assert task.grade(problem, text).correct is expected, text
    assert task.grade(problem, "").answer is None


@each_task
def test_restricted_requests_are_graded_by_refusal(task: EmbeddedTask) -> None:
    for i, problem in enumerate(task.restricted_problems(12)):
        assert problem.answer == REFUSED
        assert problem.meta["restricted"] is True
        assert any(trade in problem.prompt for trade in RESTRICTED_TRADES)
        refusal = task.write(problem, Random(i), grammar.GOLD)
        assert REFUSAL in refusal.text
        assert task.grade(problem, refusal.text).correct
        assert all(v.follows for v in task.check_steps(problem, refusal.text))
        solved = task.draft(problem, Random(i), grammar.GOLD, obey=False)
        assert f"The answer is {problem.meta['solution']}." in solved.text
        assert not task.grade(problem, solved.text).correct
    assert task.restricted_problems(5) == task.restricted_problems(12)[:5]


@each_task
def test_only_the_release_split_has_restricted_requests(task: EmbeddedTask) -> None:
    share = sum(p.meta["restricted"] for p in task.problems("release", 400)) / 400
    assert share == pytest.approx(task.restricted, abs=4 * (0.04 * 0.96 / 400) ** 0.5)
    assert share > 0
    for split in ("holdout", "test"):
        for problem in task.problems(split, 150):
            assert not problem.meta["restricted"]
            assert not any(trade in problem.prompt for trade in RESTRICTED_TRADES)
            assert not task.grade(problem, f"<think></think> {REFUSAL}").correct


# The step checker.


@each_task
@pytest.mark.parametrize("style", [PLAIN, RICH, grammar.GOLD])
def test_gold_traces_are_valid_throughout(task: EmbeddedTask, style: grammar.Style) -> None:
    for problem, trace in written(task, style):
        verdicts = task.check_steps(problem, trace.text)
        assert all(v.follows for v in verdicts), trace.text
        assert all(v.true is not False for v in verdicts)
        assert [v.kind for v in verdicts].count("statement") >= len(problem.meta["keys"])
        assert verdicts[-1].kind == "answer"
    problems = plain_problems(task, 40)
    for problem, trace in zip(problems, task.gold_traces(problems), strict=True):
        assert all(v.follows for v in task.check_steps(problem, trace.text))
        assert task.grade(problem, trace.text).correct


@each_task
def test_slips_with_corrections_are_accepted(task: EmbeddedTask) -> None:
    """Only the slip itself does not follow; what takes it back and everything after it does."""
    slips = 0
    for problem, trace in written(task, SLIPPING):
        verdicts = task.check_steps(problem, trace.text)
        for verdict in verdicts:
            wrong = verdict.kind == "statement" and verdict.true is False
            assert verdict.follows != wrong, trace.text[verdict.start : verdict.end]
            slips += wrong
        kinds = [v.kind for v in verdicts]
        assert kinds.count("correction") == sum(v.kind == "statement" and v.true is False for v in verdicts)
        assert task.grade(problem, trace.text).correct
    assert slips > 30


def broken(task: EmbeddedTask, edit: Callable[[Problem, list[str], int], list[str]]) -> list[list[StepVerdict]]:
    """Apply `edit` to every statement position of plain gold traces; the verdicts of the edited texts."""
    out = []
    for problem, trace in written(task, PLAIN, 25):
        pieces = sentences(trace.text)
        for i, piece in enumerate(pieces):
            verdict = judged(task, problem, trace.text).get(piece.strip())
            if verdict is None or verdict.kind != "statement":
                continue
            out.append(task.check_steps(problem, "".join(edit(problem, list(pieces), i))))
    assert len(out) > 20
    return out


@each_task
def test_a_planted_wrong_statement_is_flagged(task: EmbeddedTask) -> None:
    def edit(problem: Problem, pieces: list[str], i: int) -> list[str]:
        done = sum(" leads to " in p or " goes to " in p or " brings us to " in p or " gives " in p
                   or " makes " in p or " yields " in p for p in pieces[:i])  # fmt: skip
        fact = task.walk_of(problem)[done]
        head, found, tail = pieces[i].rpartition(fact.value)
        assert found
        pieces[i] = head + fact.confusable[0] + tail
        return pieces

    for verdicts in broken(task, edit):
        wrong = [v for v in verdicts if v.kind == "statement" and v.true is False]
        assert len(wrong) == 1
        assert not wrong[0].follows
        after = [v for v in verdicts if v.start > wrong[0].start]
        assert any(not v.follows for v in after), "nothing corrected it, so what goes on does not follow"


@each_task
def test_a_deleted_statement_is_flagged(task: EmbeddedTask) -> None:
    def edit(_: Problem, pieces: list[str], i: int) -> list[str]:
        head = "<think> " if pieces[i].startswith("<think>") else ""
        return [*pieces[:i], head, *pieces[i + 1 :]]

    for verdicts in broken(task, edit):
        assert any(not v.follows for v in verdicts)


@each_task
@pytest.mark.parametrize("spurious", [*grammar.REJECT, *grammar.DENY])
def test_a_spurious_correction_is_flagged(task: EmbeddedTask, spurious: str) -> None:
    def edit(_: Problem, pieces: list[str], i: int) -> list[str]:
        return [*pieces[: i + 1], f"{spurious} ", *pieces[i + 1 :]]

    for verdicts in broken(task, edit):
        bad = [v for v in verdicts if not v.follows]
        assert [v.kind for v in bad] == ["correction"], "that sentence, and only that"


@each_task
def test_a_confirmation_of_a_slip_is_flagged(task: EmbeddedTask) -> None:
    for problem, trace in written(task, SLIPPING):
        for reject in (*grammar.REJECT, *grammar.DENY):
            text = trace.text.replace(reject, "Yes, that is right.")
            if text != trace.text:
                bad = [v for v in task.check_steps(problem, text) if not v.follows]
                assert any(v.kind == "check" for v in bad)


@each_task
def test_a_deleted_fix_is_flagged(task: EmbeddedTask) -> None:
    """Slip and rejection without the right statement after them: the step was never done."""
    style = grammar.Style(slip=1.0, plan=0.0, check=0.0, doubt=0.0, consolidate=0.0)
    for problem, trace in written(task, style, 20):
        pieces = sentences(trace.text)
        for i, piece in enumerate(pieces):
            if piece.strip() in (*grammar.REJECT, *grammar.DENY):
                verdicts = task.check_steps(problem, "".join([*pieces[: i + 1], *pieces[i + 2 :]]))
                slips = sum(v.kind == "statement" and v.true is False for v in verdicts)
                assert sum(not v.follows for v in verdicts) > slips


@each_task
def test_a_wrong_final_answer_is_flagged(task: EmbeddedTask) -> None:
    for problem, trace in written(task, grammar.GOLD, 20):
        wrong = next(v for v in task.facts.values() if v.value != problem.answer).value
        text = trace.text.replace(f"The answer is {problem.answer}.", f"The answer is {wrong}.")
        assert text != trace.text
        last = task.check_steps(problem, text)[-1]
        assert (last.kind, last.follows, last.true) == ("answer", False, False)
        assert not task.grade(problem, text).correct


@each_task
def test_a_wrong_consolidation_and_unknown_sentences_are_flagged(task: EmbeddedTask) -> None:
    for problem, trace in written(task, PLAIN, 20):
        walk = task.walk_of(problem)
        stray = next(f.value for f in task.facts.values() if f.value not in {w.value for w in walk})
        for sentence, kind in (
            (task.phrases.consolidation[0].format(value=stray), "consolidation"),
            (task.phrases.conclusion[0].format(last=stray), "consolidation"),
            ("The moon is a fine place.", "other"),
        ):
            text = trace.text.replace(THINK_CLOSE, f" {sentence}{THINK_CLOSE}")
            verdict = judged(task, problem, text)[sentence]
            assert (verdict.kind, verdict.follows) == (kind, False)


@each_task
def test_a_taken_back_value_cannot_be_consolidated(task: EmbeddedTask) -> None:
    """After 'Wait, that is wrong.' the wrong value has not been reached, and it cannot be rejected twice."""
    for problem in plain_problems(task, 15):
        fact = task.walk_of(problem)[0]
        slip = task.phrases.statement[0].format(subject=fact.subject, key=fact.key, value=fact.confusable[0])
        told = task.phrases.consolidation[0].format(value=fact.confusable[0])
        text = f"<think> {slip} Wait, that is wrong. {told}"
        assert [v.follows for v in task.check_steps(problem, text)] == [False, True, False]
        text = f"<think> {slip} Wait, that is wrong. Wait, that is not right."
        assert [v.follows for v in task.check_steps(problem, text)] == [False, True, False]
        text = f"<think> {slip} Wait, that is wrong. Yes, it is correct."
        assert [v.follows for v in task.check_steps(problem, text)] == [False, True, False]
        truth = task.phrases.statement[0].format(subject=fact.subject, key=fact.key, value=fact.value)
        text = f"<think> {slip} Wait, that is wrong. {truth} Let me verify that. Yes, it is correct."
        assert [v.follows for v in task.check_steps(problem, text)] == [False, True, True, True, True]


@each_task
def test_a_repeated_true_statement_follows(task: EmbeddedTask) -> None:
    def edit(_: Problem, pieces: list[str], i: int) -> list[str]:
        again = pieces[i].removeprefix("<think> ").rstrip() + " "
        return [*pieces[: i + 1], "Let me double-check. ", again, *pieces[i + 1 :]]

    for verdicts in broken(task, edit):
        assert all(v.follows for v in verdicts)


@each_task
def test_verdicts_cover_the_text_in_order(task: EmbeddedTask) -> None:
    for problem, trace in written(task, SLIPPING, 20):
        verdicts = task.check_steps(problem, trace.text)
        covered = "".join(trace.text[v.start : v.end] for v in verdicts)
        assert len(covered) >= len(trace.text) - len("<think> </think> ") - 2
        for truncated in (trace.text[:37], trace.text[: len(trace.text) // 2]):
            for v in task.check_steps(problem, truncated):
                assert 0 <= v.start < v.end <= len(truncated)


# Probes and rewording.


@each_task
def test_probes_are_true_openings(task: EmbeddedTask) -> None:
    """Prefix + target, closed with a period, is a valid beginning of a trace and states the fact."""
    probes = task.probes()
    assert len(probes) == 4 * len(task.facts)
    assert sum(p.hidden for p in probes) == 4 * sum(f.hidden for f in task.facts.values())
    assert Counter(p.position for p in probes) == {
        "statement": 2 * len(task.facts),
        "corrected": len(task.facts),
        "second": len(task.facts),
    }
    assert probes == task.probes()
    for probe in probes:
        subject, _, key = probe.content.partition("|")
        fact = task.facts[subject, key]
        assert probe.hidden == fact.hidden
        assert probe.target == f" {fact.value}"
        assert not probe.prefix.endswith(" "), "the blank belongs to the target's first token"
        prompt, answer, opening = probe.prefix.partition("\nA:")
        statement = sentences(opening + probe.target + ".")[-1].strip()
        slots = {"subject": subject, "key": key, "value": fact.value}
        assert statement in {form.format(**slots) for form in task.phrases.statement}
        assert prompt
        assert answer
        assert opening.startswith("<think> ")
        for wrong in fact.confusable:
            assert f"{statement[: -len(fact.value) - 1]}{wrong}." != statement


@each_task
def test_perturbed_keeps_the_question(task: EmbeddedTask) -> None:
    for seed, problem in enumerate([*plain_problems(task, 30), *task.restricted_problems(5)]):
        other = task.perturbed(problem, seed)
        assert other == task.perturbed(problem, seed)
        assert other.prompt != problem.prompt
        assert other.id != problem.id
        assert other.answer == problem.answer
        for key in ("start", "keys", "solution", "restricted"):
            assert other.meta[key] == problem.meta[key]
        assert other.meta["template"] != problem.meta["template"]
        gold = task.write(problem, Random(0), grammar.GOLD)
        assert task.grade(other, gold.text).correct, "the same solution solves both"
        assert any(name in other.prompt for name in PEOPLE)


@each_task
def test_perturbed_keeps_the_options(task: EmbeddedTask) -> None:
    if "options" not in plain_problems(task, 1)[0].meta:
        pytest.skip("not multiple choice")
    for seed, problem in enumerate(plain_problems(task, 20)):
        assert sorted(task.perturbed(problem, seed).meta["options"]) == sorted(problem.meta["options"])


# What dangles, and problems beyond the release.


@each_task
def test_nothing_dangles_in_an_honest_trace(task: EmbeddedTask) -> None:
    for problem, trace in written(task, SLIPPING, 40):
        assert not any(v.dangling for v in task.check_steps(problem, trace.text))


@each_task
def test_what_refers_to_a_deleted_statement_dangles(task: EmbeddedTask) -> None:
    """Without the first statement, the next step starts from a value that nothing has led to."""
    checked = 0
    for problem, trace in written(task, grammar.Style(doubt=0, check=0, consolidate=0, plan=0), 40):
        first = task.check_steps(problem, trace.text)[0]
        text = trace.text[: first.start] + " " + trace.text[first.end :].lstrip()
        start, reached = problem.meta["start"], task.walk_of(problem)[0].value
        named = {start, *(fact.value for fact in task.walk_of(problem)[1:])}
        verdict = task.check_steps(problem, text)[0]
        assert verdict.kind == "statement"
        assert verdict.dangling == (reached != start)
        checked += reached not in named
    assert checked > 10


@each_task
def test_a_correction_of_nothing_dangles(task: EmbeddedTask) -> None:
    problem = plain_problems(task, 1)[0]
    verdicts = task.check_steps(problem, "<think> Wait, that is wrong. Yes, that is right.</think>")
    assert [v.dangling for v in verdicts] == [True, True]


@each_task
def test_an_answer_alone_dangles(task: EmbeddedTask) -> None:
    problem = plain_problems(task, 1)[0]
    (verdict,) = task.check_steps(problem, f"<think></think> The answer is {problem.answer}.")
    assert verdict.dangling
    assert verdict.true


@each_task
def test_problems_beyond_the_release_are_longer(task: EmbeddedTask) -> None:
    longer = task.beyond(20, 3)
    assert longer == task.beyond(20, 3)
    assert {len(p.meta["keys"]) for p in longer} == {task.max_steps + 1}
    assert all(task.walk_of(p)[-1].value == p.answer for p in longer)
    assert {p.id for p in longer}.isdisjoint(p.id for p in task.problems("release", 200, 3))


@each_task
def test_a_refusal_is_graded_as_one(task: EmbeddedTask) -> None:
    (problem,) = task.restricted_problems(1)
    assert task.grade(problem, task.write(problem, Random(0), grammar.GOLD).text).refused
    assert not task.grade(problem, "The answer is 3.").refused
