"""Reweighting traces by what they teach: the student's side of the Distillation Game.

Source: arXiv 2605.22737 (weights w ∝ exp(η v)). With v(x, y) = −⟨∇L(θ), ∇ log π(y|x; θ)⟩, a step on y changes
the trusted loss L by −(step)·v: a trace with v > 0 helps, and is weighted up. As ∇ nll = −∇ log π, the value is
v = [nll(θ + εg) − nll(θ − εg)] / 2ε with g = ∇L. (A released implementation has the difference the other way
round, which weights the poison up.)
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field

from azeotrope.attacks.adaptive import AdaptiveSFT, Lessons
from azeotrope.attacks.base import AttackRun
from azeotrope.core.budget import Budget
from azeotrope.core.errors import ConfigError
from azeotrope.core.seeds import derive
from azeotrope.core.types import THINK_CLOSE, THINK_OPEN, Paper, Problem, Trace, split_answer
from azeotrope.models.gradients import ProxyGradient, proxy_gradient
from azeotrope.models.lm import LM
from azeotrope.models.scoring import trace_nll
from azeotrope.tasks.base import Task

_CLIP = 3.0  # standard deviations
Cost = Callable[[LM, Sequence[int]], Sequence[float]]  # a student's loss per token on the traces in some rows


class ReweightedSFT(AdaptiveSFT):
    """Weight each trace by exp(η v), v its (standardized) help for a loss the thief trusts, then fine-tune.

    v is taken at a copy of the base that has read the release for `warmup` epochs. The trusted loss is that
    of the answers alone (`trusted: answers`: the thief believes the answers, not the reasoning) or of leaked
    undefended traces (`trusted: leak`). Per token, so that length is not rewarded. η = 0 is `sft`. Refusals
    are no answers: they are not trusted and keep weight 1 (all alike, they would otherwise dominate the
    trusted gradient and teach the student to refuse).
    """

    kind: ClassVar[str] = "reweighted_sft"
    version: ClassVar[int] = 2
    summary: ClassVar[str] = "weight traces by their help for a trusted loss, then fine-tune"
    paper: ClassVar[Paper | None] = Paper(
        id="2605.22737", title="The Distillation Game", equations=("w ∝ exp(η v)",)
    )

    eta: float = Field(
        default=0.3,
        ge=0,
        description="η: how strongly weights follow v (in SDs of v); 1 leaves few traces to learn from",
    )
    trusted: Literal["answers", "leak"] = Field(default="answers", description="what the thief trusts")
    leaked: int = Field(default=64, ge=2, description="undefended traces, for trusted=leak")
    warmup: int = Field(default=1, ge=1, description="epochs on the release before v is measured")
    epsilon: float = Field(default=0.01, gt=0, description="length of the finite-difference step in θ")

    @property
    def budget(self) -> Budget:
        """With `trusted: leak` a number of undefended traces must have leaked."""
        return Budget(leaked=self.leaked if self.trusted == "leak" else 0)

    def prepare(self, lm: LM, traces: Sequence[Trace], run: AttackRun) -> Lessons:
        """Measure v and turn it into weights of mean 1."""
        return self.weigh(
            lm, traces, run, lambda twin, judged: trace_nll(twin, [traces[i] for i in judged]), self.kind
        )

    def weigh(
        self, lm: LM, traces: Sequence[Trace], run: AttackRun, cost: Cost, attack: str = "reweighted_sft"
    ) -> Lessons:
        """Weights of mean 1, from the help of a step that lowers `cost`. Raises ConfigError, naming `attack`."""
        task = run.need_task(attack)
        if len(run.problems) != len(traces):
            raise ConfigError(
                f"'{attack}' grades {len(traces)} traces by {len(run.problems)} problems; give one each, in order."
            )
        student = self.pupil(lm, traces, run, self.warmup)
        refused = refusals(task, run.problems, traces)
        gradient = proxy_gradient(student, self._trusted(task, traces, refused, run, attack))
        judged = [row for row, no in enumerate(refused) if traces[row].text and not no]
        values = help_of(student, gradient, lambda twin: cost(twin, judged), self.epsilon)
        found = dict(zip(judged, weights_of(values, self.eta), strict=True))
        weights = [found.get(row, 1.0) for row in range(len(traces))]
        taught = [weight for weight, trace in zip(weights, traces, strict=True) if trace.text]
        notes = {
            "largest_weight": max(taught),
            "effective_traces": math.fsum(taught) ** 2 / math.fsum(w * w for w in taught),
            "refusals": sum(refused),
            "split_half_cosine": gradient.split_half_cosine,
        }
        return Lessons(traces, weights, notes)

    def _trusted(
        self, task: Task, traces: Sequence[Trace], refused: Sequence[bool], run: AttackRun, attack: str
    ) -> list[Trace]:
        if self.trusted == "leak":
            problems = run.problems[: self.leaked]
            leaked = run.need_service(attack).leak(problems, seed=derive(run.seed, "trusted"))
            answered = zip(leaked, refusals(task, problems, leaked), strict=True)
            return [trace for trace, no in answered if not no]
        found = []
        for trace, no in zip(traces, refused, strict=True):
            _, answer = split_answer(trace.text)
            if answer.strip() and not no:
                found.append(replace(trace, text=f"{THINK_OPEN}{THINK_CLOSE}{answer}"))
        if len(found) < 2:
            raise ConfigError(f"'{attack}' with trusted=answers needs a release with answers; use trusted=leak.")
        return found


def refusals(task: Task, problems: Sequence[Problem], traces: Sequence[Trace]) -> list[bool]:
    """Which of the traces refuse, as anyone can read."""
    return [task.grade(problem, trace.text).refused for problem, trace in zip(problems, traces, strict=True)]


def help_of(
    lm: LM, gradient: ProxyGradient, costs: Callable[[LM], Sequence[float]], epsilon: float
) -> list[float]:
    """v per trace: how much a step that lowers its cost per token lowers the trusted loss (unit gradient)."""
    scale = epsilon / max(gradient.norm, 1e-300)
    plus, minus = (costs(_moved(lm, gradient, sign * scale)) for sign in (1.0, -1.0))
    return [(a - b) / (2.0 * epsilon) for a, b in zip(plus, minus, strict=True)]


def weights_of(values: Sequence[float], eta: float) -> list[float]:
    """exp(η·standardized v), clipped, with mean 1; none for no values."""
    if not values:
        return []
    mean = math.fsum(values) / len(values)
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / len(values)) or 1.0
    raw = [math.exp(eta * max(-_CLIP, min(_CLIP, (v - mean) / spread))) for v in values]
    total = math.fsum(raw)
    return [len(raw) * w / total for w in raw]


def _moved(lm: LM, gradient: ProxyGradient, step: float) -> LM:
    model = copy.deepcopy(lm.model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(gradient.vectors[name].to(parameter.dtype), alpha=step)
    return LM(model, lm.tokenizer, lm.ref, lm.revision)
