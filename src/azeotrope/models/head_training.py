"""Learning a head edit: cross-entropy on the teacher's own text plus λ times what a method asks for.

One loop for all methods: minimize CE(z'/τ) + λ·s·m, where the measure m and its sign s come from an `Objective`.
AdamW, linear warm-up over a tenth of the steps, then a cosine to 0. Among the checkpoints that keep the teacher's
accuracy, that of the lowest s·m on held-out traces is taken.

Shapes: N labeled tokens of the chosen traces, V vocabulary.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from azeotrope.core.errors import RunError
from azeotrope.maths.cmi import Rows
from azeotrope.models.corpus import Corpus
from azeotrope.models.edit_report import edited, reported
from azeotrope.models.head_edit import HeadEdit
from azeotrope.models.learnable import Learnable


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How an edit is trained, whatever the objective.

    `lam` is λ, `temperature` the one the teacher's text was drawn at; a chosen checkpoint may cost `keep`.
    """

    lam: float = 1.0
    epochs: int = 20
    lr: float = 3e-4
    batch_size: int = 32
    weight_decay: float = 0.01
    temperature: float = 0.6
    checks: int = 5
    keep: float = 0.01


Measure = Callable[[Sequence[int], Tensor, Tensor], Tensor]


class Objective(ABC):
    """What a method adds to the cross-entropy: a measure of the edited logits, and which way it should go.

    `name` (singular) says what the records call it; `sign` is +1 if training lowers it, −1 if it raises it.
    """

    name: str
    sign: float
    temperatures: tuple[float, ...] = ()  # at which the information before and after is also reported

    def __init__(self, corpus: Corpus, head: Learnable) -> None:
        self.corpus, self.head = corpus, head

    @abstractmethod
    def measure(self, chosen: Sequence[int], rows_N: Tensor, moved_NV: Tensor) -> Tensor:
        """The measure on the chosen traces, given their rows and edited logits: a scalar with its gradient."""

    def counted(self, rows_N: Tensor) -> int:
        """Of how many of the rows the measure is a mean."""
        return len(rows_N)

    def parts(self, chosen: Sequence[int]) -> list[list[int]]:
        """The traces of a step in pieces whose logits are held at a time."""
        return list(self.corpus.parts(chosen))

    def shares(self, parts: Sequence[Sequence[int]]) -> Measure:
        """A function of a part, its rows and edited logits, whose sum over the parts is the measure of them all.

        So is the sum of its gradients. Asked for once a step.
        """
        return self.weighed(parts, self.measure)

    def weighed(self, parts: Sequence[Sequence[int]], mean: Measure) -> Measure:
        """`shares` for what is a mean over counted rows."""
        total = max(1, sum(self.counted(self.corpus.rows(part)) for part in parts))
        return lambda part, rows_N, moved_NV: mean(part, rows_N, moved_NV) * (self.counted(rows_N) / total)

    @torch.no_grad()
    def held_out(self, chosen: Sequence[int], moved: Rows) -> float:
        """The measure on traces that are not trained on, by which checkpoints are compared."""
        return self.mean(chosen, lambda part, rows_N: self.measure(part, rows_N, moved(rows_N)))

    def mean(self, chosen: Sequence[int], value: Callable[[Sequence[int], Tensor], Tensor]) -> float:
        """The mean over counted tokens of what `value` gives for some traces and their rows, piece by piece."""
        total, count = 0.0, 0
        for part in self.corpus.parts(chosen):
            rows_N = self.corpus.rows(part)
            if n := self.counted(rows_N):
                total += n * float(value(part, rows_N))
                count += n
        return total / max(1, count)

    def begin(self, epoch: int) -> None:  # noqa: B027 - most objectives keep nothing between steps
        """Called before the first step of every epoch (0, 1, ...): renew what goes with the edit as it is."""

    def report(self, rows_N: Tensor, edit: HeadEdit) -> dict[str, Any]:
        """What else is recorded of a finished edit, on the held-out rows."""
        return {}

    def moved(self, rows_N: Tensor) -> Tensor:
        """The teacher's logits under the edit as it is now. [N, V]."""
        view = self.corpus.teacher
        return self.head.moved(view.logits(rows_N), view.hidden_ND[rows_N])


@dataclass(slots=True)
class Checkpoint:
    """An edit on its way: held-out measure, cross-entropy (nats a token), and the teacher's accuracy with it."""

    step: int
    edit: HeadEdit
    measure: float
    loss: float
    accuracy: float = math.nan


@dataclass(slots=True)
class Trained:
    """The chosen edit, what was tried, the training curve of the measure, and what held-out text says."""

    edit: HeadEdit
    chosen: Checkpoint
    checkpoints: list[Checkpoint]
    curve: list[float]
    name: str
    notes: dict[str, Any] = field(default_factory=dict)

    def told(self) -> dict[str, Any]:
        """What a study records about an edit as trained (plain JSON values)."""
        every = max(1, len(self.curve) // 50)
        return {
            **self.notes,
            "measured_at_scale": 1.0,
            f"{self.name}_first": self.curve[0],
            f"{self.name}_held_out": self.chosen.measure,
            f"{self.name}s": [round(c, 4) for c in self.curve[::every]],
            "chosen_step": self.chosen.step,
            "checkpoints": [
                {"step": c.step, self.name: c.measure, "cross_entropy": c.loss, "accuracy": c.accuracy}
                for c in self.checkpoints
            ],
        }


def train(
    objective: Objective,
    training: Training,
    *,
    seed: int,
    accuracy: Callable[[HeadEdit | None], float],
) -> Trained:
    """Train the objective's head and choose a checkpoint.

    `accuracy` measures the teacher under an edit (None: without); a checkpoint qualifies if it costs at most
    `keep`. If none does, that of the highest accuracy is taken, and the notes say so. `seed` orders the traces.
    Raises RunError if training diverges.
    """
    corpus = objective.corpus
    steps = training.epochs * math.ceil(len(corpus.training) / training.batch_size)
    marks = {max(1, round(steps * (i + 1) / training.checks)) for i in range(training.checks)}
    loop = _Loop(objective, training)
    checkpoints: list[Checkpoint] = []
    for step, (epoch, chosen) in enumerate(_order(corpus.training, training, Random(seed)), start=1):
        loop.step(epoch, chosen, (step - 0.5) / steps)
        if step in marks:
            measure, loss = loop.measure(corpus.held_out)
            edit = objective.head.edit()
            checkpoints.append(Checkpoint(step, edit, measure, loss, accuracy(edit)))
    clean = accuracy(None)
    able = [c for c in checkpoints if c.accuracy >= clean - training.keep]
    best = (
        min(able, key=lambda c: objective.sign * c.measure) if able else max(checkpoints, key=lambda c: c.accuracy)
    )
    found = Trained(best.edit, best, checkpoints, loop.curve, objective.name)
    rows_N = corpus.rows(corpus.held_out)
    found.notes = {
        **reported(corpus, rows_N, edited(corpus, best.edit), objective.temperatures),
        **objective.report(rows_N, best.edit),
        "clean_accuracy": clean,
        "kept": bool(able),
    }
    return found


class _Loop:
    """The optimizer at work on an objective."""

    def __init__(self, objective: Objective, training: Training) -> None:
        self.objective, self.training = objective, training
        self.optimizer = torch.optim.AdamW(
            objective.head.parameters, lr=training.lr, betas=(0.9, 0.999), weight_decay=training.weight_decay
        )
        self.curve: list[float] = []
        self.epoch = -1

    def step(self, epoch: int, chosen: Sequence[int], progress: float) -> None:
        """One update; `progress` in (0, 1] drives a linear warm-up over a tenth and a cosine to 0."""
        if epoch != self.epoch:
            self.epoch = epoch
            with torch.no_grad():
                self.objective.begin(epoch)
        rate = min(1.0, progress / 0.1) * 0.5 * (1.0 + math.cos(math.pi * max(0.0, progress - 0.1) / 0.9))
        for group in self.optimizer.param_groups:
            group["lr"] = self.training.lr * rate
        self.optimizer.zero_grad()
        self.curve.append(self._backward(chosen))
        self.optimizer.step()

    def _backward(self, chosen: Sequence[int]) -> float:
        """Add up the gradients of some traces, piece by piece; the measure on them."""
        objective, training, corpus = self.objective, self.training, self.objective.corpus
        parts, parameters, measure = objective.parts(chosen), objective.head.parameters, 0.0
        shares, tokens = objective.shares(parts), len(corpus.rows(chosen))
        for part in parts:
            rows_N = corpus.rows(part)
            moved_NV = objective.moved(rows_N)
            # The text is as likely as it was when it was drawn.
            loss = F.cross_entropy(moved_NV / training.temperature, corpus.labels_N[rows_N])
            share = shares(part, rows_N, moved_NV)
            total = loss * (len(rows_N) / tokens) + training.lam * objective.sign * share
            if not torch.isfinite(total):
                raise RunError("The edit of the head diverged in training; lower `lr`.")
            for parameter, gradient in zip(parameters, torch.autograd.grad(total, parameters), strict=True):
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
            measure += float(share.detach())
        return measure

    def measure(self, chosen: Sequence[int]) -> tuple[float, float]:
        """Measure and cross-entropy on other traces."""
        objective = self.objective
        found = objective.held_out(chosen, objective.moved)
        return found, cross_entropy(objective.corpus, chosen, objective.moved, self.training.temperature)


@torch.no_grad()
def cross_entropy(corpus: Corpus, chosen: Sequence[int], moved: Rows, temperature: float) -> float:
    """Of moved logits on some traces, at the temperature at which the text was drawn, in nats a token."""
    total, count = 0.0, 0
    for part in corpus.parts(chosen):
        rows_N = corpus.rows(part)
        total += float(F.cross_entropy(moved(rows_N) / temperature, corpus.labels_N[rows_N], reduction="sum"))
        count += len(rows_N)
    return total / max(1, count)


def _order(chosen: range, training: Training, rng: Random) -> Iterator[tuple[int, list[int]]]:
    """Epoch and traces of every step."""
    order = list(chosen)
    for epoch in range(training.epochs):
        rng.shuffle(order)
        for start in range(0, len(order), training.batch_size):
            yield epoch, order[start : start + training.batch_size]
