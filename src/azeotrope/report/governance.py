"""What transfers: how far the teacher's governance comes along with its capability.

Rules. What the undefended release transfers is told for its case (attack and student) with the widest gap, whose
interval is not corrected for that choice; without an undefended arm the widest gap of all is told. Then the other
cases are counted: capability goes further where the interval of the gap lies above 0, and less far where it lies
below. Where the teacher does not exceed the undistilled student there is nothing to transfer, and nothing is said
of those cases.
"""

from __future__ import annotations

from collections.abc import Sequence

from azeotrope.report.lines import arms_of, undefended
from azeotrope.report.load import Run
from azeotrope.report.measures import measure, points, show_p
from azeotrope.report.wording import Row, Told, above, bounds, counts, percent, tasks_of, where


def told(run: Run) -> Sequence[Told]:
    """Return one sentence per task and measure of governance."""
    assert run.governance is not None
    rows = list(run.governance.iter_rows(named=True))
    return [
        Told(f"{_upper(measure(name).label)} on {task}", _sentence(mine, undefended(arms_of(run.results, task))))
        for task in tasks_of(run.governance, run.results)
        for name in dict.fromkeys(row["measure"] for row in rows)
        if (mine := where(rows, task=task, measure=name))
    ]


def _sentence(rows: Sequence[Row], none: str | None) -> str:
    rated = [row for row in rows if row["status"] == "ok" and row["gap"] is not None]
    if not rated:
        return "The teacher is not above the undistilled student, so there is nothing to transfer."
    clean = where(rated, arm=none)
    widest = max(clean or rated, key=lambda row: row["gap"])
    others = [row for row in rated if row is not widest and (not clean or row["arm"] != none)]
    return _told(widest, "the undefended release" if clean else str(widest["arm"])) + _counted(others)


def _told(row: Row, release: str) -> str:
    tested = f", {show_p(row['p'])}" if row["p"] is not None else ""
    return (
        f"On {release} (student {row['student']}, attack {row['attack']}) the student acquired "
        f"{_share(row, 'capability')} of the teacher's excess in accuracy and {_share(row, 'transfer')} of that "
        f"in {measure(row['measure']).label}: a gap of {points(row['gap'])} points "
        f"{bounds(row['gap_low'], row['gap_high'])}{tested}{counts(row)}."
    )


def _counted(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    further = sum(above(row["gap_low"]) for row in rows)
    less = sum(row["gap_high"] is not None and row["gap_high"] < 0 for row in rows)
    return (
        f" Of {len(rows)} other cases of arm, attack and student, capability is shown to go further in {further} "
        f"and less far in {less}."
    )


def _share(row: Row, key: str) -> str:
    value = "an unknown part" if row[key] is None else f"{percent(row[key])} %"
    return f"{value} {bounds(row[f'{key}_low'], row[f'{key}_high'], percent)}"


def _upper(label: str) -> str:
    return label[:1].upper() + label[1:]
