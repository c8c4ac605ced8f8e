"""How an endpoint is named and used: its settings, and the one string that refers to it."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import parse_qsl

from pydantic import Field, ValidationError, field_validator, model_validator

from azeotrope.core.errors import ConfigError
from azeotrope.core.methods import Settings, explain

NANO = 10**9  # money is counted in whole billionths, so that taking a booking back is exact
FORM = "https://host/v1#model"

_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?P<port>:\d{1,5})?(?P<path>/[\w.~!$&'()*+,;=:@%/-]*)?",
    re.IGNORECASE | re.ASCII,
)
_VARIABLE = re.compile(r"(?:[A-Za-z_][A-Za-z0-9_]*)?")


class EndpointSettings(Settings):
    """An OpenAI-compatible endpoint, one model on it, and what may be spent there.

    `max_cost` caps what is spent on this `url` and `model` through this `cache` file, by earlier runs too.
    Prices are in the same currency unit, per million tokens. The key is never a setting: only the name of the
    environment variable that holds it.
    """

    url: str = Field(description="base address, such as https://host/v1")
    model: str = Field(min_length=1, max_length=200, description="the model's name on the server")
    api: Literal["chat", "completions"] = Field(default="chat", description="which of the two interfaces")
    key_env: str = Field(default="OPENAI_API_KEY", description="environment variable with the key; '' for none")
    max_cost: float = Field(default=0.0, ge=0, le=1e9, description="hard cap, in currency units")
    price_in: float = Field(default=0.0, ge=0, le=1e6, description="price of a million prompt tokens")
    price_out: float = Field(default=0.0, ge=0, le=1e6, description="price of a million generated tokens")
    max_requests: int | None = Field(default=None, ge=0, description="cap on requests, retried ones included")
    concurrency: int = Field(default=8, ge=1, le=256, description="requests under way at a time")
    timeout: float = Field(default=300.0, gt=0, le=86400, description="seconds for one reply")
    retries: int = Field(default=5, ge=0, le=20, description="attempts after the first")
    backoff: float = Field(default=1.0, ge=0, le=60, description="seconds before the first retry; then doubled")
    cache: Path | None = Field(default=None, description="SQLite file (default: in the user's cache folder)")
    reasoning: Literal["think", "drop"] = Field(
        default="think", description="reasoning the server sends apart: into think tags, or left out"
    )
    limit_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        default="max_tokens", description="what the server calls the token limit"
    )

    @field_validator("url")
    @classmethod
    def _normal(cls, value: str) -> str:
        match = _URL.fullmatch(value)
        if match is None or int((match["port"] or ":0")[1:]) > 65535:
            raise ValueError("an address is of the form https://host/v1, without user, password or query")
        path = (match["path"] or "").rstrip("/")
        if path.endswith("/completions"):
            raise ValueError("write the base address, without /completions or /chat/completions")
        return f"{match['scheme']}://{match['host']}{match['port'] or ''}".lower() + path

    @field_validator("model")
    @classmethod
    def _readable(cls, value: str) -> str:
        if not value.isprintable() or " " in value:
            raise ValueError("a model's name has no spaces or control characters")
        return value

    @field_validator("key_env")
    @classmethod
    def _is_a_variable(cls, value: str) -> str:
        if not _VARIABLE.fullmatch(value):
            raise ValueError("this is the name of an environment variable, not the key itself")
        return value

    @model_validator(mode="after")
    def _cap_can_hold(self) -> Self:
        if self.max_cost and not {"price_in", "price_out"} <= self.model_fields_set:
            raise ValueError("max_cost needs price_in and price_out: without prices tokens count as free")
        return self

    @property
    def ref(self) -> str:
        """The reference without options."""
        return f"{self.url}#{self.model}"

    @property
    def cache_file(self) -> Path:
        """Where completions and expenses are kept."""
        if self.cache is not None:
            return self.cache.expanduser()
        folder = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
        return Path(folder).expanduser() / "azeotrope" / "completions.sqlite"

    def identity(self) -> dict[str, Any]:
        """What changes the text of a completion, for hashing: not money, patience or where the cache is."""
        return self.model_dump(mode="json", include={"url", "model", "api", "limit_field", "reasoning"})

    def price(self, tokens_in: int, tokens_out: int) -> int:
        """Cost of a completion in billionths of a currency unit, rounded up."""
        return math.ceil(round((tokens_in * self.price_in + tokens_out * self.price_out) * (NANO / 1e6), 3))


def is_endpoint(ref: str) -> bool:
    """Whether `ref` is meant as an endpoint rather than a model's name or folder."""
    return ref[:8].lower().startswith(("http://", "https://"))


def identity_of(ref: str) -> str | dict[str, Any]:
    """What stands for a model in the identity of a step: its reference, or what changes an endpoint's text.

    Raises ConfigError as `parse_ref` does.
    """
    return parse_ref(ref).identity() if is_endpoint(ref) else ref


def parse_ref(ref: str, **defaults: Any) -> EndpointSettings:
    """Read ``https://host/v1#model`` or ``https://host/v1#model?max_cost=5&price_out=0.6``.

    `defaults` are settings that the reference does not say. Raises ConfigError, which never shows what may be a
    password or a key.
    """
    url, _, rest = ref.partition("#")
    model, _, tail = rest.partition("?")
    if not is_endpoint(ref) or not _URL.fullmatch(url) or not model:
        shown = "" if "@" in ref else f" '{ref[:200]}'"
        raise ConfigError(
            f"The endpoint reference{shown} is not of the form {FORM}, without user, password or query; "
            "a key is read from the environment only."
        )
    options = _options(tail)
    if not _VARIABLE.fullmatch(options.get("key_env", "")):
        raise ConfigError(
            f"The key_env of {url}#{model} is the name of an environment variable, not the key itself; "
            "put the key into that variable."
        )
    try:
        return EndpointSettings.model_validate({**defaults, **options, "url": url, "model": model})
    except ValidationError as error:
        raise ConfigError(explain(error, "endpoint", EndpointSettings)) from None


def _options(tail: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(tail, keep_blank_values=True, strict_parsing=True) if tail else []
    except ValueError:
        raise ConfigError(f"The options of an endpoint are written {FORM}?name=value&name=value.") from None
    options = dict(pairs)
    if len(options) < len(pairs) or {"url", "model"} & set(options):
        raise ConfigError(f"An endpoint's options are said once, its address and model before them, as in {FORM}.")
    return options
