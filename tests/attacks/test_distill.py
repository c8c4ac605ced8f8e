"""Distillation from distributions: the loss, its parts on own and teacher text, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from shown import Shown

from azeotrope.attacks.abkd import ABKD
from azeotrope.attacks.akl import AdaptiveKL
from azeotrope.attacks.base import AttackRun, Service
from azeotrope.attacks.distill import Distillation, TokenByToken
from azeotrope.attacks.distillm import DistiLLM
from azeotrope.attacks.fkl import ForwardKL
from azeotrope.attacks.following import Distilling, Material, Source
from azeotrope.attacks.gkd import GKD
from azeotrope.attacks.gold import Gold
from azeotrope.attacks.guide import Target
from azeotrope.attacks.minillm import MiniLLM
from azeotrope.attacks.rkl import ReverseKL
from azeotrope.attacks.sampled_kd import SampledKD
from azeotrope.attacks.sft import SFT
from azeotrope.attacks.taid import TAID, Moving
from azeotrope.attacks.topk_kd import TopKKD
from azeotrope.attacks.tvd import TotalVariation
from azeotrope.attacks.uld import ULD
from azeotrope.core.access import Access
from azeotrope.core.errors import ConfigError
from azeotrope.core.release import Release
from azeotrope.core.types import Trace
from azeotrope.maths import divergences
from azeotrope.models.exposure import Exposure
from azeotrope.models.gradients import nll
from tiny import Toy, fresh

QUICK = SFT(epochs=2, lr=5e-3, batch_size=8, curve_points=0, bfloat16=False)
V = 9


def setting(attack: Distillation, seed: int = 0) -> tuple[TokenByToken, torch.Tensor, torch.Tensor, Target]:
    generator = torch.Generator().manual_seed(seed)
    logits, known = (2.0 * torch.randn(6, V, generator=generator) for _ in range(2))
    target = Target(
        torch.log_softmax(known, -1),
        None,
        torch.tensor([0, 0, 1, 1, 1, 2]),
        torch.tensor([False, True, False]),
        torch.tensor([4, 7, 2]),
    )
    source = Source(attack, Material((), ()), AttackRun(seed=0), Shown(fresh("llama")), 0)
    guide = attack.follow(fresh("llama"), source)
    assert isinstance(guide, TokenByToken)
    return guide, logits, torch.arange(6), target


def test_the_loss_is_what_it_says() -> None:
    guide, logits, labels, target = setting(ForwardKL(alpha=0.3))
    logq = torch.log_softmax(logits, -1)
    taught = [0, 1, 5]  # row 1 holds the student's own text
    expected = 0.7 * -logq[taught, labels[taught]].sum() / 6
    expected = expected + 0.3 * divergences.forward_kl(target.known_NK, logq).mean()
    assert guide.loss(logits, labels, target).item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_temperature_softens_both_and_keeps_the_size_of_gradients() -> None:
    guide, logits, labels, target = setting(ForwardKL(alpha=1.0, temperature=4.0))
    p, q = (torch.log_softmax(x / 4.0, -1) for x in (target.known_NK, logits))
    expected = 16.0 * divergences.forward_kl(p, q).mean()
    assert guide.loss(logits, labels, target).item() == pytest.approx(expected.item(), rel=1e-5)


def test_few_log_probabilities_are_compared_with_the_same_tokens() -> None:
    guide, logits, labels, target = setting(TopKKD(alpha=1.0))
    full = guide.loss(logits, labels, target).item()
    shown = Exposure(tuple(range(6)), target.known_NK).top(3)
    part = replace(target, known_NK=shown.known_TK, ids_NK=shown.ids_TK)
    assert 0.0 < guide.loss(logits, labels, part).item() < full, "merging tokens loses information"
    guide, *_ = setting(TopKKD(alpha=1.0, temperature=2.0))
    logp, logq = guide.attack.pair(logits, part)
    assert torch.allclose(logp, torch.log_softmax(shown.known_TK / 2.0, -1))
    assert torch.allclose(logq.logsumexp(-1), torch.zeros(6), atol=1e-6)


def test_where_nothing_is_shown_it_is_fine_tuning() -> None:
    guide, logits, labels, target = setting(GKD())
    silent = replace(target, known_NK=target.known_NK[:, :0], ids_NK=torch.empty(6, 0, dtype=torch.long))
    taught = [0, 1, 5]
    expected = -torch.log_softmax(logits, -1)[taught, labels[taught]].sum() / 6
    assert guide.loss(logits, labels, silent).item() == pytest.approx(expected.item(), rel=1e-5)
    assert guide.renew(fresh("llama"), 4) == {}, "nothing would be learned from asking"


def test_the_moving_target_arrives_at_the_teacher() -> None:
    guide, logits, labels, target = setting(TAID(alpha=1.0, start=0.0))
    assert guide.loss(logits, labels, target).item() == pytest.approx(0.0, abs=1e-6)
    guide.progress = 1.0
    expected = divergences.forward_kl(target.known_NK, torch.log_softmax(logits, -1)).mean()
    assert guide.loss(logits, labels, target).item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_moving_target_runs_ahead_of_its_line_while_the_loss_falls() -> None:
    def after(*losses: float) -> float:
        guide = setting(TAID(start=0.5, step=0.2, momentum=0.0))[0]
        assert isinstance(guide, Moving)
        for loss in losses:
            guide.advance(loss)
        return guide.t

    assert after(2.0) == 0.5, "one loss is no change"
    assert after(2.0, 2.0) == pytest.approx(0.5 + 0.2 * 0.5 * 0.5)
    assert after(2.0, 1.0) == pytest.approx(0.5 + 0.2 * 0.5 / (1 + math.exp(-0.5)))
    assert 0.5 < after(1.0, 2.0) < after(2.0, 2.0) < after(2.0, 1.0)
    assert after(0.0, 1.0, 0.0) <= 1.0
    guide, logits, labels, target = setting(TAID(alpha=1.0, start=0.5))
    guide.progress = 0.6
    p = divergences.interpolated(target.known_NK, torch.log_softmax(logits, -1), 0.8)
    expected = divergences.forward_kl(p, torch.log_softmax(logits, -1)).mean()
    assert guide.loss(logits, labels, target).item() == pytest.approx(expected.item(), rel=1e-5), (
        "at least the line"
    )


@pytest.mark.parametrize(
    "attack",
    [
        ForwardKL(sft=QUICK, alpha=1.0),
        ABKD(sft=QUICK, alpha=1.0),
        AdaptiveKL(sft=QUICK, alpha=1.0),
        TotalVariation(sft=QUICK, alpha=1.0),
        GKD(sft=QUICK, warmup=1),
    ],
)
def test_students_come_nearer_to_the_teacher(attack: Distillation) -> None:
    teacher, task = fresh("llama", spread=0.2), Toy()
    problems = task.problems("release", 32)
    traces = [Trace(problem_id=p.id, prompt=p.prompt, text="xyzzy") for p in problems]
    service = Shown(teacher)
    lm = fresh("llama", spread=0.2, seed=4)

    def distance() -> float:
        mine, theirs = (torch.cat([e.known_TK for e in Shown(m).logprobs(traces)]) for m in (lm, teacher))
        return float(divergences.forward_kl(theirs, mine).mean())

    before = distance()
    run = AttackRun(seed=0, task=task, problems=problems, service=service)
    outcome = attack.train([lm], Release.of(traces, Access.FULL_LOGITS), run)
    assert distance() < 0.8 * before
    own_epochs = QUICK.epochs - attack.warmup
    assert outcome.queries == round(attack.on_policy * 32) * own_epochs == attack.budget.billed(32)
    assert (outcome.own_tokens > 0) == (attack.on_policy > 0)
    taught = sum(len(p) + 6 for p in lm.encode_many([t.prompt for t in traces])) * QUICK.epochs
    assert (outcome.tokens == taught) == (attack.on_policy == 0), "own texts count with their own length"
    assert nll(lm, traces) > 0


def test_other_vocabularies_and_silent_services_are_refused() -> None:
    task = Toy()
    problems = task.problems("release", 4)
    traces = [Trace(problem_id=p.id, prompt=p.prompt, text="xyzzy") for p in problems]
    release = Release.of(traces, Access.FULL_LOGITS)

    class Other(Shown):
        @property
        def tokenizer(self) -> Any:
            return type("T", (), {"get_vocab": lambda self: {"a": 0}})()

    run = AttackRun(seed=0, task=task, problems=problems, service=Other(fresh("llama")))
    with pytest.raises(ConfigError, match="another vocabulary"):
        ForwardKL(sft=QUICK).train([fresh("llama")], release, run)

    class Coarse(Shown):
        def logprobs(
            self, traces: Sequence[Trace], *, access: Access = Access.FULL_LOGITS, released: bool = False
        ) -> list[Exposure]:
            return [e.first(2) for e in super().logprobs(traces, access=access, released=released)]

    run = AttackRun(seed=0, task=task, problems=problems, service=Coarse(fresh("llama")))
    with pytest.raises(ConfigError, match="different tokens"):
        ForwardKL(sft=QUICK).train([fresh("llama")], release, run)
    with pytest.raises(ValueError, match="missing: ignore"):
        GKD(missing="ignore")

    class Silent(Shown):
        logprobs = Service.logprobs  # type: ignore[assignment]

    run = AttackRun(seed=0, task=task, problems=problems, service=Silent(fresh("llama")))
    with pytest.raises(ConfigError, match="text only"):
        ForwardKL(sft=QUICK).train([fresh("llama")], release, run)
    with pytest.raises(ConfigError, match="FULL_LOGITS"):
        ForwardKL(sft=QUICK).train([fresh("llama")], Release.of(traces, Access.TOPK_LOGPROBS), run)


def test_exposures_are_cut_and_rounded() -> None:
    known = torch.log_softmax(torch.randn(5, V, generator=torch.Generator().manual_seed(0)), -1)
    full = Exposure(tuple(range(5)), known)
    assert full.access is Access.FULL_LOGITS
    top = full.top(3)
    assert top.access is Access.TOPK_LOGPROBS
    assert top.ids_TK is not None
    assert torch.equal(known.gather(-1, top.ids_TK), top.known_TK)
    assert torch.equal(top.top(2).ids_TK, top.ids_TK[:, :2])  # type: ignore[arg-type]
    assert top.top(99).known_TK.shape == (5, 3)
    assert full.first(2).known_TK.shape == (2, V)
    assert torch.allclose(full.rounded(0.5).known_TK, torch.round(2 * known) / 2)
    assert full.nothing().access is Access.TEXT


@pytest.mark.parametrize(
    ("attack", "expected"),
    [
        (ReverseKL(alpha=1.0), divergences.reverse_kl),
        (DistiLLM(alpha=1.0, skew=0.1, side="forward", on_policy=0.0), partial(divergences.skew_kl, alpha=0.1)),
        (
            DistiLLM(alpha=1.0, skew=0.1, side="reverse", on_policy=0.0),
            partial(divergences.skew_reverse_kl, alpha=0.1),
        ),
        (AdaptiveKL(alpha=1.0), divergences.adaptive_kl),
        (TotalVariation(alpha=1.0), divergences.total_variation),
    ],
    ids=lambda value: getattr(value, "label", ""),
)
def test_each_has_the_teacher_on_its_side(attack: Distillation, expected: Callable[..., torch.Tensor]) -> None:
    guide, logits, labels, target = setting(attack)
    found = guide.loss(logits, labels, target).item()
    logq = torch.log_softmax(logits, -1)
    assert found == pytest.approx(expected(target.known_NK, logq).mean().item(), rel=1e-5)
    if attack.kind != "tvd":
        assert found != pytest.approx(expected(logq, target.known_NK).mean().item(), rel=1e-3)


def test_rounded_distributions_are_normalized() -> None:
    guide, logits, labels, target = setting(ForwardKL(alpha=1.0))
    off = replace(target, known_NK=target.known_NK + 0.4)
    assert guide.loss(logits, labels, off).item() == pytest.approx(
        guide.loss(logits, labels, target).item(), rel=1e-5
    )


@pytest.mark.parametrize("kind", [ULD, Gold, SampledKD, MiniLLM])
def test_a_temperature_without_a_meaning_is_refused(kind: type[Distilling]) -> None:
    with pytest.raises(ValidationError, match="leave temperature at 1"):
        kind(temperature=4.0)
    assert kind(temperature=1.0)


def test_settings_without_a_meaning_are_refused() -> None:
    with pytest.raises(ValidationError, match="takes no `missing`"):
        SampledKD(missing="renormalize")
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        ABKD(a=-0.5)
