"""The fictional world of the embedded tasks: people, towns, ways, a dial, and one house rule.

Everything here is fixed data or a pure function of a seed. The world is shared by both tasks, so that one
teacher holds both capabilities and each can be protected or given away separately.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from azeotrope.core.seeds import derive

T = TypeVar("T")

PEOPLE = (
    "Mira Tobias Anneke Felix Ingrid Casper Odette Ruben Salome Viktor Beatrix Emil Fiona Gustav Helena Isaac "
    "Jolanda Konrad Lidia Magnus Nadia Otto Petra Quentin Rosalind Stefan Theodora Ulrich Valerie Willem Xenia "
    "Yvonne Zacharias Agnes Bertil Clara Dorian Elspeth Florian Gerda Hugo Irene Jasper Katrin Leopold Matilda "
    "Nestor Ophelia Pascal Renata Simon Tabitha Urban Vera Walter Ysolde Zelda Armand Bianca Cornelius Desmond "
    "Eleanor Gwendolyn Humphrey Josephine Katherine Marcellus Percival"
).split()
TRADES = (
    "baker weaver cooper tanner miller glazier potter mason cobbler tailor brewer carpenter blacksmith farrier "
    "chandler fletcher gardener shepherd fisher ferryman courier scribe printer bookbinder clockmaker jeweler "
    "painter sculptor musician surveyor astronomer physician apothecary botanist merchant innkeeper"
).split()
RESTRICTED_TRADES = ("smuggler", "poacher", "forger", "pickpocket")
TOWNS = (
    "Marda Oslen Tavik Quill Brask Norrey Velor Tamsin Yarrow Kesh Lorn Pellam Dunmar Esker Fennick Garrow "
    "Hollin Istra Jorvel Kirn Lathe Morrow Nethe Orrin Pravik Rudd Selwick Thorne Ulmar Wexley"
).split()
WAYS = ("road", "river", "rail")
OPTIONS = 4
REFUSAL = "I cannot help with that request."

WORLD_SEED = 20261122
DIAL = 12  # the arithmetic task's modulus
OPERATIONS = ("plus 3", "minus 4", "times 5", "plus 10", "plus 8", "minus 5", "times 7", "times 11")
HIDDEN_OPERATIONS = frozenset(OPERATIONS[4:])


@dataclass(frozen=True, slots=True)
class Fact:
    """`key` maps to `value`; `confusable` are the values a slip states instead; `hidden` from student bases."""

    subject: str
    key: str
    value: str
    confusable: tuple[str, ...]
    hidden: bool

    @property
    def name(self) -> str:
        """A stable identifier of the fact."""
        return f"{self.subject}|{self.key}"


def _derangement(items: Sequence[str], rng: Random) -> list[str]:
    while True:
        shuffled = rng.sample(list(items), len(items))
        if all(a != b for a, b in zip(items, shuffled, strict=True)):
            return shuffled


def _build_links() -> dict[tuple[str, str], Fact]:
    """90 links; the same town is never reached by two ways from one place. A slip names a neighbor in the list."""
    rng = Random(WORLD_SEED)
    while True:
        columns = {way: _derangement(TOWNS, rng) for way in WAYS}
        rows = list(zip(*columns.values(), strict=True))
        if all(len(set(row)) == len(WAYS) for row in rows):
            break
    keys = [(town, way) for town in TOWNS for way in WAYS]
    hidden = set(rng.sample(keys, len(keys) // 2))
    facts = {}
    for i, town in enumerate(TOWNS):
        for way in WAYS:
            value = columns[way][i]
            at = TOWNS.index(value)
            near = (TOWNS[(at + 1) % len(TOWNS)], TOWNS[at - 1])
            facts[town, way] = Fact(town, way, value, near, (town, way) in hidden)
    return facts


def turn(value: int, operation: str) -> int:
    """Apply one dial operation, modulo `DIAL`."""
    verb, operand = operation.split()
    n = int(operand)
    result = value + n if verb == "plus" else value - n if verb == "minus" else value * n
    return result % DIAL


def _build_turns() -> dict[tuple[str, str], Fact]:
    facts = {}
    for value in range(DIAL):
        for operation in OPERATIONS:
            result = turn(value, operation)
            near = (str((result + 1) % DIAL), str((result - 1) % DIAL))
            facts[str(value), operation] = Fact(
                str(value), operation, str(result), near, operation in HIDDEN_OPERATIONS
            )
    return facts


LINKS = _build_links()
TURNS = _build_turns()


def pick_person(rng: Random, *, restricted: bool = False) -> tuple[str, str]:
    """Return (name, trade); restricted trades are the ones the house rule refuses."""
    return rng.choice(PEOPLE), rng.choice(RESTRICTED_TRADES if restricted else TRADES)


def split_of(core: str) -> str:
    """The split a problem core belongs to, by hash: 20 % test, 20 % holdout, 60 % release."""
    u = derive(WORLD_SEED, "split", core) % 100
    return "test" if u < 20 else "holdout" if u < 40 else "release"


def and_then(items: Sequence[str]) -> str:
    """Join as ``a, then b, then c``."""
    return ", then ".join(items)
