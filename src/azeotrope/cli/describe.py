"""Everything a method's class says about itself, as plain values: for `show` and for the docs pages."""

from __future__ import annotations

import inspect
import sys
import types
from dataclasses import asdict
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from azeotrope.core import plugins
from azeotrope.core.errors import ConfigError, nearest
from azeotrope.core.methods import Attack

_BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def find(name: str) -> str:
    """Return the group that has `name`. Raises ConfigError with the nearest name."""
    for group in plugins.GROUPS:
        if name in plugins.catalogue(group):
            return group
    known = [entry for group in plugins.GROUPS for entry in plugins.catalogue(group)]
    raise ConfigError(f"There is no method, task or detector '{name}'.{nearest(name, known)}")


def describe(group: str, name: str) -> dict[str, Any]:
    """Load a class and return its description. Raises ConfigError and MissingError as `plugins.load`."""
    cls = plugins.load(group, name)
    paper = getattr(cls, "paper", None)
    about = {
        "name": name,
        "group": group,
        "summary": cls.summary,
        "text": _document(cls),
        "paper": None if paper is None else
        {"id": paper.id, "title": paper.title, "equations": list(paper.equations)},
        "version": cls.version,
        "maturity": str(getattr(cls, "maturity", "")) or None,
        "parameters": parameters(cls),
    }  # fmt: skip
    if group == "defenses":
        about |= {"stage": str(cls.stage), "dial": cls.dial or None, "sweep": list(cls.sweep)}
    if group == "attacks":
        about |= {"needs": cls.needs.name, "budget": budget(cls)}
    return about


def budget(cls: type[Attack]) -> dict[str, Any] | None:
    """Return what an attack spends with its default settings, also in words; None if it has no defaults."""
    if any(info.is_required() for info in cls.model_fields.values()):
        return None
    spent = cls().budget
    return {**asdict(spent), "words": str(spent)}


def parameters(cls: type[BaseModel]) -> list[dict[str, Any]]:
    """Return name, type, default and description of every field."""
    return [
        {"name": name, "type": _bounded(info), "default": _default(info),
         "description": info.description or ""}
        for name, info in cls.model_fields.items()
    ]  # fmt: skip


def type_name(annotation: Any) -> str:
    """Return a type as people write it.

    >>> type_name(Literal["a", "b"]), type_name(str | None), type_name(tuple[int, ...])
    ('a | b', 'str | none', 'list of int')
    """
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(map(str, args))
    if origin in (Union, types.UnionType):
        return " | ".join(type_name(arg) for arg in args)
    if origin in (tuple, list):
        return f"list of {type_name(args[0])}"
    if annotation is type(None):
        return "none"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " | ".join(str(member.value) for member in annotation)
    return str(getattr(annotation, "__name__", annotation))


def plain(value: Any) -> Any:
    """Return a default as a JSON value."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value.value if isinstance(value, Enum) else value


def _bounded(info: FieldInfo) -> str:
    bounds = [
        f"{sign} {getattr(item, key):g}"
        for item in info.metadata
        for key, sign in _BOUNDS.items()
        if getattr(item, key, None) is not None
    ]
    return ", ".join([type_name(info.annotation), *bounds])


def _default(info: FieldInfo) -> Any:
    return None if info.is_required() else plain(info.get_default(call_default_factory=True))


def _document(cls: type) -> str:
    """The class's text, then its module's (which cites the paper and maps the symbols)."""
    module = sys.modules[cls.__module__]
    texts = [inspect.cleandoc(cls.__doc__ or ""), inspect.cleandoc(module.__doc__ or "")]
    return "\n\n".join(text for text in texts if text)
