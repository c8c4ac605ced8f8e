"""Verdicts of a trial: supported, not supported or inconclusive, with what could have been detected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from azeotrope.core.errors import ConfigError
from azeotrope.maths import stats
from azeotrope.study.claim_rules import Effect, Ground, Scene, ground
from azeotrope.study.claims import Claim, Trial
from azeotrope.study.plan import Plan
from azeotrope.study.tables import TaskData

NAN = float("nan")
SUPPORTED, NOT_SUPPORTED, INCONCLUSIVE = "supported", "not supported", "inconclusive"
SCHEMA = {
    "claim": pl.String,
    "text": pl.String,
    "part": pl.String,
    "task": pl.String,
    "student": pl.String,
    "effect": pl.String,
    "value": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "p": pl.Float64,
    "mdd": pl.Float64,
    "n": pl.Int64,
    "n_seeds": pl.Int64,
    "reading": pl.String,
    "seeds_needed": pl.Int64,
    "note": pl.String,
}
Measured = Mapping[str, tuple[Plan, Mapping[str, TaskData]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One effect of a claim on a task and student family.

    Values are shares. `mdd` is the difference that a paired test of these units finds with 80 % power,
    `seeds_needed` how many units would find the trial's margin (or the claim's slack), `p` the two-sided p-value.
    """

    claim: str
    text: str
    part: str
    task: str
    student: str
    effect: str
    value: float
    low: float
    high: float
    p: float
    mdd: float
    n: int
    n_seeds: int
    reading: str
    seeds_needed: int = 0
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A claim's verdict on one task. `p_holm` is adjusted over its group's claims and tasks.

    `mdd` is that of the effects on which the verdict rests (see `_decisive`).
    """

    claim: str
    text: str
    task: str
    verdict: str
    p: float
    p_holm: float
    mdd: float
    reason: str


def decide(trial: Trial, measured: Measured) -> tuple[list[Verdict], list[Finding]]:
    """Decide every claim on every task of its part. Raises ConfigError for a name that a part does not have.

    An effect reads *supported* if its interval lies above 0, *not supported* if it lies below the margin (the
    trial's smallest difference worth having; 0 where a claim has a slack), *inconclusive* otherwise, also if it
    could not be measured. A
    claim needs all its effects (for `restored`: one, at a Bonferroni level) in all its families, and its
    conditions. An effect's p is the larger of the bootstrap's and of Student's over units. What is supported
    must stay so at the Holm-adjusted level over the claims of its group and tasks.
    """
    verdicts: list[Verdict] = []
    findings: list[Finding] = []
    for claim in trial.claims:
        plan, tasks = measured[claim.part]
        for task, data in tasks.items():
            verdict, found = _decide(trial, claim, plan, task, data)
            verdicts.append(verdict)
            findings += found
    groups = [claim.group for claim in trial.claims for _ in measured[claim.part][1]]
    adjusted = np.full(len(verdicts), NAN)
    for group in dict.fromkeys(groups):
        mine = [i for i, other in enumerate(groups) if other == group]
        adjusted[mine] = stats.holm([verdicts[i].p for i in mine])
    return [_adjust(v, p, trial.level) for v, p in zip(verdicts, adjusted, strict=True)], findings


def findings_table(findings: Sequence[Finding]) -> pl.DataFrame:
    """The findings as a table."""
    rows = [{name: getattr(f, name) for name in SCHEMA} for f in findings]
    return pl.DataFrame(rows, schema=SCHEMA).fill_nan(None)


def _decide(trial: Trial, claim: Claim, plan: Plan, task: str, data: TaskData) -> tuple[Verdict, list[Finding]]:
    families = claim.students or tuple(student.family for student in plan.study.students)
    known = {student.family: student for student in plan.study.students}
    findings: list[Finding] = []
    readings: list[str] = []
    reasons: list[str] = []
    for family in families:
        if family not in known:
            raise ConfigError(f"Claim '{claim.id}': the part '{claim.part}' has no students '{family}'.")
        found = ground(claim, Scene(plan, task, data, known[family]))
        rows = [_finding(trial, claim, plan, task, data, family, effect, found) for effect in found.effects]
        findings += rows
        readings.append(_together(rows, found))
        reasons += [row.note for row in rows if row.note]
        reasons += [f"{'' if ok else 'not so: '}{said}" for said, ok in found.conditions]
    verdict = _all(readings)
    shown = findings if verdict != SUPPORTED else [f for f in findings if f.reading == SUPPORTED]
    any_of = claim.test.rule == "restored"
    p = (
        _p_value(shown, findings, families)
        if any_of
        else max((f.p for f in shown if np.isfinite(f.p)), default=NAN)
    )
    return (
        Verdict(
            claim=claim.id,
            text=claim.text,
            task=task,
            verdict=verdict,
            p=min(1.0, p) if np.isfinite(p) else p,
            p_holm=float("nan"),
            mdd=_decisive(verdict, findings, any_of),
            reason="; ".join(dict.fromkeys(reasons)),
        ),
        findings,
    )


def _p_value(shown: Sequence[Finding], tried: Sequence[Finding], families: Sequence[str]) -> float:
    """Where one effect suffices in every family: the largest over families of the least p among those `shown`.

    That least p is multiplied by the number of effects tried in the family (Bonferroni).
    """
    found = []
    for family in families:
        known = [f.p for f in shown if f.student == family and np.isfinite(f.p)]
        if not known:
            return NAN
        found.append(min(known) * sum(f.student == family for f in tried))
    return max(found)


def _finding(
    trial: Trial, claim: Claim, plan: Plan, task: str, data: TaskData, family: str, effect: Effect, found: Ground
) -> Finding:
    blank = Finding(
        claim=claim.id, text=claim.text, part=claim.part, task=task, student=family, effect=effect.name,
        value=NAN, low=NAN, high=NAN, p=NAN, mdd=NAN, n=effect.items or len(data.problems), n_seeds=0,
        reading=INCONCLUSIVE, note=effect.problem,
    )  # fmt: skip
    if effect.draws is None:
        return blank
    confidence = plan.study.analysis.confidence
    if not found.every:
        confidence = 1.0 - (1.0 - confidence) / len(found.effects)
    gap = stats.from_replicates(effect.draws, n=0, n_seeds=len(effect.units), confidence=confidence)
    sd = float(np.std(effect.units, ddof=1)) if len(effect.units) > 1 else NAN
    margin = trial.margin if effect.margin is None else effect.margin
    sought = trial.margin if effect.sought is None else effect.sought
    p = float(np.fmax(gap.p, stats.student_p(gap.difference, effect.units)))
    return replace(
        blank, value=gap.difference, low=gap.low, high=gap.high, p=p, n_seeds=len(effect.units),
        mdd=stats.minimum_detectable(sd, len(effect.units)), seeds_needed=seeds_needed(sd, sought),
        reading=_reading(gap, margin),
    )  # fmt: skip


def _decisive(verdict: str, findings: Sequence[Finding], any_of: bool) -> float:
    """The minimum detectable difference that the verdict rests on.

    Where one effect settles it, the least of those that do; where all are needed, the largest of them. Where
    nothing is settled: if one would have sufficed, that of the most promising; else the largest that left it open.
    """
    rested = findings if verdict == SUPPORTED and not any_of else [f for f in findings if f.reading == verdict]
    measured = [f for f in rested or findings if np.isfinite(f.mdd)]
    if not measured:
        return NAN
    if any_of and verdict == INCONCLUSIVE:
        return max(measured, key=lambda f: f.value).mdd
    known = [f.mdd for f in measured]
    one_suffices = (verdict == SUPPORTED) if any_of else (verdict == NOT_SUPPORTED)
    return min(known) if one_suffices else max(known)


def seeds_needed(sd: float, margin: float, most: int = 1000) -> int:
    """The fewest seeds with which a paired test finds `margin` with 80 % power; 0 if unknown or above `most`."""
    if not np.isfinite(sd) or margin <= 0:
        return 0
    low, high = 2, most + 1
    while low < high:
        middle = (low + high) // 2
        if stats.minimum_detectable(sd, middle) <= margin:
            high = middle
        else:
            low = middle + 1
    return low if low <= most else 0


def _reading(gap: stats.Difference, margin: float) -> str:
    if gap.low > 0:
        return SUPPORTED
    return NOT_SUPPORTED if gap.high < margin or gap.high <= 0 else INCONCLUSIVE


def _together(rows: Sequence[Finding], found: Ground) -> str:
    readings = [row.reading for row in rows]
    if not found.every:
        if SUPPORTED in readings:
            return SUPPORTED
        return NOT_SUPPORTED if set(readings) == {NOT_SUPPORTED} else INCONCLUSIVE
    verdict = _all(readings)
    return NOT_SUPPORTED if verdict == SUPPORTED and not all(ok for _, ok in found.conditions) else verdict


def _all(readings: Sequence[str]) -> str:
    """All supported, or any refuted, or neither."""
    if NOT_SUPPORTED in readings:
        return NOT_SUPPORTED
    return SUPPORTED if set(readings) == {SUPPORTED} else INCONCLUSIVE


def _adjust(verdict: Verdict, p: float, level: float) -> Verdict:
    found = replace(verdict, p_holm=float(p))
    if verdict.verdict == SUPPORTED and not p <= level:
        return replace(
            found,
            verdict=INCONCLUSIVE,
            reason="; ".join(filter(None, [verdict.reason, "not after Holm's adjustment"])),
        )
    return found
