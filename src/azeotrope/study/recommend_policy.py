"""The policy file: the recommended settings with their limits, evidence and origin, as readable YAML.

A policy written by hand needs `azeotrope_policy` and `defenses` only.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError
from pydantic_core import InitErrorDetails

from azeotrope.core import plugins
from azeotrope.core.errors import ConfigError, MissingError, nearest
from azeotrope.core.methods import Defense, Settings, explain, parse_method
from azeotrope.study.recommend import Evidence, Recommendation, Rules
from azeotrope.study.recommend_tables import Json
from azeotrope.study.recommend_words import plain, sentences, warnings
from azeotrope.study.store import disk, write_bytes
from azeotrope.study.vocabulary import UTILITIES

VERSION = 1
WIDTH = 110
SHORT = 40  # characters of a value that may stand in a line with others
DIGITS = 6  # of measured numbers; settings are exact


class Origin(Settings):
    """The run that a policy comes from. It holds for this teacher and sampling only."""

    name: str
    study_hash: str | None = None
    created: str | None = None
    azeotrope_version: str | None = None
    teacher: str | None = None
    sampling: dict[str, Any] | None = None


class Policy(Settings):
    """What a defended teacher is to serve, and why. `defenses` is empty where nothing could be recommended.

    `limits` are the largest drops allowed (shares; `length`: relative change). `tested_adaptively` is None where
    nothing was measured.
    """

    azeotrope_policy: Literal[1]
    defenses: tuple[Json, ...]
    limits: dict[str, float] = Field(default_factory=dict)
    strict: bool = False
    leakage: str | None = None
    tested_adaptively: bool | None = None
    chosen_on_same_data: bool | None = None
    warnings: tuple[str, ...] = ()
    evidence: Evidence | None = None
    run: Origin | None = None

    def methods(self) -> list[Defense]:
        """Return the defenses, validated. Raises ConfigError, and MissingError for an optional package."""
        return [_method(entry, f"defenses.{i}") for i, entry in enumerate(self.defenses)]

    @property
    def arguments(self) -> list[str]:
        """The same settings for a command line: `--defense` and its JSON, once per defense."""
        return [word for entry in self.defenses for word in ("--defense", json.dumps(entry))]


def policy_of(found: Recommendation, rules: Rules, manifest: Mapping[str, Any]) -> Policy:
    """Return the policy for the tasks of a recommendation."""
    choice = found.choice
    evidence = Evidence.model_validate(_rounded(choice.model_dump(exclude={"defenses"})))
    return Policy(
        azeotrope_policy=VERSION,
        defenses=choice.defenses,
        limits=dict(rules.limits),
        strict=rules.strict,
        leakage=rules.leakage,
        tested_adaptively=choice.tested_adaptively,
        chosen_on_same_data=True,
        warnings=tuple(warnings(choice)),
        evidence=evidence,
        run=_origin(manifest),
    )


def dump_policy(policy: Policy, found: Recommendation, rules: Rules) -> str:
    """Return the policy as YAML, under comments that tell the recommendation and its warnings."""
    lines = [f"Azeotrope policy, written by `azeotrope recommend` from the run {_run(policy)}.", *_use(policy)]
    headline, *evidence = sentences(found.choice, rules)
    lines += [headline, *(f"- {line}" for line in evidence), *(f"WARNING: {line}" for line in policy.warnings)]
    if found.overall is not None:
        lines += ["Each task alone:", *(f"- {sentences(one, rules)[0]}" for one in found.tasks)]
    return "\n".join(map(_comment, lines)) + "\n\n" + _yaml(policy)


def write_policy(path: Path, text: str, *, force: bool = False) -> None:
    """Write a policy file, whole or not at all. Raises ConfigError as `check_target`, and RunError."""
    check_target(path, force=force)
    with disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, text.encode("utf-8"))


def check_target(path: Path, *, force: bool) -> None:
    """Raise ConfigError where `path` is a folder, or a file that must not be replaced."""
    if path.is_dir():
        raise ConfigError(f"'{path}' is a folder; name a file.")
    if path.exists() and not force:
        raise ConfigError(f"'{path}' exists; choose another --out, or add --force to replace it.")


def load_policy(path: Path) -> Policy:
    """Read a policy and check all of it, the settings of its defenses included.

    Raises MissingError (no file, or a defense's optional package), and ConfigError for everything wrong inside.
    """
    raw = _read(path)
    if not isinstance(raw, dict) or "azeotrope_policy" not in raw:
        raise ConfigError(f"'{path}' is not a policy; it should begin with 'azeotrope_policy: {VERSION}'.")
    version = raw["azeotrope_policy"]
    if version != VERSION or isinstance(version, bool):
        raise ConfigError(
            f"'{path}' is a policy of version {version!r}, and this program reads version {VERSION}; "
            "update azeotrope, or write the policy again."
        )
    try:
        policy = Policy.model_validate(raw)
        policy.methods()
        for name in policy.limits:
            if name not in UTILITIES:
                raise ConfigError(f"'limits': there is no measure '{name}'.{nearest(name, UTILITIES)}")
    except ValidationError as error:
        raise ConfigError(f"'{path}': {explain(_misspelling_first(error), '', Policy)}") from None
    except (ConfigError, MissingError) as error:
        raise type(error)(f"'{path}': {error}") from None
    return policy


def _run(policy: Policy) -> str:
    """Name the run of a policy with its date."""
    origin = policy.run
    return "?" if origin is None else f"'{origin.name}'" + (f" of {origin.created}" if origin.created else "")


def _use(policy: Policy) -> list[str]:
    """How to use the settings in a study."""
    if not policy.defenses:
        return []
    where = "as one entry `compose:`" if len(policy.defenses) > 1 else "as it is"
    return [f"The list `defenses` can be copied into the `defenses` of a study, {where}."]


def _comment(line: str) -> str:
    """Wrap one line as a comment, whatever is in it."""
    return textwrap.fill(plain(line), WIDTH, initial_indent="# ", subsequent_indent="#   ", break_on_hyphens=False)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_rounded(item) for item in value)
    return round(value, DIGITS) if isinstance(value, float) else value


def _misspelling_first(error: ValidationError) -> ValidationError:
    """Keep only the unknown keys, if any: a misspelled key also makes the right one seem missing."""
    unknown = [
        InitErrorDetails(type=item["type"], loc=item["loc"], input=item["input"])
        for item in error.errors()
        if item["type"] == "extra_forbidden"
    ]
    return ValidationError.from_exception_data("Policy", unknown) if unknown else error


def _method(entry: Json, where: str) -> Defense:
    kind = entry.get("kind")
    if not isinstance(kind, str):
        raise ConfigError(f"'{where}' needs a 'kind', as in '{{kind: traceguard}}'; `azeotrope list` shows them.")
    try:
        cls = plugins.load("defenses", kind)
    except (ConfigError, MissingError) as error:
        raise type(error)(f"'{where}.kind': {error}") from None
    method: Defense = parse_method(cls, {key: value for key, value in entry.items() if key != "kind"}, where)
    return method


def _origin(manifest: Mapping[str, Any]) -> Origin:
    config = manifest.get("config")
    config = config if isinstance(config, dict) else {}
    release = config.get("release")
    sampling = release.get("sampling") if isinstance(release, dict) else None
    texts = {key: manifest.get(key) for key in ("study_hash", "created", "azeotrope_version")}
    return Origin(
        name=str(manifest.get("name", "")),
        teacher=str(config["teacher"]) if config.get("teacher") else None,
        sampling=sampling if isinstance(sampling, dict) else None,
        **{key: str(value) for key, value in texts.items() if value is not None},
    )


class _Dumper(yaml.SafeDumper):
    """Blocks, with lists of short values and measured rows on one line each; nothing by reference."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _list(dumper: _Dumper, values: list[Any]) -> yaml.Node:
    short = not any(isinstance(value, dict | list) or len(str(value)) > SHORT for value in values)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=short)


def _mapping(dumper: _Dumper, value: dict[Any, Any]) -> yaml.Node:
    row = {"low", "value"} <= set(value) or "share" in value
    return dumper.represent_mapping("tag:yaml.org,2002:map", value, flow_style=row)


_Dumper.add_representer(list, _list)
_Dumper.add_representer(dict, _mapping)


def _yaml(policy: Policy) -> str:
    plain_values = policy.model_dump(mode="json")
    return str(yaml.dump(plain_values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=2 * WIDTH))


def _read(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingError(f"There is no policy file '{path}'; check the path.") from None
    except OSError as error:
        raise MissingError(f"The policy file '{path}' cannot be read ({error.strerror}).") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        first = " ".join(str(error).split())
        raise ConfigError(f"'{path}' is not valid YAML: {first}.") from None
