"""What every task must do, whatever its problems are. Call `check_task` on an instance of each task."""

from __future__ import annotations

import json
import time

import pytest
from pydantic import ValidationError

from azeotrope.core.methods import explain
from azeotrope.core.types import THINK_CLOSE, Problem
from azeotrope.tasks.base import SPLITS, Task

GARBAGE = (
    "",
    " \n\t",
    "No idea whatsoever.",
    THINK_CLOSE,
    "\\boxed{}",
    "\\boxed{",
    "\\boxed{zzz qqq zzz}",
    "The answer is",
    "####",
    "{" * 5000,
    "}" * 5000,
    "\x00\ud800\N{PILE OF POO}",
)


def check_task(task: Task, n: int = 8) -> None:
    """Assert the whole contract on the first `n` problems of every split."""
    check_problems(task, n)
    check_splits(task, n)
    check_grading(task, n)
    check_steps(task, n)
    check_settings(task)


def check_problems(task: Task, n: int) -> None:
    """Deterministic, nested, unique, plain JSON in `meta`."""
    for split in SPLITS:
        for seed in (0, 1):
            problems = task.problems(split, n, seed)
            assert len(problems) == n
            assert problems == task.problems(split, n, seed), "not deterministic"
            assert problems[: n // 2] == task.problems(split, n // 2, seed), "not nested"
            assert len({problem.id for problem in problems}) == n, "ids are not unique"
            assert len({problem.prompt for problem in problems}) == n, "prompts are not unique"
            assert task.problems(split, 0, seed) == []
        for problem in problems:
            _check_problem(task, problem)


def _check_problem(task: Task, problem: Problem) -> None:
    assert problem.task == task.kind
    assert problem.id
    assert problem.prompt.strip()
    assert problem.answer.strip()
    assert json.loads(json.dumps(dict(problem.meta))) == dict(problem.meta), "meta is not plain JSON"


def check_splits(task: Task, n: int) -> None:
    """No problem is in two splits, under any two seeds."""
    seen: dict[str, str] = {}
    for split in SPLITS:
        for seed in (0, 1, 2):
            for problem in task.problems(split, n, seed):
                assert seen.setdefault(problem.id, split) == split, f"{problem.id} is in two splits"
                assert seen.setdefault(problem.prompt, split) == split, f"{problem.id} is in two splits"


def check_grading(task: Task, n: int) -> None:
    """Gold is right; garbage and other problems' gold are wrong; nothing raises."""
    problems = task.problems("test", n)
    gold = gold_texts(task, problems)
    for problem in problems:
        assert task.grade(problem, gold[problem.id]).correct, f"{problem.id} rejects its gold answer"
        for other in problems:
            if other.answer != problem.answer:
                assert not task.grade(problem, gold[other.id]).correct, f"{problem.id} accepts {other.answer}"
        started = time.perf_counter()
        for text in GARBAGE:
            assert not task.grade(problem, text).correct, f"{problem.id} accepts {text[:40]!r}"
        assert time.perf_counter() - started < 5


def gold_texts(task: Task, problems: list[Problem]) -> dict[str, str]:
    """A right completion for each problem: its gold trace, or its boxed answer where there is none."""
    texts = {problem.id: f"{THINK_CLOSE}\n\n\\boxed{{{problem.answer}}}" for problem in problems}
    traces = task.gold_traces(problems, seed=3)
    assert traces == task.gold_traces(problems, seed=3), "gold traces are not deterministic"
    prompts = {problem.id: problem.prompt for problem in problems}
    for trace in traces:
        assert prompts[trace.problem_id] == trace.prompt
        texts[trace.problem_id] = trace.text
    return texts


def check_steps(task: Task, n: int) -> None:
    """Step verdicts, if any, are ordered and inside the text; probes have a prefix and a target."""
    problems = task.problems("holdout", n)
    for problem, text in zip(problems, gold_texts(task, problems).values(), strict=True):
        place = 0
        for verdict in task.check_steps(problem, text) or ():
            assert place <= verdict.start < verdict.end <= len(text)
            place = verdict.end
    for probe in task.probes():
        assert probe.content
        assert probe.prefix
        assert probe.target


def check_settings(task: Task) -> None:
    """Settings survive JSON, are frozen, and reject unknown keys by naming the nearest one."""
    cls = type(task)
    assert cls.model_validate_json(task.model_dump_json()) == task
    settings = task.model_dump()
    wrong = next(iter(settings), "setting") + "x"
    with pytest.raises(ValidationError) as caught:
        cls.model_validate({**settings, wrong: 1})
    message = explain(caught.value, "task", cls)
    assert f"Unknown setting 'task.{wrong}'" in message
    for name in list(settings)[:1]:
        assert f"'{name}'" in message
        with pytest.raises(ValidationError):
            setattr(task, name, settings[name])
