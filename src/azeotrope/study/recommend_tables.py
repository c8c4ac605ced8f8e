"""What a run measured, setting by setting: its leakage under every attack and student, and its harm.

Leakage is a share in [0, 1] of one metric of `results.parquet` (more is better for the thief). Harm is the drop in
`utility.parquet`: a difference of shares, and for `length` the relative change of the number of tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from azeotrope.core.errors import MissingError, RunError
from azeotrope.core.methods import Settings
from azeotrope.study.vocabulary import UNDEFENDED, UNDISTILLED, is_control

RESULTS = {
    "task": pl.String, "arm": pl.String, "defense": pl.String, "params": pl.String, "is_control": pl.Boolean,
    "attack": pl.String, "student": pl.String, "metric": pl.String,
    "value": pl.Float64, "low": pl.Float64, "high": pl.Float64, "n": pl.Int64, "n_seeds": pl.Int64,
}  # fmt: skip
UTILITY = {
    "task": pl.String, "arm": pl.String, "utility": pl.String,
    "clean": pl.Float64, "value": pl.Float64, "drop": pl.Float64, "low": pl.Float64, "high": pl.Float64,
    "n": pl.Int64, "n_draws": pl.Int64,
}  # fmt: skip
Json = dict[str, Any]


class Cell(Settings):
    """What one attack brings one student (a share), with its interval, problems and seeds."""

    attack: str
    student: str
    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    n_seeds: int | None = None


class Harm(Settings):
    """What a setting costs honest users on one measure; `low` and `high` bound `drop`."""

    measure: str
    clean: float | None = None
    value: float | None = None
    drop: float | None = None
    low: float | None = None
    high: float | None = None
    limit: float | None = None
    n: int | None = None
    n_draws: int | None = None


@dataclass(frozen=True, slots=True)
class Setting:
    """One arm on one task. `defenses` are its exact settings, each with its `kind`, in the order of action."""

    arm: str
    is_control: bool
    defenses: tuple[Json, ...]
    cells: tuple[Cell, ...]
    harms: Mapping[str, Harm]

    @property
    def worst(self) -> Cell:
        """The attack and student with the highest leakage."""
        return max(self.cells, key=lambda cell: cell.value)


@dataclass(frozen=True, slots=True)
class TaskTable:
    """One task: the undefended arm, the settings that can be judged, and why others cannot (by arm)."""

    task: str
    undefended: Setting
    settings: Mapping[str, Setting]
    skipped: Mapping[str, str]
    undistilled: Mapping[str, float]  # student → what it has before any attack
    measures: frozenset[str]

    def gain(self, setting: Setting) -> float:
        """Worst-case leakage minus that of the best undistilled student (0 where that was not measured)."""
        return setting.worst.value - max(self.undistilled.values(), default=0.0)


@dataclass(frozen=True, slots=True)
class Measured:
    """The parts of a run folder that a recommendation needs."""

    manifest: Mapping[str, Any]
    results: pl.DataFrame
    utility: pl.DataFrame


def read_run(folder: Path) -> Measured:
    """Read a finished run. Raises MissingError for an absent table and RunError for a damaged one."""
    for name in ("manifest.json", "results.parquet"):
        if not (folder / name).is_file():
            raise MissingError(f"'{folder}' has no {name}; finish the study first, or check the path.")
    if not (folder / "utility.parquet").is_file():
        raise MissingError(
            f"'{folder}' has no utility.parquet, as an earlier version wrote it; run the study again with this "
            f"version: azeotrope run {folder / 'study.yaml'} --runs {folder.parent}."
        )
    return Measured(
        manifest=_manifest(folder / "manifest.json"),
        results=_frame(folder / "results.parquet", RESULTS),
        utility=_frame(folder / "utility.parquet", UTILITY),
    )


def task_table(results: pl.DataFrame, utility: pl.DataFrame, task: str, leakage: str) -> TaskTable:
    """Return what is known of `task`, with `leakage` as the thief's measure.

    Settings are compared under the same attacks (their controls left out) and students: one that lacks any of them
    is skipped. Raises
    RunError if the undefended arm was not measured, or for settings that cannot be read.
    """
    rows = results.filter((pl.col("task") == task) & (pl.col("attack") != ""))
    measured = rows.filter((pl.col("metric") == leakage) & pl.col("value").is_not_null())
    tried = [name for name in measured["attack"].unique().to_list() if not is_control(name)]
    attacked = measured.filter(pl.col("attack").is_in(tried) & (pl.col("attack") != UNDISTILLED))
    before = measured.filter(pl.col("attack") == UNDISTILLED)
    harms = utility.filter(pl.col("task") == task)
    arms = [
        _setting(arm, attacked, harms)
        for arm in _firsts(results.filter(pl.col("task") == task)).iter_rows(named=True)
    ]
    undefended = next((arm for arm in arms if arm.arm == UNDEFENDED), None)
    if undefended is None or not undefended.cells:
        raise RunError(f"The results of task '{task}' lack {leakage} of the undefended arm; run the study again.")
    grid = dict.fromkeys((cell.attack, cell.student) for arm in arms for cell in arm.cells)
    others = [arm for arm in arms if arm.arm != UNDEFENDED]
    skipped = {arm.arm: why for arm in others if (why := _incomparable(arm, list(grid)))}
    return TaskTable(
        task=task,
        undefended=undefended,
        settings={arm.arm: arm for arm in others if arm.arm not in skipped},
        skipped=skipped,
        undistilled=dict(zip(before["student"].to_list(), before["value"].to_list(), strict=True)),
        measures=frozenset(harms.filter(pl.col("drop").is_not_null())["utility"].to_list()),
    )


def exact_settings(defense: str, params: str) -> tuple[Json, ...]:
    """Return the members of an arm, each with its `kind`. Raises RunError if the two columns do not agree.

    >>> exact_settings("ads", '{"lam": 0.1}')
    ({'kind': 'ads', 'lam': 0.1},)
    """
    kinds = [] if defense == UNDEFENDED else defense.split("+")
    try:
        value = json.loads(params or "{}")
    except ValueError:
        value = None
    members = value if isinstance(value, list) else [value] if kinds else []
    known = len(members) == len(kinds) and all(isinstance(member, dict) for member in members)
    if not known or any(item.get("kind", kind) != kind for kind, item in zip(kinds, members, strict=True)):
        raise RunError(f"The results hold settings of '{defense}' that cannot be read; run the study again.")
    return tuple({"kind": kind, **member} for kind, member in zip(kinds, members, strict=True))


def _setting(row: Mapping[str, Any], attacked: pl.DataFrame, utility: pl.DataFrame) -> Setting:
    cells = attacked.filter(pl.col("arm") == row["arm"]).select(*Cell.model_fields)
    return Setting(
        arm=row["arm"],
        is_control=bool(row["is_control"]),
        defenses=exact_settings(row["defense"], row["params"]),
        cells=tuple(Cell(**cell) for cell in cells.iter_rows(named=True)),
        harms={harm.measure: harm for harm in _harms(utility.filter(pl.col("arm") == row["arm"]))},
    )


def _harms(rows: pl.DataFrame) -> Iterator[Harm]:
    names = [name for name in Harm.model_fields if name not in ("measure", "limit")]
    for row in rows.rename({"utility": "measure"}).select("measure", *names).iter_rows(named=True):
        yield Harm(**row)


def _firsts(rows: pl.DataFrame) -> pl.DataFrame:
    """One row per arm, in the order of the results."""
    return rows.unique(subset="arm", keep="first", maintain_order=True)


def _incomparable(setting: Setting, grid: Sequence[tuple[str, str]]) -> str:
    """Say why a setting cannot be compared with the others; empty if it can."""
    known = {(cell.attack, cell.student) for cell in setting.cells}
    lacking = [f"{student} under {attack}" for attack, student in grid if (attack, student) not in known]
    if lacking:
        return f"not measured: {lacking[0]}" + (f" and {len(lacking) - 1} more" if lacking[1:] else "")
    known_harm = any(harm.drop is not None for harm in setting.harms.values())
    return "" if known_harm else "its harm was not measured"


def _manifest(path: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        value = None
    if not isinstance(value, dict):
        raise RunError(f"'{path}' cannot be read as a JSON object; run the study again to restore it.")
    return value


def _frame(path: Path, schema: Mapping[str, type[pl.DataType]]) -> pl.DataFrame:
    """Read a table with the columns of `schema`; numbers that are not finite become null."""
    try:
        frame = pl.read_parquet(path.read_bytes())
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException):
        raise RunError(f"'{path}' cannot be read as Parquet; run the study again to restore it.") from None
    if missing := [name for name in schema if name not in frame.columns]:
        raise RunError(f"'{path}' lacks the columns {', '.join(missing)}; it was written by another version.")
    try:
        typed = frame.select(pl.col(name).cast(kind) for name, kind in schema.items())
    except pl.exceptions.PolarsError:
        raise RunError(f"'{path}' holds a column of the wrong type; it was written by another version.") from None
    numbers, texts = pl.col(pl.Float64), pl.col(pl.String)
    typed = typed.with_columns(pl.when(numbers.is_finite()).then(numbers), texts.fill_null(""))
    if typed.is_empty() and path.name == "results.parquet":
        raise RunError(f"'{path}' has no rows; run the study again.")
    return typed
