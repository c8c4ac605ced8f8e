from __future__ import annotations

import sys
from typing import Any

import pytest
from contract import check_task
from pydantic import ValidationError

from azeotrope.core import plugins
from azeotrope.core.errors import ConfigError, MissingError
from azeotrope.tasks.base import SPLITS
from azeotrope.tasks.datafiles import text_key
from azeotrope.tasks.procedural import ChainSum, GsmSymbolic, ProceduralTask

pytest.importorskip("reasoning_gym")

TASKS = [GsmSymbolic(), ChainSum(), ChainSum(min_terms=3, max_terms=3, allow_negation=True)]


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_contract(task: ProceduralTask) -> None:
    check_task(task)


@pytest.mark.parametrize("name", ["gsm_symbolic", "chain_sum"])
def test_registered(name: str) -> None:
    assert plugins.load("tasks", name).kind == name


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_large_splits_share_nothing(task: ProceduralTask) -> None:
    keys = {split: {text_key(p.meta["text"]) for p in task.problems(split, 600)} for split in SPLITS}
    assert [len(found) for found in keys.values()] == [600] * 3
    assert len(set.union(*keys.values())) == 1800
    assert task.problems("release", 600)[:100] == task.problems("release", 100)


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_every_gold_answer_is_right(task: ProceduralTask) -> None:
    problems = task.problems("test", 300)
    assert all(task.grade(problem, f"\\boxed{{{problem.answer}}}").correct for problem in problems)
    traces = {trace.problem_id: trace.text for trace in task.gold_traces(problems)}
    assert len(traces) == (300 if isinstance(task, GsmSymbolic) else 0)
    assert all(task.grade(p, traces[p.id]).correct for p in problems if p.id in traces)


def test_seeds_differ() -> None:
    assert ChainSum().problems("release", 20, 0) != ChainSum().problems("release", 20, 1)


def test_negative_answers_and_signs() -> None:
    problem = next(p for p in ChainSum().problems("test", 100) if p.answer.startswith("-"))
    assert ChainSum().grade(problem, f"The answer is {problem.answer}.").correct
    assert not ChainSum().grade(problem, f"The answer is {problem.answer[1:]}.").correct
    assert not ChainSum().grade(problem, problem.meta["text"]).correct


def test_the_prompt_alone_says_how_to_answer() -> None:
    problem = GsmSymbolic(prompt="Q: {problem} A:").problems("test", 1)[0]
    assert problem.prompt.startswith("Q: ")
    assert "Give the result as your final answer" not in problem.prompt


def test_a_problem_space_that_is_used_up() -> None:
    task = ChainSum(min_terms=2, max_terms=2, min_digits=1, max_digits=1)
    with pytest.raises(ConfigError, match=r"makes only about .* but 500 were asked for"):
        task.problems("release", 500)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_terms": 5, "max_terms": 3}, "'min_terms' \\(5\\) must not exceed 'max_terms' \\(3\\)"),
        ({"min_digits": 5}, "'min_digits' \\(5\\) must not exceed"),
        ({"min_terms": 0}, "greater than or equal to 1"),
    ],
)
def test_contradictory_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ChainSum.model_validate(settings)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(MissingError, match=r"'reasoning_gym'.*azeotrope\[procedural\]"):
        ChainSum().problems("test", 1)


def test_unknown_split() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'holdout'"):
        ChainSum().problems("hold-out", 1)
