"""The dynamic range of the embedded testbed, from the study studies/range.yaml.

    python benchmarks/dynamic_range.py [--runs runs] [--workers 2] [--markdown]

Runs (or continues) the study, then prints, per task and student family, mean and standard deviation over
bases × draws of: teacher accuracy, undistilled accuracy, distilled accuracy, recall of hidden content.
Bars: teacher ≥ 90 %, undistilled ≤ 25 %, distilled ≥ 65 %, SD of recall ≤ 5 points.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from azeotrope.study.config import load_study
from azeotrope.study.plan import make_plan
from azeotrope.study.run import default_stages, run
from azeotrope.study.store import Store
from azeotrope.study.tables import load_task

STUDY = Path(__file__).resolve().parent.parent / "studies" / "range.yaml"


def summarize(runs: Path) -> list[dict[str, object]]:
    """One row per task and family: means and SDs over seeds, and whether each bar is met."""
    study = load_study(STUDY)
    plan = make_plan(study, default_stages())
    rows: list[dict[str, object]] = []
    for task in plan.expansion.tasks:
        data = load_task(plan, Store(runs), task.label)
        teacher = data.teachers["none"]["teacher_accuracy"].mean(1)
        for student in study.students:
            base = data.undistilled[student.family]
            after = data.students["none", plan.expansion.attacks[0].label, student.family]
            before = base.matrices["student_accuracy"].mean(1)
            accuracy = after.matrices["student_accuracy"].mean(1)
            recall = after.scalars["recall_hidden"][:, 0]
            rows.append(
                {
                    "task": task.label,
                    "family": student.family,
                    "seeds": len(accuracy),
                    "teacher": spread(teacher),
                    "undistilled": spread(before),
                    "distilled": spread(accuracy),
                    "recall_before": spread(base.scalars["recall_hidden"][:, 0]),
                    "recall": spread(recall),
                    "met": bool(
                        teacher.mean() >= 0.90
                        and before.mean() <= 0.25
                        and accuracy.mean() >= 0.65
                        and recall.std(ddof=1) <= 0.05
                    ),
                }
            )
    return rows


def spread(values: np.ndarray) -> tuple[float, float]:
    """Mean and sample standard deviation."""
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else 0.0


def table(rows: list[dict[str, object]]) -> str:
    """A Markdown table in percent."""
    names = ("teacher", "undistilled", "distilled", "recall_before", "recall")
    lines = ["| task | family | seeds | " + " | ".join(names) + " | bars met |", "|---" * 9 + "|"]
    for row in rows:
        cells = [f"{100 * row[k][0]:.1f} ± {100 * row[k][1]:.1f}" for k in names]  # type: ignore[index]
        family = str(row["family"]).removeprefix("embedded/student-")
        met = "yes" if row["met"] else "no"
        lines.append(f"| {row['task']} | {family} | {row['seeds']} | " + " | ".join(cells) + f" | {met} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    run(STUDY, runs=args.runs, workers=args.workers)
    rows = summarize(args.runs)
    print(json.dumps(rows, indent=1) if args.json else table(rows))


if __name__ == "__main__":
    main()
