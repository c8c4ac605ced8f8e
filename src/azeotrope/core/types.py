"""Problems, traces and scores as frozen dataclasses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

THINK_OPEN = "<think>"
THINK_CLOSE = "</think>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One question of a task.

    `prompt` is the full text a model is given; `answer` the gold answer in the task's normal form;
    `meta` whatever the task's grader and step checker need (plain JSON values only).
    """

    id: str
    task: str
    prompt: str
    answer: str
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One completion of a problem: reasoning and answer, as text.

    `text` excludes the prompt. `finished` is true if the model ended by itself (end-of-sequence token)
    rather than at the token limit. `moved` is, per token, how far the defense moved the sampling
    distribution (KL in nats), where it was recorded.
    """

    problem_id: str
    prompt: str
    text: str
    seed: int = 0
    finished: bool = True
    n_tokens: int = 0
    token_ids: tuple[int, ...] | None = None
    moved: tuple[float, ...] | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A measured number with its interval; never a bare float in a report."""

    value: float
    low: float
    high: float
    n: int
    unit: str = "fraction"
    higher_is_better: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Paper:
    """The source of a method: arXiv id, title, and the equations that the code implements."""

    id: str
    title: str
    equations: tuple[str, ...] = ()


def split_answer(text: str) -> tuple[str, str]:
    """Split `text` into (reasoning including the closing think tag, answer span).

    Without a closing tag the whole text is reasoning and the answer span is empty: what has not been
    declared an answer may be rewritten, what has been must not.
    """
    cut = text.rfind(THINK_CLOSE)
    if cut < 0:
        return text, ""
    cut += len(THINK_CLOSE)
    return text[:cut], text[cut:]
