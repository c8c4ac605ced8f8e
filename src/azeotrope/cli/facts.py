"""What a registered class says about itself, read from its source without importing it.

So `azeotrope list` is quick, and complete on an install without torch.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from azeotrope.core.plugins import catalogue


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """One line of a catalogue. `problem` says why the entry cannot be read, or is empty."""

    name: str
    group: str
    summary: str = ""
    maturity: str = ""
    stage: str = ""
    dial: str = ""
    paper: str = ""
    problem: str = ""


def facts_of(group: str) -> list[Facts]:
    """Return the facts of every entry of a group, by name; a broken entry carries its problem."""
    return [read(group, point) for point in catalogue(group).values()]


def read(group: str, point: EntryPoint) -> Facts:
    """Return the facts of one entry point."""
    try:
        if not _has_class(point.module, point.attr):
            raise LookupError(f"{point.module} defines no class '{point.attr}'")
        paper = _value(point.module, point.attr, "paper")
        return Facts(
            name=point.name, group=group, summary=_text(point, "summary"), maturity=_text(point, "maturity"),
            stage=_text(point, "stage") if group == "defenses" else "", dial=_text(point, "dial"),
            paper=paper.get("id", "") if isinstance(paper, dict) else "",
        )  # fmt: skip
    except Exception as error:  # a plugin may be broken in any way; its neighbors are shown all the same
        first = (str(error).splitlines() or [""])[0]
        return Facts(name=point.name, group=group, problem=f"{first or type(error).__name__}")


def _text(point: EntryPoint, name: str) -> str:
    value = _value(point.module, point.attr, name)
    return value if isinstance(value, str) else ""


@cache
def _tree(module: str) -> ast.Module:
    spec = find_spec(module)
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        raise LookupError(f"the module '{module}' cannot be found")
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))


def _has_class(module: str, name: str) -> bool:
    return _locate(module, name) is not None


def _locate(module: str, name: str) -> tuple[str, ast.ClassDef] | None:
    """Find a class by the name it has in `module`, following `from x import y`."""
    for node in _tree(module).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module, node
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                if (alias.asname or alias.name) == name and node.module.partition(".")[0] == "azeotrope":
                    return _locate(node.module, alias.name)
    return None


def _value(module: str, cls: str, name: str) -> Any:
    """Return a class attribute, from the class or the nearest base whose source is known; else None."""
    found = _locate(module, cls)
    if found is None:
        return None
    where, node = found
    for item in node.body:
        if isinstance(item, ast.AnnAssign | ast.Assign) and item.value is not None:
            targets = item.targets if isinstance(item, ast.Assign) else [item.target]
            if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                return _literal(item.value)
    for base in node.bases:
        if isinstance(base, ast.Name) and (value := _value(where, base.id, name)) is not None:
            return value
    return None


def _literal(node: ast.expr) -> Any:
    """Evaluate constants, enumeration members (by lower-case name) and keyword calls (as a mapping)."""
    if isinstance(node, ast.Attribute):
        return node.attr.lower()
    if isinstance(node, ast.Call):
        return {item.arg: _literal(item.value) for item in node.keywords if item.arg}
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None
