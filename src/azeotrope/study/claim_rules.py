"""How a claim is decided: every rule turns a part's measurements into effects that are positive if it holds.

An effect is a set of bootstrap replicates (the first is the estimate) with, beside it, one value per independent
unit (a student base, or a base and draw), from which the difference that could have been detected follows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from azeotrope.core.errors import ConfigError
from azeotrope.maths import stats
from azeotrope.maths.stats import Curve, Floats, Weights
from azeotrope.study.arms import Arm
from azeotrope.study.claim_names import arm_named, attack_named, sweep_named
from azeotrope.study.claims import (
    Asymmetric,
    Below,
    Claim,
    Controlled,
    EqualCost,
    Grows,
    Restored,
    Spares,
    Surrogate,
    Weaker,
    Withstands,
)
from azeotrope.study.config import StudentSettings
from azeotrope.study.equal_cost import Sweep
from azeotrope.study.gains import highest, share_of
from azeotrope.study.governance import CAPABILITY, shares
from azeotrope.study.plan import Plan
from azeotrope.study.resampling import spread, teacher_weights, units, weights_for
from azeotrope.study.tables import TaskData, over_draws, over_seeds
from azeotrope.study.utility import kept
from azeotrope.study.vocabulary import UNDEFENDED, is_control

FEWER_ERRORS = "wrong_statements"


@dataclass(slots=True)
class Effect:
    """`draws` (R,), positive where the claim holds; `units` (U,); `problem` says why there is none.

    Units in which a curve does not reach the stated cost are left out of `units`.
    """

    name: str
    draws: Floats | None = None
    units: Floats = field(default_factory=lambda: np.empty(0))
    problem: str = ""
    margin: float | None = None  # the smallest effect worth having, where it is not the trial's
    sought: float | None = None  # the difference that seeds are counted for, where it is not the trial's margin
    items: int = 0  # measured on each unit, where these are not the test problems


@dataclass(slots=True)
class Ground:
    """What a claim stands on, on one task: effects, of which `every` or any must hold, and plain conditions."""

    effects: list[Effect]
    every: bool = True
    conditions: list[tuple[str, bool]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Scene:
    """One task of a part, one student family, and the weights: resampled, and one row per unit."""

    plan: Plan
    task: str
    data: TaskData
    student: StudentSettings

    def weights(self, items: int, per_unit: bool) -> Weights:
        """Resampling weights for (draw · bases + base, item) matrices, or one row per unit without resampling."""
        bases, draws = self.student.bases, self.data.draws
        if not per_unit:
            return weights_for(self.plan.study, self.task, bases, draws, items)
        count = units(self.plan.study, bases, draws)
        rows = spread(self.plan.study, np.eye(count), bases, draws)
        return Weights(rows, np.full((count, items), 1.0 / items))

    def without_one(self, items: int) -> Weights:
        """One row per unit, which leaves that unit out; needs two of them."""
        bases, draws = self.student.bases, self.data.draws
        count = units(self.plan.study, bases, draws)
        others = (1.0 - np.eye(count)) / (count - 1)
        rows = spread(self.plan.study, others, bases, draws)
        return Weights(rows, np.full((count, items), 1.0 / items))

    def student_values(self, arm: str, attack: str, metric: str) -> Floats:
        """The students' matrix of a metric. Raises ConfigError if it was not measured."""
        cell = self.data.students[arm, attack, self.student.family]
        found = cell.matrices.get(metric, cell.scalars.get(metric))
        if found is None:
            raise ConfigError(f"The part '{self.plan.study.name}' has no measure '{metric}' of students.")
        return found

    def leak(self, arm: str, attack: str, metric: str, per_unit: bool) -> Floats:
        """Replicates (or units) of a leakage measure."""
        values = self.student_values(arm, attack, metric)
        return stats.replicate(values, self.weights(values.shape[1], per_unit))

    def errors(self, arm: str, per_unit: bool) -> Floats:
        """Replicates of wrong statements a trace."""
        values = over_seeds(self.data.teachers[arm][FEWER_ERRORS], self.student.bases * self.data.draws)
        return stats.replicate(values, self.weights(values.shape[1], per_unit))

    def kept(self, arm: str, utility: str, per_unit: bool) -> Floats:
        """Replicates of what an arm keeps of a utility; of wrong statements, their number with a minus sign."""
        if utility == FEWER_ERRORS:
            return np.asarray(-self.errors(arm, per_unit), dtype=np.float64)
        weights = self.weights(len(self.data.problems), per_unit)
        found = kept(self.data, arm, utility, weights, self.student.bases * self.data.draws)
        if found is None:
            raise ConfigError(f"The part '{self.plan.study.name}' has no measure '{utility}' of teachers.")
        return found

    def curve(self, sweep: Sweep, utility: str, leak: Callable[[str, bool], Floats], per_unit: bool) -> Curve:
        """A defense's trade-off curve in replicates or units."""
        points = [(self.kept(a.label, utility, per_unit), leak(a.label, per_unit)) for a in sweep.arms]
        clean = (self.kept(UNDEFENDED, utility, per_unit), leak(UNDEFENDED, per_unit))
        return stats.curve([a.strength for a in sweep.arms], [u for u, _ in points], [v for _, v in points], clean)


def ground(claim: Claim, scene: Scene) -> Ground:
    """Return what decides a claim on one task and student family. Raises ConfigError for a name it lacks."""
    rule = claim.test
    if isinstance(rule, Controlled):
        return _controlled(rule, scene)
    if isinstance(rule, EqualCost):
        return Ground([_equal_cost(rule, scene, rule.utility, rule.drop)])
    if isinstance(rule, Grows):
        return _grows(rule, scene)
    if isinstance(rule, Weaker):
        return _weaker(rule, scene)
    if isinstance(rule, Below):
        return _below(rule, scene)
    if isinstance(rule, Restored):
        return _restored(rule, scene)
    if isinstance(rule, Asymmetric):
        return Ground([_asymmetric(rule, scene)])
    if isinstance(rule, Surrogate):
        return Ground([_surrogate(rule, scene)])
    if isinstance(rule, Spares):
        return Ground([_spares(rule, scene)])
    return _withstands(rule, scene)


def _equal_cost(rule: EqualCost, scene: Scene, utility: str, drop: float) -> Effect:
    """Reference minus defense at equal cost: how much weaker the defense's students are."""
    one, other = _sweep(scene, rule.defense), _sweep(scene, rule.reference)
    name = f"{one.name} below {other.name} at equal {utility.replace('_', ' ')}"

    attack = _attack(scene, rule.attack)

    def leak(arm: str, per_unit: bool) -> Floats:
        return scene.leak(arm, attack, rule.metric, per_unit)

    return _at_cost(scene, (other, one), utility, drop, leak, name)


def _at_cost(
    scene: Scene,
    pair: tuple[Sweep, Sweep],
    utility: str,
    drop: float,
    leak: Callable[[str, bool], Floats],
    name: str,
) -> Effect:
    found = []
    for per_unit in (False, True):
        first, second = (
            stats.at_teacher_cost(scene.curve(sweep, utility, leak, per_unit), drop) for sweep in pair
        )
        found.append(first - second)
    draws, units = found
    if not np.isfinite(draws[0]) or np.isfinite(draws[1:]).mean() < stats.REACHED_SHARE:
        return Effect(name, problem="not reached: an arm costs less than the stated drop")
    return Effect(name, draws, units[np.isfinite(units)])


def _controlled(rule: Controlled, scene: Scene) -> Ground:
    """At equal accuracy, and at equal wrong statements or with fewer of them."""
    at_accuracy = _equal_cost(rule, scene, rule.utility, rule.drop)
    at_errors = _equal_cost(rule, scene, FEWER_ERRORS, rule.errors)
    if at_errors.draws is not None:
        return Ground([at_accuracy, at_errors])
    pair = (_sweep(scene, rule.reference), _sweep(scene, rule.defense))
    fewer = _at_cost(scene, pair, rule.utility, rule.drop, scene.errors, "wrong statements, control minus defense")
    if fewer.draws is None:
        return Ground([at_accuracy, at_errors])
    low = stats.from_replicates(fewer.draws, n=0, n_seeds=0).low
    said = f"at equal accuracy the defense's traces hold no more wrong statements ({fewer.draws[0]:+.2f} a trace)"
    return Ground([at_accuracy], conditions=[(said, bool(low >= 0))])


def _grows(rule: Grows, scene: Scene) -> Ground:
    sweep = _sweep(scene, rule.defense)
    weakest, *_, strong = [arm.label for arm in sorted(sweep.arms, key=lambda arm: arm.strength)]
    answers = {arm: found["teacher_accuracy"] for arm, found in scene.data.teachers.items()}
    attack = _attack(scene, rule.attack)
    same = all(np.array_equal(answers[arm], answers[UNDEFENDED]) for arm in (weakest, strong))
    return Ground(
        [
            _difference(scene, attack, rule.metric, weakest, strong, "loss grows with the budget"),
            _difference(scene, attack, rule.metric, UNDEFENDED, strong, "loss at the largest budget"),
        ],
        conditions=[("answers are unchanged", same)],
    )


def _weaker(rule: Weaker, scene: Scene) -> Ground:
    arm, attack = _arm(scene, rule.arm).label, _attack(scene, rule.attack)
    return Ground(
        [
            _difference(scene, attack, rule.metric, _arm(scene, other).label, arm, f"below {other}")
            for other in rule.references
        ]
    )


def _below(rule: Below, scene: Scene) -> Ground:
    arm = _arm(scene, rule.arm).label
    other = arm if rule.reference_arm is None else _arm(scene, rule.reference_arm).label
    effects = []
    for attack, reference in itertools.product(rule.attacks, rule.references):
        weak, strong = _attack(scene, attack), _attack(scene, reference)
        draws, units = (
            scene.leak(other, strong, rule.metric, per_unit) - scene.leak(arm, weak, rule.metric, per_unit)
            for per_unit in (False, True)
        )
        if rule.slack:
            name = f"{weak} at most {100 * rule.slack:g} points above {strong}"
            effects.append(Effect(name, draws + rule.slack, units + rule.slack, margin=0.0, sought=rule.slack))
        else:
            effects.append(Effect(f"{weak} below {strong}", draws, units))
    return Ground(effects)


def _spares(rule: Spares, scene: Scene) -> Effect:
    """The slack minus what the arm costs the teacher, who is one in every draw, whatever its students."""
    arm, data = _arm(scene, rule.arm).label, scene.data
    items = len(data.problems)
    drawn = teacher_weights(scene.plan.study, scene.task, items, anew=True)
    alone = Weights(np.eye(data.draws), np.full((data.draws, items), 1.0 / items))
    left, units = (rule.slack - _lost(scene, arm, rule.utility, weights) for weights in (drawn, alone))
    name = f"{rule.utility.replace('_', ' ')} lost is at most {100 * rule.slack:g} points"
    return Effect(name, left, units, margin=0.0, sought=rule.slack)


def _lost(scene: Scene, arm: str, utility: str, weights: Weights) -> Floats:
    before, after = (kept(scene.data, one, utility, weights, scene.data.draws) for one in (UNDEFENDED, arm))
    if before is None or after is None:
        raise ConfigError(f"The part '{scene.plan.study.name}' has no measure '{utility}' of teachers.")
    return np.asarray(before - after, dtype=np.float64)


def _difference(scene: Scene, attack: str, metric: str, first: str, second: str, name: str) -> Effect:
    """Leakage of the first arm minus that of the second."""
    draws, units = (
        scene.leak(first, attack, metric, per_unit) - scene.leak(second, attack, metric, per_unit)
        for per_unit in (False, True)
    )
    return Effect(name, draws, units)


def _restored(rule: Restored, scene: Scene) -> Ground:
    """Gain minus `share` of the loss, for every attack; any one suffices."""
    arm = _arm(scene, rule.arm).label
    passive_attack = _attack(scene, rule.passive)
    every = [label for label in _thieves(scene) if label != passive_attack]
    tried = [_attack(scene, name) for name in rule.attacks] or every
    values = {}
    for per_unit in (False, True):
        clean = scene.leak(UNDEFENDED, passive_attack, rule.metric, per_unit)
        passive = scene.leak(arm, passive_attack, rule.metric, per_unit)
        for attack in tried:
            gain = scene.leak(arm, attack, rule.metric, per_unit) - passive
            values[attack, per_unit] = gain - rule.share * (clean - passive)
        values["", per_unit] = clean - passive
    lost = stats.from_replicates(values["", False], n=0, n_seeds=0)
    if not lost.low > 0:
        return Ground([Effect("loss", problem=_no_loss(lost, values["", True]))])
    names = sorted({attack for attack, _ in values if attack})
    best = max(names, key=lambda attack: float(values[attack, False][0]))
    loss = values["", False]
    share = stats.from_replicates(share_of(values[best, False] + rule.share * loss, loss), n=0, n_seeds=0)
    said = (
        f"the most is restored by {best}: {100 * share.difference:.0f} % "
        f"[{100 * share.low:.0f}, {100 * share.high:.0f}] of a loss of {100 * float(loss[0]):.1f} points"
    )
    effects = [Effect(a, values[a, False], values[a, True], margin=0.0) for a in names]
    return Ground(effects, every=False, conditions=[(said, True)])


def _no_loss(lost: stats.Difference, units: Floats) -> str:
    """Why there is nothing to restore, and which loss would have been found."""
    found = stats.minimum_detectable(float(np.std(units, ddof=1)) if len(units) > 1 else np.nan, len(units))
    power = f"; a loss of {100 * found:.1f} would have been found" if np.isfinite(found) else ""
    return (
        f"nothing to restore: the passive student lost {100 * lost.difference:.1f} points "
        f"[{100 * lost.low:.1f}, {100 * lost.high:.1f}], which may be chance{power}"
    )


def _asymmetric(rule: Asymmetric, scene: Scene) -> Effect:
    """A ratio of means has no value of a single unit (its denominator may be 0 there): units are pseudo-values."""
    attack = _attack(scene, rule.attack)

    def gap(weights: Callable[[int], Weights]) -> Floats:
        governance, capability = (_transfer(scene, m, attack, weights) for m in (rule.measure, CAPABILITY))
        return capability - governance

    found = gap(lambda items: scene.weights(items, per_unit=False))
    name = f"capability minus {rule.measure.replace('_', ' ')}, shares transferred"
    if not np.isfinite(found[0]):
        return Effect(name, problem="nothing to transfer: the teacher does not exceed the undistilled student")
    items = scene.student_values(UNDEFENDED, attack, rule.measure).shape[1]
    count = units(scene.plan.study, scene.student.bases, scene.data.draws)
    one = stats.pseudo_values(float(found[0]), gap(scene.without_one)) if count > 1 else np.empty(0)
    return Effect(name, found, one[np.isfinite(one)], items=items)


def _transfer(scene: Scene, measure: str, attack: str, weigh: Callable[[int], Weights]) -> Floats:
    named = "teacher_accuracy" if measure == CAPABILITY else f"teacher_{measure}"
    after = scene.student_values(UNDEFENDED, attack, measure)
    before = over_draws(scene.data.undistilled[scene.student.family].matrices[measure], scene.data.draws)
    teacher = over_seeds(scene.data.teachers[UNDEFENDED][named], len(after))
    weights = weigh(after.shape[1])
    return shares(*(stats.replicate(values, weights) for values in (after, before, teacher)))


def _withstands(rule: Withstands, scene: Scene) -> Ground:
    """`share` of the undefended gain minus the gain under defense, for every attack against the best one."""
    arm = _arm(scene, rule.arm).label
    attacks = _thieves(scene)
    undistilled = over_draws(scene.data.undistilled[scene.student.family].matrices[rule.metric], scene.data.draws)
    gains: dict[tuple[str, bool], Floats] = {}  # under the defense, over the undistilled student
    best = {}
    for per_unit in (False, True):
        start = stats.replicate(undistilled, scene.weights(undistilled.shape[1], per_unit))
        best[per_unit] = highest(scene.leak(UNDEFENDED, a, rule.metric, per_unit) - start for a in attacks)
        gains |= {(a, per_unit): scene.leak(arm, a, rule.metric, per_unit) - start for a in attacks}
    margins = {key: rule.share * best[key[1]] - gain for key, gain in gains.items()}
    effects = [Effect(a, margins[a, False], margins[a, True], margin=0.0) for a in attacks]
    worst = max(attacks, key=lambda attack: float(gains[attack, False][0]))
    kept_share = share_of(highest(gains[attack, False] for attack in attacks), best[False])
    if not np.isfinite(kept_share[0]):
        return Ground(effects, conditions=[("without the defense no attack gains anything", True)])
    share = stats.from_replicates(kept_share, n=0, n_seeds=0)
    said = (
        f"the worst attack ({worst}) gets {100 * share.difference:.0f} % "
        f"[{100 * share.low:.0f}, {100 * share.high:.0f}] of the undefended gain"
    )
    return Ground(effects, conditions=[(said, True)])


def _surrogate(rule: Surrogate, scene: Scene) -> Effect:
    """Each student under the other arms, on average, minus under the arm whose surrogate its base was."""
    bases = scene.student.bases
    if len(rule.arms) != bases:
        raise ConfigError(
            f"There are {len(rule.arms)} arms for {bases} bases; the k-th must have base k's surrogate."
        )
    attack = _attack(scene, rule.attack)
    values = np.stack([scene.student_values(_arm(scene, arm).label, attack, rule.metric) for arm in rule.arms])
    rows = np.arange(values.shape[1])  # draw · bases + base
    own = values[rows % bases, rows]
    gap = (values.sum(axis=0) - own) / (bases - 1) - own
    draws, units = (stats.replicate(gap, scene.weights(gap.shape[1], per_unit)) for per_unit in (False, True))
    return Effect("the surrogate's own base below the others", draws, units)


def _thieves(scene: Scene) -> list[str]:
    """Labels of the attacks, their controls left out."""
    return [attack.label for attack in scene.plan.expansion.attacks if not is_control(attack.label)]


def _sweep(scene: Scene, name: str) -> Sweep:
    return sweep_named(scene.plan.study.name, scene.plan.expansion, name)


def _attack(scene: Scene, name: str) -> str:
    return attack_named(scene.plan.study.name, scene.plan.expansion, name)


def _arm(scene: Scene, name: str) -> Arm:
    return arm_named(scene.plan.study.name, scene.plan.expansion, name)
