"""What the further logit attacks add: policies, contrasts, agreement, one word's number, the inverse map."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from shown import Mapped, Shown

from azeotrope.attacks.agreement_kd import AgreementKD, said
from azeotrope.attacks.base import AttackRun
from azeotrope.attacks.clean_kd import CleanKD
from azeotrope.attacks.distill import Distillation, TokenByToken, known_of, own_logprob
from azeotrope.attacks.distillm2 import DistiLLM2
from azeotrope.attacks.extracted_kd import ExtractedKD, grouped
from azeotrope.attacks.following import Material, Source
from azeotrope.attacks.guide import Target
from azeotrope.attacks.inverse_map import InverseMap
from azeotrope.attacks.minillm import MiniLLM, later
from azeotrope.attacks.sampled_kd import SampledKD
from azeotrope.attacks.sft import SFT
from azeotrope.core.access import Access
from azeotrope.core.errors import ConfigError
from azeotrope.core.release import Release
from azeotrope.core.types import Trace
from azeotrope.maths import divergences
from azeotrope.models.exposure import Exposure
from azeotrope.models.scoring import token_nll, trace_nll
from tiny import Toy, fresh

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
    attack = MiniLLM(alpha=1.0)
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


def test_the_policy_ratio_is_clipped() -> None:
    logits, labels, target = batch()
    guide = guide_of(MiniLLM(alpha=1.0, clip=0.1))
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


def lesson(n: int) -> list[Trace]:
    return [Trace(problem_id=p.id, prompt=p.prompt, text="xyzzy") for p in Toy().problems("release", n)]


def world(service: Shown, n: int) -> AttackRun:
    return AttackRun(seed=0, task=Toy(), problems=Toy().problems("release", n), service=service)


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


def test_a_map_of_the_logits_is_undone() -> None:
    traces, teacher = lesson(60), fresh("llama", spread=0.5)
    service = Mapped(teacher, rank=5)
    run = world(service, 60)
    released = service.logprobs(traces, released=True)
    made = InverseMap(pairs=40, ridge=1e-9).prepare(traces, released, run, service)
    recovered, notes = made.shown, made.notes
    assert service.queries == 40
    assert float(notes["kl_before"]) > 0.05  # type: ignore[arg-type]
    assert float(notes["kl_after"]) < 1e-6  # type: ignore[arg-type]
    clean = Shown(teacher).logprobs(traces)[40:]
    held, shown = (
        [float(divergences.forward_kl(c.known_TK, e.known_TK).mean()) for c, e in zip(clean, part, strict=True)]
        for part in (recovered[40:], service.logprobs(traces)[40:])
    )
    assert max(held) < 1e-2 * min(shown), "texts that were not among the pairs are recovered too"

    (again,) = made.mend(service.logprobs(traces[50:51]))
    assert torch.allclose(again.known_TK, recovered[50].known_TK, atol=1e-4), (
        "what is shown along own texts is mended, too"
    )

    class Few(Mapped):
        def logprobs(self, traces, *, access=Access.FULL_LOGITS, released=False):  # type: ignore[no-untyped-def]
            return [e.top(3) for e in super().logprobs(traces, access=access, released=released)]

    few = Few(teacher, rank=5)
    made = InverseMap().prepare(traces, few.logprobs(traces, released=True), run, few)
    assert "not all logits" in str(made.notes["inverse"])
    assert few.queries == 0


def test_a_public_model_stands_in_for_the_leak() -> None:
    traces, teacher = lesson(60), fresh("llama", spread=0.5)
    teacher.ref = "public"
    service = Mapped(teacher, rank=5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("azeotrope.attacks.inverse_map.load", {"public": teacher}.__getitem__)
        made = InverseMap(sibling="public", ridge=1e-9).prepare(
            traces, service.logprobs(traces, released=True), world(service, 60), service
        )
    assert (service.queries, InverseMap(sibling="public").budget.leaked) == (0, 0)
    assert made.notes["texts"] == 60
    assert float(made.notes["kl_after"]) < 1e-4  # type: ignore[arg-type]


def test_what_is_hidden_behind_the_largest_is_read_through_bias() -> None:
    traces, teacher = lesson(20), fresh("llama", spread=0.5)
    clean = Shown(teacher).logprobs(traces)
    service = Mapped(teacher, rank=5)
    mapped = service.logprobs(traces, released=True)
    few = [one.top(5) for one in mapped]
    made = ExtractedKD(invert=False).prepare(traces, few, world(service, 20), service)
    groups = math.ceil((teacher.vocab_size - 1) / 4)
    assert service.queries == made.notes["probes"] == groups * sum(len(one.tokens) for one in few)
    for one, whole in zip(made.shown, mapped, strict=True):
        assert one.ids_TK is None
        assert torch.allclose(one.known_TK, whole.known_TK, atol=1e-3)
    undone = ExtractedKD(pairs=16, ridge=1e-9).prepare(traces, few, world(service, 20), service)
    for one, true, shown in zip(undone.shown[16:], clean[16:], mapped[16:], strict=True):
        gaps = [float(divergences.forward_kl(true.known_TK, e.known_TK).mean()) for e in (one, shown)]
        assert gaps[0] < 0.1 * gaps[1]


def test_a_leak_of_the_largest_undoes_no_map() -> None:
    """What was read through bias is distilled as it is."""

    class Cut(Mapped):
        def leak_logprobs(self, traces):  # type: ignore[no-untyped-def]
            return [one.top(5) for one in super().leak_logprobs(traces)]

    traces, service = lesson(8), Cut(fresh("llama", spread=0.5), rank=5)
    mapped = service.logprobs(traces, released=True)
    made = ExtractedKD().prepare(traces, [one.top(5) for one in mapped], world(service, 8), service)
    assert "not all undefended logits" in str(made.notes["inverse"])
    for one, whole in zip(made.shown, mapped, strict=True):
        assert torch.allclose(one.known_TK, whole.known_TK, atol=1e-3)


def test_one_shown_token_tells_nothing_of_others() -> None:
    traces, service = lesson(4), Shown(fresh("llama"))
    few = [one.top(1) for one in service.logprobs(traces, released=True)]
    made = ExtractedKD().prepare(traces, few, world(service, 4), service)
    assert (service.queries, list(made.shown), made.notes) == (0, few, {"probes": 0})
    with pytest.raises(ValidationError, match="leave on_policy at 0"):
        ExtractedKD(on_policy=0.5)


def test_a_padded_head_is_refused_before_a_probe_is_paid_for() -> None:
    service, lm = Shown(fresh("llama")), fresh("llama", seed=4)
    ExtractedKD().check(lm, service)
    lm.model.resize_token_embeddings(lm.vocab_size + 8)
    with pytest.raises(ConfigError, match=r"can ask for the \d+ ids of the tokenizer.*resize_token_embeddings"):
        ExtractedKD(sft=QUICK).train([lm], Release.of(lesson(8), Access.FULL_LOGITS), world(service, 8))
    assert service.queries == 0


@given(st.integers(2, 40), st.integers(2, 12))
def test_groups_hold_every_token_and_the_reference(size: int, k: int) -> None:
    groups = grouped(size, min(k, size))
    assert set(groups.flatten().tolist()) == set(range(size))
    assert (groups[:, 0] == 0).all()
    assert all(len(set(row)) == len(row) for row in groups.tolist())


def test_own_texts_are_followed_as_mended() -> None:
    """The loss along the student's own text reads recovered logits, not those that the service shows."""
    traces, teacher = lesson(60), fresh("llama", spread=0.5)
    service = Mapped(teacher, rank=5)
    attack = InverseMap(pairs=40, ridge=1e-9, on_policy=0.5, sft=QUICK)
    run = world(service, 60)
    made = attack.prepare(traces, service.logprobs(traces, released=True), run, service)
    guide = attack.follow(fresh("llama", seed=4), Source(attack, made, run, service, 0))
    own = guide.renew(fresh("llama", seed=4), 0)
    assert own
    for text, seen in own.values():
        (clean,) = Shown(teacher).logprobs([text])
        (raw,) = service.logprobs([text])
        assert seen is not None
        gaps = [float(divergences.forward_kl(clean.known_TK, e.known_TK).mean()) for e in (seen, raw)]
        assert gaps[0] < 0.1 * gaps[1]


def test_a_public_model_needs_the_same_vocabulary() -> None:
    service = Shown(fresh("llama"))
    attack, shown = InverseMap(sibling="embedded/proxy-small"), service.logprobs(lesson(4), released=True)
    with pytest.raises(ConfigError, match="another vocabulary"):
        attack.prepare(lesson(4), shown, world(service, 4), service)


def test_token_losses_add_up() -> None:
    lm, traces = fresh("gpt2"), [replace(t, text="xyzzy" * (1 + i)) for i, t in enumerate(lesson(5))]
    per_token = token_nll(lm, traces, batch_size=2)
    assert [len(x) for x in per_token] == [5 * (1 + i) + 1 for i in range(5)]
    assert trace_nll(lm, traces) == pytest.approx([float(x.mean()) for x in per_token])
