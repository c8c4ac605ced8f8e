"""What a study asks of its teacher: which problems, with which seeds, and what that costs behind an endpoint.

All arms of a draw ask the same: text defenses act on what was answered. Attacks ask the same for every arm and
student family. The completion cache sends each of these requests once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from azeotrope.core.seeds import derive, fingerprint
from azeotrope.core.types import Problem
from azeotrope.defenses.base import Bench
from azeotrope.models.conduct import questions
from azeotrope.models.endpoint import Endpoint, parse_ref
from azeotrope.models.endpoint_settings import NANO
from azeotrope.study.measure import test_problems
from azeotrope.study.service import bench_of, make_attack, make_task, release_problems
from azeotrope.study.specs import AttackSpec, ReleaseSpec, Spec

HOLDOUT_TRACES = 48  # clean traces for holdout curves and the style measure
PREFIX = " " * 200  # room for the first words that an attack makes the teacher say
RESAMPLED = 500  # problems of a release that the undefended teacher answers once more


@dataclass(frozen=True, slots=True)
class Asked:
    """Problems, and the seed of their answers."""

    problems: Sequence[Problem]
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Questionnaire:
    """What one release step asks of its teacher; holdout traces are asked for by the bench.

    `again` is the control of every detector, the release's problems once more: the undefended arm's only. The
    problems of `conduct` are chosen by `models.conduct`; here is their seed.
    """

    release: Asked
    tests: Asked
    again: Asked
    conduct: int


def questionnaire(spec: ReleaseSpec, bench: Bench) -> Questionnaire:
    """What the step `spec` asks."""
    problems = release_problems(spec, bench.task)
    seed = derive(spec.seed, "test", spec.draw)
    return Questionnaire(
        release=Asked(problems, derive(spec.seed, spec.draw)),
        tests=Asked(test_problems(bench.task, spec.seed, spec.evaluation), seed),
        again=Asked(() if spec.arm else problems[:RESAMPLED], derive(seed, "again")),
        conduct=derive(seed, "conduct"),
    )


@dataclass(frozen=True, slots=True)
class Quote:
    """What is still to be asked of an endpoint.

    `requests` counts completions that are not in the cache; a retry is one more. `cost` is the most they can cost
    in currency units, every completion at its token limit; None without prices.
    """

    ref: str
    requests: int
    cost: float | None
    max_cost: float

    @property
    def sentence(self) -> str:
        """One sentence for people."""
        if self.cost is None:
            return f"At most {self.requests:,} requests to {self.ref}, retries aside; it has no prices."
        return (
            f"At most {self.requests:,} requests to {self.ref}, retries aside, for at most {self.cost:.4g} "
            f"(max_cost={self.max_cost:g} includes what was spent before)."
        )


def quote(teacher: str, specs: Sequence[Spec]) -> Quote:
    """What the steps `specs` would still ask of `teacher`, an endpoint.

    What an attack asks beyond the release is what it declares (`Attack.budget`), cached or not.
    """
    endpoint = Endpoint(parse_ref(teacher))
    bounds: dict[str, float] = {}
    for spec in specs:
        if isinstance(spec, ReleaseSpec):
            bounds |= _of_release(spec, endpoint)
    for key in endpoint.stored(list(bounds)):
        del bounds[key]
    extra = _of_attacks([spec for spec in specs if isinstance(spec, AttackSpec)], endpoint)
    settings = endpoint.settings
    priced = bool(settings.price_in or settings.price_out)
    cost = sum(bounds.values()) + sum(count * worst for count, worst in extra)
    requests = len(bounds) + sum(count for count, _ in extra)
    return Quote(settings.ref, requests, cost if priced else None, settings.max_cost)


def writers(specs: Sequence[Spec]) -> list[str]:
    """One sentence for every endpoint that attacks hire to write: requests, and what the replies cost at most.

    Of what is sent to it, the traces are not known before; that comes on top. Cached or not.
    """
    asked: dict[str, tuple[str, int, int]] = {}
    for spec in specs:
        hired = make_attack(spec.attack).hired if isinstance(spec, AttackSpec) else None
        if isinstance(spec, AttackSpec) and hired is not None:
            key = fingerprint([spec.task, spec.attack, spec.draw, list(spec.release.arm), spec.release.n])
            asked[key] = (hired[0], spec.release.n, hired[1])
    told: dict[str, tuple[int, float, bool]] = {}
    for ref, replies, limit in asked.values():
        settings = parse_ref(ref)
        requests, cost, _ = told.get(settings.ref, (0, 0.0, False))
        more = replies * settings.price(0, limit) / NANO
        told[settings.ref] = (requests + replies, cost + more, bool(settings.price_in or settings.price_out))
    return [
        f"At most {requests:,} rewritings by {ref}, retries aside"
        + (f", whose replies cost at most {cost:.4g}; the texts sent to it come on top." if priced else ".")
        for ref, (requests, cost, priced) in told.items()
    ]


def _of_release(spec: ReleaseSpec, endpoint: Endpoint) -> Mapping[str, float]:
    """The requests of a release step, each with the most it can cost."""
    bench = bench_of(spec)
    found = questionnaire(spec, bench)
    conduct = questions(bench.task, found.tests.problems, spec.evaluation.conduct, derive(spec.seed, "conduct"))
    holdout = Asked(*bench.holdout_problems(HOLDOUT_TRACES))
    out: dict[str, float] = {}
    for asked in (found.release, found.tests, found.again, Asked(conduct.all, found.conduct), holdout):
        limit = bench.task.max_new_tokens
        out |= endpoint.bounds(asked.problems, spec.sampling, seed=asked.seed, max_new_tokens=limit)
    return out


def _of_attacks(specs: Sequence[AttackSpec], endpoint: Endpoint) -> list[tuple[int, float]]:
    """(requests, the most one of them can cost) of every attack; arms and student families share theirs."""
    found: dict[str, tuple[int, float]] = {}
    for spec in specs:
        attack, release = make_attack(spec.attack), spec.release
        count = spec.bases * attack.budget.billed(release.n)
        if count:
            key = fingerprint([spec.task, spec.attack, spec.draw])
            found[key] = max(found.get(key, (0, 0.0)), (count, _worst(release, endpoint)))
    return list(found.values())


def _worst(spec: ReleaseSpec, endpoint: Endpoint) -> float:
    """The most that one more question about a problem of the release can cost."""
    task = make_task(spec.task)
    limit, problems = task.max_new_tokens, release_problems(spec, task)
    found = endpoint.bounds(problems, spec.sampling, seed=0, max_new_tokens=limit, prefix=PREFIX)
    return max(found.values())
