"""What the tests of the detectors share: two clean samples of the embedded grammar, and edits of a third."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from azeotrope.core.types import Trace
from azeotrope.defenses.traceguard import TraceGuard
from azeotrope.detect.base import Texts, texts_of
from azeotrope.tasks.lookup import Lookup


def sample(n: int, seed: int, edit: Callable[[Trace], Trace] = lambda trace: trace) -> Texts:
    """The gold traces of `n` fixed problems under a seed."""
    task = Lookup()
    return texts_of(edit(trace) for trace in task.gold_traces(task.problems("release", n), seed))


def guarded(trace: Trace) -> Trace:
    """The trace without any marker sentence."""
    return TraceGuard(budget=1.0).rewrite(trace, Random(0))


def loud(texts: Texts) -> Texts:
    """An edit that nobody can miss."""
    return {name: [text.replace("So ", "Therefore ") for text in side] for name, side in texts.items()}
