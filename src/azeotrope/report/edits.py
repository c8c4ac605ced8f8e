"""Trained edits of the head: how far training got, and what it did to held-out text.

Rules. An edit is told once a task, from the arm of the study that names it first, as the range over draws and
maps. What training lowered or raised is told beside what it cost the teacher; the change in CMI has an interval of
two standard errors where there is a single edit. Where edits were trained at several settings and draws, what goes
with the loss of students is told in the order of its strength, as a rank correlation and not as a cause.
"""

from __future__ import annotations

from collections.abc import Sequence

from azeotrope.report.load import Run
from azeotrope.report.wording import Row, Told, above, bounds, tasks_of, where

FEWEST = 8  # releases: with fewer, a rank correlation says little


def told(run: Run) -> Sequence[Told]:
    """Return what is said per task."""
    assert run.edits is not None
    rows = list(run.edits.iter_rows(named=True))
    found = []
    for task in tasks_of(run.edits, run.results):
        mine = where(rows, task=task)
        seen: dict[tuple[str, tuple[float, ...]], list[Row]] = {}
        for row in mine:
            key = (row["defense"], tuple(other["held_out"] for other in mine if other["arm"] == row["arm"]))
            seen.setdefault(key, [])
            if not seen[key] or seen[key][0]["arm"] == row["arm"]:
                seen[key].append(row)
        found.append(Told(task, " ".join(_sentence(group) for group in seen.values())))
        found += _foretold(run, task)
    return found


def _foretold(run: Run, task: str) -> list[Told]:
    """What goes with the loss of each attack's students, where there are intervals and enough releases."""
    rows = [] if run.predictors is None else where(run.predictors.iter_rows(named=True), task=task)
    told = [row for row in rows if row["low"] is not None and row["n"] >= FEWEST]
    found = []
    for attack, student in dict.fromkeys((row["attack"], row["student"]) for row in told):
        mine = where(told, attack=attack, student=student)
        mine.sort(key=lambda row: -abs(row["rho"]))
        clear = [_correlated(row) for row in mine if above(row["low"]) or row["high"] < 0.0]
        open_ = [_correlated(row) for row in mine if not (above(row["low"]) or row["high"] < 0.0)]
        first = mine[0]
        said = (
            f"rank correlation with the loss of {student}, over {first['n']} releases ({first['n_arms']} "
            f"settings, {first['n_draws']} draws; no cause): {', '.join(clear) or 'nothing told apart from 0'}"
        )
        if open_:
            said += f"; not told apart from 0: {', '.join(open_)}"
        found.append(Told(f"{task}, {attack}", f"{said}."))
    return found


def _correlated(row: Row) -> str:
    bracket = bounds(row["low"], row["high"], lambda value: _number(value, 2))
    return f"{_named(row['predictor'])} {_number(row['rho'], 2)} {bracket}"


def _named(predictor: str) -> str:
    """The words for a predictor.

    >>> _named("trace_validity lost"), _named("cosine")
    ('valid steps lost by the teacher', 'cosine')
    """
    words = {
        "teacher_accuracy lost": "accuracy lost by the teacher",
        "trace_validity lost": "valid steps lost by the teacher",
        "cmi_change": "change of CMI",
        "kl": "KL from the teacher",
    }
    return words.get(predictor, predictor.replace("loss by", "loss by the students of"))


def _sentence(rows: Sequence[Row]) -> str:
    first = rows[0]
    said = (
        f"{first['arm']}: the {first['measure']} went from {_range(rows, 'first')} to {_range(rows, 'held_out')} "
        f"on held-out text, with the argmax kept at {_range(rows, 'agreement', 100)} % of tokens and the "
        f"teacher's accuracy at {_range(rows, 'accuracy', 100)} % "
        f"(before: {_range(rows, 'clean_accuracy', 100)} %)"
    )
    beyond = sum(not row["kept"] for row in rows)
    if beyond:
        said += f"; {beyond} of {len(rows)} cost the teacher more than was allowed, as no checkpoint did better"
    if any(row["cmi_before"] is None for row in rows):
        return f"{said}."
    said += f"; CMI {_range(rows, 'cmi_before', digits=3)} → {_range(rows, 'cmi_after', digits=3)} nats"
    if len(rows) == 1 and None not in (first["cmi_change"], first["cmi_change_se"]):
        low, high = (first["cmi_change"] + sign * 2 * first["cmi_change_se"] for sign in (-1, 1))
        said += f", a change of {_number(first['cmi_change'], 3)} [{_number(low, 3)}, {_number(high, 3)}]"
    return f"{said} ({len(rows)} trained)." if len(rows) > 1 else f"{said}."


def _range(rows: Sequence[Row], key: str, scale: float = 1.0, digits: int = 2) -> str:
    """The values of a column, as one number or from the least to the largest; "–" if there are none."""
    values = [scale * row[key] for row in rows if row[key] is not None]
    if not values:
        return "–"
    shown = digits if scale == 1.0 else 1
    low, high = (_number(value, shown) for value in (min(values), max(values)))
    return low if low == high else f"{low} … {high}"


def _number(value: float, digits: int) -> str:
    """A number with a proper minus sign, and none before zero.

    >>> _number(-0.3812, 2), _number(-0.001, 2)
    ('−0.38', '0.00')
    """
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0.0 else text.replace("-", "−")
