"""What writes a study's traces: a model with weights, or one behind an endpoint.

The only place that tells the two apart; everything else asks a `Teacher`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from azeotrope.core.errors import ConfigError
from azeotrope.core.methods import Defense, TraceDefense
from azeotrope.core.sampling import Sampling
from azeotrope.core.types import THINK_CLOSE, THINK_OPEN, Problem, Trace
from azeotrope.models.decode import LogitRule
from azeotrope.models.endpoint import Endpoint, is_endpoint, parse_ref
from azeotrope.models.lm import LM, load
from azeotrope.models.sample import generate
from azeotrope.tasks.base import Task

IN_WORDS = (
    "The teacher is behind an endpoint and its tokenizer unknown: the lengths of its traces (trace_tokens) are in "
    "words, separated by white space, for every arm."
)


class Teacher(Protocol):
    """A model that answers problems."""

    @property
    def ref(self) -> str:
        """Its name in messages: a model reference, or an endpoint's address and model."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of its measures must know."""

    def write(
        self,
        problems: Sequence[Problem],
        task: Task,
        sampling: Sampling,
        *,
        seed: int,
        rules: Sequence[LogitRule] = (),
        record: bool = False,
        prefix: str = "",
        max_new_tokens: int | None = None,
    ) -> list[Trace]:
        """One completion a problem, in their order; a row's seed depends on `seed` and the problem's id only.

        The token limit is that of `sampling`, or else `max_new_tokens`, or else the task's. With `prefix`, every
        text begins with it. `rules` act on the logits, and `record` keeps how far they moved every token: both
        need weights. Raises ConfigError for rules without weights, RunError if an endpoint stops answering.
        """

    def counted(self, traces: Sequence[Trace]) -> list[Trace]:
        """Give released traces their length, in one unit for all arms: tokens, or words without a tokenizer."""

    def ledger(self) -> dict[str, float]:
        """What was sent in this process so far: `requests`, and `spent` in currency units; empty for weights."""

    def weights(self) -> LM:
        """The model itself. Raises ConfigError if it cannot be had."""


class LocalTeacher:
    """A teacher whose weights are here: it can be steered while it writes."""

    notes: tuple[str, ...] = ()

    def __init__(self, lm: LM) -> None:
        self.lm = lm

    @property
    def ref(self) -> str:
        """See `Teacher.ref`."""
        return self.lm.ref

    def write(
        self,
        problems: Sequence[Problem],
        task: Task,
        sampling: Sampling,
        *,
        seed: int,
        rules: Sequence[LogitRule] = (),
        record: bool = False,
        prefix: str = "",
        max_new_tokens: int | None = None,
    ) -> list[Trace]:
        """See `Teacher.write`."""
        return generate(
            self.lm,
            problems,
            task,
            sampling,
            seed=seed,
            rules=rules,
            record=record,
            prefix=prefix,
            max_new_tokens=max_new_tokens,
        )

    def counted(self, traces: Sequence[Trace]) -> list[Trace]:
        """See `Teacher.counted`: tokens; only rewritten traces, whose length is unknown, are counted anew."""
        return [
            replace(t, n_tokens=len(self.lm.encode(t.text))) if t.text and not t.n_tokens else t for t in traces
        ]

    def ledger(self) -> dict[str, float]:
        """See `Teacher.ledger`."""
        return {}

    def weights(self) -> LM:
        """See `Teacher.weights`."""
        return self.lm


class EndpointTeacher:
    """A teacher behind an OpenAI-compatible server: what it writes can be changed, how it writes cannot."""

    notes: tuple[str, ...] = (IN_WORDS,)

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    @property
    def ref(self) -> str:
        """See `Teacher.ref`; without options."""
        return self.endpoint.settings.ref

    def write(
        self,
        problems: Sequence[Problem],
        task: Task,
        sampling: Sampling,
        *,
        seed: int,
        rules: Sequence[LogitRule] = (),
        record: bool = False,
        prefix: str = "",
        max_new_tokens: int | None = None,
    ) -> list[Trace]:
        """See `Teacher.write`; nothing is recorded. A trace's `n_tokens` is what the server bills."""
        if rules:
            raise ConfigError(f"The teacher {self.ref} is behind an endpoint: no rule can act on its logits.")
        limit = max_new_tokens or task.max_new_tokens
        return self.endpoint.write(problems, sampling, seed=seed, max_new_tokens=limit, prefix=prefix)

    def counted(self, traces: Sequence[Trace]) -> list[Trace]:
        """See `Teacher.counted`: words of every trace, rewritten or not; what the server bills is another unit.

        Words are separated by white space; think tags are none.
        """
        return [replace(trace, n_tokens=_words(trace.text)) for trace in traces]

    def ledger(self) -> dict[str, float]:
        """See `Teacher.ledger`; what came from the cache was not sent."""
        return self.endpoint.ledger()

    def weights(self) -> LM:
        """See `Teacher.weights`: they cannot be had."""
        raise ConfigError(
            f"The teacher {self.ref} is behind an endpoint, which does not give its weights; "
            "name a model that can be loaded."
        )


def open_teacher(ref: str, load: Callable[[str], LM] = load) -> Teacher:
    """The teacher that `ref` names: an endpoint, or a model that `load` loads.

    Raises ConfigError for a malformed reference, MissingError if the model cannot be loaded.
    """
    return EndpointTeacher(Endpoint(parse_ref(ref))) if is_endpoint(ref) else LocalTeacher(load(ref))


def check_defenses(ref: str, defenses: Sequence[Defense]) -> None:
    """Raise ConfigError for a defense that the teacher `ref` does not allow; at strength 0 none acts."""
    for defense in defenses:
        if is_endpoint(ref) and defense.strength and not isinstance(defense, TraceDefense):
            raise ConfigError(
                f"The defense '{defense.kind}' acts at stage '{defense.stage}' and needs the teacher's weights, "
                f"which the endpoint {parse_ref(ref).ref} does not give; with an endpoint, defenses of stage "
                "'trace' work, which change finished text."
            )


def since(before: Mapping[str, float], now: Mapping[str, float]) -> dict[str, float]:
    """What a ledger gained between two readings."""
    return {name: round(value - before.get(name, 0), 9) for name, value in now.items()}


def _words(text: str) -> int:
    return len(text.replace(THINK_OPEN, " ").replace(THINK_CLOSE, " ").split())
