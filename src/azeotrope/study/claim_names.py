"""What the names in a claim mean: arms, curves and attacks of its part, by label or by a shorter name for one."""

from __future__ import annotations

from typing import Any, TypeVar

from azeotrope.core.errors import ConfigError, nearest
from azeotrope.study.arms import Arm, Expansion
from azeotrope.study.equal_cost import Sweep, sweeps
from azeotrope.study.vocabulary import UNDEFENDED

T = TypeVar("T")


def sweep_named(part: str, found: Expansion, name: str) -> Sweep:
    """The curve of a name or kind. Raises ConfigError unless there is exactly one."""
    known = sweeps(found.arms)
    matching = [sweep for sweep in known if name in (sweep.name, sweep.kind)]
    return _only(matching, name, "curves", part, [sweep.name for sweep in known])


def attack_named(part: str, found: Expansion, name: str) -> str:
    """The label of an attack, from its label, or its kind if only one is of that kind. Raises ConfigError."""
    known = [attack.label for attack in found.attacks]
    matching = [label for label in known if label == name] or [x for x in known if x.partition("(")[0] == name]
    return _only(matching, name, "attacks", part, known)


def arm_named(part: str, found: Expansion, name: str) -> Arm:
    """The arm of a label, or the one whose label begins so. Raises ConfigError unless there is exactly one."""
    exact = [arm for arm in found.arms if arm.label == name]
    known = [arm for arm in found.arms if arm.label != UNDEFENDED]
    matching = exact or [arm for arm in known if arm.label.startswith(name)]
    return _only(matching, name, "arms", part, [arm.label for arm in known])


def check_names(part: str, found: Expansion, rule: Any) -> None:
    """Raise ConfigError for a name in a rule that its part does not have. What runs for hours is checked first."""
    arms = [getattr(rule, key, None) for key in ("arm", "reference_arm")]
    attacks = [getattr(rule, key, None) for key in ("attack", "passive")]
    curves = [getattr(rule, key, None) for key in ("defense", "reference")]
    arms += [*getattr(rule, "arms", ()), *(rule.references if rule.rule == "weaker" else ())]
    attacks += [*getattr(rule, "attacks", ()), *(rule.references if rule.rule == "below" else ())]
    for name in filter(None, arms):
        arm_named(part, found, name)
    for name in filter(None, attacks):
        attack_named(part, found, name)
    for name in filter(None, curves):
        curve = sweep_named(part, found, name)
        if rule.rule == "grows" and len(curve.arms) < 2:
            raise ConfigError(f"'{name}' has one strength in '{part}'; whether a loss grows takes at least two.")


def _only(matching: list[T], name: str, what: str, part: str, known: list[str]) -> T:
    if len(matching) == 1:
        return matching[0]
    raise ConfigError(
        f"'{name}' is {'not one' if matching else 'none'} of the {what} of '{part}' ({', '.join(known)})."
        f"{nearest(name, known)}"
    )
