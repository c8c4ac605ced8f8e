"""The strongest setting of a run within limits on its harm to honest users: pure selection on two tables.

A setting's leakage is its worst case: the highest value over all attacks and students of the run. Among the
settings whose harm holds every limit, the one that leaks least is chosen; controls and the undefended teacher
compete too. Over several tasks the worst case is the highest *gain* (leakage minus that of the best undistilled
student of the task, so that an easy task does not decide alone); on one task the two orders are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import polars as pl

from azeotrope.core.errors import ConfigError, nearest
from azeotrope.core.methods import Settings
from azeotrope.study.recommend_tables import Cell, Harm, Json, Setting, TaskTable, task_table
from azeotrope.study.vocabulary import LEAKAGES, UTILITIES, is_passive

DEFAULT_LIMITS = {"teacher_accuracy": 0.02, "trace_validity": 0.05}
TOLERANCE = 1e-9  # of a limit: differences of shares are not exact in binary
CHOSEN: Final = "chosen"
NOTHING_HOLDS: Final = "nothing_holds"
NOTHING_HELPS: Final = "nothing_helps"
Status = Literal["chosen", "nothing_holds", "nothing_helps"]
Picks = tuple[Setting, ...]  # one arm, on each of the tasks


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What is asked for: the largest drop per measure (share lost; for `length` relative change), and of what.

    `strict` holds the upper bound of a drop's interval to the limit instead of the estimate. It is an error if no
    task measures one of `required`; other limits that cannot be checked are reported.
    """

    limits: Mapping[str, float]
    leakage: str = LEAKAGES[0]
    strict: bool = False
    required: frozenset[str] = frozenset()


class Gain(Settings):
    """One student: before any attack, its best on the undefended release, and its best on this one.

    `share` is the part of the undefended gain that it still gets; None where there was no gain.
    """

    student: str
    undistilled: float | None
    undefended: float
    defended: float
    attack: str
    share: float | None


class TaskEvidence(Settings):
    """What was measured of a setting on one task. `attacks` has the worst student of every attack, worst first."""

    task: str
    worst: Cell
    share_of_gain: float | None
    utility: tuple[Harm, ...]
    unchecked: tuple[str, ...]
    attacks: tuple[Cell, ...]
    students: tuple[Gain, ...]


class Rival(Settings):
    """Another setting, with its worst case by task.

    `apart`: the interval of its worst case lies above that of the chosen setting; None where there is none.
    """

    arm: str
    is_control: bool
    worst: dict[str, Cell]
    apart: bool | None


class Excess(Settings):
    """A limit that does not hold: what was reached (None: not measured), and by how much it is too much."""

    task: str
    measure: str
    limit: float
    reached: float | None
    by: float | None


class Nearest(Settings):
    """The setting that misses the limits by the least, and where."""

    arm: str
    is_control: bool
    exceeds: tuple[Excess, ...]


class Evidence(Settings):
    """The recommended arm for some tasks together, and why; the undefended one unless the status is "chosen".

    "nothing_holds": no setting holds the limits. "nothing_helps": none that does leaks less than no defense.
    Of `compared` settings (`controls` of them controls), `holding` hold the limits. `skipped` says by arm why it
    was not compared.
    """

    status: Status
    arm: str
    is_control: bool
    tasks: tuple[TaskEvidence, ...]
    undefended: Rival
    runner_up: Rival | None
    best_defense: Rival | None
    best_control: Rival | None
    nearest: Nearest | None
    compared: int
    controls: int
    holding: int
    skipped: dict[str, str]

    @property
    def tested_adaptively(self) -> bool:
        """Whether it was measured under anything but passive fine-tuning, on each of its tasks."""
        return all(any(not is_passive(cell.attack) for cell in one.attacks) for one in self.tasks)


class Choice(Evidence):
    """The same with the exact settings of the arm, one mapping with a `kind` per defense."""

    defenses: tuple[Json, ...]


class Recommendation(Settings):
    """One choice per task, and with several tasks the single arm that is best for all of them."""

    tasks: tuple[Choice, ...]
    overall: Choice | None

    @property
    def choice(self) -> Choice:
        """The choice to act on: the one for all tasks of the recommendation."""
        return self.overall or self.tasks[0]


def recommend(
    results: pl.DataFrame, utility: pl.DataFrame, rules: Rules, task: str | None = None
) -> Recommendation:
    """Choose within `rules` from the tables of a run, for one task or for each and all.

    Raises ConfigError for rules that this run cannot answer, and RunError for damaged tables.
    """
    names = results["task"].unique(maintain_order=True).to_list()
    if task is not None and task not in names:
        raise ConfigError(f"The run has no task '{task}'.{nearest(task, names)}")
    wanted = names if task is None else [task]
    _check_leakage(results, rules.leakage, wanted)
    tables = [task_table(results, utility, name, rules.leakage) for name in wanted]
    _check_limits(tables, rules)
    return Recommendation(
        tasks=tuple(choose([table], rules) for table in tables),
        overall=choose(tables, rules) if len(tables) > 1 else None,
    )


def choose(tables: Sequence[TaskTable], rules: Rules) -> Choice:
    """Choose one arm for all of `tables`."""
    options = [tuple(table.settings[arm] for table in tables) for arm in _common(tables)]
    undefended = tuple(table.undefended for table in tables)
    missed = {picks[0].arm: tuple(_excesses(picks, tables, rules)) for picks in options}
    holding = sorted(
        (picks for picks in options if not missed[picks[0].arm]), key=lambda picks: _rank(picks, tables, rules)
    )
    helps = bool(holding) and worst_gain(holding[0], tables) < worst_gain(undefended, tables)
    best = holding[0] if helps else undefended

    def first(among: Sequence[Picks]) -> Rival | None:
        return _rival(among[0], best, tables) if among else None

    return Choice(
        status=CHOSEN if helps else NOTHING_HELPS if holding else NOTHING_HOLDS,
        arm=best[0].arm,
        is_control=best[0].is_control,
        defenses=best[0].defenses,
        tasks=tuple(_evidence(pick, table, rules) for pick, table in zip(best, tables, strict=True)),
        undefended=_rival(undefended, best, tables),
        runner_up=first([picks for picks in holding if picks is not best]),
        best_defense=first([picks for picks in holding if not picks[0].is_control]),
        best_control=first([picks for picks in holding if picks[0].is_control]),
        nearest=None if holding else _nearest(options, missed, tables),
        compared=len(options),
        controls=sum(picks[0].is_control for picks in options),
        holding=len(holding),
        skipped={arm: f"{table.task}: {why}" for table in tables for arm, why in table.skipped.items()},
    )


def worst_gain(picks: Picks, tables: Sequence[TaskTable]) -> float:
    """Return the highest gain of an arm over `tables` (share)."""
    return max(table.gain(pick) for pick, table in zip(picks, tables, strict=True))


def _check_leakage(results: pl.DataFrame, leakage: str, tasks: Sequence[str]) -> None:
    if leakage not in LEAKAGES:
        raise ConfigError(f"There is no measure of leakage '{leakage}'.{nearest(leakage, LEAKAGES)}")
    having = results.filter(pl.col("metric") == leakage)["task"].unique(maintain_order=True).to_list()
    if lacking := [task for task in tasks if task not in having]:
        others = f"; choose a task that does ({', '.join(having)}), or" if having else ";"
        raise ConfigError(
            f"Task '{lacking[0]}' does not measure {leakage}{others} another measure of leakage: "
            f"{', '.join(name for name in LEAKAGES if name != leakage)}."
        )


def _check_limits(tables: Sequence[TaskTable], rules: Rules) -> None:
    """Refuse rules that would leave a task without any limit, or a required measure unchecked everywhere."""
    if not rules.limits:
        raise ConfigError("There is no limit at all; give at least one, as in --limit teacher_accuracy=0.02.")
    measured = frozenset[str]().union(*(table.measures for table in tables))
    for measure in sorted(rules.required & set(rules.limits)):
        if measure not in measured:
            raise ConfigError(
                f"The run does not measure {measure}, so its limit cannot be checked; leave it out (measured: "
                f"{', '.join(sorted(measured)) or 'nothing'})."
            )
    for table in tables:
        if table.settings and not table.measures & set(rules.limits):
            raise ConfigError(
                f"Task '{table.task}' measures nothing that is limited; limit one of: "
                f"{', '.join(sorted(table.measures))}."
            )


def _common(tables: Sequence[TaskTable]) -> list[str]:
    return [arm for arm in tables[0].settings if all(arm in table.settings for table in tables)]


def _excesses(picks: Picks, tables: Sequence[TaskTable], rules: Rules) -> Iterator[Excess]:
    for pick, table in zip(picks, tables, strict=True):
        for measure, limit in rules.limits.items():
            if measure not in table.measures:
                continue
            harm = pick.harms.get(measure)
            reached = None if harm is None else harm.high if rules.strict else harm.drop
            if reached is None or reached > limit + TOLERANCE:
                by = None if reached is None else round(reached - limit, 10)
                yield Excess(task=table.task, measure=measure, limit=limit, reached=reached, by=by)


def _rank(picks: Picks, tables: Sequence[TaskTable], rules: Rules) -> tuple[float, bool, float, str]:
    """Least leakage first; ties go to defenses, then to the least total harm, then by name."""
    drops = [pick.harms[name].drop or 0.0 for pick in picks for name in rules.limits if name in pick.harms]
    return worst_gain(picks, tables), picks[0].is_control, sum(map(abs, drops)), picks[0].arm


def _nearest(
    options: Sequence[Picks], missed: Mapping[str, tuple[Excess, ...]], tables: Sequence[TaskTable]
) -> Nearest | None:
    """Return the option whose largest excess is smallest, if the excess of any is known."""

    def by(picks: Picks) -> float:
        return max(float("inf") if one.by is None else one.by for one in missed[picks[0].arm])

    best = min(options, key=lambda picks: (by(picks), worst_gain(picks, tables)), default=None)
    if best is None or by(best) == float("inf"):
        return None
    return Nearest(arm=best[0].arm, is_control=best[0].is_control, exceeds=missed[best[0].arm])


def _evidence(pick: Setting, table: TaskTable, rules: Rules) -> TaskEvidence:
    gains = {gain.student: gain for gain in _gains(pick, table)}
    harms = sorted(pick.harms.values(), key=lambda harm: _place(harm.measure))
    by_attack = [
        max((cell for cell in pick.cells if cell.attack == attack), key=lambda cell: cell.value)
        for attack in dict.fromkeys(cell.attack for cell in pick.cells)
    ]
    return TaskEvidence(
        task=table.task,
        worst=pick.worst,
        share_of_gain=gains[pick.worst.student].share,
        utility=tuple(harm.model_copy(update={"limit": rules.limits.get(harm.measure)}) for harm in harms),
        unchecked=tuple(name for name in rules.limits if name not in table.measures),
        attacks=tuple(sorted(by_attack, key=lambda cell: -cell.value)),
        students=tuple(gains.values()),
    )


def _gains(pick: Setting, table: TaskTable) -> Iterator[Gain]:
    """Paired by student: its own undistilled and undefended values, the best of its attacks on either side."""
    for student in dict.fromkeys(cell.student for cell in pick.cells):
        mine = max((cell for cell in pick.cells if cell.student == student), key=lambda cell: cell.value)
        clean = [cell.value for cell in table.undefended.cells if cell.student == student]
        before = table.undistilled.get(student)
        top = max(clean, default=mine.value)
        gained = None if before is None or not clean or top - before <= TOLERANCE else top - before
        yield Gain(
            student=student,
            undistilled=before,
            undefended=top,
            defended=mine.value,
            attack=mine.attack,
            share=None if gained is None or before is None else round((mine.value - before) / gained, 6),
        )


def _rival(picks: Picks, best: Picks, tables: Sequence[TaskTable]) -> Rival:
    above, below = _bound(picks, tables, "low"), _bound(best, tables, "high")
    known = picks is not best and above is not None and below is not None
    return Rival(
        arm=picks[0].arm,
        is_control=picks[0].is_control,
        worst={table.task: pick.worst for pick, table in zip(picks, tables, strict=True)},
        apart=above > below if known and above is not None and below is not None else None,
    )


def _bound(picks: Picks, tables: Sequence[TaskTable], side: Literal["low", "high"]) -> float | None:
    """The worst case of one end of the intervals, as a gain; None if an interval is missing."""
    ends = []
    for pick, table in zip(picks, tables, strict=True):
        floor = pick.worst.value - table.gain(pick)
        ends += [None if end is None else end - floor for end in (getattr(cell, side) for cell in pick.cells)]
    known = [end for end in ends if end is not None]
    return max(known) if len(known) == len(ends) else None


def _place(measure: str) -> int:
    return UTILITIES.index(measure) if measure in UTILITIES else len(UTILITIES)
