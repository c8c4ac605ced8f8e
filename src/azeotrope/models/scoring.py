"""Measuring a model on a task: accuracy rows, trace validity, recall of content.

Shapes: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from azeotrope.core.types import Problem, Trace
from azeotrope.models.gradients import IGNORE, completions, pad_batch
from azeotrope.models.lm import LM
from azeotrope.tasks.base import Probe, Task


@dataclass(frozen=True, slots=True)
class TraceScore:
    """One graded trace. `valid_share` is the share of sentences that follow, `grounded_share` of those that
    refer only to what the problem or the trace before them states (None without a checker)."""

    problem_id: str
    correct: bool
    finished: bool
    n_tokens: int
    valid_share: float | None
    wrong_statements: int | None
    n_sentences: int | None
    grounded_share: float | None = None


@dataclass(frozen=True, slots=True)
class Recall:
    """One probe's outcome."""

    content: str
    hidden: bool
    position: str
    recalled: bool


def score_traces(task: Task, problems: Sequence[Problem], traces: Sequence[Trace]) -> list[TraceScore]:
    """Grade traces and check their steps; `traces` follow `problems` one to one."""
    rows = []
    for problem, trace in zip(problems, traces, strict=True):
        steps = task.check_steps(problem, trace.text)
        counted = steps or []
        rows.append(
            TraceScore(
                problem_id=problem.id,
                correct=task.grade(problem, trace.text).correct,
                finished=trace.finished,
                n_tokens=trace.n_tokens,
                valid_share=sum(s.follows for s in counted) / len(counted) if counted else None,
                wrong_statements=None
                if steps is None
                else sum(s.kind == "statement" and s.true is False for s in counted),
                n_sentences=None if steps is None else len(counted),
                grounded_share=sum(not s.dangling for s in counted) / len(counted) if counted else None,
            )
        )
    return rows


def recall(lm: LM, probes: Sequence[Probe], batch_size: int = 96) -> list[Recall]:
    """Teacher-forced recall: every token of the target is the model's argmax after the prefix."""
    prefixes = lm.encode_many([p.prefix for p in probes])
    targets = lm.encode_many([p.target for p in probes])
    out: list[Recall] = []
    with torch.no_grad():
        for start in range(0, len(probes), batch_size):
            stop = start + batch_size
            batch = pad_batch(list(zip(prefixes[start:stop], targets[start:stop], strict=True)), lm.pad)
            logits = lm.model(input_ids=batch.ids_BT, attention_mask=batch.mask_BT).logits[:, :-1]
            labels = batch.labels_BT[:, 1:]
            hit = ((logits.argmax(-1) == labels) | (labels == IGNORE)).all(-1)
            out += [
                Recall(probe.content, probe.hidden, probe.position, bool(ok))
                for probe, ok in zip(probes[start:stop], hit.tolist(), strict=True)
            ]
    return out


def trace_nll(lm: LM, traces: Sequence[Trace], batch_size: int = 64) -> list[float]:
    """Mean negative log-likelihood of each completion in nats per token; 0 for an empty one."""
    return [float(found_T.mean()) if len(found_T) else 0.0 for found_T in token_nll(lm, traces, batch_size)]


def token_nll(lm: LM, traces: Sequence[Trace], batch_size: int = 64) -> list[Tensor]:
    """Negative log-likelihood of every token of each completion in nats, [T] a trace."""
    pairs = list(zip(lm.encode_many([t.prompt for t in traces]), completions(lm, traces), strict=True))
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1]))
    found = [torch.empty(0)] * len(pairs)
    with torch.no_grad():
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = pad_batch([pairs[i] for i in chosen], lm.pad)
            logits = lm.model(input_ids=batch.ids_BT, attention_mask=batch.mask_BT).logits[:, :-1]
            labels_BT = batch.labels_BT[:, 1:]
            loss_BT = F.cross_entropy(
                logits.transpose(1, 2).float(), labels_BT, ignore_index=IGNORE, reduction="none"
            )
            for i, loss_T, labels_T in zip(chosen, loss_BT, labels_BT, strict=True):
                found[i] = loss_T[labels_T != IGNORE]
    return found


@dataclass(frozen=True, slots=True)
class Checking:
    """How functional corrections are: counts of statements and of those taken back by the next sentences."""

    right: int
    right_corrected: int
    wrong: int
    wrong_corrected: int

    @property
    def after_right(self) -> float:
        """P(correction | right statement)."""
        return self.right_corrected / max(1, self.right)

    @property
    def after_wrong(self) -> float:
        """P(correction | wrong statement)."""
        return self.wrong_corrected / max(1, self.wrong)


def checking(task: Task, problems: Sequence[Problem], traces: Sequence[Trace]) -> Checking:
    """Count, over traces, how often a statement is followed by a correction, by the statement's truth."""
    counts = {(truth, taken): 0 for truth in (True, False) for taken in (True, False)}
    for problem, trace in zip(problems, traces, strict=True):
        steps = task.check_steps(problem, trace.text) or []
        for i, step in enumerate(steps):
            if step.kind != "statement" or step.true is None:
                continue
            following = [s.kind for s in steps[i + 1 : i + 3]]
            taken = following[:1] == ["correction"] or following == ["check", "correction"]
            counts[step.true, taken] += 1
    return Checking(
        right=counts[True, True] + counts[True, False],
        right_corrected=counts[True, True],
        wrong=counts[False, True] + counts[False, False],
        wrong_corrected=counts[False, True],
    )
