"""Methods and tasks given on the command line: `ads`, `ads:lam=0.2,backend=head`, or JSON."""

from __future__ import annotations

import json
from typing import Any

import yaml
from pydantic import ValidationError

from azeotrope.core import plugins
from azeotrope.core.errors import ConfigError
from azeotrope.core.methods import explain

_OPEN, _CLOSE = "[{(\"'", "]})\"'"


def parse(group: str, text: str) -> Any:
    """Return the method or task that `text` describes, validated.

    Raises ConfigError for an unknown name or setting and MissingError for an optional package.
    """
    kind, settings = split(group[:-1], text)
    cls = plugins.load(group, kind)
    try:
        return cls.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(explain(error, kind, cls)) from None


def split(option: str, text: str) -> tuple[str, dict[str, Any]]:
    """Split the text of `--option` into (kind, settings). Raises ConfigError.

    >>> split("defense", "ads:lam=0.2,backend=head")
    ('ads', {'lam': 0.2, 'backend': 'head'})
    >>> split("defense", '{"kind": "ads", "lam": 0.2}')
    ('ads', {'lam': 0.2})
    """
    text = text.strip()
    if text.startswith("{"):
        return _from_json(option, text)
    kind, colon, rest = text.partition(":")
    settings: dict[str, Any] = {}
    for part in pieces(rest) if colon else []:
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--{option} {text!r}: '{part}' is not of the form name=value.")
        try:
            settings[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"--{option} {text!r}: the value of '{key.strip()}' cannot be read.") from None
    return kind.strip(), settings


def pieces(text: str) -> list[str]:
    """Split at commas that are not inside brackets or quotes.

    >>> pieces("a=[1,2],b={c: 1, d: 2},e=3")
    ['a=[1,2]', 'b={c: 1, d: 2}', 'e=3']
    """
    found, start, stack = [], 0, ""
    for i, character in enumerate(text):
        if stack and character == stack[-1]:
            stack = stack[:-1]
        elif stack[-1:] in ('"', "'"):
            continue
        elif character in _OPEN:
            stack += _CLOSE[_OPEN.index(character)]
        elif character == "," and not stack:
            found.append(text[start:i])
            start = i + 1
    return [*found, text[start:]]


def _from_json(option: str, text: str) -> tuple[str, dict[str, Any]]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--{option}: this is not valid JSON ({error}).") from None
    if not isinstance(value.get("kind"), str):
        raise ConfigError(f"--{option}: the JSON needs a 'kind', as in '{{\"kind\": \"none\"}}'.")
    return value.pop("kind"), value
