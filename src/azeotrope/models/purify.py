"""Learning a linear map of the teacher's logits whose gradients lead a student astray (arXiv 2602.03396).

The map z' = z + A(Bz) is trained to keep the teacher's own text likely and to turn away the gradient that
a surrogate student would receive: minimize CE(z'/τ) + λ·cos(g, g'), g being the gradient of the distillation loss
(1 − α)·CE + α·KL in the surrogate for z, g' for z'. Both models are frozen: their head inputs are computed once.

Shapes: N labeled tokens, V vocabulary, D hidden size of the surrogate, R rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from azeotrope.core.errors import ConfigError, RunError
from azeotrope.core.types import Trace
from azeotrope.maths import cmi, divergences, lowrank
from azeotrope.models.attention import eager_attention
from azeotrope.models.gradients import head_inputs, token_batches
from azeotrope.models.head_edit import LogitMap
from azeotrope.models.lm import LM, check_pair
from azeotrope.models.stepper import trunk

Layer = Literal["head", "block"]
HELD_OUT = 0.25  # share of the traces on which cosine and information are measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a map is trained; symbols as in the paper. `temperature` is the one the teacher's text was drawn at."""

    lam: float = 1.0
    rank: int = 32
    alpha: float = 0.5
    layer: Layer = "head"
    kd_only: bool = False
    epochs: int = 20
    lr: float = 3e-4
    batch_size: int = 32
    weight_decay: float = 0.01
    temperature: float = 0.6
    checks: int = 5


@dataclass(slots=True)
class Checkpoint:
    """A map on its way: held-out cosine and cross-entropy (nats a token), and the teacher's accuracy with it."""

    step: int
    edit: LogitMap
    cosine: float
    loss: float
    accuracy: float = math.nan


@dataclass(slots=True)
class Purified:
    """The chosen map, what was tried, the training curve of the cosine, and what was measured on held-out text."""

    edit: LogitMap
    chosen: Checkpoint
    checkpoints: list[Checkpoint]
    cosines: list[float]
    notes: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Corpus:
    """Per trace: teacher logits and labels, and the surrogate's head inputs and logits, row for row."""

    teacher_NV: Tensor
    student_NV: Tensor
    hidden_ND: Tensor
    labels_N: Tensor
    traces: tuple[slice, ...]

    def rows(self, chosen: Sequence[int]) -> Tensor:
        """Row numbers of the chosen traces."""
        return torch.cat([torch.arange(self.traces[i].start, self.traces[i].stop) for i in chosen])


def read(teacher: LM, surrogate: LM, traces: Sequence[Trace]) -> Corpus:
    """Run both models over the traces.

    Raises ConfigError unless they share a vocabulary and there are at least 4 traces.
    """
    check_pair(teacher, surrogate)
    if len(traces) < 4:
        raise ConfigError(f"Purified logits need at least 4 traces to be learned from, not {len(traces)}.")
    rows: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    slices, start = [], 0
    with torch.no_grad():
        for trace in traces:
            (batch,) = token_batches(teacher, [trace], 1)
            _, teacher_NV, labels_N = head_inputs(teacher, batch)
            hidden_ND, student_NV, _ = head_inputs(surrogate, batch)
            rows.append((teacher_NV.float(), student_NV.float(), hidden_ND.float(), labels_N))
            slices.append(slice(start, start + len(labels_N)))
            start += len(labels_N)
    teacher_NV, student_NV, hidden_ND, labels_N = (torch.cat(column) for column in zip(*rows, strict=True))
    return Corpus(teacher_NV, student_NV, hidden_ND, labels_N, tuple(slices))


def purify(
    teacher: LM,
    surrogate: LM,
    traces: Sequence[Trace],
    recipe: Recipe,
    *,
    seed: int,
    accuracy: Callable[[LogitMap | None], float],
    keep: float,
) -> Purified:
    """Train a map and choose, among `checks` checkpoints, that of the lowest cosine which keeps the teacher.

    `accuracy` measures the teacher under a map (None: without); a checkpoint qualifies if it costs at most
    `keep`. If none does, that of the highest accuracy is taken, and the notes say so. Raises ConfigError for a
    rank outside 1 to V, RunError if training diverges.
    """
    size = teacher.vocab_size
    if not 1 <= recipe.rank <= size:
        raise ConfigError(f"The rank of a logit map must lie between 1 and the vocabulary size {size}.")
    corpus = read(teacher, surrogate, traces)
    held = max(1, int(HELD_OUT * len(traces)))
    training, held_out = range(held, len(traces)), range(held)
    learner = _Learner(corpus, surrogate, traces, recipe, size, seed)
    checkpoints: list[Checkpoint] = []
    steps = recipe.epochs * math.ceil(len(training) / recipe.batch_size)
    marks = {max(1, round(steps * (i + 1) / recipe.checks)) for i in range(recipe.checks)}
    for step, chosen in enumerate(_order(training, recipe, Random(seed)), start=1):
        learner.step(chosen, (step - 0.5) / steps)
        if step in marks:
            cosine, loss = learner.measure(held_out)
            edit = learner.edit()
            checkpoints.append(Checkpoint(step, edit, cosine, loss, accuracy(edit)))
    clean = accuracy(None)
    able = [c for c in checkpoints if c.accuracy >= clean - keep]
    best = min(able, key=lambda c: c.cosine) if able else max(checkpoints, key=lambda c: c.accuracy)
    found = Purified(best.edit, best, checkpoints, learner.cosines)
    found.notes = {
        **_report(corpus, corpus.rows(held_out), best.edit),
        "clean_accuracy": clean,
        "kept": bool(able),
    }
    return found


class _Learner:
    """A and B, their optimizer, and the objective."""

    def __init__(
        self, corpus: Corpus, surrogate: LM, traces: Sequence[Trace], recipe: Recipe, size: int, seed: int
    ) -> None:
        generator = torch.Generator().manual_seed(seed % 2**63)
        self.corpus, self.recipe, self.surrogate, self.traces = corpus, recipe, surrogate, traces
        a_VR = torch.randn(size, recipe.rank, generator=generator) / math.sqrt(recipe.rank)
        self.a_VR = a_VR.requires_grad_()
        self.b_RV = torch.zeros(recipe.rank, size, requires_grad=True)
        self.optimizer = torch.optim.AdamW(
            [self.a_VR, self.b_RV], lr=recipe.lr, betas=(0.9, 0.999), weight_decay=recipe.weight_decay
        )
        self.cosines: list[float] = []

    def edit(self) -> LogitMap:
        """The map as it is now, in its gauge."""
        return LogitMap(self.a_VR.detach().clone(), lowrank.centered(self.b_RV.detach()).clone())

    def step(self, chosen: Sequence[int], progress: float) -> None:
        """One update; `progress` in (0, 1] drives a linear warm-up over a tenth and a cosine to 0."""
        rate = min(1.0, progress / 0.1) * 0.5 * (1.0 + math.cos(math.pi * max(0.0, progress - 0.1) / 0.9))
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.lr * rate
        loss, cosine = self.objective(chosen)
        total = loss + self.recipe.lam * cosine
        if not torch.isfinite(total):
            raise RunError("The map of the logits diverged in training; lower `lr`.")
        self.a_VR.grad, self.b_RV.grad = torch.autograd.grad(total, [self.a_VR, self.b_RV])
        self.optimizer.step()
        self.cosines.append(float(cosine.detach()))

    def measure(self, chosen: Sequence[int]) -> tuple[float, float]:
        """Cosine and cross-entropy on other traces."""
        with torch.no_grad():
            loss, cosine = self.objective(chosen)
        return float(cosine), float(loss)

    def objective(self, chosen: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the transformed logits at the sampling temperature, and cos(g, g')."""
        corpus, recipe = self.corpus, self.recipe
        rows = corpus.rows(chosen)
        z_NV, labels_N = corpus.teacher_NV[rows], corpus.labels_N[rows]
        moved_NV = lowrank.transform(z_NV, self.a_VR, lowrank.centered(self.b_RV))
        loss = F.cross_entropy(moved_NV / recipe.temperature, labels_N)
        alpha = 1.0 if recipe.kd_only else recipe.alpha
        student_NV, hidden_ND = corpus.student_NV[rows], corpus.hidden_ND[rows]
        clean_NV, turned_NV = (lowrank.error_of(student_NV, z, labels_N, alpha) for z in (z_NV, moved_NV))
        if recipe.layer == "block":
            return loss, block_cosine(self.surrogate, [self.traces[i] for i in chosen], clean_NV, turned_NV)
        return loss, head_cosine(clean_NV, turned_NV, hidden_ND)


def head_cosine(clean_NV: Tensor, turned_NV: Tensor, hidden_ND: Tensor) -> Tensor:
    """cos(g, g') in the surrogate's head: by the Gram trick where a [V, D] gradient would be the larger one."""
    n, size, width = *clean_NV.shape, hidden_ND.shape[1]
    if n * n < size * width:
        return lowrank.cosine(clean_NV, turned_NV, hidden_ND)
    g, turned = clean_NV.T @ hidden_ND, turned_NV.T @ hidden_ND
    return F.cosine_similarity(g.flatten(), turned.flatten(), dim=0)


def block_cosine(surrogate: LM, traces: Sequence[Trace], clean_NV: Tensor, turned_NV: Tensor) -> Tensor:
    """cos(g, g') in the surrogate's last block; g' = Jᵀu' is linear in the error u', which carries the gradient.

    Raises ConfigError if the model has no list of blocks.
    """
    parameters = list(last_block(surrogate).parameters())
    with torch.enable_grad(), eager_attention(surrogate):
        rows = [
            head_inputs(surrogate, batch)[1] for trace in traces for batch in token_batches(surrogate, [trace], 1)
        ]
        logits_NV = torch.cat(rows)
        first_NV, second_NV = (error.to(logits_NV.dtype) for error in (clean_NV, turned_NV))
        clean = torch.autograd.grad(logits_NV, parameters, first_NV, retain_graph=True)
        turned = torch.autograd.grad(logits_NV, parameters, second_NV, create_graph=turned_NV.requires_grad)
    g, other = (torch.cat([part.flatten() for part in found]) for found in (clean, turned))
    return F.cosine_similarity(g, other, dim=0)


def last_block(lm: LM) -> torch.nn.Module:
    """The last transformer block. Raises ConfigError if the model has no list of blocks."""
    for module in trunk(lm).children():
        if isinstance(module, torch.nn.ModuleList) and len(module):
            return module[-1]
    raise ConfigError(f"The model '{lm.ref}' has no list of blocks; use layer: head.")


def _order(training: range, recipe: Recipe, rng: Random) -> Iterator[list[int]]:
    order = list(training)
    for _ in range(recipe.epochs):
        rng.shuffle(order)
        for start in range(0, len(order), recipe.batch_size):
            yield order[start : start + recipe.batch_size]


def _report(corpus: Corpus, rows: Tensor, edit: LogitMap) -> dict[str, object]:
    """What the map does to held-out text: agreement of the argmax, KL, and the information before and after."""
    z_NV = corpus.teacher_NV[rows]
    moved_NV = edit.shift(z_NV, None, 1.0)
    logs, moved = (torch.log_softmax(z.double(), -1) for z in (z_NV, moved_NV))
    report: dict[str, object] = {
        "agreement": float((z_NV.argmax(-1) == moved_NV.argmax(-1)).double().mean()),
        "kl": float(divergences.forward_kl(logs, moved).mean()),
        "tokens": len(rows),
    }
    labels_N = corpus.labels_N[rows]
    for name, logits_NV in (("before", z_NV), ("after", moved_NV)):
        try:
            found = cmi.information(logits_NV, labels_N)
        except ConfigError:  # too little text for any class
            continue
        report[f"cmi_{name}"], report[f"cmi_loo_{name}"] = found.cmi, found.cmi_loo
        report["cmi_covered"] = found.covered
    return report
