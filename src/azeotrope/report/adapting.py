"""What the verdict says about adapting: per defense, the adaptive attack that undoes most of it.

Rules. A defense is looked at where its cost to honest users is nearest to the drop of the comparison; where none
of its arms costs as much, at its strongest. The worst case is the highest recovery over attacks and students
there. Another setting of the passive attack is not an adaptive one. A recovery whose interval does not exclude 0
is "not shown to recover anything". Where the passive student lost nothing, there is nothing to recover, and the
gain is told instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from azeotrope.report.curve import Lookup
from azeotrope.report.lines import Line, arms_of, lines_of, undefended
from azeotrope.report.load import Run
from azeotrope.report.measures import TEACHER_UTILITIES, measure, points
from azeotrope.report.wording import Row, above, bounds, counts, percent
from azeotrope.study.vocabulary import is_control, is_passive


@dataclass(frozen=True, slots=True)
class Adapted:
    """What adapting brings against one defense on one task."""

    task: str
    defense: str
    sentence: str


def adapting(run: Run, metric: str, drop: float) -> tuple[Adapted, ...]:
    """Return one sentence per task and defense; empty when no adaptive attack can be compared."""
    return tuple(_adapted(run, metric, drop)) if run.recovery is not None else ()


def _adapted(run: Run, metric: str, drop: float) -> Iterable[Adapted]:
    assert run.recovery is not None
    rows = [
        row
        for row in run.recovery.iter_rows(named=True)
        if not (is_passive(row["attack"]) or is_control(row["attack"]))
    ]
    if not any(row["metric"] == metric for row in rows):
        metric = "student_accuracy"
    lookup = Lookup(run.results)
    for task in run.results["task"].unique(maintain_order=True).to_list():
        arms = arms_of(run.results, task)
        for line in (line for line in lines_of(arms) if not line.is_control):
            labels = {arm.arm for arm in line.arms}
            mine = [
                row for row in rows if row["task"] == task and row["metric"] == metric and row["arm"] in labels
            ]
            if mine:
                arm, cost = _arm_at(lookup, task, undefended(arms), line, {row["arm"] for row in mine}, drop)
                told = tell([row for row in mine if row["arm"] == arm])
                yield Adapted(task, line.label, f"At {arm}{cost}, {told}.")


def _arm_at(
    lookup: Lookup, task: str, none: str | None, line: Line, known: set[str], drop: float
) -> tuple[str, str]:
    """Return the arm of `line` that is looked at, and its cost in words."""
    arms = [arm.arm for arm in line.arms if arm.arm in known]
    for utility in TEACHER_UTILITIES:
        start = lookup.teacher(task, none, utility) if none else None
        cells = {arm: lookup.teacher(task, arm, utility) for arm in arms}
        lost = {arm: start.value - cell.value for arm, cell in cells.items() if start and cell}
        if not lost:
            continue
        reached = any(value >= drop for value in lost.values())
        arm = min(lost, key=lambda name: abs(lost[name] - drop)) if reached else arms[-1]
        if arm in lost:
            size = points(lost[arm], signed=False)
            none_lost = size == "0.0" or lost[arm] < 0
            told = "no" if none_lost else f"{size} points of"
            return arm, f", which costs {told} {measure(utility).label}"
    return arms[-1], ""


def tell(rows: Sequence[Row]) -> str:
    """Say in words what the worst of `rows` (one task, arm and measure) brings."""
    label = measure(rows[0]["metric"]).label
    rated = [row for row in rows if row["status"] == "ok" and row["recovery"] is not None]
    if not rated:
        best = _best(rows, "gain")
        highest = f"; the highest gain is {_gain(best)} by {_who(best)}" if best else ""
        return f"the passive student is not shown to lose any {label}, so there is nothing to recover{highest}"
    worst = max(rated, key=lambda row: row["recovery"])
    return _recovers(worst, label) + _shown_elsewhere(rated, worst) + _gained_elsewhere(rows)


def _recovers(worst: Row, label: str) -> str:
    low, high = worst["recovery_low"], worst["recovery_high"]
    lost = f"of the {label} that the passive student lost"
    name = f"the worst-case adaptive attack, {_who(worst)},"
    if low is None or high is None or low <= 0 <= high:
        return f"{name} is not shown to recover anything {lost}: {_share(worst)}{counts(worst)}"
    less = "gets less than the passive student: it " if high < 0 else ""
    return f"{name} {less}recovers {_share(worst)} {lost}{counts(worst)}"


def _shown_elsewhere(rated: Sequence[Row], worst: Row) -> str:
    """An attack that surely recovers something, behind one with a higher but unsure estimate."""
    if above(worst["recovery_low"]):
        return ""
    best = _best([row for row in rated if above(row["recovery_low"])], "recovery")
    return f"; {_who(best)} recovers {_share(best)}{counts(best)}" if best else ""


def _gained_elsewhere(rows: Sequence[Row]) -> str:
    """A sure gain of a student that had nothing to recover."""
    idle = [row for row in rows if row["status"] != "ok" and above(row["gain_low"])]
    best = _best(idle, "gain")
    return f"; where the passive student lost nothing, {_who(best)} gains {_gain(best)}" if best else ""


def _best(rows: Sequence[Row], key: str) -> Row | None:
    return max((row for row in rows if row[key] is not None), key=lambda row: row[key], default=None)


def _who(row: Row) -> str:
    return f"{row['attack']} (student {row['student']})"


def _share(row: Row) -> str:
    low, high = row["recovery_low"], row["recovery_high"]
    return f"{percent(row['recovery'])} % {bounds(low, high, percent)}"


def _gain(row: Row) -> str:
    low, high = row["gain_low"], row["gain_high"]
    unclear = "" if above(row["gain_low"]) else ", not shown to be above 0"
    return f"{points(row['gain'])} points {bounds(low, high)}{unclear}{counts(row)}"
