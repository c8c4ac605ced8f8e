"""The files of a step, with their columns, and reading them into (seed, problem) matrices.

release:      traces.parquet   problem_id, prompt, text, seed, finished, n_tokens
              samples.parquet  problem_id, correct, finished, n_tokens, valid_share, wrong_statements,
                               n_sentences, grounded_share, reader_correct (the teacher on the test problems;
                               all from valid_share on may be null or absent)
              resample.parquet optional: as traces; the undefended teacher once more on the same problems
              diffs.json       optional: [{problem_id, prompt, gold, text, correct, tokens, removed}]
attack,       samples.parquet  base, problem_id, correct, finished, n_tokens
undistilled:  probes.parquet   optional: base, content, hidden, recalled (0/1, or a share), position
              metrics.parquet  optional: base, metric, value
release too:  measures.parquet optional: base (0 for a teacher), metric, item, value in [0, 1]
attack:       losses.parquet   optional: base, step, split, loss
all:          info.json        {seconds, tokens, notes?: [str], and anything else worth keeping}

A *seed* is a (draw, base) pair, numbered draw · bases + base; teacher rows are per draw, undistilled rows per
base, and both are repeated over the seeds they belong to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from azeotrope.core.errors import RunError
from azeotrope.maths.stats import Floats
from azeotrope.study import vocabulary
from azeotrope.study.edits import trains
from azeotrope.study.plan import Plan, Step
from azeotrope.study.specs import ATTACK, RELEASE, UNDISTILLED
from azeotrope.study.store import Store, read_json, read_parquet

TEACHER_COLUMNS = {
    "teacher_accuracy": "correct",
    "trace_validity": "valid_share",
    "wrong_statements": "wrong_statements",
    "trace_tokens": "n_tokens",
    "teacher_finished": "finished",
    "reader_accuracy": "reader_correct",
    "grounding": "grounded_share",
}


@dataclass(frozen=True, slots=True)
class Students:
    """One attack's students on one arm: matrices (S, P) by metric, and scalars per seed (S, 1).

    Accuracies have one column a test problem; other measures have items, and a number of columns, of their own.
    """

    matrices: dict[str, Floats]
    scalars: dict[str, Floats]
    contents: int = 0  # hidden facts behind recall_hidden


@dataclass(frozen=True, slots=True)
class TaskData:
    """All measurements of one task, aligned on its test problems."""

    problems: tuple[str, ...]
    draws: int
    teachers: dict[str, dict[str, Floats]] = field(default_factory=dict)  # arm → metric → (D, P)
    students: dict[tuple[str, str, str], Students] = field(default_factory=dict)  # (arm, attack, family)
    undistilled: dict[str, Students] = field(default_factory=dict)  # family → students, one row per base
    anew: set[str] = field(default_factory=set)  # arms that train something into the teacher with every draw


def load_task(plan: Plan, store: Store, task: str) -> TaskData:
    """Read every step of a task. Raises RunError for a missing or corrupt file, naming it."""
    releases = plan.of(RELEASE, task=task)
    first = read_parquet(store.folder(RELEASE, releases[0].id) / "samples.parquet")
    data = TaskData(tuple(sorted(first["problem_id"].to_list())), plan.study.draws_of(task))
    for arm in plan.expansion.arms:
        steps = _by_draw(plan.of(RELEASE, task=task, arm=arm.label))
        data.teachers[arm.label] = _teacher(steps, store, data.problems)
        if any(trains(read_json(store.folder(RELEASE, step.id) / "info.json")) for step in steps):
            data.anew.add(arm.label)
    for student in plan.study.students:
        (base,) = plan.of(UNDISTILLED, task=task, student=student.family)
        data.undistilled[student.family] = _students([base], store, data.problems, student.bases)
        for arm in plan.expansion.arms:
            for attack in plan.expansion.attacks:
                steps = _by_draw(
                    plan.of(ATTACK, task=task, arm=arm.label, attack=attack.label, student=student.family)
                )
                key = (arm.label, attack.label, student.family)
                data.students[key] = _students(steps, store, data.problems, student.bases)
    return data


def over_seeds(teacher: Floats, seeds: int) -> Floats:
    """Repeat per-draw rows (D, P) over the seeds of each draw: (S, P)."""
    return np.repeat(teacher, seeds // len(teacher), axis=0)


def over_draws(bases: Floats, draws: int) -> Floats:
    """Repeat per-base rows (B, P) for every draw: (S, P)."""
    return np.tile(bases, (draws, 1))


def collect(steps: Sequence[Step], store: Store, file: str) -> pl.DataFrame | None:
    """Stack one file over steps, with the columns task, arm, attack, student and draw in front."""
    frames = []
    for step in steps:
        path = store.folder(step.stage, step.id) / file
        if not path.exists():
            continue
        attack = vocabulary.UNDISTILLED if step.stage == UNDISTILLED else step.attack
        arm = vocabulary.UNDEFENDED if step.stage == UNDISTILLED else step.arm
        names = {"task": step.task, "arm": arm, "attack": attack, "student": step.student, "draw": step.draw}
        frame = read_parquet(path)
        frames.append(frame.select(*(pl.lit(value).alias(key) for key, value in names.items()), pl.all()))
    return pl.concat(frames, how="diagonal_relaxed") if frames else None


def _teacher(steps: Sequence[Step], store: Store, problems: Sequence[str]) -> dict[str, Floats]:
    frames = [(store.folder(step.stage, step.id) / "samples.parquet", step) for step in steps]
    tables = [(path, read_parquet(path)) for path, _ in frames]
    found = {}
    for metric, column in TEACHER_COLUMNS.items():
        if all(column in table.columns for _, table in tables):
            rows = [_matrix(table, column, problems, 1, path) for path, table in tables]
            found[metric] = np.concatenate(rows)
    measures = [_measures(path.with_name("measures.parquet"), 1) for path, _ in tables]
    for metric in sorted(set.intersection(*(set(rows) for rows in measures))):
        found[f"teacher_{metric}"] = np.concatenate([rows[metric] for rows in measures])
    return {metric: matrix for metric, matrix in found.items() if np.isfinite(matrix).any()}


def _students(steps: Sequence[Step], store: Store, problems: Sequence[str], bases: int) -> Students:
    columns: dict[str, list[Floats]] = {"correct": [], "finished": []}
    scalars: dict[str, list[Floats]] = {}
    measures: dict[str, list[Floats]] = {}
    contents = 0
    for step in steps:
        folder = store.folder(step.stage, step.id)
        samples = read_parquet(folder / "samples.parquet")
        for name, rows in columns.items():
            rows.append(_matrix(samples, name, problems, bases, folder / "samples.parquet"))
        recall, contents = _recall(folder / "probes.parquet", bases)
        for metric, values in {**recall, **_metrics(folder / "metrics.parquet", bases)}.items():
            scalars.setdefault(metric, []).append(values)
        for metric, values in _measures(folder / "measures.parquet", bases).items():
            measures.setdefault(metric, []).append(values)
    correct, finished = (np.concatenate(columns[name]) for name in ("correct", "finished"))
    matrices = {
        "student_accuracy": correct,
        "student_finished": finished,
        "student_accuracy_finished": np.where(finished > 0, correct, np.nan),
        **{metric: np.concatenate(rows) for metric, rows in measures.items() if len(rows) == len(steps)},
    }
    whole = {metric: np.concatenate(rows) for metric, rows in scalars.items() if len(rows) == len(steps)}
    return Students(matrices, whole, contents)


def _matrix(frame: pl.DataFrame, column: str, problems: Sequence[str], bases: int, path: Path) -> Floats:
    """Return a (bases, P) matrix of a column; every problem must be there once per base."""
    index = {problem: i for i, problem in enumerate(problems)}
    rows = frame["base"].to_numpy() if "base" in frame.columns else np.zeros(len(frame), dtype=np.int64)
    places = np.array([index.get(problem, -1) for problem in frame["problem_id"].to_list()], dtype=np.int64)
    expected = len(problems) * bases
    inside = len(frame) == expected and places.min() >= 0 and rows.min() >= 0 and rows.max() < bases
    if not inside or len(np.unique(rows * len(problems) + places)) != expected:
        raise RunError(
            f"{path} does not hold each of the {len(problems)} test problems once per student; "
            f"delete the folder {path.parent} and run again to redo that step."
        )
    matrix = np.full((bases, len(problems)), np.nan)
    matrix[rows, places] = frame[column].cast(pl.Float64).to_numpy()
    return matrix


def _recall(path: Path, bases: int) -> tuple[dict[str, Floats], int]:
    """Recall of hidden content per base: at each position, over positions (mean) and at any of them.

    Probes are averaged within a content and position, positions within a content, contents with equal weight.
    """
    if not path.exists():
        return {}, 0
    frame = read_parquet(path)
    hidden = frame.filter(pl.col("hidden").cast(pl.Boolean))
    if hidden.is_empty():
        return {}, 0
    if "position" not in hidden.columns:
        hidden = hidden.with_columns(position=pl.lit("statement"))
    probe = hidden.group_by("base", "content", "position").agg(pl.col("recalled").cast(pl.Float64).mean())
    content = probe.group_by("base", "content").agg(
        pl.col("recalled").mean(), any=(pl.col("recalled").max() >= 0.5).cast(pl.Float64)
    )
    base = content.group_by("base").agg(pl.col("recalled").mean(), pl.col("any").mean())
    found = {"recall_hidden": _column(base, "recalled", bases)}
    positions = sorted(hidden["position"].unique().to_list())
    if len(positions) > 1:
        found["recall_any"] = _column(base, "any", bases)
        for position in positions:
            one = probe.filter(pl.col("position") == position).group_by("base").agg(pl.col("recalled").mean())
            found[f"recall_{position}"] = _column(one, "recalled", bases)
    return found, content["content"].n_unique()


def _measures(path: Path, bases: int) -> dict[str, Floats]:
    """Measures as (bases, items) matrices, items in the order of their names. Raises RunError for a gap."""
    if not path.exists():
        return {}
    found = {}
    for (metric,), rows in read_parquet(path).sort("metric").group_by("metric", maintain_order=True):
        items = sorted(rows["item"].unique().to_list())
        found[str(metric)] = _matrix(rows.rename({"item": "problem_id"}), "value", items, bases, path)
    return found


def _metrics(path: Path, bases: int) -> dict[str, Floats]:
    if not path.exists():
        return {}
    frame = read_parquet(path)
    names = sorted(frame["metric"].unique().to_list())
    return {name: _column(frame.filter(pl.col("metric") == name), "value", bases) for name in names}


def _column(frame: pl.DataFrame, column: str, bases: int) -> Floats:
    values = np.full((bases, 1), np.nan)
    values[frame["base"].to_numpy(), 0] = frame[column].cast(pl.Float64).to_numpy()
    return values


def _by_draw(steps: Sequence[Step]) -> list[Step]:
    return sorted(steps, key=lambda step: step.draw)
