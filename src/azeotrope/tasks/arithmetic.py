"""Arithmetic: several operations in a row on a dial of twelve positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import ClassVar

from azeotrope.core.types import Problem
from azeotrope.tasks import grammar
from azeotrope.tasks.embedded import REFUSED, EmbeddedTask
from azeotrope.tasks.world import TURNS, Fact, and_then, pick_person

TEMPLATES = (
    "{name} the {trade} sets a dial to {start} and turns it {keys}. What does the dial show?",
    "A dial stands at {start} when a {trade} called {name} applies {keys}. What is the result?",
    "Beginning with {start}, {name} the {trade} does {keys} on the dial. Which number is reached?",
    "On the dial at {start} a {trade} named {name} performs {keys}. Where does it stop?",
)


class Arithmetic(EmbeddedTask):
    """Two or three operations (plus, minus, times) modulo twelve.

    96 facts (8 operations × 12 values); four of the operations are unknown to the undistilled students.
    """

    kind: ClassVar[str] = "arithmetic"
    summary: ClassVar[str] = "multi-step arithmetic on a dial of twelve positions"
    phrases: ClassVar[grammar.Phrases] = grammar.ARITHMETIC

    @property
    def facts(self) -> Mapping[tuple[str, str], Fact]:
        """The 96 turns of the dial."""
        return TURNS

    def pose(
        self,
        walk: Sequence[Fact],
        rng: Random,
        *,
        template: int | None = None,
        restricted: bool = False,
        options: Sequence[str] = (),
    ) -> Problem:
        """Phrase a walk as a question about a dial."""
        name, trade = pick_person(rng, restricted=restricted)
        chosen = rng.randrange(len(TEMPLATES)) if template is None else template
        keys = [fact.key for fact in walk]
        question = TEMPLATES[chosen].format(name=name, trade=trade, start=walk[0].subject, keys=and_then(keys))
        prompt = f"Q: {question}\nA:"
        last = walk[-1].value
        meta = {
            "start": walk[0].subject,
            "keys": keys,
            "solution": last,
            "template": chosen,
            "restricted": restricted,
        }
        answer = REFUSED if restricted else last
        return Problem(id=self.problem_id(prompt), task=self.kind, prompt=prompt, answer=answer, meta=meta)
