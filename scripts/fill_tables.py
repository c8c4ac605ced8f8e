"""Fill the tables of a page from the archived results: `python scripts/fill_tables.py [--check] [PAGE...]`.

A table stands between two comments; the first says in YAML what its cells are:

    <!-- table
    common: {run: logits-pattern, student: student-llama, arm: [none, cmi(scale=1)]}
    columns: {lookup: {task: lookup}, arithmetic: {task: arithmetic}}
    rows: {text alone: {attack: sft}, "`fkl`": {attack: fkl}}
    -->
    <!-- end -->

A cell is what `common`, its column and its row say together. `show` is `accuracy` (students, the default),
`share` (of the loss that is brought back), `worst` (the share of the best undefended gain that the best attack
leaves to the thief), `drop` of a `utility`, `drops` (of accuracy and of valid steps), the
`mean` of a `figure` of the trained edits, how many of them were `kept`, or a metric of the teacher. An attack is
its label, or its kind where that is enough. Of several arms, cells are joined by an arrow. A row's `leave` names
columns that stay empty. In place of columns and rows, `verdicts: {K1: text}` lists claims of the trial `run`,
and `maps: ARM` the arm's trained maps.

What prose says with an interval, "8.5 [5.4, 11.5]", must be a figure of an archive too, in its own unit or in
percent, with its sign or the other. The exit code is 1 if such a figure has no ground; with --check, nothing is
written, and a stale table is an error too.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from decimal import ROUND_HALF_UP, Decimal
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
PAGES = (ROOT / "docs" / "logits_results.md",)
BLOCK = re.compile(r"(<!-- table\n(.*?)-->\n)(.*?)(<!-- end -->)", re.DOTALL)
TASKS = ("lookup", "arithmetic")
FIGURE = re.compile(r"(−?\d*\.?\d+)(?: %)?\s+\[(−?\d*\.?\d+),\s+(−?\d*\.?\d+)\]")
INTERVALS = {  # by table: what it tells with an interval
    "results": [("value", "low", "high")],
    "utility": [("drop", "low", "high")],
    "recovery": [("recovery", "recovery_low", "recovery_high"), ("gain", "gain_low", "gain_high")],
    "gains": [
        ("gain", "gain_low", "gain_high"),
        ("retained", "retained_low", "retained_high"),
        ("retained", "worst_low", "worst_high"),
        ("teacher_drop", "teacher_drop_low", "teacher_drop_high"),
    ],
    "equal_cost": [("difference", "low", "high")],
    "predictors": [("rho", "low", "high")],
    "claims": [("value", "low", "high")],
}
MAPS = (
    *("", "draw", "cosine", "KL, nats", "CMI, nats (± standard error of the change)"),
    *("argmax kept, %", "teacher right where the checkpoint was chosen, %", "within `keep`"),
)


def filled(page: str) -> str:
    """The page with its tables as the archives have them. Raises ValueError for a cell that they do not have."""
    return BLOCK.sub(lambda found: found[1] + table(yaml.safe_load(found[2])) + found[4], page)


def table(spec: Mapping[str, Any]) -> str:
    if "verdicts" in spec:
        tasks = spec.get("tasks", TASKS)
        return _lines(["claim; effects in points", *tasks], _verdicts(spec["run"], spec["verdicts"], tasks))
    if "maps" in spec:
        return _lines(MAPS, _maps(spec["run"], spec["maps"]))
    columns, common = spec["columns"], spec.get("common", {})
    rows = []
    for name, row in spec["rows"].items():
        left = row.get("leave", ())
        rows.append([name, *("" if c in left else cell({**common, **own, **row}) for c, own in columns.items())])
    return _lines([spec.get("head", ""), *columns], rows)


def cell(what: Mapping[str, Any]) -> str:
    """One cell, or, of several arms, one after another."""
    arms = what["arm"] if isinstance(what["arm"], list) else [what["arm"]]
    return " → ".join(_one({**what, "arm": arm}) for arm in arms)


def _one(what: Mapping[str, Any]) -> str:
    show, where = what.get("show", "accuracy"), {"task": what["task"], "arm": what["arm"]}
    if show == "drop":
        row = _row(what["run"], "utility", {**where, "utility": what["utility"]})
        return _interval(row, "drop", "low", "high", 1)
    if show == "drops":
        return ", ".join(
            _one({**what, "show": "drop", "utility": name}) for name in ("teacher_accuracy", "trace_validity")
        )
    if show == "share":
        wanted = {**where, "attack": what["attack"], "metric": "student_accuracy"}
        row = _row(what["run"], "recovery", wanted, _family(what))
        return _interval(row, "recovery", "recovery_low", "recovery_high", 0, " %")
    if show == "worst":
        row = _row(what["run"], "gains", {**where, "metric": "student_accuracy", "worst": True}, _family(what))
        kind = row["attack"].partition("(")[0]
        return f"{_interval(row, 'retained', 'worst_low', 'worst_high', 0, ' %')}, `{kind}`"
    if show in ("mean", "kept"):
        return _edits(what["run"], where, what.get("figure", ""), what.get("digits", 2))
    if show == "accuracy":
        wanted = {**where, "attack": what["attack"], "metric": "student_accuracy"}
        return _interval(_row(what["run"], "results", wanted, _family(what)), "value", "low", "high", 0)
    return rounded(100 * _row(what["run"], "results", {**where, "metric": show}, "")["value"], 1)


def _edits(run: str, where: Mapping[str, str], figure: str, digits: int) -> str:
    """Of what was trained into the head, in all draws: the mean of a figure, or how many were kept."""
    frame = _frame(RESULTS / run / "edits.parquet")
    for column, value in where.items():
        frame = frame.filter(pl.col(column) == value)
    if not figure:
        return f"{frame['kept'].sum()} of {len(frame)}"
    return bare(float(frame[figure].mean()), digits)


def _maps(run: str, arm: str) -> list[list[str]]:
    """One row for each trained map."""
    found = _frame(RESULTS / run / "edits.parquet").filter(pl.col("arm") == arm)
    return [
        [
            row["task"],
            str(row["draw"]),
            bare(row["held_out"], 2),
            bare(row["kl"], 3),
            f"{bare(row['cmi_before'], 3)} → {bare(row['cmi_after'], 3)} (± {bare(row['cmi_change_se'], 4)})",
            rounded(100 * row["agreement"], 1),
            f"{rounded(100 * row['clean_accuracy'], 1)} → {rounded(100 * row['accuracy'], 1)}",
            "yes" if row["kept"] else "no",
        ]
        for row in found.iter_rows(named=True)
    ]


def bare(value: float, digits: int) -> str:
    """A number without the zero before its point.

    >>> bare(-0.056, 2), bare(0.0604, 3), bare(1.25, 1)
    ('−.06', '.060', '1.3')
    """
    return re.sub(r"^(−?)0\.", r"\1.", rounded(value, digits))


def _family(what: Mapping[str, Any]) -> str:
    return f"embedded/{what['student']}"


def _interval(row: Mapping[str, Any], value: str, low: str, high: str, digits: int, unit: str = "") -> str:
    a, b, c = (rounded(100 * row[key], digits) for key in (value, low, high))
    return f"{a}{unit} [{b}, {c}]"


def rounded(value: float, digits: int) -> str:
    """A number in decimals, halves upward, with a real minus sign.

    >>> rounded(62.5, 0), rounded(-0.04, 1), rounded(-1.25, 1)
    ('63', '0.0', '−1.3')
    """
    step = Decimal(1).scaleb(-digits)
    found = Decimal(repr(round(value, 6))).quantize(step, ROUND_HALF_UP)
    return str(abs(found)) if not found else str(found).replace("-", "−")


def _row(run: str, name: str, where: Mapping[str, str | bool], student: str | None = None) -> dict[str, Any]:
    frame = _frame(RESULTS / run / f"{name}.parquet")
    for column, value in where.items():
        found = frame.filter(pl.col(column) == value)
        if column == "attack" and not len(found):
            found = frame.filter(pl.col(column).str.starts_with(f"{value}("))
        frame = found
    if student is not None:
        frame = frame.filter(pl.col("student") == student)
    if len(frame) != 1:
        raise ValueError(f"results/{run}/{name}.parquet has {len(frame)} rows for {dict(where)}, {student}")
    return frame.row(0, named=True)


@cache
def _frame(path: Path) -> pl.DataFrame:
    return pl.read_parquet(path)


def _verdicts(trial: str, texts: Mapping[str, str], tasks: Sequence[str]) -> list[list[str]]:
    """Claims and, by task, the verdict, what it rests on if that is one effect, and the detectable difference."""
    told = json.loads((RESULTS / trial / "claims.json").read_text(encoding="utf-8"))["verdicts"]
    found = {(verdict["claim"], verdict["task"]): verdict for verdict in told}
    effects = _frame(RESULTS / trial / "claims.parquet")
    rows = []
    for claim, text in texts.items():
        own = effects.filter(pl.col("claim") == claim)
        here = [_verdict(found.get((claim, task)), own.filter(pl.col("task") == task)) for task in tasks]
        rows.append([f"{claim}: {text}", *here])
    return rows


def _verdict(verdict: Mapping[str, Any] | None, effects: pl.DataFrame) -> str:
    if verdict is None:
        return "not decided"
    parts = [f"**{verdict['verdict']}**"]
    if "not after Holm" in (verdict["reason"] or ""):
        parts[0] += f" (p {bare(verdict['p_holm'], 3)} after Holm)"
    if len(effects) == 1 and effects["low"][0] is not None:
        parts.append(_interval(effects.row(0, named=True), "value", "low", "high", 1))
    if verdict["mdd"] is not None:
        parts.append(f"MDD {rounded(100 * verdict['mdd'], 1)}")
    return ", ".join(parts)


def unfounded(page: str) -> list[str]:
    """Figures with intervals in the page's prose that no archive of these studies has."""
    found = list(FIGURE.finditer(BLOCK.sub("", page)))
    known = _known() if found else np.empty((0, 3))
    return [" ".join(figure[0].split()) for figure in found if not _is_known(figure.groups(), known)]


def _is_known(figure: Sequence[str], known: np.ndarray) -> bool:
    """Whether a row of `known` (N, 3) would be written so."""
    told = np.array([float(number.replace("−", "-")) for number in figure])
    half = np.array([0.5 / 10 ** len(number.partition(".")[2]) for number in figure])
    return bool((np.abs(known - told) <= half + 1e-9).all(axis=1).any())


@cache
def _known() -> np.ndarray:
    """All figures with intervals (N, 3), as they are and in percent, of either sign."""
    found = [
        _frame(path).select(columns).drop_nulls().to_numpy()
        for path in sorted(RESULTS.glob("logits*/*.parquet"))
        for columns in INTERVALS.get(path.stem, ())
    ]
    told = np.unique(np.concatenate([*found, np.empty((0, 3))]), axis=0)
    signed = np.concatenate([told, -told[:, [0, 2, 1]]])
    return np.concatenate([signed, 100 * signed])


def _lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(
        "|" + "|".join(c if c == "---" else f" {c} " if c else " " for c in line) + "|\n" for line in lines
    )


def main(arguments: Sequence[str]) -> int:
    check = "--check" in arguments
    pages = [Path(a) for a in arguments if a != "--check"] or list(PAGES)
    stale = groundless = 0
    for page in pages:
        before = page.read_text(encoding="utf-8")
        after = filled(before)
        if after != before:
            stale += 1
            print(f"{page.name} {'is stale' if check else 'was filled anew'}")
            if not check:
                page.write_text(after, encoding="utf-8")
        for figure in unfounded(after):
            groundless += 1
            print(f"{page.name}: no archive has the figure {figure}")
    return 1 if groundless or (check and stale) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
