"""How much a step is likely to take, before any was timed: tokens read or written, and seconds on one core."""

from __future__ import annotations

from azeotrope.models.endpoint import is_endpoint, parse_ref
from azeotrope.study.service import make_attack, make_task
from azeotrope.study.specs import AttackSpec, DetectSpec, Estimate, ReleaseSpec, Spec

LONGEST = 120  # tokens of a text, as the embedded models write them
LEARNED, WRITTEN, HEAD = 15_000, 20_000, 50_000  # tokens a second: students, decoding, a head alone
SLOW = ("ads", "permutation")  # decode with a second model


def effort(spec: Spec) -> Estimate:
    """A rough cost of a step with the embedded models; rescaled by real timings once there are any."""
    if isinstance(spec, DetectSpec):
        return {"seconds": 6.0, "tokens": 0}
    tokens = min(LONGEST, make_task(spec.task).max_new_tokens)
    test = spec.evaluation.problems * tokens
    if isinstance(spec, ReleaseSpec):
        defended = 3.0 if any(settings["kind"] in SLOW for settings in spec.arm) else 1.0
        written, learned = spec.n * tokens + test, _learned_by_defenses(spec) * tokens
        asked = is_endpoint(spec.teacher) and not spec.arm  # the other arms read what it was answered
        speed = 40 * parse_ref(spec.teacher).concurrency if asked else WRITTEN
        return {"seconds": 3.0 + defended * written / speed + learned / HEAD, "tokens": written + learned}
    if isinstance(spec, AttackSpec):
        amount = spec.bases * (_learned_by_students(spec) * tokens + test)
        return {"seconds": 2.0 + amount / LEARNED, "tokens": amount}
    return {"seconds": 1.0 + spec.bases * test / WRITTEN, "tokens": spec.bases * test}


def _learned_by_defenses(spec: ReleaseSpec) -> int:
    """Texts that defenses are trained on, each as often as it is read."""
    return sum(
        int(settings["holdout"]) * int(settings["epochs"]) * int(settings.get("maps", 1))
        for settings in spec.arm
        if "holdout" in settings and "epochs" in settings
    )


def _learned_by_students(spec: AttackSpec) -> int:
    """Texts that a student is trained on, each as often as it is read, and what is asked for beside them."""
    budget, n = make_attack(spec.attack).budget, spec.release.n
    epochs = int(spec.attack.get("sft", spec.attack).get("epochs", 1))
    return round(budget.data * n) * epochs + budget.billed(n)
