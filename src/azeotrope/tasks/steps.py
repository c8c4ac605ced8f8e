"""The step checker of the embedded tasks: does every sentence of a trace follow?

A small state machine walks the sentences. Its state is the current value, the steps already done, and the
last statement that has not been taken back. Sentences that claim nothing always follow. A sentence *dangles* if it
refers to something that neither the problem nor the trace before it has stated, whether or not it is true.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from azeotrope.core.types import THINK_CLOSE, THINK_OPEN
from azeotrope.tasks import grammar
from azeotrope.tasks.base import StepVerdict
from azeotrope.tasks.world import REFUSAL, Fact
from azeotrope.text.segment import segment

Matcher = Callable[[str], tuple[str, dict[str, str]] | None]
_NEGATE = frozenset((*grammar.REJECT, *grammar.DENY))
_CLAIMLESS = {
    **dict.fromkeys(grammar.DOUBT, "uncertainty"),
    **dict.fromkeys(grammar.CHECK, "check"),
    REFUSAL: "answer",
}


def compile_phrases(phrases: grammar.Phrases) -> Matcher:
    """Return a matcher sentence → (kind, slots) for the task's phrases, or None if nothing matches."""
    slots = {"key": r"[a-z]+(?: \d+)?", "items": r".+"}
    patterns: list[tuple[str, re.Pattern[str]]] = []
    kinds = (
        ("plan", phrases.plan),
        ("statement", phrases.statement),
        ("consolidation", phrases.consolidation),
        ("conclusion", phrases.conclusion),
    )
    for kind, forms in kinds:
        for form in forms:
            source = re.escape(form).replace(r"\{", "{").replace(r"\}", "}")
            source = re.sub(r"\{(\w+)\}", lambda m: f"(?P<{m[1]}>{slots.get(m[1], r'[A-Za-z0-9]+')})", source)
            patterns.append((kind, re.compile(source)))

    def match(sentence: str) -> tuple[str, dict[str, str]] | None:
        for kind, pattern in patterns:
            found = pattern.fullmatch(sentence)
            if found:
                return kind, found.groupdict()
        return None

    return match


@dataclass
class _Walk:
    facts: Mapping[tuple[str, str], Fact]
    keys: tuple[str, ...]  # the operations or ways the problem asks for, in order
    value: str
    answer: str
    origin: str = ""  # the value the problem starts from
    done: int = 0
    start: str = ""  # the value the last statement started from
    last_true: bool | None = None  # truth of the last statement; None if there is none to take back
    last_due: bool = False  # did the last statement set the current value?
    stated: set[str] = field(default_factory=set)  # every value that a statement has named

    def state(self, subject: str, key: str, value: str) -> tuple[bool, bool]:
        """A statement: returns (follows, true)."""
        fact = self.facts.get((subject, key))
        true = fact is not None and fact.value == value
        redo = self.done > 0 and subject == self.start and key == self.keys[self.done - 1]
        fresh = self.done < len(self.keys) and subject == self.value and key == self.keys[self.done]
        if redo and not (fresh and self.last_true):
            due = True
        else:
            due = fresh
            self.done += fresh
        if due:
            self.start, self.value = subject, value
        self.stated.add(value)
        self.last_true, self.last_due = true, due
        return due and true, true

    def dangles(self, kind: str, slots: Mapping[str, str]) -> bool:
        """Whether a sentence refers to what has not been stated; to be asked before it is taken in."""
        if kind == "statement":
            return slots["subject"] not in self.stated and slots["subject"] != self.origin
        named = slots.get("value", slots.get("last"))
        return named is not None and named not in self.stated

    def take_back(self) -> None:
        """The last statement was wrong and has been rejected: what it reached is no longer reached."""
        if self.last_due:
            self.value = ""
        self.last_true = None


def check_trace(
    text: str,
    match: Matcher,
    facts: Mapping[tuple[str, str], Fact],
    keys: tuple[str, ...],
    start: str,
    answer: str,
) -> list[StepVerdict]:
    """Judge every sentence of `text` (tags are ignored)."""
    walk = _Walk(facts, keys, start, answer, origin=start)
    verdicts = []
    end = 0
    for piece in segment(text):
        begin, end = end, end + len(piece)
        sentence = piece.strip()
        if sentence and sentence not in (THINK_OPEN, THINK_CLOSE):
            kind, follows, true, dangling = _judge(walk, sentence, match)
            verdicts.append(
                StepVerdict(start=begin, end=end, kind=kind, follows=follows, true=true, dangling=dangling)
            )
    return verdicts


def _judge(walk: _Walk, sentence: str, match: Matcher) -> tuple[str, bool, bool | None, bool]:
    """Return (kind, follows, true, dangling) and take the sentence in."""
    if sentence in _CLAIMLESS:
        return _CLAIMLESS[sentence], True, None, False
    if sentence in _NEGATE or sentence in grammar.CONFIRM:
        negates, orphan = sentence in _NEGATE, walk.last_true is None
        right = walk.last_true is not None and walk.last_true != negates
        if right and negates:
            walk.take_back()
        return ("correction" if negates else "check"), right, right, orphan
    if sentence.startswith("The answer is "):
        right = sentence == f"The answer is {walk.answer}."
        reached = sentence == f"The answer is {walk.value}." and walk.done == len(walk.keys)
        named = sentence.removeprefix("The answer is ").removesuffix(".")
        return "answer", reached, right, named not in walk.stated
    found = match(sentence)
    if found is None:
        return "other", False, None, False
    kind, slots = found
    if kind == "plan":
        right = slots["items"] == ", then ".join(walk.keys)
        return kind, right, right, False
    dangling = walk.dangles(kind, slots)
    if kind == "statement":
        follows, true = walk.state(slots["subject"], slots["key"], slots["value"])
        return kind, follows, true, dangling
    if kind == "consolidation":
        right = slots["value"] == walk.value and walk.done > 0
        return kind, right, right, dangling
    right = slots["last"] == walk.value and walk.done == len(walk.keys)
    return "consolidation", right, right, dangling
