"""Checks of a client's fields. Each raises RequestError naming the field; none quotes its value."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, get_args

import msgspec

from azeotrope.core.errors import nearest
from azeotrope.gateway.wire.fields import Json
from azeotrope.gateway.wire.request import Effort, Image, Part, RequestError

_decoder = msgspec.json.Decoder()
EFFORTS: tuple[str, ...] = get_args(Effort)
MOST_ITEMS = 10_000  # of a list, such as messages, or pairs of an object
MOST_BRACES = 200_000  # and as many brackets, in texts too: more than any model reads


def dense(data: bytes) -> RequestError | None:
    """The refusal of a body of so many objects that reading it would hold up everybody; None for others."""
    if len(data) <= MOST_BRACES or max(data.count(b"{"), data.count(b"[")) <= MOST_BRACES:
        return None
    told = f"The request holds more than {MOST_BRACES} objects or lists; send fewer."
    return RequestError(told, code="request_too_large", status=413)


def body(data: bytes) -> Json:
    """The JSON object of a request. Raises RequestError."""
    if refusal := dense(data):
        raise refusal
    try:
        found = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise RequestError("The request body is not valid JSON.", code="invalid_json") from None
    except RecursionError:
        raise RequestError("The request body is nested too deeply.", code="invalid_json") from None
    if not isinstance(found, dict):
        raise RequestError("The request body is not a JSON object.", code="invalid_json")
    return found


def known(given: Json, allowed: Collection[str], where: str = "") -> None:
    """Refuse fields that are not allowed, by name."""
    for key in given:
        if key not in allowed:
            name = f"{where}{key}"
            raise RequestError(
                f"The parameter '{name[:80]}' is not supported here.{_near(key, allowed)}",
                name[:80],
                "unsupported_parameter",
            )


def _near(key: str, allowed: Collection[str]) -> str:
    found = nearest(key[:80], allowed)
    return found if found.startswith(" Did you mean") else ""


def need(given: Json, name: str) -> Any:
    """A field that must be there."""
    if given.get(name) is None:
        raise RequestError(f"The parameter '{name}' is required.", name, "missing_parameter")
    return given[name]


def string(value: Any, name: str, *, limit: int | None = None) -> str:
    """A text; None is ""."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RequestError(f"'{name}' must be a text.", name)
    if limit is not None and len(value) > limit:
        raise RequestError(f"'{name}' must have at most {limit} characters.", name)
    return value


def flag(value: Any, name: str) -> bool | None:
    """True, false or unsaid."""
    if value is None or isinstance(value, bool):
        return value
    raise RequestError(f"'{name}' must be true or false.", name)


def whole(value: Any, name: str, low: int, high: int = 2**31 - 1) -> int | None:
    """A whole number within bounds, or unsaid; 5.0 is one, as JSON has it."""
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise RequestError(f"'{name}' must be a whole number from {low} to {high}.", name)
    return value


def real(value: Any, name: str, low: float, high: float) -> float | None:
    """A number within bounds, or unsaid."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise RequestError(f"'{name}' must be a number from {low:g} to {high:g}.", name)
    return float(value)


def mapping(value: Any, name: str) -> Json:
    """An object; None is an empty one."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise RequestError(f"'{name}' must be an object.", name)
    return value


def listing(value: Any, name: str) -> list[Any]:
    """A list; None is an empty one."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise RequestError(f"'{name}' must be a list.", name)
    if len(value) > MOST_ITEMS:
        raise RequestError(f"'{name}' must have at most {MOST_ITEMS} items.", name)
    return value


def objects(value: Any, name: str) -> list[Json]:
    """A list of objects."""
    return [mapping(item, f"{name}.{place}") for place, item in enumerate(listing(value, name))]


def one_of(value: Any, name: str, options: Iterable[str]) -> str:
    """One of some words; None is ""."""
    found = string(value, name)
    wanted = tuple(options)
    if found and found not in wanted:
        raise RequestError(f"'{name}' must be one of {', '.join(wanted)}.", name)
    return found


def metadata(value: Any, name: str = "metadata") -> dict[str, str] | None:
    """Up to 16 pairs of short texts, as OpenAI allows."""
    if value is None:
        return None
    given = mapping(value, name)
    if len(given) > 16:
        raise RequestError(f"'{name}' must have at most 16 pairs.", name)
    for key, item in given.items():
        string(key, name, limit=64)
        if not isinstance(item, str) or len(item) > 512:
            raise RequestError(f"The values of '{name}' must be texts of at most 512 characters.", name)
    return dict(given)


def biases(value: Any, name: str) -> dict[str, float] | None:
    """Token ids and biases from -100 to 100."""
    if value is None:
        return None
    given = mapping(value, name)
    if len(given) > MOST_ITEMS:
        raise RequestError(f"'{name}' must have at most {MOST_ITEMS} pairs.", name)
    for key, bias in given.items():
        good = isinstance(bias, int | float) and not isinstance(bias, bool) and -100 <= bias <= 100
        if not (good and key.isascii() and key.isdigit() and len(key) <= 20):
            raise RequestError(f"'{name}' must map token ids to numbers from -100 to 100.", name)
    return {key: float(bias) for key, bias in given.items()} or None


def image(url: Any, name: str, detail: Any = None) -> Image:
    """An image in a data URL; addresses are refused, because the upstream would fetch them."""
    given = string(url, name)
    head, comma, _ = given.partition(",")
    if not (comma and head.startswith("data:image/") and head.endswith(";base64")):
        raise RequestError(
            f"'{name}' must be a data URL (data:image/...;base64,...): this server fetches nothing.", name
        )
    return Image(given, one_of(detail, f"{name}.detail", ("", "auto", "low", "high")))


def arguments(value: Any, name: str) -> str:
    """The arguments of a tool call: a text."""
    return string(value, name) or "{}"


def joined(parts: Iterable[Part], name: str) -> str:
    """Parts that must all be text, as one. Raises RequestError for images."""
    found = []
    for part in parts:
        if not isinstance(part, str):
            raise RequestError(f"'{name}' can hold text only.", name)
        found.append(part)
    return "".join(found)


def name(value: Any, where: str) -> str:
    """The name of a function or a schema."""
    found = string(value, where, limit=64)
    if not found or not all(c.isascii() and (c.isalnum() or c in "_-.") for c in found):
        raise RequestError(f"'{where}' must have 1 to 64 letters, digits, '_', '-' or '.'.", where)
    return found
