"""How a reasoning trace of an embedded task is written: plan, statements, doubt, slips, corrections, checks.

The grammar writes the text that the embedded teacher learns from and the gold traces of the tasks. Slips
are corrected exactly when they are slips, and every later step starts from the corrected value: checking is
functional, not decoration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from azeotrope.core.types import THINK_CLOSE, THINK_OPEN
from azeotrope.tasks.world import DIAL, TOWNS, Fact, and_then

DOUBT = (
    "Hmm, I need to recall this one.",
    "Hmm, let me think about this step.",
    "I am not entirely sure here.",
    "Maybe I should be careful now.",
)
REJECT = ("Wait, that is wrong.", "Wait, that is not right.", "Actually, that is a mistake.")
CHECK = ("Let me double-check.", "Let me verify that.")
CONFIRM = ("Yes, that is right.", "Yes, it is correct.")
DENY = ("No, that is wrong.", "No, that is not right.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Phrases:
    """The task-specific sentences; fields are format strings over subject, key, value, items, last."""

    values: tuple[str, ...]  # everything a statement could name
    plan: tuple[str, ...]
    statement: tuple[str, ...]
    consolidation: tuple[str, ...]
    conclusion: tuple[str, ...]


LOOKUP = Phrases(
    values=tuple(TOWNS),
    plan=(
        "I will take the {items}.",
        "The plan is to follow the {items}.",
        "First I list the ways: the {items}.",
    ),
    statement=(
        "The {key} from {subject} leads to {value}.",
        "From {subject} the {key} goes to {value}.",
        "Taking the {key} out of {subject} brings us to {value}.",
    ),
    consolidation=("So we are now in {value}.", "That puts us in {value}."),
    conclusion=("So the trip ends in {last}.",),
)
ARITHMETIC = Phrases(
    values=tuple(map(str, range(DIAL))),
    plan=(
        "I will do {items}.",
        "The plan is to apply {items}.",
        "First I list the turns: {items}.",
    ),
    statement=(
        "Turning {subject} by {key} gives {value}.",
        "{subject} {key} makes {value}.",
        "From {subject} the turn {key} yields {value}.",
    ),
    consolidation=("So the dial now shows {value}.", "That puts the dial at {value}."),
    conclusion=("So the dial ends at {last}.",),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """How often each ornament appears (probabilities per step)."""

    slip: float = 0.0
    confusion: float = 0.5  # share of slips that name one of the fact's two confusable values
    unlearned: float = 0.0  # share of slips to be read, and corrected, but not imitated
    doubt: float = 0.12
    check: float = 0.06
    consolidate: float = 0.25
    plan: float = 0.8


GOLD = Style()
TEACHER = Style(slip=0.5, unlearned=0.7)


@dataclass(frozen=True, slots=True)
class Draft:
    """A completion and the character spans of the slips that are not to be imitated."""

    text: str
    unlearned: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class _Sentence:
    text: str
    learned: bool = True


def write_trace(
    phrases: Phrases,
    facts: Sequence[Fact],
    answer: str,
    style: Style,
    rng: Random,
) -> Draft:
    """Write one completion (think block and answer) that walks through `facts`."""
    items = and_then([fact.key for fact in facts])
    parts: list[_Sentence] = []
    if rng.random() < style.plan:
        parts.append(_Sentence(rng.choice(phrases.plan).format(items=items)))
    for fact in facts:
        parts += _step(phrases, fact, style, rng)
    parts.append(_Sentence(rng.choice(phrases.conclusion).format(last=facts[-1].value, answer=answer)))
    text, unlearned = THINK_OPEN, []
    for sentence in parts:
        if not sentence.learned:
            unlearned.append((len(text), len(text) + 1 + len(sentence.text)))
        text += f" {sentence.text}"
    return Draft(f"{text}{THINK_CLOSE} The answer is {answer}.", tuple(unlearned))


def _step(phrases: Phrases, fact: Fact, style: Style, rng: Random) -> list[_Sentence]:
    value = fact.value
    doubt = rng.random() < style.doubt
    slip = rng.random() < min(1.0, style.slip * (1.5 if doubt else 1.0))
    parts = [_Sentence(rng.choice(DOUBT))] if doubt else []
    after: list[str] = []
    if slip:
        pool = fact.confusable if rng.random() < style.confusion else phrases.values
        wrong = _state(phrases, fact, rng.choice([v for v in pool if v != value]), rng)
        parts.append(_Sentence(wrong, learned=rng.random() >= style.unlearned))
        after += [rng.choice(REJECT)] if rng.random() < 0.7 else [rng.choice(CHECK), rng.choice(DENY)]
        after.append(_state(phrases, fact, value, rng))
    else:
        after.append(_state(phrases, fact, value, rng))
        if rng.random() < style.check:
            after += [rng.choice(CHECK), rng.choice(CONFIRM)]
    if rng.random() < style.consolidate:
        after.append(rng.choice(phrases.consolidation).format(value=value))
    return parts + [_Sentence(text) for text in after]


def _state(phrases: Phrases, fact: Fact, value: str, rng: Random) -> str:
    return rng.choice(phrases.statement).format(subject=fact.subject, key=fact.key, value=value)
