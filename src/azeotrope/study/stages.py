"""The real stages of a study: generate a defended release, train students on it, measure both."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import polars as pl

from azeotrope.attacks.base import AttackRun, StudentAttack
from azeotrope.core import plugins
from azeotrope.core.access import Access
from azeotrope.core.errors import ConfigError
from azeotrope.core.methods import parse_method
from azeotrope.core.release import Release
from azeotrope.core.sampling import GREEDY
from azeotrope.core.seeds import derive, fingerprint
from azeotrope.core.types import Problem, Trace
from azeotrope.defenses.base import assemble
from azeotrope.models.gradients import nll
from azeotrope.models.lm import LM, family_members, load, revision
from azeotrope.models.sample import generate
from azeotrope.models.scoring import checking, recall, score_traces
from azeotrope.study.config import Evaluation
from azeotrope.study.service import (
    DefendedService,
    bench_of,
    make_defenses,
    make_task,
    release_problems,
    release_traces,
)
from azeotrope.study.specs import (
    ATTACK,
    RELEASE,
    UNDISTILLED,
    AttackSpec,
    Estimate,
    Json,
    ReleaseSpec,
    Spec,
    UndistilledSpec,
)
from azeotrope.study.store import read_parquet, write_json, write_parquet
from azeotrope.tasks.base import Task

VERSION = 2
HOLDOUT_TRACES = 48  # clean traces for holdout curves and the style measure


class ModelStages:
    """Stages on real models. Holds no models; workers load and keep them."""

    versions: Mapping[str, int] = {RELEASE: VERSION, ATTACK: VERSION, UNDISTILLED: VERSION}

    def inputs(self, spec: Spec) -> Mapping[str, str]:
        """Revisions of the models and the data a step reads; see `Stages.inputs`."""
        found = {"task": _data_hash(fingerprint(spec.task), _frozen(spec.task))}
        if isinstance(spec, ReleaseSpec):
            found[spec.teacher] = _revision(spec.teacher)
            for settings in spec.arm:
                if "proxy" in settings and settings.get("backend") != "self":
                    found[settings["proxy"]] = _revision(settings["proxy"])
        else:
            refs = students_of(spec.family, spec.bases)
            found[spec.family] = fingerprint([_revision(ref) for ref in refs])
        return found

    def estimate(self, spec: Spec) -> Estimate:
        """A rough cost on one core with the embedded models; rescaled by real timings once there are any."""
        task = make_task(spec.task)
        tokens = min(120, task.max_new_tokens)
        test = spec.evaluation.problems * tokens
        if isinstance(spec, ReleaseSpec):
            defended = 3.0 if any(s["kind"] in ("ads", "permutation") for s in spec.arm) else 1.0
            amount = spec.n * tokens + test
            return {"seconds": 3.0 + defended * amount / 20_000, "tokens": amount}
        if isinstance(spec, AttackSpec):
            amount = spec.bases * (500 * 5 * tokens + test)
            return {"seconds": 2.0 + amount / 15_000, "tokens": amount}
        return {"seconds": 1.0 + spec.bases * test / 20_000, "tokens": spec.bases * test}

    def release(self, spec: ReleaseSpec, out: Path) -> None:
        """Defend the teacher, write its release, and measure it on the test problems."""
        started = time.perf_counter()
        bench = bench_of(spec)
        bench.notes = {}
        task = bench.task
        pipeline = assemble(make_defenses(spec.arm), bench)
        problems = release_problems(spec, task)
        traces, moved = release_traces(pipeline, task, problems, spec.sampling, derive(spec.seed, spec.draw))
        tests = test_problems(task, spec.seed, spec.evaluation)
        shown, raw = release_traces(
            pipeline,
            task,
            tests,
            spec.sampling,
            derive(spec.seed, "test", spec.draw),
            record=spec.evaluation.diffs,
        )
        clean = bench.holdout(HOLDOUT_TRACES, "teacher")
        seconds = time.perf_counter() - started
        _write_traces(out / "traces.parquet", traces)
        _write_traces(out / "holdout.parquet", clean)
        scores = score_traces(task, tests, shown)
        write_parquet(pl.DataFrame([asdict(s) for s in scores], infer_schema_length=None), out / "samples.parquet")
        write_json(out / "diffs.json", _diffs(tests, shown, raw, scores, bench.teacher, spec.evaluation.diffs))
        counted = sum(len(t.token_ids or ()) or t.n_tokens for t in [*moved, *raw])
        found = checking(task, tests, raw)
        corrections = {
            "after_wrong": found.after_wrong,
            "wrong_statements": found.wrong,
            "after_right": found.after_right,
            "right_statements": found.right,
        }
        notes = {**bench.notes, "corrections": corrections}
        write_json(out / "info.json", {"seconds": seconds, "tokens": counted, **notes})

    def attack(self, spec: AttackSpec, release_dir: Path, out: Path) -> None:
        """Train every base of a family on the release and measure the students."""
        started = time.perf_counter()
        task = make_task(spec.task)
        attack = make_attack(spec.attack)
        traces = read_traces(release_dir / "traces.parquet")
        clean = read_traces(release_dir / "holdout.parquet")
        bases = [load(ref) for ref in students_of(spec.family, spec.bases)]
        service = DefendedService(spec.release)
        run = AttackRun(
            seed=derive(spec.seed, "attack", spec.draw),
            holdout=clean,
            task=task,
            problems=release_problems(spec.release, task),
            service=service,
        )
        outcome = attack.train(bases, Release.of(traces, Access.TEXT), run)
        losses = pl.DataFrame(
            [asdict(p) for p in outcome.losses],
            schema={"base": pl.Int64, "step": pl.Int64, "split": pl.String, "loss": pl.Float64},
        )
        write_parquet(losses, out / "losses.parquet")
        _measure(outcome.students, task, spec.seed, spec.evaluation, clean, out)
        seconds = time.perf_counter() - started
        info = {
            "seconds": seconds,
            "tokens": outcome.tokens,
            "queries": outcome.queries,
            "query_tokens": outcome.query_tokens,
            "own_tokens": outcome.own_tokens,
            **outcome.notes,
        }
        write_json(out / "info.json", info)

    def undistilled(self, spec: UndistilledSpec, out: Path) -> None:
        """Measure the bases as they are."""
        started = time.perf_counter()
        task = make_task(spec.task)
        bases = [load(ref) for ref in students_of(spec.family, spec.bases)]
        tokens = _measure(bases, task, spec.seed, spec.evaluation, (), out)
        write_json(out / "info.json", {"seconds": time.perf_counter() - started, "tokens": tokens})


def make_attack(settings: Json) -> StudentAttack:
    """Build an attack from its settings (with `kind`). Raises ConfigError."""
    values = dict(settings)
    cls = plugins.load("attacks", values.pop("kind"))
    attack = parse_method(cls, values, "attack")
    if not isinstance(attack, StudentAttack):
        raise ConfigError(f"The attack '{attack.kind}' does not train students.")
    return attack


def test_problems(task: Task, seed: int, evaluation: Evaluation) -> list[Problem]:
    """The test problems of a study: the same for every arm, draw and student."""
    return task.problems("test", evaluation.problems, derive(seed, "test"))


def students_of(family: str, bases: int) -> list[str]:
    """The first `bases` members of a family, or the model itself. Raises ConfigError if there are fewer."""
    members = family_members(family) if family.startswith("embedded/") else [family]
    if len(members) < bases:
        raise ConfigError(
            f"The family '{family}' has {len(members)} base(s), but the study asks for {bases}; lower `bases`."
        )
    return members[:bases]


def read_traces(path: Path) -> list[Trace]:
    """Read a traces file. Raises RunError if it is corrupt."""
    return [Trace(**row) for row in read_parquet(path).iter_rows(named=True)]


TOKEN_CHARACTERS = 4.0


def token_limit(lm: LM, task: Task, evaluation: Evaluation, prompts: Sequence[str]) -> int:
    """The student's token limit: the task's, stretched where its tokenizer cuts finer than 4 characters a token.

    Otherwise a student with another tokenizer would be cut off earlier than its fellows.
    """
    limit = evaluation.max_new_tokens or task.max_new_tokens
    tokens, characters = sum(map(len, lm.encode_many(list(prompts)))), sum(map(len, prompts))
    return int(limit * max(1.0, TOKEN_CHARACTERS * tokens / max(1, characters)))


def _measure(
    students: Sequence[LM],
    task: Task,
    seed: int,
    evaluation: Evaluation,
    clean: Sequence[Trace],
    out: Path,
) -> int:
    """Write samples, probes and metrics of students; return the tokens generated."""
    tests = test_problems(task, seed, evaluation)
    probes = task.probes()
    samples: list[dict[str, Any]] = []
    recalls: list[dict[str, Any]] = []
    metrics: list[dict[str, Any]] = []
    for base, lm in enumerate(students):
        limit = token_limit(lm, task, evaluation, [p.prompt for p in tests[:50]])
        traces = generate(lm, tests, task, GREEDY, max_new_tokens=limit)
        for score in score_traces(task, tests, traces):
            row = asdict(score)
            samples.append(
                {"base": base, **{k: row[k] for k in ("problem_id", "correct", "finished", "n_tokens")}}
            )
        recalls += [
            {"base": base, "content": r.content, "hidden": r.hidden, "recalled": float(r.recalled)}
            for r in recall(lm, probes)
        ]
        if clean:
            metrics.append({"base": base, "metric": "clean_nll", "value": nll(lm, clean)})
    write_parquet(pl.DataFrame(samples), out / "samples.parquet")
    if recalls:
        write_parquet(pl.DataFrame(recalls), out / "probes.parquet")
    if metrics:
        write_parquet(pl.DataFrame(metrics), out / "metrics.parquet")
    return sum(int(s["n_tokens"]) for s in samples)


def _diffs(
    problems: Sequence[Problem],
    released: Sequence[Trace],
    raw: Sequence[Trace],
    scores: Sequence[Any],
    lm: LM,
    n: int,
) -> list[Json]:
    rows: list[Json] = []
    for problem, trace, before, score in list(zip(problems, released, raw, scores, strict=True))[:n]:
        tokens = None
        if before.moved is not None and before.token_ids is not None:
            pieces = [lm.decode([token]) for token in before.token_ids]
            tokens = [
                {"text": text, "moved": round(moved, 5)}
                for text, moved in zip(pieces, before.moved, strict=True)
                if text
            ]
        removed = [[item["start"], item["end"]] for item in trace.meta.get("removed", ())]
        rows.append(
            {
                "problem_id": problem.id,
                "prompt": problem.prompt,
                "gold": problem.answer,
                "text": trace.text,
                "correct": score.correct,
                "tokens": tokens,
                "removed": removed or None,
            }
        )
    return rows


def _write_traces(path: Path, traces: Sequence[Trace]) -> None:
    columns = ("problem_id", "prompt", "text", "seed", "finished", "n_tokens")
    write_parquet(pl.DataFrame([{c: getattr(t, c) for c in columns} for t in traces]), path)


def _frozen(settings: Json) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted((k, fingerprint(v)) for k, v in settings.items()))


@lru_cache(maxsize=64)
def _data_hash(key: str, settings: tuple[tuple[str, Any], ...]) -> str:
    """The task's data: settings for generated tasks, which are code and versioned by `Task.version`."""
    return fingerprint([key, settings])


@lru_cache(maxsize=64)
def _revision(ref: str) -> str:
    return revision(ref)
