"""The defended teacher of a study: its bench, the release it makes, and the service a thief can ask for more."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from azeotrope.attacks.base import Service, StudentAttack
from azeotrope.core import plugins
from azeotrope.core.access import Access
from azeotrope.core.errors import ConfigError, RunError
from azeotrope.core.methods import Defense, parse_method
from azeotrope.core.sampling import Sampling
from azeotrope.core.seeds import derive
from azeotrope.core.types import Problem, Trace
from azeotrope.defenses.base import Bench, Pipeline, assemble
from azeotrope.models.decode import LogitRule
from azeotrope.models.endpoint_settings import is_endpoint
from azeotrope.models.exposure import Exposure
from azeotrope.models.gradients import completions
from azeotrope.models.lm import LM, load
from azeotrope.models.replay import replay
from azeotrope.models.teacher import open_teacher, since
from azeotrope.study.specs import Json, ReleaseSpec
from azeotrope.tasks.base import Task
from azeotrope.text.rows import apply

REPLIES = 4  # requests a text among which groups of biased tokens are dealt


class DefendedService(Service):
    """The teacher behind its defenses, exactly as it made a release; loaded when first asked.

    `fitted` is the file in which the release stored what its defenses had learned; `access` and `top` say what
    is shown with the text, and `surfaces` are the defenses that change it.
    """

    def __init__(
        self,
        spec: ReleaseSpec,
        *,
        fitted: Path | None = None,
        access: Access = Access.TEXT,
        top: int = 20,
        surfaces: Sequence[Json] = (),
    ) -> None:
        super().__init__()
        self.surfaces = tuple(surfaces)
        self.spec, self.fitted, self.access, self.top = spec, fitted, access, top
        self.ledger: dict[str, float] = {}  # what was sent to an endpoint for it, see `Teacher.ledger`
        self._pipeline: Pipeline | None = None

    def ask(
        self, problems: Sequence[Problem], *, seed: int, prefix: str = "", greedy: bool = False
    ) -> list[Trace]:
        """See `Service.ask`."""
        bench, pipeline, sampling = bench_of(self.spec), self.pipeline, self.spec.sampling
        if greedy:  # the defense acts as ever, and then the likeliest token is taken; endpoints know no such order
            likeliest = {"temperature": 0.0, "top_k": 0} if is_endpoint(self.spec.teacher) else {"top_k": 1}
            sampling = sampling.model_copy(update=likeliest)
        before = bench.writer.ledger()
        released, raw = release_traces(pipeline, bench.task, problems, sampling, seed, prefix=prefix)
        self._bill(raw, since(before, bench.writer.ledger()))
        return bench.writer.counted(released)

    @property
    def pipeline(self) -> Pipeline:
        """The defended teacher."""
        if self._pipeline is None:
            bench = bench_of(self.spec)
            if self.fitted is not None and self.fitted.exists():
                read_fitted(bench, self.fitted)
            self._pipeline = assemble(make_defenses((*self.spec.arm, *self.surfaces)), bench)
        return self._pipeline

    @property
    def tokenizer(self) -> Any:
        """See `Service.tokenizer`."""
        return bench_of(self.spec).teacher.tokenizer

    def logprobs(
        self, traces: Sequence[Trace], *, access: Access = Access.FULL_LOGITS, released: bool = False
    ) -> list[Exposure]:
        """See `Service.logprobs`."""
        if self.access is Access.TEXT:
            return super().logprobs(traces, access=access, released=released)
        if not released:
            self._bill(traces, {})
        return self._shown(traces, access, [trace.seed for trace in traces])

    def logprobs_again(
        self, traces: Sequence[Trace], *, again: int, access: Access = Access.FULL_LOGITS
    ) -> list[Exposure]:
        """See `Service.logprobs_again`."""
        if self.access is Access.TEXT:
            return super().logprobs_again(traces, again=again, access=access)
        self._bill(traces, {})
        return self._shown(traces, access, [derive(trace.seed, "again", again) for trace in traces])

    def biased(
        self, traces: Sequence[Trace], groups_GK: Tensor, offsets_GK: Tensor | None = None
    ) -> list[Exposure]:
        """See `Service.biased`. So large a bias leaves only the group: lp_i = z_i − log Σ_group e^z.

        Every reply is a request of its own. Where rules act, groups are dealt to `REPLIES` requests a text, so
        that a defense that treats requests apart treats some groups apart.
        """
        if self.access is Access.TEXT:
            return super().biased(traces, groups_GK, offsets_GK)
        groups, rules = len(groups_GK), self.pipeline.rules
        replies = min(REPLIES, groups) if rules else 1
        seen = [
            self._along(self.pipeline.teacher, traces, rules, [derive(t.seed, "biased", k) for t in traces])
            for k in range(replies)
        ]
        found = []
        for versions in zip(*seen, strict=True):
            one, rows = versions[0], len(versions[0].tokens)
            parts = [versions[g % replies].known_TK[:, group_K] for g, group_K in enumerate(groups_GK)]
            group_TGK = torch.stack(parts, 1) if offsets_GK is None else torch.stack(parts, 1) + offsets_GK
            group_NK = group_TGK.flatten(0, 1).log_softmax(-1)
            said = tuple(token for token in one.tokens for _ in range(groups))
            shown = Exposure(said, group_NK, groups_GK.repeat(rows, 1))
            for surface in self.pipeline.surfaces:
                shown = surface.expose(shown)
            found.append(shown.top(self.top) if self.access < Access.FULL_LOGITS else shown)
            self.queries += rows * groups
            self.tokens += rows * groups
        return found

    def leak_logprobs(self, traces: Sequence[Trace]) -> list[Exposure]:
        """See `Service.leak_logprobs`."""
        if self.access is Access.TEXT:
            return super().leak_logprobs(traces)
        self._bill(traces, {})
        return self._along(bench_of(self.spec).teacher, traces, (), [trace.seed for trace in traces])

    def _shown(self, traces: Sequence[Trace], access: Access, seeds: Sequence[int]) -> list[Exposure]:
        """What requests with these seeds are shown; what the service does not show anyway is cut in the end."""
        found = self._along(self.pipeline.teacher, traces, self.pipeline.rules, seeds)
        for surface in self.pipeline.surfaces:
            found = [surface.expose(one) for one in found]
        return [one.top(self.top) for one in found] if min(self.access, access) < Access.FULL_LOGITS else found

    def _along(
        self, lm: LM, traces: Sequence[Trace], rules: Sequence[LogitRule], seeds: Sequence[int]
    ) -> list[Exposure]:
        prompts = lm.encode_many([trace.prompt for trace in traces])
        pairs = list(zip(prompts, completions(lm, traces), strict=True))
        shown = replay(lm, pairs, self.spec.sampling, rules=rules, seeds=seeds)
        return [Exposure(tuple(ids), known) for (_, ids), known in zip(pairs, shown, strict=True)]

    def leak(self, problems: Sequence[Problem], *, seed: int) -> list[Trace]:
        """See `Service.leak`."""
        bench = bench_of(self.spec)
        before = bench.writer.ledger()
        traces = bench.writer.write(problems, bench.task, self.spec.sampling, seed=seed)
        self._bill(traces, since(before, bench.writer.ledger()))
        return bench.writer.counted(traces)

    def _bill(self, traces: Sequence[Trace], sent: Mapping[str, float]) -> None:
        self.queries += len(traces)
        self.tokens += sum(trace.n_tokens for trace in traces)
        for name, amount in sent.items():
            self.ledger[name] = self.ledger.get(name, 0) + amount


def bench_of(spec: ReleaseSpec) -> Bench:
    """The defender's bench of a release: the same gradients and holdout traces wherever it is asked for."""
    seed = derive(spec.seed, "bench", spec.draw)
    return _bench(spec.teacher, json.dumps(spec.task, sort_keys=True), spec.sampling, seed)


def release_problems(spec: ReleaseSpec, task: Task) -> list[Problem]:
    """The problems of a release, in its order."""
    return task.problems("release", spec.n, derive(spec.seed, "release", spec.draw))


def make_task(settings: Json) -> Task:
    """Build a task from its settings (with `kind`). Raises ConfigError."""
    values = dict(settings)
    cls = plugins.load("tasks", values.pop("kind"))
    task = cls.model_validate(values)
    assert isinstance(task, Task)
    return task


def make_defenses(arm: Sequence[Json]) -> list[Defense]:
    """Build a composition from its settings."""
    out: list[Defense] = []
    for settings in arm:
        values = dict(settings)
        out.append(parse_method(plugins.load("defenses", values.pop("kind")), values, "defense"))
    return out


def make_attack(settings: Json) -> StudentAttack:
    """Build an attack from its settings (with `kind`). Raises ConfigError."""
    values = dict(settings)
    attack = parse_method(plugins.load("attacks", values.pop("kind")), values, "attack")
    if not isinstance(attack, StudentAttack):
        raise ConfigError(f"The attack '{attack.kind}' does not train students.")
    return attack


def make_bench(teacher: str, task: Task, sampling: Sampling, seed: int) -> Bench:
    """A fresh bench on a teacher and a task; other tasks are known with their default settings."""
    return Bench(
        teacher=open_teacher(teacher, model),
        task=task,
        sampling=sampling,
        seed=seed,
        load=model,
        other_task=lambda kind: make_task({"kind": kind}),
    )


@lru_cache(maxsize=4)
def _bench(teacher: str, task: str, sampling: Sampling, seed: int) -> Bench:
    """The bench of a worker: arms of one draw share holdout traces and gradients."""
    return make_bench(teacher, make_task(json.loads(task)), sampling, seed)


def release_traces(
    pipeline: Pipeline,
    task: Task,
    problems: Sequence[Problem],
    sampling: Sampling,
    seed: int,
    *,
    record: int = 0,
    prefix: str = "",
) -> tuple[list[Trace], list[Trace]]:
    """Sample under a pipeline; return (released traces, the same before text defenses).

    The first `record` problems are decoded with the movement of every token; `prefix` begins every reply.
    """
    head, tail = list(problems[:record]), list(problems[record:])
    raw: list[Trace] = []
    for part, recorded in ((head, True), (tail, False)):
        if part:
            raw += pipeline.writer.write(
                part,
                task,
                sampling,
                seed=seed,
                rules=pipeline.rules,
                record=recorded,
                prefix=prefix,
            )
    released = [apply(t, pipeline.text, derive(seed, "rewrite", t.problem_id)) for t in raw]
    return released, raw


def write_fitted(bench: Bench, path: Path) -> None:
    """Store what the defenses of an arm have learned, if anything, with what was measured of it."""
    used = {key: bench.fitted[key] for key in sorted(bench.used)}
    tensors = {f"{key}/{name}": t.contiguous() for key, parts in used.items() for name, t in parts.items()}
    if tensors:
        told = {key: json.dumps(bench.memory[key]) for key in used if key in bench.memory}
        save_file(tensors, path, metadata=told)


def read_fitted(bench: Bench, path: Path) -> None:
    """Give the bench what `write_fitted` stored. Raises RunError if the file is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            told = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path} cannot be read ({error}); remove its folder and run the study again.") from None
    bench.memory |= {key: json.loads(text) for key, text in told.items() if key not in bench.memory}
    for full, tensor in tensors.items():
        key, _, name = full.rpartition("/")
        bench.fitted.setdefault(key, {})[name] = tensor


@lru_cache(maxsize=8)
def model(ref: str) -> LM:
    """Load a model once in a worker."""
    return load(ref)
