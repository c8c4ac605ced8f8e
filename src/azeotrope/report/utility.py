"""What honest users lose beyond the answer: the arms that spare the answers and spoil the trace.

Rules. An arm spares the answers where the interval of its drop in teacher accuracy contains 0; that is "not shown
to suffer", not a proof that nothing is lost. It spoils the trace where the interval of its drop in validity, in
the reader's accuracy or in grounding lies above 0. A change of length is told but is no harm by itself: it is
counted in both directions, so that its interval never contains 0. One sentence per defense, about the arm that
spoils most; the others of the same defense are named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from azeotrope.report.lines import arms_of, lines_of
from azeotrope.report.load import Run
from azeotrope.report.measures import measure
from azeotrope.report.wording import Row, Told, above, bounds, counts, join, percent, tasks_of, where

ANSWER, LENGTH = "teacher_accuracy", "length"
TRACE = ("trace_validity", "reader_accuracy", "grounding")
Drops = Mapping[str, Row]  # measure → row


def told(run: Run) -> Sequence[Told]:
    """Return the sentences of the section."""
    assert run.utility is not None
    rows = list(run.utility.iter_rows(named=True))
    return [one for task in tasks_of(run.utility, run.results) for one in _task(run, task, where(rows, task=task))]


def spares_answers(drops: Drops) -> bool:
    """Whether the answers are not shown to suffer."""
    row = drops.get(ANSWER)
    return (
        row is not None and row["low"] is not None and row["high"] is not None and row["low"] <= 0 <= row["high"]
    )


def spoiled(drops: Drops) -> list[Row]:
    """The measures of the trace that are shown to suffer, the largest drop first."""
    found = [row for name in TRACE if (row := drops.get(name)) and above(row["low"])]
    return sorted(found, key=lambda row: -(row["drop"] or 0.0))


def _task(run: Run, task: str, rows: Sequence[Row]) -> Iterable[Told]:
    arms = {row["arm"]: {one["utility"]: one for one in where(rows, arm=row["arm"])} for row in rows}
    if not any(ANSWER in drops and not set(TRACE).isdisjoint(drops) for drops in arms.values()):
        return
    found = {arm: drops for arm, drops in arms.items() if spares_answers(drops) and spoiled(drops)}
    if not found:
        yield Told(task, "No arm is shown to spoil the trace where the answers are not shown to suffer.")
    for label, members in _lines(run, task, found):
        worst = max(members, key=lambda arm: spoiled(found[arm])[0]["drop"] or 0.0)
        others = [arm for arm in members if arm != worst]
        yield Told(f"{label} on {task}", _sentence(worst, found[worst], others))


def _lines(run: Run, task: str, found: Iterable[str]) -> Iterable[tuple[str, list[str]]]:
    """The arms in `found` by defense, in the order of the page; an arm that the results lack stands for itself."""
    left = list(found)
    for line in lines_of(arms_of(run.results, task)):
        names = [arm.arm for arm in line.arms if arm.arm in left]
        left = [arm for arm in left if arm not in names]
        if names:
            yield f"{line.label} (control)" if line.is_control else line.label, names
    yield from ((arm, [arm]) for arm in sorted(left))


def _sentence(arm: str, drops: Drops, others: Sequence[str]) -> str:
    lost = join([f"{_drop(row)} of {measure(row['utility']).label}" for row in spoiled(drops)])
    answers = drops[ANSWER]
    also = f" The same holds at {join(others)}." if others else ""
    return (
        f"At {arm} the answers are not shown to suffer ({measure(ANSWER).label}: {_drop(answers)}), but "
        f"the trace does, by {lost}{counts(answers)}.{_length(drops)}{also}"
    )


def _drop(row: Row) -> str:
    value = "an unknown number of" if row["drop"] is None else percent(row["drop"])
    return f"{value} points {bounds(row['low'], row['high'], percent)}"


def _length(drops: Drops) -> str:
    row = drops.get(LENGTH)
    if row is None or not row["clean"] or row["value"] is None:
        return ""
    change = row["value"] / row["clean"] - 1
    return f" The trace is {percent(abs(change))} % {'longer' if change > 0 else 'shorter'}."
