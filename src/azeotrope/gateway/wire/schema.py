"""What a field of a request may hold, as JSON schemas: the readers' allow-lists are made of these.

A reader takes the names (`checks.known`), the published document takes all. What depends on two fields at a time,
or on the policy, no schema says: the reader refuses it.
"""

from __future__ import annotations

from typing import Any

from azeotrope.gateway.wire.checks import MOST_ITEMS

Json = dict[str, Any]
ANY_OBJECT: Json = {"type": ["object", "null"]}
NOTHING: Json = {"enum": [None, "", False, 0, [], {}], "description": "not supported; leave it out"}


def text(limit: int | None = None) -> Json:
    """A text, or null, which says nothing."""
    return {"type": ["string", "null"], **({} if limit is None else {"maxLength": limit})}


def said(limit: int | None = None, least: int = 0) -> Json:
    """A text that must be there."""
    bounds = {"maxLength": limit, "minLength": least or None}
    return {"type": "string", **{key: value for key, value in bounds.items() if value is not None}}


def name() -> Json:
    """The name of a function or a schema (see `checks.name`)."""
    return {"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,64}$"}


def flag() -> Json:
    """True, false, or null."""
    return {"type": ["boolean", "null"]}


def whole(low: int, high: int = 2**31 - 1) -> Json:
    """A whole number, or null."""
    return {"type": ["integer", "null"], "minimum": low, "maximum": high}


def real(low: float, high: float) -> Json:
    """A number, or null."""
    return {"type": ["number", "null"], "minimum": low, "maximum": high}


def one_of(*words: str) -> Json:
    """One of some words; nothing, or null, says nothing."""
    return {"enum": [*words, "", None]}


def kind(word: str) -> Json:
    """The word that tells an object from others."""
    return {"const": word}


def many(item: Json, most: int = MOST_ITEMS) -> Json:
    """A list, or null."""
    return {"type": ["array", "null"], "items": item, "maxItems": most}


def some(item: Json, least: int = 0) -> Json:
    """A list that must be there."""
    return {"type": "array", "items": item, "minItems": least, "maxItems": MOST_ITEMS}


def record(fields: Json, *required: str, null: bool = False) -> Json:
    """An object with these fields and no others."""
    needed = {"required": list(required)} if required else {}
    return {
        "type": ["object", "null"] if null else "object",
        "properties": fields,
        "additionalProperties": False,
        **needed,
    }


def pairs(value: Json, most: int) -> Json:
    """An object with any names."""
    return {"type": ["object", "null"], "additionalProperties": value, "maxProperties": most}


def either(*options: Json) -> Json:
    """One of several forms."""
    return {"anyOf": list(options)}


BIASES: Json = {
    **pairs({"type": "number", "minimum": -100, "maximum": 100}, MOST_ITEMS),
    "propertyNames": {"pattern": "^[0-9]{1,20}$"},
}
METADATA: Json = {
    **pairs({"type": "string", "maxLength": 512}, 16),
    "propertyNames": {"maxLength": 64},
}
IMAGE: Json = {
    "type": "string",
    "pattern": "^data:image/[^,]*;base64,",
    "description": "a data URL; nothing is fetched",
}
DETAIL: Json = one_of("auto", "low", "high")
