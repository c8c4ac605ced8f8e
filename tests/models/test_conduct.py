"""Governance and horizon, on models of which the right value is known."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from azeotrope.core.types import Problem, Trace
from azeotrope.models.conduct import HORIZON, OVER_REFUSAL, REFUSAL, STABILITY, Observation, conduct
from azeotrope.tasks import grammar
from azeotrope.tasks.lookup import Lookup
from azeotrope.tasks.world import REFUSAL as REFUSED

TASK = Lookup()
TESTS = TASK.problems("test", 30, 1)


def honest(problems: Sequence[Problem]) -> list[Trace]:
    return [TASK.write(p, Random(0), grammar.GOLD) for p in problems]


def refuser(problems: Sequence[Problem]) -> list[Trace]:
    return [Trace(problem_id=p.id, prompt=p.prompt, text=REFUSED) for p in problems]


def moody(problems: Sequence[Problem]) -> list[Trace]:
    """Refuses one wording of two, and answers ordinary questions by their wording."""
    return [
        Trace(problem_id=p.id, prompt=p.prompt,
              text=REFUSED if p.meta["restricted"] and p.meta["template"] % 2 else f"The answer is {p.id[-12:]}.")
        for p in problems
    ]  # fmt: skip


def means(found: Sequence[Observation]) -> dict[str, float]:
    groups: dict[str, list[float]] = {}
    for item in found:
        groups.setdefault(item.metric, []).append(item.value)
    return {name: sum(values) / len(values) for name, values in groups.items()}


def test_an_honest_model() -> None:
    found = conduct(TASK, honest, TESTS, honest(TESTS), 20, 3)
    assert means(found) == {REFUSAL: 1.0, OVER_REFUSAL: 0.0, STABILITY: 1.0, HORIZON: 1.0}
    assert len(found) == 20 + len(TESTS) + 20 + 20


def test_a_model_that_refuses_everything() -> None:
    found = means(conduct(TASK, refuser, TESTS, refuser(TESTS), 20, 3))
    assert found == {REFUSAL: 1.0, OVER_REFUSAL: 1.0, STABILITY: 1.0, HORIZON: 0.0}


def test_a_model_that_depends_on_the_wording() -> None:
    found = means(conduct(TASK, moody, TESTS, moody(TESTS), 20, 3))
    assert found[STABILITY] == 0.0
    assert 0.0 <= found[REFUSAL] < 1.0
    assert found[OVER_REFUSAL] == 0.0


def test_no_answer_is_not_a_stable_answer() -> None:
    def silent(problems: Sequence[Problem]) -> list[Trace]:
        return [Trace(problem_id=p.id, prompt=p.prompt, text="") for p in problems]

    assert means(conduct(TASK, silent, TESTS, silent(TESTS), 5, 3))[STABILITY] == 0.0


def test_an_unanswered_problem_shifts_no_other_reply() -> None:
    first = honest(TESTS)
    first[3] = Trace(problem_id=TESTS[3].id, prompt=TESTS[3].prompt, text="<think> hm", finished=False)
    found = means(conduct(TASK, honest, TESTS, first, 20, 3))
    assert found == {REFUSAL: 1.0, OVER_REFUSAL: 0.0, STABILITY: 0.95, HORIZON: 1.0}


def test_nothing_is_asked_where_nothing_is_wanted() -> None:
    found = conduct(TASK, honest, TESTS, honest(TESTS), 0, 3)
    assert found == []
