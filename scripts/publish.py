"""Copy what a finished run or trial found into results/, to be committed: the tables and what they rest on.

    python scripts/publish.py runs/claims runs/claims-small

Traces, training curves, texts of the diff explorer and the report stay behind; the report can be made from a
published folder with `azeotrope report results/NAME`.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

LEFT_OUT = {"report.html", "diffs.json", "losses.parquet", ".lock", "error.txt", "steps.json"}
ROOT = Path(__file__).resolve().parent.parent / "results"


def publish(run: Path) -> Path:
    """Replace results/<name> by the tables of `run`. Raises SystemExit if it is not finished."""
    if not any((run / name).is_file() for name in ("manifest.json", "claims.json")):
        raise SystemExit(f"'{run}' is not a finished run or trial; finish it first.")
    target = ROOT / run.name
    if target.exists():
        shutil.rmtree(target)
    target.mkdir(parents=True)
    for path in sorted(run.iterdir()):
        if path.is_file() and path.name not in LEFT_OUT:
            shutil.copyfile(path, target / path.name)
    return target


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(publish(Path(name)))
