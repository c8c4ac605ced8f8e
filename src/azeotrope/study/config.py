"""The typed study file: one product of teacher, tasks, defenses, attacks, students and draws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import yaml
from pydantic import Field, ValidationError, field_validator
from pydantic_core import InitErrorDetails

from azeotrope.core.errors import ConfigError, MissingError
from azeotrope.core.methods import Settings, explain
from azeotrope.core.sampling import Sampling
from azeotrope.core.seeds import fingerprint
from azeotrope.study.vocabulary import PASSIVE

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]


class ReleaseSettings(Settings):
    """What leaves the building per arm and draw: `n` traces, and what is shown with every token."""

    n: Positive = 1000
    sampling: Sampling = Sampling()
    access: Literal["text", "topk_logprobs", "full_logits"] = Field(
        "text", description="what the service shows: text, the largest log-probabilities, or all"
    )
    top_logprobs: Positive = Field(20, description="how many a token, with access: topk_logprobs")


class Evaluation(Settings):
    """How teachers and students are measured."""

    problems: Positive = Field(200, description="test problems; the same for every arm")
    max_new_tokens: Positive | None = Field(None, description="tokens; the task's own limit if not given")
    conduct: int = Field(40, ge=0, description="refusals, rewordings and longer problems asked, each")
    reader: str | None = Field(
        None, min_length=1, description="model that continues from trace prefixes; embedded teachers have one"
    )
    diffs: int = Field(6, ge=0, description="test problems shown in the report's diff explorer")


class StudentSettings(Settings):
    """A family of student checkpoints that differ in their initialization or pre-training seed."""

    family: str = Field(min_length=1, description="model reference prefix, e.g. embedded/student-llama")
    bases: Positive = 1


class Headline(Settings):
    """What the report leads with; by default chosen from what was measured."""

    metric: str | None = None
    attack: str | None = None


DETECTORS: tuple[dict[str, Any], ...] = tuple(
    {"kind": kind} for kind in ("token_delta", "tfidf_cosine", "marker_rate", "ngram")
)


class Analysis(Settings):
    """How the results are summarized; changing it re-computes tables but repeats no step."""

    drops: tuple[Share, ...] = Field((0.02, 0.05, 0.10), description="teacher utility given up")
    replicates: int = Field(2000, ge=100, description="bootstrap replicates")
    confidence: float = Field(0.95, gt=0.5, lt=1)
    unit: Literal["pair", "base", "draw"] = Field("base", description="what is independent: see resampling.py")
    headline: Headline = Headline()
    passive: str = Field(PASSIVE, description="the attack from which recovery counts: its label, or its kind")


class Study(Settings):
    """A study as written in YAML. Lists of methods are mappings with a `kind`; see `azeotrope.study.arms`.

    The undefended arm is always included as the reference and need not be listed.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    teacher: str = Field(min_length=1, description="model or endpoint reference")
    tasks: tuple[dict[str, Any], ...] = Field(min_length=1)
    release: ReleaseSettings = ReleaseSettings()
    defenses: tuple[dict[str, Any], ...] = ()
    attacks: tuple[dict[str, Any], ...] = Field(min_length=1)
    students: tuple[StudentSettings, ...] = Field(min_length=1)
    detectors: tuple[dict[str, Any], ...] = DETECTORS
    draws: int | dict[str, int] = Field(
        1, description="independent data draws, of every task or by its name; a seed is a (base, draw) pair"
    )
    seed: int = 0
    evaluation: Evaluation = Evaluation()
    analysis: Analysis = Analysis()

    @field_validator("draws", mode="before")
    @classmethod
    def _whole(cls, value: Any) -> Any:
        given = list(value.values()) if isinstance(value, dict) else [value]
        if not all(type(number) is int and number >= 1 for number in given):
            raise ValueError("should be a whole number of at least 1, or one for every task by name")
        return value

    def draws_of(self, task: str) -> int:
        """Return the number of data draws of a task, by its label."""
        return self.draws if isinstance(self.draws, int) else self.draws[task]

    @property
    def hash(self) -> str:
        """Fingerprint of the whole resolved study."""
        return fingerprint(self.model_dump(mode="json"))


def load_study(path: Path, overrides: Sequence[str] = ()) -> Study:
    """Read a study from YAML, with `a.b.0=value` overrides applied, and check every method in it.

    Raises MissingError if the file is not there and ConfigError for everything wrong inside it.
    """
    raw = read_yaml(path)
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} does not hold a study; write 'name:', 'teacher:', 'tasks:' and so on.")
    for override in overrides:
        apply_override(raw, override)
    return parse_study(raw)


def parse_study(raw: dict[str, Any]) -> Study:
    """Build a Study from plain values and check its methods. Raises ConfigError."""
    from azeotrope.study.arms import expand

    try:
        study = Study.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(explain(_misspelling_first(error), "", Study)) from None
    if study.name == "steps":
        raise ConfigError("'name': 'steps' is the folder of the shared step store; choose another name.")
    expand(study)
    return study


def read_yaml(path: Path) -> Any:
    """Return the plain values of a YAML file. Raises MissingError, or ConfigError naming the line."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise MissingError(f"There is no study file {path}; check the path.") from None
    except OSError as error:
        raise MissingError(f"The study file {path} cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not a UTF-8 text file; a study is written in YAML.") from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}{_place(error)} is not valid YAML: {_problem(error)}.") from None


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Set one value in place from `a.b.0=value`; the value is read as YAML.

    A missing mapping key is created (typing errors are caught when the study is checked); a list position
    must exist. Raises ConfigError.
    """
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {override!r} is not of the form a.b.0=value.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override!r}: the value is not valid YAML: {_problem(error)}.") from None
    target: Any = raw
    for depth, key in enumerate(keys[:-1]):
        if isinstance(target, dict) and target.get(key) is None:
            target[key] = {}
        target = target[_slot(target, key, keys[:depth], override)]
    target[_slot(target, keys[-1], keys[:-1], override)] = value


def dump_study(study: Study) -> str:
    """Return the study as YAML with every default filled in; `load_study` reads it back unchanged."""
    return str(yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def _misspelling_first(error: ValidationError) -> ValidationError:
    """Keep only the unknown keys, if any: a misspelled key also makes the right one seem missing."""
    unknown = [
        {"type": item["type"], "loc": item["loc"], "input": item["input"]}
        for item in error.errors()
        if item["type"] == "extra_forbidden"
    ]
    if not unknown:
        return error
    return ValidationError.from_exception_data("Study", cast(list[InitErrorDetails], unknown))


def _slot(target: Any, key: str, above: Sequence[str], override: str) -> str | int:
    where = ".".join(above) or "the study"
    if isinstance(target, dict):
        return key
    if not isinstance(target, list):
        raise ConfigError(f"--set {override!r}: {where} is a single value and has no part '{key}'.")
    if not key.isdigit() or int(key) >= len(target):
        raise ConfigError(f"--set {override!r}: {where} has {len(target)} entries, counted from 0.")
    return int(key)


def _place(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f", line {mark.line + 1}, column {mark.column + 1}," if mark else ""


def _problem(error: yaml.YAMLError) -> str:
    return str(getattr(error, "problem", None) or error).replace("\n", " ")
