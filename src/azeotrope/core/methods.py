"""What every defense and attack is: a frozen, typed set of hyper-parameters with one strength dial."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from enum import StrEnum
from random import Random
from types import UnionType
from typing import Annotated, Any, ClassVar, Protocol, Self, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import ErrorDetails

from azeotrope.core.access import Access
from azeotrope.core.budget import Budget
from azeotrope.core.errors import ConfigError, nearest
from azeotrope.core.types import Paper, Trace

M = TypeVar("M", bound="Method")


class Stage(StrEnum):
    """Where a defense acts; a composition is applied in this order."""

    TEACHER = "teacher"
    LOGITS = "logits"
    TRACE = "trace"
    SURFACE = "surface"


class Maturity(StrEnum):
    """`reproduced` only where a study in the repository shows the published direction."""

    EXPERIMENTAL = "experimental"
    REPRODUCED = "reproduced"
    CONTROL = "control"


class Settings(BaseModel):
    """Base of all typed settings: frozen, unknown keys and numbers that are not finite rejected."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _a_switch_is_no_number(cls, values: Any) -> Any:
        """`k: true` is a mistake, not 1."""
        for name, field in cls.model_fields.items() if isinstance(values, Mapping) else ():
            if isinstance(values.get(name), bool):
                kinds = set(_kinds(field.annotation))
                if kinds & {int, float} and bool not in kinds:
                    raise ValueError(f"{name} is no switch and cannot be {str(values[name]).lower()}")
        return values

    def told(self, name: str) -> str:
        """How labels write the value of the setting `name`."""
        return _short(getattr(self, name))


class Method(Settings):
    """A published method or a control. Hyper-parameters are fields; data and models are call arguments."""

    kind: ClassVar[str]
    summary: ClassVar[str] = ""
    paper: ClassVar[Paper | None] = None
    maturity: ClassVar[Maturity] = Maturity.EXPERIMENTAL
    version: ClassVar[int] = 1  # bumped whenever the numbers it produces change

    def identity(self) -> dict[str, Any]:
        """Return what changes this method's output, for hashing and for the manifest."""
        return {"kind": self.kind, "version": self.version, **self.model_dump(mode="json")}

    @property
    def label(self) -> str:
        """A short name for tables: kind and the settings that differ from their defaults."""
        parts = differing(self)
        return self.kind + (f"({', '.join(parts)})" if parts else "")


class Defense(Method):
    """A method with exactly one strength dial; strength 0 is the identity, bit for bit."""

    stage: ClassVar[Stage]
    dial: ClassVar[str]  # the name of the field that is the strength; "" for `none`
    sweep: ClassVar[tuple[float, ...]] = ()  # strengths worth trying on the embedded models

    @property
    def strength(self) -> float:
        """The value of the strength dial (0.0 for the identity)."""
        return float(getattr(self, self.dial)) if self.dial else 0.0

    def at(self, strength: float) -> Self:
        """Return the same method at another strength, validated."""
        if not self.dial:
            return self
        return type(self).model_validate({**self.model_dump(), self.dial: strength})


class TraceDefense(Defense):
    """Acts on finished or streaming text. Only the reasoning may change, never the answer span."""

    stage: ClassVar[Stage] = Stage.TRACE

    @abstractmethod
    def rewrite(self, trace: Trace, rng: Random) -> Trace:
        """Return the trace to release. Deterministic given `rng`'s state."""

    def incremental(self, rng: Random) -> TextStream:
        """Return the form for text that is still being written. By default it waits for the whole trace."""
        return Buffered(self, rng)


class TextStream(Protocol):
    """A trace that is being rewritten while it is written; its text has its think tags."""

    def feed(self, chunk: str) -> str:
        """Take more of the trace; return the text that can be released now (often empty)."""
        ...

    def close(self) -> str:
        """Declare the trace finished; return the rest."""
        ...


class Buffered:
    """A `TextStream` that releases nothing before the trace is finished."""

    def __init__(self, method: TraceDefense, rng: Random) -> None:
        self._method, self._rng = method, rng
        self._pieces: list[str] = []

    def feed(self, chunk: str) -> str:
        """See `TextStream.feed`."""
        self._pieces.append(chunk)
        return ""

    def close(self) -> str:
        """See `TextStream.close`."""
        whole = Trace(problem_id="", prompt="", text="".join(self._pieces))
        self._pieces.clear()
        return self._method.rewrite(whole, self._rng).text


class Exposed(Protocol):
    """What a reply shows beside its text, in whatever form: log-probabilities at every token."""

    def top(self, k: int) -> Self:
        """Only the k largest of a token."""
        ...

    def rounded(self, step: float) -> Self:
        """Rounded to multiples of `step` nats."""
        ...

    def mixed(self, share: float) -> Self:
        """Those of (1 − share)·p + share·(the token that was said); at share 1 nothing."""
        ...


E = TypeVar("E", bound=Exposed)


class SurfaceDefense(Defense):
    """Acts on what a reply shows beside its text; strength 0 shows everything as it is."""

    stage: ClassVar[Stage] = Stage.SURFACE

    @abstractmethod
    def expose(self, exposure: E) -> E:
        """What is shown in place of `exposure`: never more."""


class Attack(Method):
    """How a thief turns a release into a student: what it must see (`needs`) and may spend (`budget`)."""

    needs: ClassVar[Access] = Access.TEXT

    @property
    def budget(self) -> Budget:
        """What these settings spend beyond the release; nothing, unless an attack says otherwise."""
        return Budget()


def parse_method(cls: type[M], settings: Mapping[str, Any], where: str) -> M:
    """Build `cls` from a mapping; every problem becomes one sentence naming `where` and the key.

    Raises ConfigError.
    """
    try:
        return cls.model_validate(dict(settings))
    except ValidationError as error:
        raise ConfigError(explain(error, where, cls)) from None


def explain(error: ValidationError, where: str, cls: type[BaseModel]) -> str:
    """Turn the first pydantic complaint into one sentence with the dotted path and the nearest key."""
    found = error.errors()
    first, among = found[0], _alternatives(found, cls)
    loc = first["loc"][:-1] if len(among) > 1 else first["loc"]
    path = ".".join([where, *map(str, loc)]).strip(".")
    if first["type"] == "extra_forbidden":
        key = str(first["loc"][-1])
        return f"Unknown setting '{path}'.{nearest(key, _keys_at(cls, first['loc'][:-1]))}"
    if first["type"] == "missing":
        return f"'{path}' is required."
    message = first["msg"].removeprefix("Value error, ")
    others = dict.fromkeys(one["msg"].removeprefix("Input should be ").split(",")[0] for one in among[1:])
    message = " or ".join([message, *others])
    value = first.get("input")
    shown = "" if isinstance(value, dict | list | BaseModel) else f" (got {value!r})"
    return f"'{path}': {message[0].lower() + message[1:]}{shown}."


def _alternatives(found: Sequence[ErrorDetails], cls: type[BaseModel]) -> list[ErrorDetails]:
    """The complaints about the value of the first: several where each type of a union has its own."""
    *at, last = found[0]["loc"] or ("",)
    if found[0]["type"] in ("extra_forbidden", "missing") or isinstance(last, int) or last in _keys_at(cls, at):
        return [found[0]]
    return [one for one in found if list(one["loc"][:-1]) == at]


def _keys_at(cls: type[BaseModel], loc: Sequence[int | str]) -> list[str]:
    """The field names of the model that sits at `loc` below `cls` (best effort for nested models)."""
    current: Any = cls
    for part in loc:
        info = getattr(current, "model_fields", {}).get(part)
        if info is None:
            continue
        current = _model_in(info.annotation) or current
    return list(getattr(current, "model_fields", {}))


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for arg in getattr(annotation, "__args__", ()):
        found = _model_in(arg)
        if found:
            return found
    return None


def differing(settings: BaseModel, *, always: str = "", never: str = "") -> list[str]:
    """``name=value`` of the settings that differ from their defaults, nested ones as ``outer.name=value``.

    The field `always` comes first whatever its value; `never` is left out.
    """
    fields = type(settings).model_fields
    told = settings.told if isinstance(settings, Settings) else lambda name: _short(getattr(settings, name))
    shown = [f"{always}={told(always)}"] if always else []
    for name, value in settings:
        default = fields[name].get_default(call_default_factory=True)
        if name in (always, never) or value == default:
            continue
        if isinstance(value, BaseModel):
            shown += [f"{name}.{part}" for part in differing(value) if part not in differing(default)]
        else:
            shown.append(f"{name}={told(name)}")
    return shown


def _kinds(annotation: Any) -> list[Any]:
    """The types of a union, an annotated one's too."""
    parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType, Annotated) else ()
    return [kind for part in parts for kind in _kinds(part)] if parts else [annotation]


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
