"""What every registered attack must do. Parametrized over the catalogue: a new attack gets this for free."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import pytest
import torch

from azeotrope.attacks.adaptive import write
from azeotrope.attacks.base import AttackRun, Outcome, Service, StudentAttack
from azeotrope.core.access import Access
from azeotrope.core.budget import Budget
from azeotrope.core.errors import ConfigError
from azeotrope.core.methods import Attack, Maturity, parse_method
from azeotrope.core.plugins import catalogue
from azeotrope.core.release import Release
from azeotrope.core.types import THINK_CLOSE, THINK_OPEN, Problem, Trace
from azeotrope.models.exposure import Exposure
from azeotrope.models.gradients import completions, nll
from azeotrope.models.lm import LM
from azeotrope.tasks.base import Grade
from conformance.cases import ATTACK_SETTINGS, ATTACKS, attack_class
from tiny import Toy, fresh, toy_traces

every_attack = pytest.mark.parametrize("kind", ATTACKS)
CHEAP: dict[str, Any] = {"epochs": 3, "batch_size": 8, "lr": 5e-3}
TEXT = f"{THINK_OPEN}{THINK_CLOSE}xyzzy"
PAYING = [(kind, settings) for kind in ATTACKS for settings in ({}, *ATTACK_SETTINGS.get(kind, ()))]
# These learn from what the student writes itself, which says nothing about the text of the release.
OWN_TEXT = frozenset({"self_generated", "trace_inversion"})


def closed(*asked: Any) -> list[Trace]:
    """What a model writes, with a reasoning that ends and the lesson's answer: one this small never gets there."""
    found = write(*asked)
    return [replace(own, text=f"{THINK_OPEN}{own.text}{THINK_CLOSE}xyzzy", finished=True) for own in found]


class Echo(Service):
    """A teacher that always says the lesson."""

    def ask(
        self, problems: Sequence[Problem], *, seed: int, prefix: str = "", greedy: bool = False
    ) -> list[Trace]:
        self.queries += len(problems)
        self.tokens += 5 * len(problems)
        return [Trace(problem_id=p.id, prompt=p.prompt, text=TEXT) for p in problems]

    def leak(self, problems: Sequence[Problem], *, seed: int) -> list[Trace]:
        return self.ask(problems, seed=seed)

    def leak_logprobs(self, traces: Sequence[Trace]) -> list[Exposure]:
        return self.logprobs(traces)

    def biased(
        self, traces: Sequence[Trace], groups_GK: torch.Tensor, offsets_GK: torch.Tensor | None = None
    ) -> list[Exposure]:
        found = []
        for one in self.logprobs(traces, released=True):
            rows, groups = len(one.tokens), len(groups_GK)
            known_NK = torch.log_softmax(one.known_TK[:, groups_GK].reshape(rows * groups, -1), -1)
            found.append(Exposure(one.tokens * groups, known_NK, groups_GK.repeat(rows, 1)))
            self.queries += rows * groups
            self.tokens += rows * groups
        return found

    @property
    def tokenizer(self) -> Any:
        return self.lm.tokenizer

    @cached_property
    def lm(self) -> LM:
        return fresh("llama")

    def logprobs(
        self, traces: Sequence[Trace], *, access: Access = Access.FULL_LOGITS, released: bool = False
    ) -> list[Exposure]:
        """Sure of the lesson's token at every position, and of the end after it."""
        if not released:
            self.queries += len(traces)
            self.tokens += 5 * len(traces)
        lesson, shown = [*self.lm.encode(TEXT), self.lm.eos], []
        for ids in completions(self.lm, traces):
            said = torch.tensor([lesson[min(t, len(lesson) - 1)] for t in range(len(ids))], dtype=torch.long)
            logits_TV = 6.0 * torch.nn.functional.one_hot(said, self.lm.vocab_size).float()
            exposure = Exposure(tuple(ids), torch.log_softmax(logits_TV, -1))
            shown.append(exposure if access is Access.FULL_LOGITS else exposure.top(3))
        return shown


class Lenient(Toy):
    """Every text is an answer, so that a student that cannot say anything sensible still gets hits."""

    def grade(self, problem: Problem, text: str) -> Grade:
        return Grade(correct=True, answer="any")


def build(kind: str, settings: Mapping[str, Any] | None = None) -> StudentAttack:
    cls = attack_class(kind)
    cheap: dict[str, Any] = {name: value for name, value in CHEAP.items() if name in cls.model_fields}
    if "sft" in cls.model_fields:
        cheap = {"sft": CHEAP}
    attack = cls.model_validate({**cheap, **(settings or {})})
    assert isinstance(attack, StudentAttack)
    return attack


def traces(split: str, n: int) -> list[Trace]:
    """A trivially learnable lesson: one short completion after every prompt."""
    return [Trace(problem_id=t.problem_id, prompt=t.prompt, text=TEXT) for t in toy_traces(n, split)]


def run(attack: StudentAttack, bases: list[LM], release: Release, seed: int = 0) -> Outcome:
    problems = Toy().problems("release", len(release.traces))
    around = AttackRun(seed=seed, holdout=traces("holdout", 4), task=Lenient(), problems=problems, service=Echo())
    return attack.train(bases, release, around)


def weights(lm: LM) -> list[torch.Tensor]:
    return [p.detach().clone() for p in lm.model.parameters()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_the_catalogue_is_covered() -> None:
    assert set(ATTACKS) == set(catalogue("attacks"))
    assert ATTACKS


@every_attack
def test_it_says_what_it_is(kind: str) -> None:
    cls = attack_class(kind)
    assert cls.kind == kind
    assert issubclass(cls, Attack)
    assert cls.summary.strip()
    assert isinstance(cls.maturity, Maturity)
    assert isinstance(cls.needs, Access)
    assert cls.version >= 1
    own = inspect.getdoc(cls) or ""
    assert len(own) > 20
    if cls.paper is not None:
        assert cls.paper.id in own + (inspect.getdoc(inspect.getmodule(cls)) or "")


@every_attack
def test_settings_survive_json_and_unknown_ones_are_named(kind: str) -> None:
    attack, cls = build(kind), attack_class(kind)
    assert cls.model_validate_json(attack.model_dump_json()) == attack
    assert parse_method(cls, json.loads(attack.model_dump_json()), "attacks.0") == attack
    assert json.loads(json.dumps(attack.identity())) == attack.identity()
    known = next(iter(cls.model_fields), "setting")
    with pytest.raises(ConfigError) as caught:
        parse_method(cls, {known + "x": 1}, "attacks.0")
    assert f"'attacks.0.{known}x'" in str(caught.value)
    if cls.model_fields:
        assert f"Did you mean '{known}'?" in str(caught.value)


@every_attack
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_undefended_traces_make_the_student_better(kind: str, family: str) -> None:
    attack = build(kind)
    if kind in OWN_TEXT:
        pytest.skip("learns from its own text")
    bases = [fresh(family, spread=0.1), fresh(family, spread=0.1, seed=1)]
    exam = traces("test", 6)
    before = [nll(lm, exam) for lm in bases]
    outcome = run(attack, bases, Release.of(traces("release", 24), attack.needs))
    assert len(outcome.students) == 2
    for lm, start in zip(outcome.students, before, strict=True):
        assert nll(lm, exam) < 0.75 * start
        assert not lm.model.training
    assert outcome.tokens > 0
    assert all(point.loss >= 0 and point.split in ("train", "holdout") for point in outcome.losses)
    assert {point.base for point in outcome.losses} <= {0, 1}


@every_attack
def test_zero_traces_leave_the_student_unchanged(kind: str) -> None:
    attack, lm = build(kind), fresh("llama")
    before = weights(lm)
    outcome = run(attack, [lm], Release.of([], attack.needs))
    assert same(weights(outcome.students[0]), before)
    assert outcome.tokens == 0


@every_attack
def test_less_access_than_needed_is_refused(kind: str) -> None:
    attack, lm = build(kind), fresh("llama")
    before = weights(lm)
    for access in Access:
        if access < attack.needs:
            with pytest.raises(ConfigError, match=attack.needs.name):
                run(attack, [lm], Release.of(traces("release", 4), access))
    assert same(weights(lm), before)


@pytest.mark.parametrize(("kind", "settings"), PAYING, ids=str)
def test_the_bill_is_the_declared_budget(kind: str, settings: Mapping[str, Any]) -> None:
    fields = attack_class(kind).model_fields
    warmup = fields["warmup"].default if "warmup" in fields else 0
    short = {"sft": {"epochs": warmup + 1, "curve_points": 0}} if "sft" in fields else {}
    attack, bases, n = build(kind, {**short, **settings}), [fresh("llama"), fresh("gpt2")], 20
    budget = attack.budget
    assert isinstance(budget, Budget)
    assert min(budget.queries, budget.data, budget.leaks, budget.leaked) >= 0
    assert "budget" not in type(attack).model_fields, "it is declared, and no setting"
    outcome = run(attack, bases, Release.of(traces("release", n), attack.needs))
    if budget.probes:
        assert outcome.queries > len(bases) * budget.billed(n)
        assert outcome.queries < outcome.query_tokens
        return
    billed = budget.queries * n + budget.leaks * n + min(budget.leaked, n)
    assert outcome.queries == len(bases) * budget.billed(n) == pytest.approx(len(bases) * billed)
    assert outcome.query_tokens == 5 * outcome.queries
    taught = [base["traces"] for base in outcome.notes.get("bases", [])]
    assert all(count <= budget.data * n for count in taught)


@every_attack
def test_seeds_decide_and_the_release_is_not_modified(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("azeotrope.attacks.trace_inversion.write", closed)
    attack, release = build(kind), Release.of(traces("release", 10), attack_class(kind).needs)
    kept = copy.deepcopy(release)
    found = []
    for seed, noise in ((5, 0), (5, 99), (6, 0)):
        torch.manual_seed(noise)
        found.append(weights(run(attack, [fresh("llama", spread=0.1)], release, seed).students[0]))
    assert same(found[0], found[1])
    assert not same(found[0], found[2])
    assert release == kept
