"""`list` and `show`: what there is, and what one method is."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from azeotrope.cli import embedded, facts
from azeotrope.cli.describe import describe, find
from azeotrope.cli.out import AsJson, emit, show, table
from azeotrope.core.errors import ConfigError, nearest
from azeotrope.core.plugins import GROUPS

CATALOGS = (*GROUPS, "models")


def list_(
    what: Annotated[
        str | None,
        typer.Argument(metavar="[WHAT]", help="defenses, attacks, tasks, detectors or models; default all"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the defenses, attacks, tasks, detectors and embedded models."""
    if what is not None and what not in CATALOGS:
        raise ConfigError(f"There is no list of '{what}'.{nearest(what, CATALOGS)}")
    wanted = CATALOGS if what is None else (what,)
    found = {name: embedded.models() if name == "models" else _entries(name) for name in wanted}
    if as_json:
        emit(found)
        return
    for name, rows in found.items():
        if not rows:
            show(f"{name.capitalize()}: none are installed.")
            continue
        used = [key for key in rows[0] if any(row[key] not in ("", None) for row in rows)]
        columns = [key for key in used if key != "group"]
        table(name.capitalize(), columns, [[row[key] for key in columns] for row in rows])


def show_(
    method: Annotated[
        str, typer.Argument(metavar="METHOD", help="the name of a defense, attack, task or detector")
    ],
    as_json: AsJson = False,
) -> None:
    """Show a method, task or detector: what it does, its paper, its dial and every parameter."""
    about = describe(find(method), method)
    if as_json:
        emit(about)
        return
    show(f"{about['name']} ({about['group'][:-1]}): {about['summary']}", "", about["text"], "")
    show(*(f"{name:9} {value}" for name, value in headings(about)))
    rows = [[p["name"], p["type"], brief(p["default"]), p["description"]] for p in about["parameters"]]
    if rows:
        table("", ("parameter", "type", "default", "description"), rows)


def headings(about: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the short facts of a description as (name, text), without those that do not apply."""
    paper, found = about["paper"], []
    if paper:
        equations = f"; implements {', '.join(paper['equations'])}" if paper["equations"] else ""
        found.append(("paper", f"arXiv {paper['id']}, {paper['title']}{equations}"))
    if "stage" in about:
        dial = f"{about['dial']} (0 is the identity)" if about["dial"] else "none"
        found += [("stage", about["stage"]), ("dial", dial)]
        if about["sweep"]:
            found.append(("sweep", ", ".join(f"{value:g}" for value in about["sweep"])))
    if "needs" in about:
        found.append(("needs", f"access to {about['needs']}"))
        if about["budget"]:
            found.append(("budget", f"{about['budget']['words']} (default settings)"))
    if about["maturity"]:
        found.append(("maturity", about["maturity"]))
    return found


def brief(value: Any, limit: int = 60) -> str:
    """Return a default value in at most `limit` characters.

    >>> brief(None), brief(False), brief([1, 2]), brief("a")
    ('none', 'false', '[1, 2]', 'a')
    """
    text = "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _entries(group: str) -> list[dict[str, Any]]:
    return [asdict(entry) for entry in facts.facts_of(group)]
