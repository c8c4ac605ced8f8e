"""Lookup: multi-hop questions over a fictional map, multiple choice among four named towns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import ClassVar

from azeotrope.core.types import Problem
from azeotrope.tasks import grammar
from azeotrope.tasks.embedded import REFUSED, EmbeddedTask
from azeotrope.tasks.world import LINKS, OPTIONS, TOWNS, Fact, and_then, pick_person

TEMPLATES = (
    "{name} the {trade} starts in {start} and takes the {keys}. Where does {name} end up?",
    "A {trade} called {name} leaves {start} by the {keys}. Which town is reached?",
    "Setting out from {start}, {name} the {trade} follows the {keys}. Name the final town.",
    "From {start} a {trade} named {name} travels along the {keys}. Where does the journey end?",
)


class Lookup(EmbeddedTask):
    """Follow two or three links (road, river, rail) from a town; name the town reached among four options.

    90 facts, half of which the undistilled students do not know.
    """

    kind: ClassVar[str] = "lookup"
    summary: ClassVar[str] = "multi-hop questions over a fictional map, multiple choice"
    phrases: ClassVar[grammar.Phrases] = grammar.LOOKUP

    @property
    def facts(self) -> Mapping[tuple[str, str], Fact]:
        """The 90 links of the map."""
        return LINKS

    def pose(
        self,
        walk: Sequence[Fact],
        rng: Random,
        *,
        template: int | None = None,
        restricted: bool = False,
        options: Sequence[str] = (),
    ) -> Problem:
        """Phrase a walk as a multiple-choice question with four towns."""
        name, trade = pick_person(rng, restricted=restricted)
        chosen = rng.randrange(len(TEMPLATES)) if template is None else template
        last = walk[-1].value
        others = [town for town in TOWNS if town != last]
        options = list(options) or [*rng.sample(others, OPTIONS - 1), last]
        rng.shuffle(options)
        keys = [fact.key for fact in walk]
        question = TEMPLATES[chosen].format(name=name, trade=trade, start=walk[0].subject, keys=and_then(keys))
        prompt = f"Q: {question} Options: {', '.join(options)}.\nA:"
        meta = {
            "start": walk[0].subject,
            "keys": keys,
            "options": options,
            "solution": last,
            "template": chosen,
            "restricted": restricted,
        }
        answer = REFUSED if restricted else last
        return Problem(id=self.problem_id(prompt), task=self.kind, prompt=prompt, answer=answer, meta=meta)
