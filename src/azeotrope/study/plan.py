"""From a study to a graph of steps with content-addressed identities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from azeotrope.core.access import Access
from azeotrope.core.seeds import fingerprint
from azeotrope.models import conduct
from azeotrope.models.endpoint_settings import identity_of
from azeotrope.study.arms import Arm, Expansion, Named, expand
from azeotrope.study.config import StudentSettings, Study
from azeotrope.study.making import stored
from azeotrope.study.specs import (
    ATTACK,
    DETECT,
    RELEASE,
    UNDISTILLED,
    AttackSpec,
    DetectSpec,
    Estimate,
    ReleaseSpec,
    Spec,
    Stages,
    UndistilledSpec,
)
from azeotrope.study.store import Store
from azeotrope.study.vocabulary import UNDEFENDED

ID_LENGTH = 20  # hexadecimal digits: 80 bits


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One unit of work. `cells` counts what it measures: 1 for a release, one per student otherwise."""

    id: str
    stage: str
    spec: Spec
    identity: dict[str, Any]
    needs: tuple[str, ...]
    cells: int
    task: str
    arm: str = ""
    attack: str = ""
    student: str = ""
    draw: int = 0
    estimate: Estimate

    @property
    def label(self) -> str:
        """A name for messages."""
        parts = [self.stage, self.task, self.arm, self.attack, self.student]
        draw = f"draw {self.draw}" if self.stage != UNDISTILLED else ""
        return " · ".join(part for part in [*parts, draw] if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A study's steps in an order in which each comes after what it needs.

    Arms that differ in what they show beside the text share releases, and the attacks that read text only: such
    steps are listed for each of them, with one id; `work` lists every id once.
    """

    study: Study
    expansion: Expansion
    steps: tuple[Step, ...]

    @property
    def work(self) -> tuple[Step, ...]:
        """The steps that there are to do, each once."""
        found: dict[str, Step] = {}
        for step in self.steps:
            found.setdefault(step.id, step)
        return tuple(found.values())

    def of(self, stage: str, **where: str) -> list[Step]:
        """Return the steps of a stage whose attributes equal `where` (task=…, arm=…), in plan order."""
        return [
            step
            for step in self.steps
            if step.stage == stage and all(getattr(step, key) == value for key, value in where.items())
        ]


def make_plan(study: Study, stages: Stages) -> Plan:
    """Expand a study into steps. Raises ConfigError and MissingError as `arms.expand` does."""
    found = expand(study)
    steps: list[Step] = []
    for task in found.tasks:
        steps += [_undistilled(study, stages, task, student) for student in study.students]
        for draw in range(study.draws_of(task.label)):
            for arm in found.arms:
                release = _release(study, stages, task, arm, draw)
                steps.append(release)
                steps += [
                    _attack(study, stages, task, attack, student, release, arm)
                    for attack in found.attacks
                    for student in study.students
                ]
        steps += _detections(study, stages, task, found, steps)
    return Plan(study=study, expansion=found, steps=tuple(steps))


def step_id(
    stage: str, version: int, identity: Mapping[str, Any], inputs: Mapping[str, str], needs: Sequence[str] = ()
) -> str:
    """Return the fingerprint of everything that changes a step's output."""
    return fingerprint(
        {"stage": stage, "version": version, "spec": identity, "inputs": dict(inputs), "needs": list(needs)},
        ID_LENGTH,
    )


def remaining(steps: Sequence[Step], store: Store) -> list[Step]:
    """The steps to do, in order: what is not stored, what read other texts than the store's release has
    (`making`), and releases whose texts one of these needs and the store does not hold.
    """
    known: dict[str, str | None] = {}
    missing = [step for step in steps if not stored(store, step.stage, step.id, step.needs, known)]
    needed = {need for step in missing for need in step.needs}
    ids = {step.id for step in missing}
    ids |= {step.id for step in steps if step.id in needed and not store.whole(step.stage, step.id)}
    return [step for step in steps if step.id in ids]


def _release(study: Study, stages: Stages, task: Named, arm: Arm, draw: int) -> Step:
    spec = ReleaseSpec(
        teacher=study.teacher,
        task=task.settings,
        arm=arm.settings[: arm.released],
        n=study.release.n,
        draw=draw,
        seed=study.seed,
        sampling=study.release.sampling,
        evaluation=study.evaluation,
    )
    identity = {
        "teacher": identity_of(spec.teacher),
        "task": task.identity,
        "arm": list(arm.identity[: arm.released]),
        "n": spec.n,
        "draw": draw,
        "seed": spec.seed,
        "sampling": spec.sampling.model_dump(mode="json"),
        "evaluation": spec.evaluation.model_dump(mode="json"),
        **_conduct(study),
    }
    return _step(RELEASE, stages, spec, identity, cells=1, task=task.label, arm=arm.label, draw=draw)


def _attack(
    study: Study, stages: Stages, task: Named, attack: Named, student: StudentSettings, release: Step, arm: Arm
) -> Step:
    assert isinstance(release.spec, ReleaseSpec)
    reads_more = attack.needs > Access.TEXT  # what else is shown does not change an attack that reads text
    spec = AttackSpec(
        task=task.settings,
        attack=attack.settings,
        family=student.family,
        bases=student.bases,
        draw=release.draw,
        seed=study.seed,
        evaluation=study.evaluation,
        release=release.spec,
        access=study.release.access,
        top_logprobs=study.release.top_logprobs,
        surfaces=arm.settings[arm.released :] if reads_more else (),
    )
    identity: dict[str, Any] = {
        "task": task.identity,
        "attack": attack.identity,
        "family": spec.family,
        "bases": spec.bases,
        "draw": spec.draw,
        "seed": spec.seed,
        "evaluation": _student_evaluation(study),
        **_conduct(study),
    }
    if reads_more:
        if arm.surfaces:
            identity["surfaces"] = list(arm.identity[arm.released :])
        few = min(attack.needs, Access.named(spec.access)) < Access.FULL_LOGITS
        identity["access"] = [spec.access, spec.top_logprobs if few else 0]
    return _step(
        ATTACK,
        stages,
        spec,
        identity,
        cells=spec.bases,
        task=task.label,
        arm=release.arm,
        attack=attack.label,
        student=spec.family,
        draw=spec.draw,
        needs=(release.id,),
    )


def _detections(study: Study, stages: Stages, task: Named, found: Expansion, steps: Sequence[Step]) -> list[Step]:
    """One step an arm, on the first draw; that of the undefended arm is the control."""
    releases = {s.arm: s for s in steps if s.stage == RELEASE and s.task == task.label and s.draw == 0}
    clean = releases[UNDEFENDED]
    out = []
    for arm in found.arms if found.detectors else ():
        control = arm.label == UNDEFENDED
        spec = DetectSpec(
            detectors=tuple(one.settings for one in found.detectors), control=control, seed=study.seed
        )
        identity = {
            "detectors": [one.identity for one in found.detectors],
            "control": control,
            "seed": study.seed,
        }
        needs = (clean.id,) if control else (releases[arm.label].id, clean.id)
        out.append(_step(DETECT, stages, spec, identity, cells=1, task=task.label, arm=arm.label, needs=needs))
    return out


def _undistilled(study: Study, stages: Stages, task: Named, student: StudentSettings) -> Step:
    spec = UndistilledSpec(
        task=task.settings,
        family=student.family,
        bases=student.bases,
        seed=study.seed,
        evaluation=study.evaluation,
    )
    identity = {
        "task": task.identity,
        "family": spec.family,
        "bases": spec.bases,
        "seed": spec.seed,
        "evaluation": _student_evaluation(study),
        **_conduct(study),
    }
    return _step(UNDISTILLED, stages, spec, identity, cells=spec.bases, task=task.label, student=spec.family)


def _student_evaluation(study: Study) -> dict[str, Any]:
    """The evaluation settings that matter for students (readers and the diff explorer see teachers only)."""
    return study.evaluation.model_dump(mode="json", exclude={"diffs", "reader"})


def _conduct(study: Study) -> dict[str, int]:
    """The version of the measures of conduct, where they are taken."""
    return {"conduct": conduct.VERSION} if study.evaluation.conduct else {}


def _step(
    stage: str,
    stages: Stages,
    spec: Spec,
    identity: dict[str, Any],
    *,
    cells: int,
    task: str,
    arm: str = "",
    attack: str = "",
    student: str = "",
    draw: int = 0,
    needs: tuple[str, ...] = (),
) -> Step:
    inputs = stages.inputs(spec)
    return Step(
        id=step_id(stage, stages.versions[stage], identity, inputs, needs),
        stage=stage,
        spec=spec,
        identity={**identity, "inputs": dict(inputs)},
        needs=needs,
        cells=cells,
        task=task,
        arm=arm,
        attack=attack,
        student=student,
        draw=draw,
        estimate=stages.estimate(spec),
    )
