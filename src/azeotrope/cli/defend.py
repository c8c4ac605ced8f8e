"""`defend`: text defenses on data that exists already."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from azeotrope.cli.out import AsJson, emit, say, show

SHOWN = 20  # rows that could not be read and are named one by one


def defend(
    source: Annotated[
        Path, typer.Argument(metavar="IN", show_default=False, help="Data: .jsonl, .ndjson, .parquet or .txt.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="File to write, in the same format.")],
    defense: Annotated[
        list[str],
        typer.Option(
            metavar="KIND[:NAME=VALUE,…]",
            help="Text defense, e.g. traceguard:budget=0.2 (or JSON); repeat to compose.",
        ),
    ],
    field: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Column that holds the traces (default: chat messages, or completion, response, output, text, "
            "trace).",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the defenses' random choices.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False,
    as_json: AsJson = False,
) -> None:
    """Apply text defenses to existing data: chat messages, a text column, or one trace."""
    from azeotrope.cli.datafile import Job, check, defend_file
    from azeotrope.core.errors import RunError

    job = Job(source, out, [_parse(text) for text in defense], field, seed)
    check(job, force)
    skipped: list[int] = []

    def complain(number: int, why: str) -> None:
        skipped.append(number)
        if len(skipped) <= SHOWN:
            say(f"{source}, {_place(source)} {number}: {why}.")

    counts = defend_file(job, complain)
    if len(skipped) > SHOWN:
        say(f"... and {len(skipped) - SHOWN} more.")
    found = {
        "out": str(out), "defenses": [method.label for method in job.defenses], "rows": counts.rows,
        "changed": counts.changed, "unchanged": counts.unchanged, "without_reasoning": counts.without_reasoning,
        "skipped": counts.skipped, "texts": counts.texts, "texts_without_think_tag": counts.untagged,
        "tokens_before": counts.words_before, "tokens_after": counts.words_after,
    }  # fmt: skip
    emit(found) if as_json else _tell(found)
    if skipped:
        raise RunError(
            f"{counts.skipped} of {counts.rows} rows of '{source}' could not be read and are not in '{out}'; "
            "the rest is."
        )


def _place(source: Path) -> str:
    return "row" if source.suffix.lower() == ".parquet" else "line"


def _parse(text: str) -> Any:
    """Return the text defense; its stage is read without importing it, as most others need torch."""
    from azeotrope.cli import facts, methods
    from azeotrope.core import plugins
    from azeotrope.core.errors import ConfigError
    from azeotrope.core.methods import Stage, TraceDefense

    kind, _ = methods.split("defense", text)
    points = plugins.catalogue("defenses")
    stage = facts.read("defenses", points[kind]).stage if kind in points else ""
    method = methods.parse("defenses", text) if stage in ("", Stage.TRACE) else None
    if not isinstance(method, TraceDefense):
        texts = [name for name, point in points.items() if facts.read("defenses", point).stage == Stage.TRACE]
        raise ConfigError(
            f"'{kind}' acts while the teacher writes, not on finished text; choose from: {', '.join(texts)}."
        )
    return method


def _tell(found: dict[str, Any]) -> None:
    before, after = found["tokens_before"], found["tokens_after"]
    share = f" ({1 - after / before:.1%} removed)" if before else ""
    lines = {
        "out": found["out"],
        "defenses": ", ".join(found["defenses"]),
        "rows": found["rows"],
        "changed": found["changed"],
        "unchanged": f"{found['unchanged']} ({found['without_reasoning']} had no reasoning)",
        "skipped": found["skipped"],
        "tokens (words)": f"{before} before, {after} after{share}",
    }
    width = max(map(len, lines))
    show(*(f"{name:{width}}  {value}" for name, value in lines.items()))
    if untagged := found["texts_without_think_tag"]:
        say(f"Note: {untagged} of {found['texts']} texts have no </think>; all of it counted as reasoning.")
