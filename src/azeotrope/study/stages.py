"""The real stages of a study: generate a defended release, train students on it, measure both."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import polars as pl

from azeotrope.attacks.base import AttackRun
from azeotrope.core import plugins
from azeotrope.core.access import Access
from azeotrope.core.errors import ConfigError
from azeotrope.core.release import Release
from azeotrope.core.seeds import derive, fingerprint
from azeotrope.core.types import Problem, Trace
from azeotrope.defenses.base import assemble
from azeotrope.models.endpoint import is_endpoint
from azeotrope.models.learnable import check_rank
from azeotrope.models.lm import check_pair, family_members, load, outline, revision
from azeotrope.models.precision import native_bfloat16
from azeotrope.models.purify import check_block
from azeotrope.models.scoring import checking
from azeotrope.models.teacher import Teacher, check_defenses, since
from azeotrope.study.asking import HOLDOUT_TRACES, questionnaire
from azeotrope.study.detectability import detect
from azeotrope.study.effort import effort
from azeotrope.study.measure import measure_students, measure_teacher, reader_of
from azeotrope.study.service import (
    DefendedService,
    bench_of,
    make_attack,
    make_defenses,
    make_task,
    model,
    release_problems,
    release_traces,
    write_fitted,
)
from azeotrope.study.specs import (
    ATTACK,
    DETECT,
    RELEASE,
    UNDISTILLED,
    AttackSpec,
    DetectSpec,
    Estimate,
    Json,
    ReleaseSpec,
    Spec,
    UndistilledSpec,
)
from azeotrope.study.store import read_parquet, write_json, write_parquet

VERSION = 3
FITTED = "fitted.safetensors"


class ModelStages:
    """Stages on real models. Holds no models; workers load and keep them."""

    versions: Mapping[str, int] = {RELEASE: VERSION, ATTACK: VERSION, UNDISTILLED: VERSION, DETECT: 1}

    def inputs(self, spec: Spec) -> Mapping[str, str]:
        """Revisions of the models and the data a step reads; see `Stages.inputs`."""
        if isinstance(spec, DetectSpec):
            return {}
        found = {"task": _data_hash(fingerprint(spec.task), _frozen(spec.task))}
        if isinstance(spec, ReleaseSpec):
            check_defenses(spec.teacher, make_defenses(spec.arm))
            _check_models(spec)
            if not is_endpoint(spec.teacher):  # nobody outside can tell which weights answer
                found[spec.teacher] = _revision(spec.teacher)
            for settings in spec.arm:
                if "proxy" in settings and settings.get("backend") != "self":
                    found[settings["proxy"]] = _revision(settings["proxy"])
                for ref in settings.get("more_proxies", ()):
                    found[ref] = _revision(ref)
            reader = reader_of(spec.teacher, spec.evaluation)
            if reader is not None:
                found[reader] = _revision(reader)
        else:
            refs = students_of(spec.family, spec.bases)
            if isinstance(spec, AttackSpec):
                _check_students(spec, refs)
            found[spec.family] = fingerprint([_revision(ref) for ref in refs])
            sibling = spec.attack.get("sibling") if isinstance(spec, AttackSpec) else None
            if sibling:
                found[sibling] = _revision(sibling)
        return found

    def estimate(self, spec: Spec) -> Estimate:
        """See `effort`."""
        return effort(spec)

    def release(self, spec: ReleaseSpec, out: Path) -> None:
        """Defend the teacher, write its release, and measure it on the test problems."""
        started = time.perf_counter()
        bench = bench_of(spec)
        bench.notes, bench.used = {}, set()
        task, teacher, before = bench.task, bench.writer, bench.writer.ledger()
        pipeline = assemble(make_defenses(spec.arm), bench)
        ask = questionnaire(spec, bench)
        tests = ask.tests
        traces, moved = release_traces(pipeline, task, ask.release.problems, spec.sampling, ask.release.seed)
        shown, raw = release_traces(
            pipeline, task, tests.problems, spec.sampling, tests.seed, record=spec.evaluation.diffs
        )
        clean = bench.holdout(HOLDOUT_TRACES, "teacher")
        seconds = time.perf_counter() - started
        _write_traces(out / "traces.parquet", teacher.counted(traces))
        _write_traces(out / "holdout.parquet", teacher.counted(clean))
        if ask.again.problems:
            again = release_traces(pipeline, task, ask.again.problems, spec.sampling, ask.again.seed)[0]
            _write_traces(out / "resample.parquet", teacher.counted(again))
        reader = reader_of(spec.teacher, spec.evaluation)
        scores = measure_teacher(
            task,
            tests.problems,
            teacher.counted(shown),
            lambda asked: release_traces(pipeline, task, asked, spec.sampling, ask.conduct)[0],
            reader=None if reader is None else model(reader),
            evaluation=spec.evaluation,
            seed=spec.seed,
            out=out,
        )
        write_fitted(bench, out / FITTED)
        write_json(out / "diffs.json", _diffs(tests.problems, shown, raw, scores, teacher, spec.evaluation.diffs))
        decoded = sum(len(t.token_ids or ()) or t.n_tokens for t in [*moved, *raw])
        found = checking(task, tests.problems, raw)
        corrections = {
            "after_wrong": found.after_wrong,
            "wrong_statements": found.wrong,
            "after_right": found.after_right,
            "right_statements": found.right,
        }
        notes = {**bench.notes, "corrections": corrections}
        write_json(out / "info.json", {"seconds": seconds, "tokens": decoded, **notes, **_told(teacher, before)})

    def attack(self, spec: AttackSpec, release_dir: Path, out: Path) -> None:
        """Train every base of a family on the release and measure the students."""
        started = time.perf_counter()
        task = make_task(spec.task)
        attack = make_attack(spec.attack)
        traces = read_traces(release_dir / "traces.parquet")
        clean = read_traces(release_dir / "holdout.parquet")
        bases = [load(ref) for ref in students_of(spec.family, spec.bases)]
        access = Access.named(spec.access)
        service = DefendedService(
            spec.release,
            fitted=release_dir / FITTED,
            access=access,
            top=spec.top_logprobs,
            surfaces=spec.surfaces,
        )
        run = AttackRun(
            seed=derive(spec.seed, "attack", spec.draw),
            holdout=clean,
            task=task,
            problems=release_problems(spec.release, task),
            service=service,
        )
        outcome = attack.train(bases, Release.of(traces, access), run)
        losses = pl.DataFrame(
            [asdict(p) for p in outcome.losses],
            schema={"base": pl.Int64, "step": pl.Int64, "split": pl.String, "loss": pl.Float64},
        )
        write_parquet(losses, out / "losses.parquet")
        measure_students(outcome.students, task, spec.seed, spec.evaluation, clean, out)
        seconds = time.perf_counter() - started
        info = {
            "seconds": seconds,
            "tokens": outcome.tokens,
            "queries": outcome.queries,
            "query_tokens": outcome.query_tokens,
            "own_tokens": outcome.own_tokens,
            "bfloat16": native_bfloat16(),
            **service.ledger,
            **outcome.notes,
        }
        write_json(out / "info.json", info)

    def undistilled(self, spec: UndistilledSpec, out: Path) -> None:
        """Measure the bases as they are."""
        started = time.perf_counter()
        task = make_task(spec.task)
        bases = [load(ref) for ref in students_of(spec.family, spec.bases)]
        tokens = measure_students(bases, task, spec.seed, spec.evaluation, (), out)
        write_json(out / "info.json", {"seconds": time.perf_counter() - started, "tokens": tokens})

    def detect(self, spec: DetectSpec, release_dir: Path, clean_dir: Path, out: Path) -> None:
        """Measure how far a release, or a clean resample, can be told from the undefended one."""
        started = time.perf_counter()
        notes = detect(spec, release_dir, clean_dir, out)
        write_json(out / "info.json", {"seconds": time.perf_counter() - started, "tokens": 0, "notes": notes})


def _check_models(spec: ReleaseSpec) -> None:
    """Raise ConfigError for a proxy of another vocabulary, a rank or a layer beyond its models, where known."""
    teacher = None if is_endpoint(spec.teacher) else outline(spec.teacher)
    for settings in spec.arm if teacher else ():
        assert teacher is not None
        needs = "proxy" in settings and settings.get("backend") != "self"
        for ref in ([settings["proxy"]] if needs else []) + list(settings.get("more_proxies", ())):
            if proxy := outline(ref):
                check_pair(teacher, proxy)
                if proxy.blocks and isinstance(settings.get("layer"), int):
                    check_block(ref, proxy.blocks, settings["layer"])
        check_rank(teacher, settings.get("rank", 0))


def _check_students(spec: AttackSpec, refs: Sequence[str]) -> None:
    """Raise ConfigError for students that an attack cannot follow token by token, where that is known by now."""
    teacher = None if is_endpoint(spec.release.teacher) else outline(spec.release.teacher)
    if teacher is None or not plugins.load("attacks", spec.attack["kind"]).shares_vocabulary:
        return
    whole = Access.named(spec.access) is Access.FULL_LOGITS and not spec.surfaces
    for role, names in (("student", refs), ("public model", [spec.attack.get("sibling")])):
        for other in (outline(ref) for ref in names if ref):
            if other is None:
                continue
            if other.vocabulary != teacher.vocabulary:
                raise ConfigError(
                    f"The attack '{spec.attack['kind']}' compares distributions token by token, but the {role} "
                    f"'{other.ref}' has another vocabulary than the teacher; use uld, gold or alm, or another one."
                )
            if whole and other.vocab_size != teacher.vocab_size:
                raise ConfigError(
                    f"The attack '{spec.attack['kind']}' reads whole distributions, and the head of the {role} "
                    f"'{other.ref}' has {other.vocab_size} rows where the teacher's has {teacher.vocab_size}; "
                    "resize it (resize_token_embeddings)."
                )


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


def _diffs(
    problems: Sequence[Problem],
    released: Sequence[Trace],
    raw: Sequence[Trace],
    scores: Sequence[Any],
    teacher: Teacher,
    n: int,
) -> list[Json]:
    rows: list[Json] = []
    for problem, trace, before, score in list(zip(problems, released, raw, scores, strict=True))[:n]:
        tokens = None
        if before.moved is not None and before.token_ids is not None:
            pieces = [teacher.weights().decode([token]) for token in before.token_ids]
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


def _told(teacher: Teacher, before: Mapping[str, float]) -> Json:
    """What a release's info says of a teacher behind an endpoint: what was sent and spent since `before`."""
    notes = {"notes": list(teacher.notes)} if teacher.notes else {}
    return {**since(before, teacher.ledger()), **notes}


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
