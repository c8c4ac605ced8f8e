"""The policy file: which stance a request gets, and what a stance does to the reply.

A *stance* sets three dials, each with the words that its users think in:

- `disclose`: how much reasoning is shown: "full", "summary" (an extract), or "none";
- `fidelity`: how close the reply stays to what the model said: "exact" (nothing is changed or left out of what is
  shown), "omission" (whole sentences may be missing, nothing is changed), "free";
- `distillability`: "as_is", or "lowered" by the stance's `defenses`.

*Contexts* are read from the top; the first whose conditions all hold gives the stance. The dials are checked
against the defenses, so that a file cannot say one thing and do another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from azeotrope.core import plugins
from azeotrope.core.errors import ConfigError, MissingError, nearest
from azeotrope.core.methods import (
    Defense,
    Settings,
    Stage,
    SurfaceDefense,
    TraceDefense,
    differing,
    explain,
    parse_method,
)
from azeotrope.core.seeds import fingerprint
from azeotrope.gateway.shield import Treatment

OMITTING = frozenset({"traceguard", "random_sentences", "summary", "hide_reasoning", "answer_only", "none"})
Words = tuple[str, ...]


class Stance(Settings):
    """What happens to a reply; see the module's text. `defenses` act in the lab's order: text, then surface.

    `study` is a file that `azeotrope recommend` wrote: its defenses are taken, and its hash is carried into the
    audit log. `summary` is the share of the reasoning that an extract keeps. `logprobs`: "asked" shows what the
    client asks for (through surface defenses), "none" nothing. `logit_bias`: whether requests may hold one; never
    together with log-probabilities. `reasoning_tokens`: whether the usage tells how many there were, and bills
    them.
    """

    disclose: Literal["full", "summary", "none"] = "full"
    fidelity: Literal["exact", "omission", "free"] = "exact"
    distillability: Literal["as_is", "lowered"] = "as_is"
    defenses: tuple[dict[str, Any], ...] = ()
    study: str | None = None
    summary: float = Field(0.25, gt=0, lt=1, description="share of the sentences that an extract keeps")
    logprobs: Literal["asked", "none"] = "none"
    logit_bias: bool = False
    raw_prompts: bool = Field(False, description="plain completions, where a prompt may open or close reasoning")
    reasoning_tokens: Literal["told", "billed", "hidden"] = Field(
        "told", description="told: in the usage; billed: only in the sum; hidden: not even there"
    )
    seal: bool = Field(False, description="keep the original of an altered reply, sealed, for auditors")
    refuse: str = Field("", max_length=300, description="refuse the request with this sentence")

    @model_validator(mode="after")
    def _dials_agree(self) -> Self:
        if self.fidelity == "exact" and self.disclose == "summary":
            raise ValueError("an extract leaves sentences out; set fidelity to 'omission'")
        if self.distillability == "as_is" and (self.defenses or self.study):
            raise ValueError("there are defenses, so set distillability to 'lowered', or remove them")
        if self.distillability == "lowered" and not (self.defenses or self.study):
            raise ValueError("distillability is 'lowered' by nothing; give defenses or a study")
        return self


class When(Settings):
    """Conditions of a context; all that are given must hold, one word of a list is enough.

    `tier` is what a key was declared for ("research", "regulated", ...). `level` is the least level of
    suspicion. `reasoning`: whether the request asks for reasoning. `most_tokens`: the reply's limit is at most
    this.
    """

    tier: Words = ()
    tenant: Words = ()
    model: Words = ()
    dialect: tuple[Literal["chat", "completions", "responses", "messages"], ...] = ()
    level: int = Field(0, ge=0, le=4)
    stream: bool | None = None
    tools: bool | None = None
    logprobs: bool | None = None
    reasoning: bool | None = None
    most_tokens: int | None = Field(None, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _one_word(cls, given: Any) -> Any:
        """A single word stands for a list of one."""
        if not isinstance(given, Mapping):
            return given
        lists = ("tier", "tenant", "model", "dialect")
        return {k: [v] if k in lists and isinstance(v, str) else v for k, v in given.items()}


class Context(Settings):
    """A named place in the table. `raised` names, by level of suspicion, other stances that hold instead."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]*$", max_length=64)
    when: When = When()
    stance: str
    raised: dict[int, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _levels(self) -> Self:
        if any(not 1 <= level <= 4 for level in self.raised):
            raise ValueError("the levels of 'raised' are 1 to 4")
        return self


class Failing(Settings):
    """What happens when something that the gateway leans on is down: "closed" refuses requests, "open" goes on.

    `database` and `limits` are read when the server starts. `database`: "open" serves keys seen within the hour.
    `limits`: the shared counters; "open" counts in this process alone. `audit`: rows that cannot be written;
    "open" serves without. `signals`: the detection; "open" serves with the stance of level 0.
    """

    database: Literal["closed", "open"] = "closed"
    limits: Literal["closed", "open"] = "closed"
    audit: Literal["closed", "open"] = "closed"
    signals: Literal["closed", "open"] = "closed"


class PolicyFile(Settings):
    """A policy as written in YAML."""

    azeotrope_gateway: Literal[1]
    stances: dict[str, Stance] = Field(min_length=1)
    contexts: tuple[Context, ...] = Field(min_length=1)
    failing: Failing = Failing()

    @model_validator(mode="after")
    def _whole(self) -> Self:
        names = [context.name for context in self.contexts]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"there are two contexts '{name}'; rename one")
        for context in self.contexts:
            for stance in (context.stance, *context.raised.values()):
                if stance not in self.stances:
                    raise ValueError(
                        f"context '{context.name}': no stance '{stance}'.{nearest(stance, self.stances)}"
                    )
        if self.contexts[-1].when != When():
            raise ValueError("the last context must have no conditions, so that every request finds a stance")
        for context in self.contexts[:-1]:
            if context.when == When():
                raise ValueError(
                    f"context '{context.name}' has no conditions, so that nothing below it is ever reached"
                )
        return self


@dataclass(frozen=True, slots=True)
class Resolved:
    """A stance with its defenses built.

    `study` is the hash of the run that measured them; `unmeasured` names those that none did.
    """

    name: str
    stance: Stance
    study: str | None = None
    unmeasured: tuple[str, ...] = ()
    logits: tuple[Defense, ...] = ()
    texts: tuple[TraceDefense, ...] = ()
    surfaces: tuple[SurfaceDefense, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """The defenses, as tables write them."""
        return tuple(map(told, (*self.logits, *self.texts, *self.surfaces)))

    @property
    def treatment(self) -> Treatment:
        """What the gateway does to a reply."""
        told = self.stance.reasoning_tokens
        return Treatment(
            disclose="none" if self.stance.disclose == "none" else "full",
            texts=self.texts,
            surfaces=self.surfaces,
            logprobs=self.stance.logprobs == "asked",
            tell_reasoning=told == "told",
            bill_reasoning=told != "hidden",
        )


def told(method: Defense) -> str:
    """A defense with its strength, as tables write it."""
    return f"{method.kind}({', '.join(differing(method, always=method.dial))})"


DEFAULT = Path(__file__).parent / "default_policy.yaml"


def load_policy(path: Path) -> tuple[PolicyFile, dict[str, Resolved], str]:
    """Read a policy and build its stances. Returns both and the hash of all that they depend on.

    Raises MissingError (no file, or a defense's optional package) and ConfigError for everything wrong inside.
    """
    raw = _yaml(path)
    try:
        found = PolicyFile.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain(error, '', PolicyFile)}") from None
    resolved = {name: _resolve(name, stance, path) for name, stance in found.stances.items()}
    parts = {"file": found.model_dump(mode="json"), "defenses": {n: _identity(r) for n, r in resolved.items()}}
    return found, resolved, fingerprint(parts)


def _identity(stance: Resolved) -> list[Any]:
    return [stance.study, *(method.identity() for method in (*stance.logits, *stance.texts, *stance.surfaces))]


def _yaml(path: Path) -> Any:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingError(f"There is no policy file {path}; check the path.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise MissingError(f"The policy file {path} cannot be read ({type(error).__name__}).") from None
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        line = f", line {place.line + 1}" if place else ""
        raise ConfigError(f"{path}{line} is not valid YAML.") from None
    except (ValueError, TypeError, AttributeError, RecursionError) as error:  # the 30th of February, deep nesting
        raise ConfigError(f"{path} holds a value that cannot be read ({type(error).__name__}).") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} does not hold a policy; write 'azeotrope_gateway: 1', 'stances:', 'contexts:'.")
    return raw


def _resolve(name: str, stance: Stance, path: Path) -> Resolved:
    where = f"{path}: 'stances.{name}"
    study, measured, entries = None, [], [dict(entry) for entry in stance.defenses]
    if stance.study is not None:
        from azeotrope.study import recommend_policy

        recommended = recommend_policy.load_policy(path.parent / stance.study)
        study = recommended.run.study_hash if recommended.run else None
        measured = [dict(entry) for entry in recommended.defenses] if study else []
        entries = [*(dict(entry) for entry in recommended.defenses), *entries]
        if not entries:
            raise ConfigError(
                f"{where}.study': {stance.study} recommends no defense; set distillability to 'as_is'."
            )
    methods = [_method(entry, f"stances.{name}.defenses.{place}", path) for place, entry in enumerate(entries)]
    known = [_method(entry, "", path).identity() for entry in measured]
    logits = tuple(m for m in methods if m.stage in (Stage.LOGITS, Stage.TEACHER) and m.kind != "none")
    texts = tuple(m for m in methods if isinstance(m, TraceDefense) and m.strength > 0)
    if stance.disclose == "summary":
        texts = (*texts, _extract(stance.summary))
    if stance.disclose == "none" and texts:
        raise ConfigError(f"{where}': nothing is shown that {texts[0].kind} could act on; remove it.")
    changing = [m.kind for m in texts if m.kind not in OMITTING] + [m.kind for m in logits]
    if stance.fidelity == "exact" and (texts or logits):
        raise ConfigError(f"{where}.fidelity': 'exact', but {(*texts, *logits)[0].kind} alters the reply.")
    if stance.fidelity == "omission" and changing:
        raise ConfigError(f"{where}.fidelity': 'omission', but {changing[0]} does more than leave sentences out.")
    surfaces = tuple(m for m in methods if isinstance(m, SurfaceDefense) and m.strength > 0)
    if stance.logprobs == "asked" and stance.logit_bias:
        raise ConfigError(
            f"{where}': log-probabilities with logit_bias give away the whole distribution; allow one of them."
        )
    if stance.logprobs == "asked" and not surfaces and stance.distillability == "lowered":
        raise ConfigError(
            f"{where}.logprobs': shown as they are, they teach more than the text; add topk_logprobs, "
            "round_logprobs or label_only, or set 'none'."
        )
    return Resolved(
        name=name,
        stance=stance,
        study=study,
        unmeasured=tuple(told(m) for m in (*logits, *texts) if m.identity() not in known and m.kind != "summary"),
        texts=texts,
        surfaces=surfaces,
        logits=logits,
    )


def _extract(share: float) -> TraceDefense:
    """The extract that keeps `share` of the sentences."""
    cls: type[TraceDefense] = plugins.load("defenses", "summary")
    return parse_method(cls, {cls.dial: 1 - share}, "summary")


def _method(entry: Mapping[str, Any], where: str, path: Path) -> Defense:
    kind = entry.get("kind")
    if not isinstance(kind, str):
        raise ConfigError(f"{path}: '{where}' needs a 'kind', as in '{{kind: traceguard, budget: 0.1}}'.")
    try:
        cls = plugins.load("defenses", kind)
        found: Defense = parse_method(cls, {k: v for k, v in entry.items() if k != "kind"}, where)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return found
