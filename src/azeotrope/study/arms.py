"""From a study's method lists to arms: sweeps expanded, compositions ordered, labels made unique.

A defense entry is `{kind: ads, lam: 0.1, ...}`; a list on the strength dial (`lam: [0.1, 0.2]`) is a sweep
and gives one arm per strength. A composition is `{compose: [{...}, {...}]}`; sweeps inside it multiply out.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from azeotrope.core import plugins
from azeotrope.core.access import Access
from azeotrope.core.budget import Budget
from azeotrope.core.errors import ConfigError, MissingError, nearest
from azeotrope.core.methods import (
    Attack,
    Defense,
    Maturity,
    Method,
    Settings,
    Stage,
    differing,
    explain,
    parse_method,
)
from azeotrope.core.seeds import fingerprint
from azeotrope.models.endpoint_settings import is_endpoint
from azeotrope.study.config import Study
from azeotrope.study.vocabulary import PASSIVE, UNDEFENDED

Json = dict[str, Any]

NOTHING = Budget()


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One point of the study's first axis: a defense (or composition) at one strength.

    `curve` names the trade-off curve this arm is a point of: everything but the strength. `strength` is that
    of the swept member of a composition (the first member if none or several are swept). The last `surfaces` of
    its members change what is shown beside the text and no text.
    """

    label: str
    defense: str
    curve: str
    strength: float
    is_control: bool
    settings: tuple[Json, ...]
    identity: tuple[Json, ...]
    surfaces: int = 0

    @property
    def released(self) -> int:
        """How many of its members, the first ones, make the released text."""
        return len(self.settings) - self.surfaces


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A task or attack with its unique label, complete settings and identity (with the version).

    `needs` is the access that an attack reads, `budget` what it declares that it spends.
    """

    label: str
    settings: Json
    identity: Json
    needs: Access = Access.TEXT
    budget: Budget = NOTHING


@dataclass(frozen=True, slots=True, kw_only=True)
class Expansion:
    """Everything a study multiplies out, except students and draws."""

    tasks: tuple[Named, ...]
    arms: tuple[Arm, ...]
    attacks: tuple[Named, ...]
    detectors: tuple[Named, ...] = ()


NONE = Arm(
    label=UNDEFENDED,
    defense=UNDEFENDED,
    curve=UNDEFENDED,
    strength=0.0,
    is_control=False,
    settings=(),
    identity=(),
)


def expand(study: Study) -> Expansion:
    """Parse every method of a study through the catalogue and expand the sweeps.

    Raises ConfigError (unknown kind or setting, repeated entry) and MissingError (optional package).
    """
    tasks = [_task(entry, f"tasks.{i}") for i, entry in enumerate(study.tasks)]
    attacks = [_method("attacks", entry, f"attacks.{i}") for i, entry in enumerate(study.attacks)]
    detectors = [_method("detectors", entry, f"detectors.{i}") for i, entry in enumerate(study.detectors)]
    arms = [arm for i, entry in enumerate(study.defenses) for arm in _arms(entry, f"defenses.{i}")]
    for group, found in (("tasks", tasks), ("attacks", attacks), ("detectors", detectors)):
        _no_repeats(group, [(item.label, item.identity) for item in found])
    _no_repeats("defenses", [(arm.label, arm.identity) for arm in arms if arm.settings])
    _check_access(study, attacks)
    _check_surfaces(study, arms)
    wanted = study.analysis.headline.attack
    labels = [attack.label for attack in attacks]
    if wanted is not None and wanted not in labels:
        raise ConfigError(f"'analysis.headline.attack': no attack '{wanted}'.{nearest(wanted, labels)}")
    passive = study.analysis.passive
    known = [*labels, *(str(attack.settings["kind"]) for attack in attacks)]
    if passive != PASSIVE and passive not in known:
        raise ConfigError(f"'analysis.passive': no attack '{passive}'.{nearest(passive, known)}")
    families = [student.family for student in study.students]
    _no_repeats("students", [(family, family) for family in families])
    named_tasks = _relabel(tasks, short=True)
    _check_draws(study, [task.label for task in named_tasks])
    return Expansion(
        tasks=tuple(named_tasks),
        attacks=tuple(_relabel(attacks, short=False)),
        detectors=tuple(_relabel(detectors, short=False)),
        arms=(NONE, *_unique_arms([arm for arm in arms if arm.settings])),
    )


def _arms(entry: Mapping[str, Any], where: str) -> list[Arm]:
    """Expand one entry of `defenses` into arms (an explicit `none` gives the reference arm)."""
    if "compose" not in entry:
        return [_arm([pick]) for pick in _sweep(entry, where)]
    extra = sorted(set(entry) - {"compose"})
    if extra:
        raise ConfigError(f"Unknown setting '{where}.{extra[0]}'; a composition has the key 'compose' only.")
    members = entry["compose"]
    if not isinstance(members, list | tuple) or not members:
        raise ConfigError(f"'{where}.compose' should be a list of defenses.")
    options = [_sweep(member, f"{where}.compose.{i}") for i, member in enumerate(members)]
    return [_arm(picks) for picks in itertools.product(*options)]


def _sweep(entry: Any, where: str) -> list[tuple[Defense, bool]]:
    """Parse one defense; a list on its dial gives several, marked as swept."""
    cls, settings = _class("defenses", entry, where)
    dial = str(getattr(cls, "dial", ""))
    values = settings.get(dial)
    if not dial or not isinstance(values, list | tuple):
        return [(parse_method(cls, settings, where), False)]
    if not values:
        raise ConfigError(f"'{where}.{dial}' is an empty list; give at least one strength.")
    return [(parse_method(cls, {**settings, dial: value}, where), True) for value in values]


def _arm(picks: Sequence[tuple[Defense, bool]]) -> Arm:
    """Build an arm from (defense, swept?) pairs, ordered by where they act."""
    order = {stage: i for i, stage in enumerate(Stage)}
    acting = sorted((m for m, _ in picks if m.kind != UNDEFENDED), key=lambda m: order[m.stage])
    if not acting:
        return NONE
    lead = next((m for m, swept in picks if swept), acting[0])
    return Arm(
        label=" + ".join(_label(m, with_dial=True) for m in acting),
        defense="+".join(m.kind for m in acting),
        curve=" + ".join(_label(m, with_dial=m is not lead) for m in acting),
        strength=lead.strength,
        is_control=all(m.maturity is Maturity.CONTROL for m in acting),
        settings=tuple({"kind": m.kind, **m.model_dump(mode="json")} for m in acting),
        identity=tuple(m.identity() for m in acting),
        surfaces=sum(m.stage is Stage.SURFACE for m in acting),
    )


def _label(method: Settings, *, with_dial: bool) -> str:
    """`kind(dial=.1, other=..)`: the dial if wanted, and the settings that differ from their defaults."""
    dial = str(getattr(method, "dial", ""))
    parts = differing(method, always=dial if with_dial else "", never=dial)
    return str(getattr(method, "kind", "")) + (f"({', '.join(parts)})" if parts else "")


def _task(entry: Any, where: str) -> Named:
    cls, settings = _class("tasks", entry, where)
    try:
        task: Settings = cls.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(explain(error, where, cls)) from None
    complete = {"kind": cls.kind, **task.model_dump(mode="json")}
    return Named(
        label=_label(task, with_dial=False), settings=complete, identity={**complete, "version": int(cls.version)}
    )


def _method(group: str, entry: Any, where: str) -> Named:
    """Parse an attack or a detector."""
    cls, settings = _class(group, entry, where)
    method: Method = parse_method(cls, settings, where)
    return Named(
        label=_label(method, with_dial=False),
        identity=method.identity(),
        settings={"kind": method.kind, **method.model_dump(mode="json")},
        needs=method.needs if isinstance(method, Attack) else Access.TEXT,
        budget=method.budget if isinstance(method, Attack) else NOTHING,
    )


def _check_access(study: Study, attacks: Sequence[Named]) -> None:
    """Raise ConfigError for an attack that reads more than the release shows, or a release no endpoint makes."""
    shown = Access.named(study.release.access)
    if shown > Access.TEXT and is_endpoint(study.teacher):
        raise ConfigError(
            f"'release.access': studies read the text of an endpoint only, not the {study.release.access} of "
            f"{study.teacher}; set it to text (`azeotrope extract` reads an endpoint's log-probabilities)."
        )
    for i, attack in enumerate(attacks):
        if attack.needs > shown:
            needed = attack.needs.name.lower()
            raise ConfigError(
                f"'attacks.{i}': {attack.label} needs access {needed}, but the release shows "
                f"{study.release.access}; set release.access: {needed} or leave the attack out."
            )


def _check_surfaces(study: Study, arms: Sequence[Arm]) -> None:
    """Raise ConfigError for a defense of what is shown beside the text, where an endpoint is read as text."""
    for arm in arms:
        if arm.surfaces and is_endpoint(study.teacher):
            raise ConfigError(
                f"'defenses': {arm.label} changes what is shown beside the text, and studies read the text of an "
                "endpoint only; leave it out."
            )


def _class(group: str, entry: Any, where: str) -> tuple[Any, Json]:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("kind"), str):
        raise ConfigError(f"'{where}' needs a 'kind', as in '{{kind: none}}'; `azeotrope list` shows them.")
    try:
        cls = plugins.load(group, entry["kind"])
    except (ConfigError, MissingError) as error:
        raise type(error)(f"'{where}.kind': {error}") from None
    return cls, {str(key): value for key, value in entry.items() if key != "kind"}


def _check_draws(study: Study, tasks: Sequence[str]) -> None:
    """Check that draws given by task name every task and nothing else."""
    if isinstance(study.draws, int):
        return
    for name in study.draws:
        if name not in tasks:
            raise ConfigError(f"'draws': no task '{name}'.{nearest(name, tasks)}")
    for task in tasks:
        if task not in study.draws:
            raise ConfigError(f"'draws' does not say how many draws {task} gets; give every task a number.")


def _no_repeats(group: str, items: Sequence[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for label, identity in items:
        key = fingerprint(identity)
        if key in seen:
            raise ConfigError(f"'{group}' lists {label} twice; remove one of them.")
        seen.add(key)


def _relabel(items: Sequence[Named], *, short: bool) -> list[Named]:
    """Shorten labels to the kind where that is unique (`short`) and tell equal labels apart."""
    kinds = Counter(item.settings["kind"] for item in items)
    wanted = [
        item.settings["kind"] if short and kinds[item.settings["kind"]] == 1 else item.label for item in items
    ]
    labels = _distinct(wanted, [item.identity for item in items])
    return [replace(item, label=label) for item, label in zip(items, labels, strict=True)]


def _unique_arms(arms: Sequence[Arm]) -> list[Arm]:
    labels = _distinct([arm.label for arm in arms], [arm.identity for arm in arms])
    return [replace(arm, label=label) for arm, label in zip(arms, labels, strict=True)]


def _distinct(labels: Sequence[str], identities: Sequence[Any]) -> list[str]:
    """Append a short fingerprint to labels that coincide (e.g. strengths equal to six digits)."""
    count = Counter(labels)
    return [
        f"{label} #{fingerprint(identity, 4)}" if count[label] > 1 else label
        for label, identity in zip(labels, identities, strict=True)
    ]
