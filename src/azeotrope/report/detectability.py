"""How visible a defense is: which arms a detector tells from clean text, and whether its control holds.

Rules. Only detectors with an AUROC are told of. An arm is told apart where the interval lies above 0.5; otherwise
it is not shown to be, which is no proof that nobody can. The control is a clean resample in the place of the arm:
where its interval does not contain 0.5, the detector sees something else than a defense, and the sentence says so.
The most visible arm is named with its own interval, which is not corrected for the choice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from azeotrope.detect.compare import CONTROL
from azeotrope.report.load import Run
from azeotrope.report.wording import Row, Told, above, bounds, join, tasks_of, where

GUESSING = 0.5
UNITS = {"per_trace": "one trace", "per_group": "a group of traces"}


def told(run: Run) -> Sequence[Told]:
    """Return one sentence per task and trained detector."""
    assert run.detectability is not None
    rows = where(run.detectability.iter_rows(named=True), measure="auroc")
    return [
        Told(f"{detector} on {task}", " ".join([*_arms(mine), _control(mine)]))
        for task in tasks_of(run.detectability, run.results)
        for detector in dict.fromkeys(row["detector"] for row in rows)
        if (mine := where(rows, task=task, detector=detector))
    ]


def _arms(rows: Sequence[Row]) -> Iterable[str]:
    for unit, name in UNITS.items():
        here = [row for row in where(rows, unit=unit) if row["arm"] != CONTROL]
        rated = [row for row in here if row["value"] is not None]
        if here and not rated:
            yield f"By {name} nothing could be measured{_why(here)}."
        if rated:
            seen = sum(above(row["low"], GUESSING) for row in rated)
            most = max(rated, key=lambda row: row["value"])
            arms = "1 arm is" if len(rated) == 1 else f"{len(rated)} arms are"
            yield f"By {name}, {seen} of {arms} told apart from clean text; the most visible is {_who(most)}."


def _control(rows: Sequence[Row]) -> str:
    found = [
        (row, name)
        for unit, name in UNITS.items()
        for row in where(rows, arm=CONTROL, unit=unit)
        if row["value"] is not None
    ]
    if not found:
        return "There is no control, so nothing says what these figures would be without a defense."
    told = join([f"{_figure(row)} by {name}" for row, name in found])
    wrong = [name for row, name in found if _is_away(row)]
    distrust = f": that is not guessing, so the figures by {join(wrong)} are not to be trusted" if wrong else ""
    return f"The control, clean text again, is at {told}{distrust}."


def _is_away(row: Row) -> bool:
    """Whether the interval of a control does not contain 0.5."""
    return above(row["low"], GUESSING) or (row["high"] is not None and row["high"] < GUESSING)


def _who(row: Row) -> str:
    return f"{row['arm']} with an AUROC of {_figure(row)}"


def _figure(row: Row) -> str:
    counted = f" (n = {row['n']})" if row["n"] is not None else ""
    return f"{_decimal(row['value'])} {bounds(row['low'], row['high'], _decimal)}{counted}"


def _decimal(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _why(rows: Sequence[Row]) -> str:
    note = next((row["note"] for row in rows if row["note"]), "")
    return f" ({note})" if note else ""
