"""What `traces`, `merge`, `attack` and `evaluate` do. Imports torch: import it only when such a command runs.

Seeds are derived as a study derives them: `--seed S` gives the problems of a study with seed S, and the
traces of its first draw.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from azeotrope.attacks.base import AttackRun, StudentAttack
from azeotrope.cli import methods, tracefile
from azeotrope.cli.out import say
from azeotrope.core.errors import ConfigError
from azeotrope.core.methods import TraceDefense
from azeotrope.core.release import Release
from azeotrope.core.sampling import Sampling
from azeotrope.core.seeds import derive
from azeotrope.core.types import Trace
from azeotrope.defenses.base import Bench, LogitDefense, assemble
from azeotrope.defenses.epsilon import LADDER, best, epsilon_curve
from azeotrope.maths.stats import wilson
from azeotrope.models.gradients import proxy_gradient
from azeotrope.models.lm import LM, check_pair, load
from azeotrope.models.sample import generate
from azeotrope.models.scoring import checking, recall, score_traces
from azeotrope.models.teacher import open_teacher
from azeotrope.study.config import Evaluation
from azeotrope.study.measure import test_problems
from azeotrope.study.service import release_traces
from azeotrope.study.store import disk

Found = dict[str, Any]


def make_traces(teacher: str, task: str, defenses: Sequence[str], *, n: int, temperature: float, seed: int,
                resample: int = 0, out: Path) -> Found:  # fmt: skip
    """Sample `n` traces of the release split under a composition of defenses, and write them to `out`.

    `teacher` is a model reference, or an endpoint's, which takes text defenses only. `resample` 0 is the sample of
    a study; any other number is an independent one of the same problems.
    """
    tracefile.check_name(out)
    parsed = methods.parse("tasks", task)
    acting = [methods.parse("defenses", text) for text in defenses]
    bench = Bench(open_teacher(teacher), parsed, Sampling(temperature=temperature), derive(seed, "bench", 0),
                  other_task=lambda kind: methods.parse("tasks", kind))  # fmt: skip
    problems = parsed.problems("release", n, derive(seed, "release", 0))
    pipeline = assemble(acting, bench)
    say(f"Sampling {n} traces from {bench.writer.ref}.")
    start = time.monotonic()
    said, raw = release_traces(pipeline, parsed, problems, bench.sampling, derive(seed, resample))
    seconds = time.monotonic() - start
    tracefile.write(said, out)
    right = sum(score.correct for score in score_traces(parsed, problems, said))
    return {"out": str(out), "traces": n, "tokens": sum(trace.n_tokens for trace in raw),
            "seconds": round(seconds, 2), "finished": _share(sum(trace.finished for trace in said), n),
            "accuracy": _share(right, n), "defenses": [method.label for method in acting],
            "notes": bench.notes, **bench.writer.ledger()}  # fmt: skip


def merge_defense(teacher: str, task: str, defense: str, *, temperature: float, seed: int, out: Path) -> Found:
    """Write `teacher` with a defense folded into its weights to the folder `out`, a checkpoint like any other.

    The defense is the one that a study with this seed and temperature serves in its first draw: it learns from the
    same holdout traces. Weights are written as they are held, in float32.
    """
    method = methods.parse("defenses", defense)
    if not isinstance(method, LogitDefense):
        other = "; use `azeotrope defend`" if isinstance(method, TraceDefense) else ""
        raise ConfigError(f"'{method.kind}' changes what is shown, not the model{other}.")
    if method.strength == 0.0:
        raise ConfigError(f"'{method.label}' at strength 0 is the teacher as it is.")
    check_folder(out)
    parsed = methods.parse("tasks", task)
    bench = Bench(open_teacher(teacher), parsed, Sampling(temperature=temperature), derive(seed, "bench", 0),
                  other_task=lambda kind: methods.parse("tasks", kind))  # fmt: skip
    say(f"Folding {method.label} into {teacher}.")
    start = time.monotonic()
    folded = method.fold(bench)
    found = {"out": str(out), "teacher": teacher, "revision": bench.teacher.revision, "defense": method.label,
             "task": task, "temperature": temperature, "seed": seed,
             "seconds": round(time.monotonic() - start, 2), "notes": bench.notes}  # fmt: skip
    save(folded, out, "defense.json", {**found, "settings": method.identity()})
    return found


def check_folder(out: Path) -> None:
    """Raise ConfigError unless a model can be written to `out`."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"'{out}' exists and is not an empty folder; choose another --out.")


def save(lm: LM, out: Path, name: str, record: Found) -> None:
    """Write a model, its tokenizer, and how it came to be."""
    with disk(out):
        out.mkdir(parents=True, exist_ok=True)
        lm.model.save_pretrained(out)
        lm.tokenizer.save_pretrained(out)
        (out / name).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def train_student(release: Path, attack: str, student: str, *, seed: int, out: Path) -> Found:
    """Train `student` on a release file and save it (weights and tokenizer) in the folder `out`."""
    method = methods.parse("attacks", attack)
    if not isinstance(method, StudentAttack):
        raise ConfigError(f"The attack '{method.kind}' does not train students; choose another one.")
    check_folder(out)
    seen: list[Trace] = tracefile.read(release)
    base = load(student)
    say(f"Training {student} on {len(seen)} traces.")
    start = time.monotonic()
    outcome = method.train([base], Release.of(seen), AttackRun(seed=seed))
    found = {"out": str(out), "attack": method.label, "student": student, "release": str(release),
             "traces": len(seen), "tokens": outcome.tokens, "seconds": round(time.monotonic() - start, 2),
             "final_loss": outcome.losses[-1].loss if outcome.losses else None}  # fmt: skip
    save(outcome.students[0], out, "attack.json", {**found, "seed": seed, "settings": method.identity()})
    return found


def evaluate(model: str, task: str, *, n: int, temperature: float, seed: int) -> Found:
    """Measure a model on `n` test problems; what the task cannot judge is None."""
    parsed = methods.parse("tasks", task)
    lm = load(model)
    problems = test_problems(parsed, seed, Evaluation(problems=n))
    say(f"Evaluating {model} on {n} problems.")
    said = generate(lm, problems, parsed, Sampling(temperature=temperature), seed=seed)
    scores = score_traces(parsed, problems, said)
    done = [score for score in scores if score.finished]
    judged = [score for score in scores if score.n_sentences is not None]
    sentences = sum(score.n_sentences or 0 for score in judged)
    follow = sum((score.valid_share or 0.0) * (score.n_sentences or 0) for score in judged)
    hidden = [probe for probe in parsed.probes() if probe.hidden]
    found = recall(lm, hidden)
    kept = checking(parsed, problems, said)
    return {
        "model": model, "task": task, "problems": n,
        "accuracy": _share(sum(score.correct for score in scores), n),
        "finished": _share(len(done), n),
        "accuracy_given_finished": _share(sum(score.correct for score in done), len(done)),
        "sentences_that_follow": _share(follow, sentences),
        "recall_of_hidden_content": _share(sum(item.recalled for item in found), len(found)),
        "correction_after_wrong": _share(kept.wrong_corrected, kept.wrong),
        "correction_after_right": _share(kept.right_corrected, kept.right),
        "tokens_per_trace": round(sum(score.n_tokens for score in scores) / n, 1),
    }  # fmt: skip


def epsilon(teacher: str, proxy: str, task: str, *, n: int, seed: int) -> Found:
    """Err(ε) of finite differences against forward mode on the teacher's holdout traces, and the best ε."""
    parsed = methods.parse("tasks", task)
    bench = Bench(teacher=open_teacher(teacher), task=parsed, sampling=Sampling(), seed=seed)
    lm = bench.model(proxy)
    check_pair(bench.teacher, lm)
    say(f"Comparing {len(LADDER)} steps with forward mode on {n} traces.")
    traces = bench.holdout(n, "teacher", None)
    gradient = proxy_gradient(lm, traces)
    points = epsilon_curve(lm, gradient, traces[:32])
    return {
        "teacher": teacher,
        "proxy": proxy,
        "task": task,
        "traces": n,
        "split_half_cosine": round(gradient.split_half_cosine, 4),
        "best_epsilon": best(points).epsilon,
        "error_at_best": best(points).error,
        "curve": [{"epsilon": point.epsilon, "error": point.error} for point in points],
    }


def _share(count: float, n: int) -> dict[str, float] | None:
    """A share with its Wilson interval; None of nothing."""
    if n == 0:
        return None
    found = wilson(count, n)
    return {"value": found.value, "low": found.low, "high": found.high, "n": n}
