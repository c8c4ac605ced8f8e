"""`recommend`: from a finished run, the strongest setting within limits, as a policy file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from azeotrope.cli.out import AsJson, Runs, emit, say, show
from azeotrope.cli.studies import RUNS, RunFolder, run_folder
from azeotrope.core.errors import ConfigError, nearest

LIFTED = "none"


def recommend(
    run: RunFolder,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MEASURE=VALUE",
            help="Largest drop allowed, as a share; repeatable. teacher_accuracy=0.02 and trace_validity=0.05 "
            "hold unless they are changed; MEASURE=none lifts one.",
        ),
    ] = None,
    task: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only this task (default: each, and one setting for all).")
    ] = None,
    leakage: Annotated[
        str, typer.Option(metavar="MEASURE", help="What the thief gains: student_accuracy or recall_hidden.")
    ] = "student_accuracy",
    strict: Annotated[
        bool, typer.Option("--strict", help="Hold the upper bound of each drop to its limit, not the estimate.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Policy file to write (default: print the policy)."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False,
    runs: Runs = RUNS,
    as_json: AsJson = False,
) -> None:
    """Find the setting of a finished run that leaks least within limits on harm, and write it as a policy."""
    from azeotrope.study.recommend import DEFAULT_LIMITS, Rules
    from azeotrope.study.recommend import recommend as choose
    from azeotrope.study.recommend_policy import check_target, dump_policy, policy_of, write_policy
    from azeotrope.study.recommend_tables import read_run
    from azeotrope.study.recommend_words import sentences

    given = limits(limit or [])
    kept = {name: value for name, value in (DEFAULT_LIMITS | given).items() if value is not None}
    rules = Rules(limits=kept, leakage=leakage, strict=strict, required=frozenset(given))
    if out is not None:
        check_target(out, force=force)
    folder = run_folder(run, runs)
    measured = read_run(folder)
    found = choose(measured.results, measured.utility, rules, task)
    policy = policy_of(found, rules, measured.manifest)
    text = dump_policy(policy, found, rules)
    if out is not None:
        write_policy(out, text, force=force)
    if as_json:
        emit({"run": folder, "out": out, "limits": kept, "strict": strict, "leakage": leakage,
              **found.model_dump(mode="json"), "policy": policy.model_dump(mode="json"),
              "arguments": policy.arguments})  # fmt: skip
    elif out is None:
        show(text.rstrip("\n"))
    else:
        several = [] if found.overall is None else [sentences(one, rules)[0] for one in found.tasks]
        show(*several, *sentences(found.choice, rules), f"Policy: {out}")
    say(*(f"Warning: {line}" for line in policy.warnings))


def limits(texts: list[str]) -> dict[str, float | None]:
    """Read `MEASURE=VALUE` texts; None where a limit is lifted. Raises ConfigError."""
    from azeotrope.study.vocabulary import UTILITIES

    found: dict[str, float | None] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not name:
            raise ConfigError(f"--limit {text!r} is not of the form MEASURE=VALUE, as in teacher_accuracy=0.02.")
        if name not in UTILITIES:
            raise ConfigError(f"--limit {text!r}: there is no measure '{name}'.{nearest(name, UTILITIES)}")
        if name in found:
            raise ConfigError(f"--limit gives '{name}' twice; keep one of them.")
        found[name] = None if value == LIFTED else _number(text, name, value)
    return found


def _number(text: str, name: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise ConfigError(f"--limit {text!r}: '{value}' is not a number from 0 up, nor '{LIFTED}'.")
    if number > 1 and name != "length":
        raise ConfigError(f"--limit {text!r}: a limit is a share; write {number / 100:g} for {number:g} points.")
    return number
