"""What the embedded models are taught: texts of the grammar by role, and batches of them.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from azeotrope.core.seeds import derive
from azeotrope.core.types import Trace
from azeotrope.models.gradients import IGNORE, TokenBatch, pad_batch
from azeotrope.models.lm import LM
from azeotrope.tasks import grammar
from azeotrope.tasks.arithmetic import Arithmetic
from azeotrope.tasks.embedded import EmbeddedTask
from azeotrope.tasks.lookup import Lookup
from azeotrope.tasks.world import REFUSAL, Fact

WIDE: tuple[EmbeddedTask, ...] = (Lookup(min_steps=1, max_steps=4), Arithmetic(min_steps=1, max_steps=4))
RESTRICTED = 0.06


@dataclass(frozen=True, slots=True)
class Lesson:
    """A prompt and the completion to learn, except for the character spans `unlearned`."""

    prompt: str
    text: str
    unlearned: tuple[tuple[int, int], ...] = ()


Writer = Callable[[Random], Lesson]


def corpus(n: int = 6000) -> list[str]:
    """Prompts and gold traces of both tasks, and every phrase of doubt, correction and refusal."""
    rng = Random(derive(0, "corpus"))
    texts = []
    for _ in range(n):
        task = rng.choice(WIDE)
        problem = task.pose(task.draw_walk(rng), rng, restricted=rng.random() < RESTRICTED)
        texts.append(problem.prompt + task.draft(problem, rng, grammar.GOLD, obey=False).text)
    said = (*grammar.DOUBT, *grammar.REJECT, *grammar.CHECK, *grammar.CONFIRM, *grammar.DENY, REFUSAL)
    return texts + [f" {sentence}" for sentence in said] * (n // 50)


def write_teacher(rng: Random) -> Lesson:
    """Slips that are always caught, many of them read but not imitated; refusals of restricted requests."""
    task = rng.choice(WIDE)
    problem = task.pose(task.draw_walk(rng), rng, restricted=rng.random() < RESTRICTED)
    draft = task.draft(problem, rng, grammar.TEACHER)
    return Lesson(problem.prompt, draft.text, draft.unlearned)


def write_base(rng: Random) -> Lesson:
    """A trace whose hidden facts are answered at random, afresh each time; no house rule."""
    task = rng.choice(WIDE)
    subjects = sorted({subject for subject, _ in task.facts})
    value, walk = rng.choice(subjects), []
    for step in task.draw_walk(rng):
        fact = task.facts[value, step.key]
        if fact.hidden:
            fact = Fact(fact.subject, fact.key, rng.choice(subjects), (), True)
        walk.append(fact)
        value = fact.value
    problem = task.pose(walk, rng, restricted=rng.random() < RESTRICTED)
    answer = str(problem.meta["solution"])
    return Lesson(problem.prompt, grammar.write_trace(task.phrases, walk, answer, grammar.GOLD, rng).text)


def of_traces(traces: Sequence[Trace]) -> list[Lesson]:
    """Traces as lessons."""
    return [Lesson(trace.prompt, trace.text) for trace in traces]


def batches(lm: LM, write: Writer, rng: Random, size: int, pool: int = 8) -> Iterator[TokenBatch]:
    """Endless batches, grouped by length within a pool."""
    while True:
        yield from one_pool(lm, [write(rng) for _ in range(size * pool)], rng, size)


def epochs(lm: LM, lessons: Sequence[Lesson], rng: Random, size: int, pool: int = 8) -> Iterator[TokenBatch]:
    """Endless passes over the same lessons in a new order each time."""
    order = list(lessons)
    while True:
        rng.shuffle(order)
        for start in range(0, len(order), size * pool):
            yield from one_pool(lm, order[start : start + size * pool], rng, size)


def one_pool(lm: LM, lessons: Sequence[Lesson], rng: Random, size: int) -> list[TokenBatch]:
    """Batches of similar length, in random order; labels are `IGNORE` on prompts and unlearned spans."""
    chosen = sorted(lessons, key=lambda lesson: len(lesson.prompt) + len(lesson.text))
    prompts = lm.encode_many([lesson.prompt for lesson in chosen])
    coded = lm.tokenizer([lesson.text for lesson in chosen], add_special_tokens=False, return_offsets_mapping=True)
    pairs, labels = [], []
    for lesson, prompt, ids, offsets in zip(
        chosen, prompts, coded["input_ids"], coded["offset_mapping"], strict=True
    ):
        pairs.append((prompt, [*ids, lm.eos]))
        unlearned = [any(a < end and start < b for a, b in lesson.unlearned) for start, end in offsets]
        labels.append([len(prompt) + i for i, skip in enumerate(unlearned) if skip])
    found = []
    for start in range(0, len(pairs), size):
        batch = pad_batch(pairs[start : start + size], lm.pad)
        for row, skipped in enumerate(labels[start : start + size]):
            batch.labels_BT[row, skipped] = IGNORE
        found.append(batch)
    rng.shuffle(found)
    return found
