"""The verdict: sentences computed from the comparison at equal cost by fixed rules.

Rules. Only defenses that are not controls get a verdict. The drop is the one nearest to five points. The cell
is the student and attack with the highest value read off the defense's line at that drop (the worst case);
the difference is the one the study computed for that cell. Every control that was compared is named, the ones
that look bad for the defense as well. An interval that contains zero is "not separable". What was not reached
is said to be not reached. Where adaptive attacks were run, the one that recovers most is named for every
defense (`adapting.py`). Nothing is called effective.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from azeotrope.report.adapting import Adapted, adapting
from azeotrope.report.curve import Lookup, largest_drop, read_at
from azeotrope.report.lines import Line, arms_of, kind_of, lines_of, undefended
from azeotrope.report.load import Run
from azeotrope.report.measures import (
    LEAKAGE,
    TEACHER_UTILITIES,
    measure,
    points,
    seeds,
    show,
    show_p,
)
from azeotrope.report.wording import Row, join
from azeotrope.study.vocabulary import UNDISTILLED, is_control, is_passive

DROP = 0.05
ALWAYS_TOLD = ("teacher_accuracy", "trace_validity")  # also where their drop was not reached
BELOW, ABOVE, UNCLEAR, UNREACHED = "below", "above", "not separable", "not reached"


@dataclass(frozen=True, slots=True)
class Finding:
    """One defense on one task at one kind of cost: a sentence, and the reading per reference."""

    task: str
    defense: str
    utility: str
    sentence: str
    readings: Mapping[str, str]

    @property
    def reading(self) -> str:
        """The reading against all references together: the one they share, or "mixed"."""
        found = set(self.readings.values())
        return found.pop() if len(found) == 1 else "mixed"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What may be said about a run."""

    lead: str
    adapting: tuple[Adapted, ...]
    findings: tuple[Finding, ...]
    caution: str


def reading(low: float | None, high: float | None, status: str | None) -> str:
    """Classify one difference (defense minus reference, in what the thief gains) by its interval."""
    if status != "ok" or low is None or high is None:
        return UNREACHED
    return BELOW if high < 0 else ABOVE if low > 0 else UNCLEAR


def verdict(run: Run) -> Verdict:
    """Compute the verdict of a run."""
    attacks = _attacks(run)
    metric = headline_metric(run)
    findings: tuple[Finding, ...] = ()
    drop = DROP
    if run.equal_cost is not None and not run.equal_cost.is_empty():
        every = run.equal_cost.iter_rows(named=True)
        rows = [row for row in every if row["metric"] == metric and not is_control(row["attack"])]
        drops = {row["drop"] for row in rows if row["drop"] is not None}
        drop = min(drops, key=lambda value: abs(value - DROP), default=DROP)
        findings = tuple(_findings(run, [row for row in rows if row["drop"] == drop], metric))
    adapted = adapting(run, metric, drop)
    lead = _lead(findings, drop, metric, run, several=len(attacks) > 1)
    return Verdict(lead, adapted, findings, caution(attacks, picked=bool(adapted)))


def _attacks(run: Run) -> list[str]:
    """Every attack that the run measured, without their controls."""
    tables = [run.results] if run.recovery is None else [run.results, run.recovery]
    found = {attack for table in tables for attack in table["attack"].drop_nulls().to_list()}
    return sorted(name for name in found - {"", UNDISTILLED} if not is_control(name))


def caution(attacks: Sequence[str], picked: bool = False) -> str:
    """Say what was tried; `picked`: a highest recovery is told. A passive student alone never supports a claim."""
    if not attacks:
        return "No attack was run, so this page says nothing about what a thief gains."
    if all(is_passive(attack) for attack in attacks):
        return (
            f"Only a passive student was tried ({', '.join(attacks)}: fine-tuning on the text as released). "
            "A thief who filters, rewrites or resamples may do better, so this is not evidence that a "
            "defense is effective."
        )
    chosen = (
        " The highest recovery is shown with its own interval, which is not corrected for the choice."
        if picked
        else ""
    )
    return (
        f"Only these attacks were run: {', '.join(attacks)}. Worst case means worst among them; "
        f"another thief may do better.{chosen}"
    )


def headline_metric(run: Run) -> str:
    """Return the measure of leakage that the study leads with."""
    headline = run.manifest.get("headline")
    wanted = headline.get("metric") if isinstance(headline, dict) else None
    known = set(run.results["metric"].to_list())
    return wanted if wanted in LEAKAGE and wanted in known else "student_accuracy"


def _findings(run: Run, rows: Sequence[Row], metric: str) -> Iterable[Finding]:
    lookup = Lookup(run.results)
    for task in run.results["task"].unique(maintain_order=True).to_list():
        arms = arms_of(run.results, task)
        lines = [line for line in lines_of(arms) if not line.is_control]
        here = [row for row in rows if row["task"] == task]
        for name in dict.fromkeys(row["defense"] for row in here):
            own = [line for line in lines if line.label == name] or [
                line for line in lines if line.kind == kind_of(name)
            ]
            told = 0
            for utility in TEACHER_UTILITIES if own else ():
                if mine := [row for row in here if row["defense"] == name and row["utility"] == utility]:
                    found = _finding(lookup, task, undefended(arms), own, mine, metric)
                    if utility in ALWAYS_TOLD or not told or found.reading != UNREACHED:
                        told += 1
                        yield found


def _finding(
    lookup: Lookup, task: str, none: str | None, lines: Sequence[Line], rows: Sequence[Row], metric: str
) -> Finding:
    first = rows[0]
    defense, utility, drop = first["defense"], first["utility"], first["drop"]
    size = points(drop, signed=False).removesuffix(".0")
    cost = f"At an equal {size}-point drop in {measure(utility).label}"
    if all(reading(row["low"], row["high"], row["status"]) == UNREACHED for row in rows):
        far = _how_far(largest_drop(lookup, task, none, lines, utility), drop, rows)
        sentence = f"{cost}: not reached, so nothing is compared.{far}"
        return Finding(task, defense, utility, sentence, {row["reference"]: UNREACHED for row in rows})
    (student, attack), value = _worst_cell(lookup, task, none, lines, rows, metric)
    mine = [row for row in rows if (row["student"], row["attack"]) == (student, attack)]
    at = f" at about {show(metric, value)} {measure(metric).label}" if value is not None else ""
    who = f"({student or 'any'}, {attack or 'any attack'})"
    sentence = (
        f"{cost}, {defense} leaves the worst-case student {who}{at}. "
        f"Difference {'; '.join(_against(row, metric) for row in mine)}."
    )
    readings = {row["reference"]: reading(row["low"], row["high"], row["status"]) for row in mine}
    return Finding(task, defense, utility, sentence, readings)


def _how_far(far: float | None, drop: float, rows: Sequence[Row]) -> str:
    if far is None:
        return ""
    if far >= drop:
        others = join(list(dict.fromkeys(row["reference"] for row in rows)))
        own = points(far, signed=False)
        size = points(drop, signed=False).removesuffix(".0")
        return f" Its arms lost up to {own} points; {others} did not lose {size}, or too few resamples did."
    if far <= 0:
        return " No arm that was run lost any."
    return f" The largest drop of any arm that was run is {points(far, signed=False)} points."


def _worst_cell(
    lookup: Lookup, task: str, none: str | None, lines: Sequence[Line], rows: Sequence[Row], metric: str
) -> tuple[tuple[str, str], float | None]:
    """Return the (student, attack) with the highest value at the drop, and that value if it can be read."""
    best: tuple[tuple[str, str], float | None] | None = None
    for row in rows:
        if reading(row["low"], row["high"], row["status"]) == UNREACHED:
            continue
        values = [_value_at(lookup, task, none, line, row, metric) for line in lines]
        value = max((v for v in values if v is not None), default=None)
        if best is None or (value is not None and (best[1] is None or value > best[1])):
            best = (row["student"], row["attack"]), value
    assert best is not None
    return best


def _value_at(lookup: Lookup, task: str, none: str | None, line: Line, row: Row, metric: str) -> float | None:
    start = lookup.teacher(task, none, row["utility"]) if none else None
    if start is None or none is None:
        return None
    path: list[tuple[float, float]] = []
    for arm in (none, *(arm.arm for arm in line.arms)):
        x = lookup.teacher(task, arm, row["utility"])
        y = lookup.worst(task, arm, metric, row["student"], row["attack"])
        if x and y:
            path.append((x.value, y.value))
    return read_at(path, start.value - row["drop"])


def _against(row: Row, metric: str) -> str:
    found = reading(row["low"], row["high"], row["status"])
    reference = row["reference"]
    if found == UNREACHED:
        return f"to {reference} not reached"
    scale = measure(metric).form in ("share", "points")
    numbers = [points(row[k]) if scale else f"{row[k]:+.3g}" for k in ("difference", "low", "high")]
    detail = [
        show_p(row["p"]),
        f"n = {row['n']}" if row["n"] is not None else "",
        seeds(row["n_seeds"]) if row["n_seeds"] is not None else "",
    ]
    unit = " points" if scale else ""
    tail = ", not separable" if found == UNCLEAR else ", higher: it leaks more" if found == ABOVE else ""
    inside = ", ".join(part for part in detail if part)
    shown = f"{numbers[0]}{unit} [{numbers[1]}, {numbers[2]}]" + (f" ({inside})" if inside else "")
    return f"to {reference} {shown}{tail}"


def _lead(findings: Sequence[Finding], drop: float, metric: str, run: Run, several: bool) -> str:
    if not findings:
        if run.equal_cost is None:
            return "This run stored no comparison at equal cost, so no verdict is drawn."
        return "This run compared no defense at equal cost, so no verdict is drawn."
    utility = next((u for u in TEACHER_UTILITIES if any(f.utility == u for f in findings)), "")
    told = [finding for finding in findings if finding.utility == utility]
    size = points(drop, signed=False).removesuffix(".0")
    worst = "worst case over attacks and students" if several else "worst-case student"
    return (
        f"By {measure(metric).label} of the {worst}, at an equal {size}-point drop in "
        f"{measure(utility).label}: {'; '.join(_clauses(told))}."
    )


def _clauses(findings: Sequence[Finding]) -> list[str]:
    """One clause for all defenses with the same readings on the same tasks."""
    tasks: dict[tuple[str, tuple[tuple[str, str], ...]], list[str]] = {}
    for finding in findings:
        tasks.setdefault((finding.defense, tuple(finding.readings.items())), []).append(finding.task)
    groups: dict[tuple[tuple[tuple[str, str], ...], tuple[str, ...]], list[str]] = {}
    for (defense, readings), where in tasks.items():
        groups.setdefault((readings, tuple(where)), []).append(defense)
    everywhere = {finding.task for finding in findings}
    return [
        f"{join(defenses)} {_clause(dict(readings), len(defenses) > 1)}"
        + ("" if set(where) == everywhere else f" on {join(where)}")
        for (readings, where), defenses in groups.items()
    ]


def _clause(readings: Mapping[str, str], several: bool) -> str:
    by: dict[str, list[str]] = {}
    for reference, found in readings.items():
        by.setdefault(found, []).append(reference)
    present, past = ("are", "were") if several else ("is", "was")
    if set(by) == {UNREACHED}:
        return f"{past} not compared, because that drop was not reached"
    words = {
        BELOW: f"{present} below",
        UNCLEAR: f"{present} not separable from",
        ABOVE: f"{present} above",
        UNREACHED: f"{past} not compared with",
    }
    return join([f"{words[found]} {join(by[found])}" for found in words if found in by])
