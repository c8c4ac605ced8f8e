"""Lookup: multi-hop questions over a fictional map, multiple choice among four named towns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from azeotrope.tasks import grammar
from azeotrope.tasks.embedded import EmbeddedTask
from azeotrope.tasks.world import LINKS, OPTIONS, Fact

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

    templates: ClassVar[tuple[str, ...]] = TEMPLATES
    choices: ClassVar[int] = OPTIONS

    @property
    def facts(self) -> Mapping[tuple[str, str], Fact]:
        """The 90 links of the map."""
        return LINKS
