"""Phrases with holes: ``{name}`` is filled from a list of that name, whose entries may have holes themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Final

Lists = Mapping[str, Sequence[str]]
_DEPTH: Final = 8


def lists(text: str) -> dict[str, tuple[str, ...]]:
    """Read ``name: entry | entry | ...`` lines; indented lines go on.

    >>> lists("a: x | y\\n  | z\\nb: w")
    {'a': ('x', 'y', 'z'), 'b': ('w',)}
    """
    found: dict[str, str] = {}
    name = ""
    for line in text.strip().splitlines():
        if line[:1].isspace():
            found[name] += " " + line.strip()
        elif line:
            name, _, rest = line.partition(": ")
            found[name] = rest.strip()
    return {key: tuple(part.strip() for part in value.split("|") if part.strip()) for key, value in found.items()}


def fill(text: str, words: Lists, rng: Random) -> str:
    """Fill every hole; ``{n:a-b}`` becomes a whole number from a to b. Raises KeyError for an unknown list."""
    for _ in range(_DEPTH):
        if "{" not in text:
            return text
        out, rest = [], text
        while "{" in rest:
            before, _, rest = rest.partition("{")
            name, _, rest = rest.partition("}")
            out += [before, _one(name, words, rng)]
        text = "".join([*out, rest])
    raise ValueError("phrases refer to each other in a circle")


def _one(name: str, words: Lists, rng: Random) -> str:
    kind, _, span = name.partition(":")
    if kind == "n" and span:
        low, _, high = span.partition("-")
        return str(rng.randint(int(low), int(high)))
    return rng.choice(words[name])
