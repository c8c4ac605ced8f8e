"""A whole run as its own process, for the tests that kill it: study_drive.py RUNS WORKERS SLEEP [TROUBLE]."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    import study_fakes as fakes

    from azeotrope.core.errors import AzeotropeError
    from azeotrope.study.run import run

    fakes.install()
    trouble = sys.argv[4] if len(sys.argv) > 4 else ""
    stages = fakes.FakeStages(sleep=float(sys.argv[3]), trouble=trouble, log=str(Path(sys.argv[1]) / "log"))
    try:
        run(fakes.study(), runs=Path(sys.argv[1]), workers=int(sys.argv[2]), stages=stages)
    except AzeotropeError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
