"""The command tree. Each command is a thin function that calls the library; heavy imports happen inside."""

from __future__ import annotations

from typing import Annotated

import typer

from azeotrope import __version__
from azeotrope.cli import (
    archive,
    audit,
    catalog,
    claims,
    defend,
    detect,
    extend,
    extract,
    keys,
    policy,
    recommend,
    serve,
    signals,
    single,
    studies,
)

FIRST, STUDIES, SINGLE, GATEWAY, EXTEND = "Start here", "Studies", "One stage alone", "Gateway", "Extend"

app = typer.Typer(
    name="azeotrope",
    help="Measure and control how well a language model's outputs train its cheaper copy.",
    epilog="Exit codes: 0 success, 1 a bug, 2 bad input, 3 something is missing, 4 the run failed, "
    "130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show where an error came from (anywhere on the line).")
    ] = False,
) -> None:
    """Measure and control how well a language model's outputs train its cheaper copy."""


app.command("demo", rich_help_panel=FIRST)(studies.demo)
app.command("doctor", rich_help_panel=FIRST)(extend.doctor)
app.command("list", rich_help_panel=FIRST)(catalog.list_)
app.command("show", rich_help_panel=FIRST)(catalog.show_)
app.command("run", rich_help_panel=STUDIES)(studies.run_)
app.command("status", rich_help_panel=STUDIES)(studies.status_)
app.command("report", rich_help_panel=STUDIES)(studies.report_)
app.command("compare", rich_help_panel=STUDIES)(studies.compare_)
app.command("claims", rich_help_panel=STUDIES)(claims.claims)
app.command("archive", rich_help_panel=STUDIES)(archive.archive_)
app.command("restore", rich_help_panel=STUDIES)(archive.restore_)
app.command("recommend", rich_help_panel=STUDIES)(recommend.recommend)
app.command("traces", rich_help_panel=SINGLE)(single.traces)
app.command("merge", rich_help_panel=SINGLE)(single.merge)
app.command("attack", rich_help_panel=SINGLE)(single.attack)
app.command("evaluate", rich_help_panel=SINGLE)(single.evaluate)
app.command("epsilon", rich_help_panel=SINGLE)(single.epsilon)
app.command("defend", rich_help_panel=SINGLE)(defend.defend)
app.command("detect", rich_help_panel=SINGLE)(detect.detect)
app.command("extract", rich_help_panel=SINGLE)(extract.extract)
app.command("serve", rich_help_panel=GATEWAY)(serve.serve)
app.command("probe", rich_help_panel=GATEWAY)(serve.probe)
app.add_typer(policy.app, name="policy", rich_help_panel=GATEWAY)
app.add_typer(keys.keys, name="keys", rich_help_panel=GATEWAY)
app.add_typer(audit.audit, name="audit", rich_help_panel=GATEWAY)
app.add_typer(signals.app, name="signals", rich_help_panel=GATEWAY)

new = typer.Typer(
    help="Write the file of a new method.", no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip
new.command("defense")(extend.new_defense)


@new.callback()
def _new() -> None:
    """Write the file of a new method, ready to be filled in."""


app.add_typer(new, name="new", rich_help_panel=EXTEND)
