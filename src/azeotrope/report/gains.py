"""Defenses against attacks: the setting whose worst attack leaves the thief least.

Rules. An arm's worst case is the highest share of the best undefended gain over attacks and students. Settings are
compared under the same attacks and students: an arm that lacks one that others have is not chosen, and said to be
left out. The setting with the lowest worst case is told with what it costs the teacher; that it was chosen by this
number is said, not corrected for. Where it is a control, the best defense that is none is told as well. Students
without a share are left out; where no student has one, the reason is told. The measure is the headline of the
study, or student accuracy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from azeotrope.report.lines import arms_of, undefended
from azeotrope.report.load import Run
from azeotrope.report.measures import measure, points
from azeotrope.report.verdict import headline_metric
from azeotrope.report.wording import Row, Told, bounds, counts, percent, tasks_of, where
from azeotrope.study.gains import NOTHING
from azeotrope.study.vocabulary import UNDEFENDED, is_control


def told(run: Run) -> Sequence[Told]:
    """Return what is said per task that has a defended setting."""
    assert run.gains is not None
    metric = headline_metric(run)
    known = metric in run.gains["metric"].to_list()
    rows = where(run.gains.iter_rows(named=True), metric=metric if known else "student_accuracy")
    found = []
    for task in tasks_of(run.gains, run.results):
        arms = arms_of(run.results, task)
        none = undefended(arms) or UNDEFENDED
        mine = where(rows, task=task)
        if any(row["arm"] != none for row in mine):
            controls = {arm.arm for arm in arms if arm.is_control}
            found.append(Told(task, _sentences(mine, none, controls)))
    return found


def worst_cases(rows: Iterable[Row]) -> dict[str, Row]:
    """The row with the highest share of each arm; arms without a share have none. Attacks' controls do not count.

    >>> found = (("a", "sft", 0.3), ("a", "fkl", 0.9), ("a", "clean_matched", 1.0), ("b", "sft", 0.2))
    >>> rows = [{"arm": a, "attack": x, "retained": y} for a, x, y in (*found, ("c", "sft", None))]
    >>> {arm: row["retained"] for arm, row in worst_cases(rows).items()}
    {'a': 0.9, 'b': 0.2}
    """
    worst: dict[str, Row] = {}
    for row in (row for row in rows if row["retained"] is not None and not is_control(row["attack"])):
        if row["arm"] not in worst or row["retained"] > worst[row["arm"]]["retained"]:
            worst[row["arm"]] = row
    return worst


def lacking(rows: Sequence[Row]) -> list[str]:
    """Arms without a share under an attack and student under which some arm has one."""
    pairs: dict[str, set[tuple[str, str]]] = {row["arm"]: set() for row in rows}
    for row in rows:
        if row["retained"] is not None and not is_control(row["attack"]):
            pairs[row["arm"]].add((row["attack"], row["student"]))
    grid: set[tuple[str, str]] = set().union(*pairs.values())
    return [arm for arm, known in pairs.items() if known < grid]


def _sentences(rows: Sequence[Row], none: str, controls: set[str]) -> str:
    left_out = [arm for arm in lacking(rows) if arm != none]
    worst = {arm: row for arm, row in worst_cases(rows).items() if arm != none and arm not in left_out}
    if not worst:
        return _no_share(rows, none, left_out)
    lowest = min(worst.values(), key=lambda row: row["retained"])
    among = f"Of {len(worst)} settings, " if len(worst) > 1 else "The only setting, "
    sentence = f"{among}{_case(lowest, ' (a control)' if lowest['arm'] in controls else '')}."
    real = [row for arm, row in worst.items() if arm not in controls]
    if lowest["arm"] in controls and real:
        sentence += f" Of the defenses that are no controls, {_case(min(real, key=lambda row: row['retained']))}."
    if len(worst) > 1:
        sentence += " Choosing by this number flatters the setting that is chosen; that is not corrected for."
    return sentence + _left_out(left_out)


def _case(row: Row, role: str = "") -> str:
    """An arm's worst case in words, with the interval that chooses the attack anew in each resample."""
    low, high = row["worst_low"], row["worst_high"]
    unsure = "" if high is not None and high < 1 else ", which is not shown to be below 100 %"
    return (
        f"{row['arm']}{role} leaves the thief least at worst: by {row['attack']} (student {row['student']}) he "
        f"gets {percent(row['retained'])} % {bounds(low, high, percent)} of his best undefended gain in "
        f"{measure(row['metric']).label}{unsure}{counts(row)}{_teacher(row)}"
    )


def _teacher(row: Row) -> str:
    drop, low, high = row["teacher_drop"], row["teacher_drop_low"], row["teacher_drop_high"]
    if drop is None:
        return "; what it costs the teacher was not measured"
    return f"; the teacher's accuracy drops by {percent(drop)} points {bounds(low, high, percent)}"


def _no_share(rows: Sequence[Row], none: str, left_out: Sequence[str]) -> str:
    """Why there is no share of an undefended gain to compare."""
    label = measure(rows[0]["metric"]).label
    mine = [row for row in rows if row["arm"] == none and not is_control(row["attack"])]
    known = [row for row in mine if row["gain"] is not None and row["status"] == NOTHING]
    if left_out or not known:
        said = f"What share of the best undefended gain in {label} is left cannot be compared: "
        return said + ("no setting has every attack and student." if left_out else "it was not measured.")
    best = max(known, key=lambda row: row["gain"])
    return (
        f"No attack is shown to gain any {label} on the undefended release, their number being allowed for, so "
        f"there is no share to give. The highest gain is {points(best['gain'])} points "
        f"{bounds(best['gain_low'], best['gain_high'])}, by {best['attack']} (student {best['student']})"
        f"{counts(best)}."
    )


def _left_out(arms: Sequence[str]) -> str:
    if not arms:
        return ""
    others = f" and {len(arms) - 1} more" if arms[1:] else ""
    return f" Left out, for want of an attack or student that others have: {arms[0]}{others}."
