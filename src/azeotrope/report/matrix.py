"""One moat, many locks: what protecting one task costs the thief there and on the other tasks.

Rules. Everything is the worst case for the teacher's owner: of the attacks and students at an arm, the one whose
student loses least on the protected task, and the same student and attack on the other tasks. Of the arms that
protect a task, the one is told under which this worst case loses most. The choice is not corrected for. The
measure is the headline of the study, or student accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence

from azeotrope.report.load import Run
from azeotrope.report.measures import measure
from azeotrope.report.verdict import headline_metric
from azeotrope.report.wording import Row, Told, above, bounds, counts, join, percent, tasks_of, where
from azeotrope.study.vocabulary import is_control


def told(run: Run) -> Sequence[Told]:
    """Return one sentence per protected task."""
    assert run.matrix is not None
    metric = headline_metric(run)
    known = metric in run.matrix["metric"].to_list()
    tried = (row for row in run.matrix.iter_rows(named=True) if not is_control(row["attack"]))
    rows = where(tried, metric=metric if known else "student_accuracy")
    order = tasks_of(run.matrix, run.results)
    protected = dict.fromkeys(row["protected"] for row in rows)
    return [
        Told(f"Protecting {task}", _sentence(where(rows, protected=task), task, order))
        for task in sorted(protected, key=lambda task: order.index(task) if task in order else len(order))
    ]


def worst_arm(rows: Sequence[Row]) -> Row | None:
    """Of the smallest losses per arm, the row with the largest; None if nothing was measured.

    >>> rows = [{"arm": a, "loss": x} for a, x in (("a", 0.3), ("a", 0.1), ("b", 0.2), ("c", None))]
    >>> worst_arm(rows)
    {'arm': 'b', 'loss': 0.2}
    """
    least: dict[str, Row] = {}
    for row in rows:
        if row["loss"] is not None and row["loss"] < least.get(row["arm"], {"loss": float("inf")})["loss"]:
            least[row["arm"]] = row
    return max(least.values(), key=lambda row: row["loss"], default=None)


def _sentence(rows: Sequence[Row], task: str, order: Sequence[str]) -> str:
    own = worst_arm(where(rows, task=task))
    if own is None:
        return "What it costs the thief there was not measured."
    same = where(rows, arm=own["arm"], attack=own["attack"], student=own["student"])
    told = [_on(row) for other in order if other != task for row in where(same, task=other)]
    elsewhere = f"; {join(told)}" if told else ""
    return (
        f"At {own['arm']} the worst case (student {own['student']}, attack {own['attack']}), counted in "
        f"{measure(own['metric']).label}, {_lost(own)}{_teacher(own)}{counts(own)}{elsewhere}."
    )


def _on(row: Row) -> str:
    """What the same case does on another task."""
    if row["loss"] is None:
        return f"on {row['task']} it was not measured"
    return f"on {row['task']} it {_lost(row)}{_teacher(row)}"


def _lost(row: Row) -> str:
    size, low, high = f"{percent(row['loss'])} points", row["low"], row["high"]
    if above(low):
        return f"loses {size} {bounds(low, high, percent)}"
    if high is not None and high < 0:
        return f"gains {percent(-row['loss'])} points {bounds(-high, None if low is None else -low, percent)}"
    return f"is not shown to lose any ({size} {bounds(low, high, percent)})"


def _teacher(row: Row) -> str:
    if row["teacher_drop"] is None:
        return ""
    return (
        f", where the teacher's accuracy drops by {percent(row['teacher_drop'])} points "
        f"{bounds(row['teacher_drop_low'], row['teacher_drop_high'], percent)}"
    )
