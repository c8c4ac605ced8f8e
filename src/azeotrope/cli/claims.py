"""`claims`: run a trial and print its verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from azeotrope.cli.out import AsJson, Runs, Workers, console, default_workers, emit, say, show, table


def claims(
    trial: Annotated[Path, typer.Argument(metavar="TRIAL.yaml", help="the trial file")],
    part: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Run only this part; repeatable (default: all).")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and stop.")] = False,
    decide: Annotated[
        bool, typer.Option("--decide", help="Run nothing; decide the claims of the parts that are finished.")
    ] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B.0=VALUE", help="Replace one value of the trial; repeatable."),
    ] = None,
    workers: Workers = None,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Run the studies of a trial, or continue them, and decide its pre-stated claims."""
    from azeotrope.core.errors import ConfigError, nearest
    from azeotrope.study.claims import load_trial
    from azeotrope.study.trial import conclude, forecast_trial, run_trial

    parsed = load_trial(trial, set_ or ())
    for name in part or ():
        if name not in parsed.parts:
            raise ConfigError(f"There is no part '{name}' in '{trial}'.{nearest(name, list(parsed.parts))}")
    count, threads = default_workers(workers)
    if dry_run:
        found = forecast_trial(parsed, runs=runs, workers=count, parts=part or ())
        emit([one.as_dict() for one in found]) if as_json else show(*(f"{f.name}: {f.summary}" for f in found))
        return
    result = (
        conclude(parsed, runs=runs)
        if decide
        else run_trial(
            parsed, runs=runs, parts=part or (), workers=count, threads=threads, console=console(stderr=True)
        )
    )
    if as_json:
        emit({"trial": result.folder, **result.facts})
        return
    rows = [
        [v.claim, v.task, v.verdict, _points(v.mdd), "" if v.p_holm != v.p_holm else f"{v.p_holm:.3f}", v.text]
        for v in result.verdicts
    ]
    table(f"Trial {parsed.name}", ("claim", "task", "verdict", "MDD (points)", "p (Holm)", "claimed"), rows)
    show(f"Details: {result.folder / 'claims.md'}")
    if result.unfinished:
        say(f"Not decided, because their part is not finished: {', '.join(result.unfinished)}.")


def _points(value: float) -> str:
    return "" if value != value else f"{100 * value:.1f}"
