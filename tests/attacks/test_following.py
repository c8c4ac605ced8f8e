"""What the further logit attacks add: policies, contrasts, agreement, one word's number, the inverse map."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from shown import Shown, lesson, world

from azeotrope.attacks.agreement_kd import AgreementKD, said
from azeotrope.attacks.base import AttackRun
from azeotrope.attacks.clean_kd import CleanKD
from azeotrope.attacks.distill import Distillation, TokenByToken, known_of, own_logprob
from azeotrope.attacks.distillm2 import DistiLLM2
from azeotrope.attacks.fkl import ForwardKL
from azeotrope.attacks.following import Material, Source
from azeotrope.attacks.guide import Target
from azeotrope.attacks.minillm import MiniLLM, later
from azeotrope.attacks.reweighted_kd import ReweightedKD
from azeotrope.attacks.sampled_kd import SampledKD
from azeotrope.attacks.sft import SFT
from azeotrope.core.access import Access
from azeotrope.core.errors import ConfigError
from azeotrope.core.release import Release
from azeotrope.maths import divergences
from azeotrope.models.exposure import Exposure
from azeotrope.models.scoring import token_nll, trace_nll
from tiny import fresh

QUICK = SFT(epochs=1, lr=5e-3, batch_size=8, curve_points=0, bfloat16=False)
V = 9


def batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, Target]:
    """Six tokens of three texts, the second of which is the student's own."""
    generator = torch.Generator().manual_seed(seed)
    logits, known = (2.0 * torch.randn(6, V, generator=generator) for _ in range(2))
    rows, own = torch.tensor([0, 0, 1, 1, 1, 2]), torch.tensor([False, True, False])
    return logits, torch.arange(6), Target(torch.log_softmax(known, -1), None, rows, own, torch.tensor([4, 7, 2]))


def guide_of(attack: Distillation) -> TokenByToken:
    found = attack.follow(
        fresh("llama"), Source(attack, Material((), ()), AttackRun(seed=0), Shown(fresh("llama")), 0)
    )
    assert isinstance(found, TokenByToken)
    return found


def top(target: Target, k: int) -> Target:
    shown = Exposure(tuple(range(6)), target.known_NK).top(k)
    return replace(target, known_NK=shown.known_TK, ids_NK=shown.ids_TK)


def test_later_rewards_are_averaged() -> None:
    rewards = torch.randn(7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for discount in (1.0, 0.7):
        powers = discount ** torch.arange(7, dtype=torch.float64)
        for t in range(6):
            rest = rewards[t + 1 :]
            expected = (powers[: len(rest)] * rest).sum() / powers[: len(rest)].sum()
            assert later(rewards, discount)[t].item() == pytest.approx(expected.item())
        assert later(rewards, discount)[6] == 0.0


def test_what_is_shown_of_a_word() -> None:
    _, labels, target = batch()
    full = known_of(labels, target)
    assert torch.equal(full, target.known_NK[torch.arange(6), labels])
    part = known_of(labels, top(target, 3))
    inside = target.known_NK.argsort(-1, descending=True)[:, :3].eq(labels[:, None]).any(-1)
    assert 0 < inside.sum() < 6
    assert torch.equal(part[inside], full[inside])
    assert part[~inside].isnan().all()


def test_the_policy_gradient_is_that_of_the_reverse_divergence_of_texts() -> None:
    """On-policy (ratio 1), single-step term plus gain has the gradient of Σ_t A_t-weighted log-likelihoods."""
    logits, labels, target = batch()
    attack = MiniLLM(alpha=1.0, warmup=0)
    guide = guide_of(attack)
    own = [2, 3, 4]
    logits.requires_grad_()
    guide.written = {7: -own_logprob(logits.detach(), labels)[own]}  # type: ignore[attr-defined]
    loss = guide.loss(logits, labels, target)
    (found,) = torch.autograd.grad(loss, logits)
    logq = torch.log_softmax(logits, -1)
    exact = divergences.reverse_kl(target.known_NK[own], logq[own]).sum()
    ours = logq[own, labels[own]]
    reward = (target.known_NK[own, labels[own]] - ours).detach()
    weights = torch.stack([(reward[1] + reward[2]) / 2, reward[2], torch.tensor(0.0)])
    (expected,) = torch.autograd.grad((exact - (weights * ours).sum()) / 6, logits)
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.equal(found[[0, 1, 5]], torch.zeros(3, V)), "teacher's texts count by cross-entropy alone"


@pytest.mark.parametrize("nothing", [{}, {"warmup": 0, "on_policy": 0.0}])
def test_a_policy_that_learns_nothing_from_some_epochs_is_refused(nothing: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="own texts alone: set warmup to 0"):
        MiniLLM(alpha=1.0, **nothing)  # type: ignore[arg-type]


def test_the_policy_ratio_is_clipped() -> None:
    logits, labels, target = batch()
    guide = guide_of(MiniLLM(alpha=1.0, warmup=0, clip=0.1))
    own = [2, 3, 4]
    logits.requires_grad_()
    for old in (3.0, -3.0):  # the student says its text much more (less) readily than when it wrote it
        guide.written = {7: -(own_logprob(logits.detach(), labels)[own] - old)}  # type: ignore[attr-defined]
        gain = guide._gain(logits, labels, target)  # type: ignore[attr-defined]
        (moved,) = torch.autograd.grad(gain.sum(), logits)
        reward = target.known_NK[own, labels[own]] + guide.written[7]  # type: ignore[attr-defined]
        advantage = later(reward, 1.0)
        for place, token in enumerate(own[:-1]):
            stuck = (old > 0) == bool(advantage[place] > 0)
            assert bool(moved[token].abs().max() == 0.0) == stuck


def test_contrast_of_teachers_and_own_text() -> None:
    logits, labels, target = batch()
    guide = guide_of(DistiLLM2(alpha=1.0, skew=0.1))
    guide.progress = 1.0
    logq = torch.log_softmax(logits, -1)
    expected = torch.zeros(6)
    for own, weight, skewed in ((False, 0.5, divergences.skew_kl), (True, 1.5, divergences.skew_reverse_kl)):
        here = target.own_B[target.rows_N] == own  # at first the gap is what it began with: a = 1 − (1 − a₀) = a₀
        expected[here] = weight * skewed(target.known_NK[here], logq[here], 0.1)
    assert torch.allclose(guide.compare(logits, labels, target), expected, atol=1e-6)
    same = guide._skew(False, target.known_NK, labels, known_of(labels, target))  # type: ignore[attr-defined]
    assert same == pytest.approx(0.01), "where they agree, hardly any skew is needed"


def test_agreement_leaves_out_what_contradicts_the_words() -> None:
    logits, labels, target = batch(3)
    guide = guide_of(AgreementKD(alpha=1.0))
    found = guide.compare(logits, labels, target)
    p, q = target.known_NK.exp(), torch.softmax(logits, -1)
    y = torch.nn.functional.one_hot(labels, V)
    agree = ((q - y) * (q - p)).sum(-1) > 0
    assert 0 < agree.sum() < 6
    whole = divergences.forward_kl(target.known_NK, torch.log_softmax(logits, -1))
    assert torch.allclose(found, torch.where(agree, whole, 0.0), atol=1e-6)
    part = top(target, 2)
    logp, _ = guide.attack.pair(logits, part)
    assert torch.equal(said(labels, part, logp).sum(-1), torch.ones(6))


def test_one_word_estimates_the_divergence() -> None:
    """The mean of D over words drawn from the teacher is KL(p ‖ q), if nothing is cut."""
    logits, _, target = batch()
    guide = guide_of(SampledKD(alpha=1.0, cap=100.0))
    weighted = torch.zeros(6)
    for word in range(V):
        labels = torch.full((6,), word)
        weighted += target.known_NK[:, word].exp() * guide.compare(logits, labels, target)
    expected = divergences.forward_kl(target.known_NK, torch.log_softmax(logits, -1))
    assert torch.allclose(weighted, expected, atol=1e-4)
    hidden = guide.compare(logits, torch.arange(6), top(target, 1))
    assert (hidden == 0.0).sum() >= 1, "words that are not shown teach nothing"
    capped, free = (guide_of(SampledKD(cap=c)).compare(logits, torch.arange(6), target) for c in (0.5, 100.0))
    ahead = own_logprob(logits, torch.arange(6)) - known_of(torch.arange(6), target) > 0.5
    assert 0 < ahead.sum() < 6
    assert torch.allclose(capped[ahead], torch.tensor(0.5).exp() - 1.5), "no word carries the batch"
    assert torch.equal(capped[~ahead], free[~ahead])


class Poisoned(Shown):
    """Shows the teacher's distributions upside down along some texts."""

    poisoned: tuple[int, ...] = ()

    def logprobs(self, traces, *, access=Access.FULL_LOGITS, released=False):  # type: ignore[no-untyped-def]
        found = super().logprobs(traces, access=access, released=released)
        return [
            replace(one, known_TK=torch.log_softmax(-4.0 * one.known_TK, -1)) if i in self.poisoned else one
            for i, one in enumerate(found)
        ]


@pytest.mark.parametrize("k", [0, 3])
def test_texts_with_poisoned_logits_weigh_less(k: int) -> None:
    """Only what is shown differs: the texts are alike, so weights of text alone could not tell."""
    traces = lesson(24)
    teacher, lm = fresh("llama", spread=0.2), fresh("llama", spread=0.2, seed=4)
    SFT(epochs=4, lr=5e-3, batch_size=8, curve_points=0, bfloat16=False).train(
        [teacher], Release.of(traces), AttackRun(seed=1)
    )
    service = Poisoned(teacher)
    service.poisoned, service.leaks = tuple(range(0, 24, 2)), traces
    shown = service.logprobs(traces, released=True)
    run = world(service, 24)

    def weights(attack: ReweightedKD) -> list[float]:
        part = [one.top(k) for one in shown] if k else shown
        return attack.follow(lm, Source(attack, Material(traces, part), run, service, 0)).weight_K.tolist()  # type: ignore[attr-defined, no-any-return]

    found = weights(ReweightedKD(sft=QUICK, trusted="leak", leaked=24, alpha=0.9))
    assert max(found[::2]) < min(found[1::2])
    assert sum(found) == pytest.approx(24)
    blind = weights(ReweightedKD(sft=QUICK, trusted="leak", leaked=24, alpha=0.0))
    assert sum(blind[::2]) == pytest.approx(sum(blind[1::2]), rel=0.2)


def test_empty_texts_weigh_nothing_and_no_text_is_no_error() -> None:
    teacher, lm = fresh("llama", spread=0.2), fresh("llama", spread=0.2, seed=4)
    service = Shown(teacher)
    traces = [replace(t, text="xyzzy</think>x" if i % 2 else "") for i, t in enumerate(lesson(24))]
    attack = ReweightedKD(sft=QUICK, eta=1.0)
    source = Source(attack, Material(traces, service.logprobs(traces)), world(service, 24), service, 0)
    guide = attack.follow(lm, source)
    assert guide.weight_K.sum() == pytest.approx(12)  # type: ignore[attr-defined]
    assert 0 < guide.notes["effective_traces"] <= 12  # type: ignore[operator]
    nothing = [replace(t, text="") for t in traces]
    attack.train([lm], Release.of(nothing, Access.FULL_LOGITS), world(service, 24))
    few = Source(attack, Material(traces, service.logprobs(traces)), world(service, 12), service, 0)
    with pytest.raises(ConfigError, match="'reweighted_kd' grades 24 traces by 12 problems"):
        attack.follow(lm, few)
    no_answers = [replace(t, text="xyzzy") for t in traces]
    with pytest.raises(ConfigError, match="'reweighted_kd' with trusted=answers"):
        attack.train([lm], Release.of(no_answers, Access.FULL_LOGITS), world(service, 24))


def test_equal_weights_are_forward_kl() -> None:
    traces, teacher = [replace(t, text="xyzzy</think>x") for t in lesson(24)], fresh("llama", spread=0.2)
    release = Release.of(traces, Access.FULL_LOGITS)
    outcomes = []
    for attack in (ReweightedKD(sft=QUICK, eta=0.0), ForwardKL(sft=QUICK)):
        lm = fresh("llama", spread=0.2, seed=4)
        outcomes.append(attack.train([lm], release, world(Shown(teacher), 24)))
        outcomes[-1].students = [lm]
    a, b = (trace_nll(outcome.students[0], traces) for outcome in outcomes)
    assert a == pytest.approx(b, abs=1e-4)
    (notes,) = outcomes[0].notes["bases"]
    assert notes["effective_traces"] == pytest.approx(24)
    with pytest.raises(ValidationError, match="on_policy"):
        ReweightedKD(on_policy=0.5)


@pytest.mark.parametrize("kind", [MiniLLM, DistiLLM2, AgreementKD])
def test_they_learn_the_lesson(kind: type[Distillation]) -> None:
    traces, teacher, attack = lesson(24), fresh("llama", spread=0.2), kind(sft=QUICK, warmup=0)
    lm = fresh("llama", spread=0.2, seed=4)
    before = sum(trace_nll(lm, traces))
    outcome = attack.train([lm], Release.of(traces, Access.FULL_LOGITS), world(Shown(teacher), 24))
    assert sum(trace_nll(lm, traces)) < before
    assert outcome.queries == round(attack.on_policy * 24)


def test_words_become_as_likely_as_the_teacher_finds_them() -> None:
    traces, teacher = lesson(24), fresh("llama", spread=0.2)
    lm = fresh("llama", spread=0.2, seed=4)
    theirs = torch.cat(token_nll(teacher, traces))
    before = (torch.cat(token_nll(lm, traces)) - theirs).abs().mean()
    attack = SampledKD(sft=QUICK.model_copy(update={"epochs": 8}), alpha=1.0)
    attack.train([lm], Release.of(traces, Access.FULL_LOGITS), world(Shown(teacher), 24))
    assert (torch.cat(token_nll(lm, traces)) - theirs).abs().mean() < 0.8 * before


def test_leaked_words_replace_released_ones() -> None:
    service = Shown(fresh("llama"))
    service.leaks = [replace(t, text="plugh") for t in lesson(24)]
    release = Release.of(lesson(24), Access.FULL_LOGITS)
    outcome = CleanKD(sft=QUICK, share=0.25).train([fresh("llama", seed=4)], release, world(service, 24))
    assert outcome.notes["bases"] == [{"traces": 24, "leaked": 6}]
    assert outcome.queries == 12, "six leaked texts, and log-probabilities along them"


def test_token_losses_add_up() -> None:
    lm, traces = fresh("gpt2"), [replace(t, text="xyzzy" * (1 + i)) for i, t in enumerate(lesson(5))]
    per_token = token_nll(lm, traces, batch_size=2)
    assert [len(x) for x in per_token] == [5 * (1 + i) + 1 for i in range(5)]
    assert trace_nll(lm, traces) == pytest.approx([float(x.mean()) for x in per_token])
