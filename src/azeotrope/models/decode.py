"""The lock-step decoder: sampling from a teacher under any composition of logit defenses.

Every defense may own further models, which walk the same tokens in lock-step with their own caches.
Finished rows are compacted away. The order of logit operations is `core.sampling.LOGIT_ORDER`.
A row's sample depends on its own seed only, never on its batch.

Shapes: B rows, V vocabulary, D hidden size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from azeotrope.core.errors import ConfigError, RunError
from azeotrope.core.sampling import Sampling
from azeotrope.models.drawing import Drawing, Drawn
from azeotrope.models.lm import LM
from azeotrope.models.stepper import StepOut, Stepper, is_plain

_COMPACT_BELOW = 0.94  # share of live rows below which finished ones are dropped


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of one decoding run: prompt token ids and a seed each (int64 [B])."""

    prompts: tuple[tuple[int, ...], ...]
    seeds_B: Tensor


@dataclass(frozen=True, slots=True)
class StepView:
    """What a defense sees at one step.

    `t_B` (int64) counts each row's steps from 0: rows of a batch may have begun at different times. `logits_BV`
    come after repetition penalty and temperature. `tokens_B` are the tokens drawn at the last step (None right
    after the prompts). `hidden_BD` is the teacher's LM-head input, if the rule needs it.
    """

    t_B: Tensor
    tokens_B: Tensor | None
    logits_BV: Tensor
    hidden_BD: Tensor | None
    seeds_B: Tensor


class Session(ABC):
    """A logit defense at work on one batch; owns its models' caches.

    `joins`: whether `join` is right for it, so that batches of requests that came at different times become one.
    """

    joins: ClassVar[bool] = False

    @abstractmethod
    def step(self, view: StepView) -> Tensor:
        """Return the defended logits [B, V]; never modify `view.logits_BV` in place."""

    def select(self, rows: Tensor) -> None:  # noqa: B027 - stateless defenses have nothing to drop
        """Keep only the given rows (int64 [B'])."""

    def join(self, other: Session) -> None:  # noqa: B027
        """Take the rows of another session of the same rule behind one's own; the other is not used any more."""

    def close(self) -> None:  # noqa: B027
        """Release everything the session holds."""


class LogitRule(ABC):
    """A logit defense bound to its models and calibration; opens a session per batch."""

    needs_hidden: bool = False

    def edited_head(self, lm: LM, temperature: float) -> Tensor | None:
        """A head W' [V, D] with W'h / temperature = what the rule would make of Wh / temperature, or None.

        Where a rule is a linear edit of the teacher's head, the decoder runs that head in place of the
        teacher's, and the rule costs nothing.
        """
        return None

    @abstractmethod
    def open(self, batch: Batch) -> Session:
        """Start on a batch: load prompts into the rule's own models, if it has any."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One decoded row. `moved` is KL(defended ‖ undefended) in nats per token, `margin` the least distance
    of a draw to a decision boundary (for exactness tests); both only where asked for.
    """

    ids: tuple[int, ...]
    finished: bool
    moved: tuple[float, ...] | None = None
    margin: float | None = None


@dataclass
class Row:
    """A row on its way: its place in the batch and what was written so far."""

    index: int
    ids: list[int]
    moved: list[float]
    margin: float = float("inf")
    finished: bool = False
    failed: bool = False  # its logits were not finite: it ends, and its last token means nothing


def decode(
    lm: LM,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    sampling: Sampling,
    *,
    rules: Sequence[LogitRule] = (),
    max_new_tokens: int,
    batch_size: int = 192,
    record: bool = False,
    progress: Callable[[int], None] | None = None,
) -> list[Sample]:
    """Sample one completion per prompt.

    `seeds` holds one seed a row; `max_new_tokens` applies where `sampling` sets none. With `record`, each
    sample carries the movement per token and its smallest decision margin. Rows are processed longest
    prompt first in batches of `batch_size`, which changes speed, not samples.

    Raises ConfigError for an empty prompt and RunError if the logits stop being finite.
    """
    if any(len(p) == 0 for p in prompts):
        raise ConfigError("An empty prompt cannot be continued; give every row at least one token.")
    limit = sampling.max_new_tokens or max_new_tokens
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
    samples: list[Sample | None] = [None] * len(prompts)
    with torch.no_grad():
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = Batch(
                prompts=tuple(tuple(prompts[i]) for i in chosen),
                seeds_B=torch.tensor([seeds[i] for i in chosen], dtype=torch.int64, device=lm.model.device),
            )
            run = Run(lm, batch, sampling, rules, record)
            for i, sample in zip(chosen, run.all(limit), strict=True):
                samples[i] = sample
            if progress is not None:
                progress(len(chosen))
    return [s for s in samples if s is not None]


class Run:
    """One batch on its way through the decoder, a token at a time: `step` until it says that no row is left.

    `live` are the rows that are still being written, in the order of the models' caches.
    """

    def __init__(
        self,
        lm: LM,
        batch: Batch,
        sampling: Sampling | Sequence[Sampling],
        rules: Sequence[LogitRule],
        record: bool = False,
        lenient: bool = False,
    ) -> None:
        """`sampling` is that of all rows, or of each.

        What a defense adds is measured at one temperature, so that under any rows have one; their repetition
        penalties are one always. Raises ConfigError for others. `lenient`: a row whose logits are not finite ends
        alone (`Row.failed`), and the others go on.
        """
        samplings = [sampling] * len(batch.prompts) if isinstance(sampling, Sampling) else sampling
        self.lm, self.drawing, self.record = lm, Drawing(samplings), record
        self.penalty = samplings[0].repetition_penalty
        self.lenient = lenient
        if rules and self.drawing.divisor is None:
            raise ConfigError("Rows under a defense need one temperature for all of a batch.")
        if any(one.repetition_penalty != self.penalty for one in samplings):
            raise ConfigError("Rows of one batch need one repetition penalty.")
        self.batch = batch
        self.rows = [Row(i, [], []) for i in range(len(batch.prompts))]
        self.live = list(self.rows)
        self.seeds_B = batch.seeds_B
        self.rules = rules
        self.seen_BV = _seen(batch, lm) if self.penalty != 1.0 else None
        self.t_B = torch.zeros_like(batch.seeds_B)
        self._tokens_B: Tensor | None = None
        self._teacher: Stepper | None = None
        self._sessions: list[Session] = []

    def all(self, limit: int) -> list[Sample]:
        """Decode every row of the batch to its end, or to `limit` tokens."""
        try:
            for _ in range(limit):
                if not self.step():
                    break
        finally:
            self.close()
        return [
            Sample(
                tuple(row.ids),
                row.finished,
                tuple(row.moved) if self.record else None,
                row.margin if self.record else None,
            )
            for row in self.rows
        ]

    def step(self) -> bool:
        """Write one more token of every live row; whether any row is left. Raises RunError (not finite)."""
        if self._teacher is None or self._tokens_B is None:
            out = self._begin()
        else:
            out = self._teacher.advance(self._tokens_B)
        view = StepView(self.t_B, self._tokens_B, self._shape(out.logits_BV), out.hidden_BD, self.seeds_B)
        self._tokens_B = self._draw(view, self._sessions)
        keep = self._note(self._tokens_B)
        self.t_B = self.t_B + 1
        if self.live and keep is not None:
            self.keep(keep)
        return bool(self.live)

    def keep(self, rows: Tensor) -> None:
        """Go on with these of the live rows only (int64 [B'])."""
        teacher, tokens_B = self._begun()
        self._tokens_B = tokens_B[rows]
        self._compact(rows, [teacher, *self._sessions])

    def _begun(self) -> tuple[Stepper, Tensor]:
        """The teacher's walk and the tokens drawn last."""
        if self._teacher is None or self._tokens_B is None:
            raise RunError("Rows can be dropped and joined between steps only.")
        return self._teacher, self._tokens_B

    @property
    def width(self) -> int:
        """Columns of the teacher's cache that are in use."""
        if self._teacher is None:
            return 0
        start, stop = self._teacher.span
        return stop - start

    @property
    def joins(self) -> bool:
        """Whether its defenses let it be joined at all."""
        return not self.record and all(session.joins for session in self._sessions)

    def can_join(self, other: Run) -> bool:
        """Whether `join` can take the other's rows: the same model and rules, under rules one temperature too."""
        divisor = self.drawing.divisor
        alike = not self.rules or (divisor is not None and divisor == other.drawing.divisor)
        same = self.lm is other.lm and self.rules is other.rules and self.penalty == other.penalty
        same = same and self.lenient == other.lenient and alike
        begun = self._tokens_B is not None and other._tokens_B is not None and bool(self.live and other.live)
        return same and begun and self.joins and other.joins

    def join(self, other: Run) -> None:
        """Write the other's rows, too, behind one's own; it must not be used afterwards.

        Rows that have finished are forgotten, all others numbered anew, in the order of `live`. Raises RunError
        where `can_join` says no.
        """
        if not self.can_join(other):
            raise RunError("Two batches cannot become one: their models, settings or defenses differ.")
        for run in (self, other):
            left = [i for i, row in enumerate(run.live) if not row.finished]
            if len(left) < len(run.live):
                run.keep(torch.tensor(left, dtype=torch.long, device=run.seeds_B.device))
        (mine, my_tokens_B), (theirs, their_tokens_B) = self._begun(), other._begun()
        mine.join(theirs)
        for session, further in zip(self._sessions, other._sessions, strict=True):
            session.join(further)
        self._tokens_B = torch.cat([my_tokens_B, their_tokens_B])
        self.drawing = self.drawing.join(other.drawing, len(self.live), len(other.live))
        self.seeds_B, self.t_B = torch.cat([self.seeds_B, other.seeds_B]), torch.cat([self.t_B, other.t_B])
        if self.seen_BV is not None and other.seen_BV is not None:
            self.seen_BV = torch.cat([self.seen_BV, other.seen_BV])
        self.live = [*self.live, *other.live]
        self.rows = list(self.live)
        for index, row in enumerate(self.rows):
            row.index = index

    def close(self) -> None:
        """Release the caches."""
        if self._teacher is not None:
            self._teacher.close()
        for session in self._sessions:
            session.close()
        self._sessions = []

    def _begin(self) -> StepOut:
        rules, head_VD = self._rules()
        self._teacher = Stepper(self.lm, hidden=any(rule.needs_hidden for rule in rules), head_VD=head_VD)
        for rule in rules:
            self._sessions.append(rule.open(self.batch))
        return self._teacher.prefill(self.batch.prompts)

    def _rules(self) -> tuple[Sequence[LogitRule], Tensor | None]:
        """The rules to run step by step, and the head that stands for the first one if it is a head edit.

        Not where the undefended logits are needed: for the record, or under a repetition penalty, which
        comes before defenses.
        """
        if self.record or self.seen_BV is not None or not self.rules or not is_plain(self.lm):
            return self.rules, None
        head_VD = self.rules[0].edited_head(self.lm, self.drawing.divisor or 1.0)
        return (self.rules, None) if head_VD is None else (self.rules[1:], head_VD)

    def _shape(self, logits_BV: Tensor) -> Tensor:
        """Repetition penalty, then temperature."""
        if self.seen_BV is not None:
            penalty = self.penalty
            scaled = torch.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty)
            logits_BV = torch.where(self.seen_BV, scaled, logits_BV)
        return self.drawing.scaled(logits_BV)

    def _draw(self, view: StepView, sessions: Sequence[Session]) -> Tensor:
        """Defenses, top-k, top-p, then one token per row."""
        logits_BV = view.logits_BV
        for session in sessions:
            logits_BV = session.step(StepView(view.t_B, view.tokens_B, logits_BV, view.hidden_BD, view.seeds_B))
        if self.record:
            self._measure(view.logits_BV, logits_BV)
        drawn = self.drawing.tokens(logits_BV, view.seeds_B, view.t_B, margins=self.record)
        if drawn.margin_B is not None:
            for row, margin in zip(self.live, drawn.margin_B.tolist(), strict=True):
                if not row.finished:
                    row.margin = min(row.margin, margin)
        return drawn.tokens_B if drawn.finite_B.all() else self._end(drawn, view)

    def _end(self, drawn: Drawn, view: StepView) -> Tensor:
        """End the rows whose logits are not finite, where others should go on; else raise RunError."""
        if not self.lenient:
            worst = int(drawn.finite_B.logical_not().nonzero()[0])
            raise RunError(_blamed(self.lm.ref, int(view.t_B[worst]), view.logits_BV[worst]))
        for row, finite in zip(self.live, drawn.finite_B.tolist(), strict=True):
            row.failed = row.failed or not (finite or row.finished)
        return torch.where(drawn.finite_B, drawn.tokens_B, self.lm.eos)

    def _measure(self, before_BV: Tensor, after_BV: Tensor) -> None:
        log_p, log_q = torch.log_softmax(after_BV, -1), torch.log_softmax(before_BV, -1)
        kl_B = torch.where(log_p.isneginf(), 0.0, log_p.exp() * (log_p - log_q)).sum(-1)
        for row, value in zip(self.live, kl_B.tolist(), strict=True):
            if not row.finished:
                row.moved.append(max(0.0, value))

    def _note(self, tokens_B: Tensor) -> Tensor | None:
        """Record the tokens; return the rows to keep if enough have finished, else None."""
        if self.seen_BV is not None:
            self.seen_BV[torch.arange(len(tokens_B)), tokens_B] = True
        eos = self.lm.eos
        for row, token in zip(self.live, tokens_B.tolist(), strict=True):
            if row.finished:
                continue
            row.ids.append(token)
            row.finished = token == eos
        alive = [i for i, row in enumerate(self.live) if not row.finished]
        if not alive:
            self.live = []
        if len(alive) > _COMPACT_BELOW * len(self.live):
            return None
        return torch.tensor(alive, dtype=torch.long, device=tokens_B.device)

    def _compact(self, keep: Tensor, owners: Sequence[Stepper | Session]) -> None:
        self.live = [self.live[i] for i in keep.tolist()]
        self.drawing = self.drawing.select(keep.tolist())
        self.seeds_B, self.t_B = self.seeds_B[keep], self.t_B[keep]
        if self.seen_BV is not None:
            self.seen_BV = self.seen_BV[keep]
        for owner in owners:
            owner.select(keep)


def _seen(batch: Batch, lm: LM) -> Tensor:
    seen = torch.zeros((len(batch.prompts), lm.vocab_size), dtype=torch.bool, device=lm.model.device)
    for i, prompt in enumerate(batch.prompts):
        seen[i, torch.tensor(prompt, dtype=torch.long)] = True
    return seen


def _blamed(ref: str, step: int, logits_V: Tensor) -> str:
    """What to say when nothing can be drawn: the model's own logits are to blame, or what was made of them."""
    if logits_V.isnan().any() or not torch.isfinite(logits_V.amax()):
        return (
            f"The logits of '{ref}' were not finite at step {step}; check the model's weights, its number format, "
            "and the strength of a map of its logits."
        )
    return (
        f"The logits were no longer finite at step {step}, though those of '{ref}' were; lower the defense's "
        "strength or check the other models that it reads."
    )
