"""Arithmetic: several operations in a row on a dial of twelve positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from azeotrope.tasks import grammar
from azeotrope.tasks.embedded import EmbeddedTask
from azeotrope.tasks.world import TURNS, Fact

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

    templates: ClassVar[tuple[str, ...]] = TEMPLATES

    @property
    def facts(self) -> Mapping[tuple[str, str], Fact]:
        """The 96 turns of the dial."""
        return TURNS
