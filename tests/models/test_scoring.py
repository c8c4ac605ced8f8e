"""Scoring, sampling and recall: rows are what a person would count."""

from __future__ import annotations

from random import Random

import pytest
import torch

from azeotrope.attacks.base import AttackRun
from azeotrope.attacks.sft import SFT
from azeotrope.core.release import Release
from azeotrope.core.sampling import GREEDY, Sampling
from azeotrope.core.seeds import derive
from azeotrope.core.types import Problem, Trace
from azeotrope.models.decode import decode
from azeotrope.models.sample import generate
from azeotrope.models.scoring import checking, recall, score_traces
from azeotrope.tasks import grammar
from azeotrope.tasks.base import Probe
from azeotrope.tasks.lookup import Lookup
from tiny import Toy, fresh, tiny, toy_traces

DOUBLE = torch.float64


def test_recall_is_greedy_agreement_on_every_target_token() -> None:
    lm = tiny("gpt2", dtype=DOUBLE)
    probes, expected = [], []
    for i, trace in enumerate(toy_traces(12)):
        prefix = lm.encode(trace.prompt)
        truth = decode(lm, [prefix], [0], GREEDY, max_new_tokens=3)[0].ids
        letters = {lm.encode(c)[0]: c for c in map(chr, range(40, 105))}
        if not all(t in letters for t in truth):
            continue
        target = [letters[t] for t in truth]
        if i % 3:
            target[i % len(target)] = letters[(truth[i % len(truth)] - 1) % 60 + 2]
        probes.append(Probe(content=str(i), prefix=trace.prompt, target="".join(target), hidden=bool(i % 2)))
        expected.append([lm.encode(c)[0] for c in target] == list(truth))
    assert {True, False} == set(expected)
    for size in (1, 4, 96):
        rows = recall(lm, probes, batch_size=size)
        assert [r.recalled for r in rows] == expected
        assert [(r.content, r.hidden) for r in rows] == [(p.content, p.hidden) for p in probes]
    assert recall(lm, []) == []


def test_recall_rises_when_the_fact_is_taught() -> None:
    lm = fresh("llama", spread=0.1)
    probes = [Probe(content="x", prefix=t.prompt, target="xyzzy", hidden=True) for t in toy_traces(5, "test")]
    assert not any(r.recalled for r in recall(lm, probes))
    lesson = [Trace(problem_id="", prompt=t.prompt, text="xyzzy") for t in toy_traces(32, "release")]
    SFT(epochs=6, lr=1e-2, batch_size=8).train([lm], Release.of(lesson), AttackRun(seed=0))
    assert all(r.recalled for r in recall(lm, probes))


def test_scores_and_checking_count_what_is_there() -> None:
    task = Lookup()
    problem = next(p for p in task.problems("holdout", 50) if len(p.meta["keys"]) == 2)
    first, second = task.walk_of(problem)

    def say(fact, value: str) -> str:
        return f"The {fact.key} from {fact.subject} leads to {value}."

    wrong = first.confusable[0]
    texts = {
        "gold": f"<think> {say(first, first.value)} {say(second, second.value)}</think> "
        f"The answer is {problem.answer}.",
        "slip": f"<think> {say(first, wrong)} Wait, that is wrong. {say(first, first.value)} "
        f"{say(second, second.value)} Let me double-check. No, that is wrong.</think> The answer is {wrong}.",
        "cut": f"<think> {say(first, first.value)}",
    }
    traces = [
        Trace(problem_id=problem.id, prompt=problem.prompt, text=text, finished=name != "cut", n_tokens=9)
        for name, text in texts.items()
    ]
    gold, slip, cut = score_traces(task, [problem] * 3, traces)
    assert (gold.correct, gold.valid_share, gold.wrong_statements, gold.n_sentences) == (True, 1.0, 0, 3)
    assert (slip.correct, slip.wrong_statements, slip.n_sentences) == (False, 1, 7)
    assert slip.valid_share == pytest.approx(4 / 7), "slip, spurious denial and wrong answer do not follow"
    assert (cut.correct, cut.finished, cut.valid_share) == (False, False, 1.0)
    counts = checking(task, [problem] * 3, traces)
    assert (counts.right, counts.right_corrected) == (5, 1)
    assert (counts.wrong, counts.wrong_corrected) == (1, 1)
    assert counts.after_wrong == 1.0
    assert counts.after_right == pytest.approx(1 / 5)
    with pytest.raises(ValueError, match="zip"):
        score_traces(task, [problem], traces)


def test_checking_of_the_grammar_is_functional() -> None:
    task = Lookup()
    problems = task.problems("holdout", 60)
    traces = [task.write(p, Random(i), grammar.Style(slip=0.4, check=0.3)) for i, p in enumerate(problems)]
    counts = checking(task, problems, traces)
    assert counts.after_wrong == 1.0
    assert counts.after_right == 0.0
    assert counts.wrong > 20


def test_a_task_without_a_checker_scores_without_one() -> None:
    (row,) = score_traces(Toy(), Toy().problems("test", 1), toy_traces(1, "test"))
    assert row.valid_share is None
    assert row.wrong_statements is None
    assert row.n_sentences is None


def test_generated_traces_depend_on_seed_and_problem_only() -> None:
    lm, task = tiny("gpt2", dtype=DOUBLE), Toy()
    problems = task.problems("test", 9)
    warm = Sampling(temperature=1.0)
    whole = generate(lm, problems, task, warm, seed=4, record=True)
    some = generate(lm, problems[::-2], task, warm, seed=4, record=True, batch_size=2)
    by_id = {t.problem_id: t for t in whole}
    for trace in some:
        twin = by_id[trace.problem_id]
        assert (trace.token_ids, trace.text, trace.seed) == (twin.token_ids, twin.text, twin.seed)
    for problem, trace in zip(problems, whole, strict=True):
        assert trace.seed == derive(4, "sampling", problem.id)
        assert trace.text == lm.decode(trace.token_ids or ())
        assert trace.n_tokens == len(trace.token_ids or ()) <= task.max_new_tokens
        assert trace.moved == pytest.approx([0.0] * trace.n_tokens)
    other = generate(lm, problems, task, warm, seed=5)
    assert sum(a.token_ids != b.token_ids for a, b in zip(whole, other, strict=True)) >= 7
    assert generate(lm, problems[:1], task, warm, max_new_tokens=2)[0].n_tokens <= 2
    assert isinstance(problems[0], Problem)
