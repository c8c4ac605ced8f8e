"""Recovering what a service hides: inverse maps, leaks, reading through bias, the likeliest token."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from shown import Mapped, Shown, lesson, world

from azeotrope.attacks.base import AttackRun
from azeotrope.attacks.extracted_kd import ExtractedKD, grouped
from azeotrope.attacks.following import Material, Source
from azeotrope.attacks.guide import Target
from azeotrope.attacks.inverse_map import InverseMap, _differ
from azeotrope.attacks.leaked_kd import LeakedKD
from azeotrope.attacks.sft import SFT
from azeotrope.attacks.top1_kd import Top1KD
from azeotrope.core.access import Access
from azeotrope.core.errors import ConfigError
from azeotrope.core.release import Release
from azeotrope.maths import divergences, lowrank
from azeotrope.models.exposure import Exposure
from azeotrope.models.lm import LM
from tiny import fresh

QUICK = SFT(epochs=1, lr=5e-3, batch_size=8, curve_points=0, bfloat16=False)


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


def test_a_text_of_which_nothing_is_left_is_passed_over() -> None:
    """A defense may leave nothing of a text that was cut short."""
    whole, teacher = lesson(6), fresh("llama", spread=0.5)
    traces = [replace(whole[0], text="", finished=False), *whole[1:]]
    service = Shown(teacher)
    few = [one.top(5) for one in service.logprobs(traces, released=True)]
    made = ExtractedKD(invert=False).prepare(traces, few, world(service, 6), service)
    assert [len(one.known_TK) for one in made.shown] == [0, *(len(one.tokens) for one in few[1:])]
    assert made.shown[0].known_TK.shape[-1] == made.shown[1].known_TK.shape[-1]
    outcome = ExtractedKD(sft=QUICK, invert=False).train(
        [fresh("llama")], Release.of(traces, Access.FULL_LOGITS), world(service, 6)
    )
    assert outcome.notes["bases"][0]["traces"] == 5


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


def test_what_leaked_is_distilled_where_it_is_known() -> None:
    traces, teacher = lesson(12), fresh("llama", spread=0.5)
    service = Mapped(teacher, rank=5)
    shown = service.logprobs(traces, released=True)
    clean = Shown(teacher).logprobs(traces)
    inverted = InverseMap(pairs=5).prepare(traces, shown, world(service, 12), service).shown
    alone = LeakedKD(pairs=5).prepare(traces, shown, world(service, 12), service)
    for i, true in enumerate(clean):
        same = [torch.allclose(made[i].known_TK, true.known_TK, atol=1e-5) for made in (inverted, alone.shown)]
        assert same == [i < 5, i < 5]
    assert service.queries == 10
    said = alone.shown[7]
    logq = torch.randn(len(said.tokens), teacher.vocab_size).log_softmax(-1)
    nll = -logq[torch.arange(len(said.tokens)), torch.tensor(said.tokens)]
    assert torch.allclose(LeakedKD().divergence(said.known_TK, logq, 0.0), nll), "elsewhere it is cross-entropy"


class Dealt(Mapped):
    """One that serves every request through one of five maps, which no one map undoes exactly."""

    def __init__(self, lm: LM) -> None:
        super().__init__(lm, rank=12)
        self.others = [(self.a_VR.roll(k, 0), self.b_RV.roll(k, 1)) for k in range(5)]

    def logprobs_again(self, traces, *, again, access=Access.FULL_LOGITS):  # type: ignore[no-untyped-def]
        self.queries += len(traces)
        a_VR, b_RV = self.others[again % 5]
        return [
            replace(e, known_TK=torch.log_softmax(lowrank.transform(e.known_TK, a_VR, b_RV), -1))
            for e in Shown.logprobs(self, traces, released=True)
        ]


def test_the_mean_of_different_answers_is_one_map() -> None:
    """Maps that are not told apart are undone as one, by who asks often enough to see them all."""
    traces, teacher = lesson(60), fresh("llama", spread=0.5)
    service = Dealt(teacher)
    released = [service.logprobs_again([trace], again=i)[0] for i, trace in enumerate(traces)]
    service.queries = 0
    clean = Shown(teacher).logprobs(traces)[40:]

    def missed(asks: int) -> float:
        made = InverseMap(pairs=40, ridge=1e-9, asks=asks).prepare(traces, released, world(service, 60), service)
        gaps = [
            divergences.forward_kl(c.known_TK, e.known_TK).mean()
            for c, e in zip(clean, made.shown[40:], strict=True)
        ]
        assert made.notes.get("answers") == (None if asks == 1 else 5.0)
        return float(torch.stack(gaps).mean())

    assert missed(6) < 1e-2 * missed(1)
    masked = torch.tensor([[0.0, -math.inf]])
    assert not _differ(masked, masked)
    assert _differ(masked, masked - 1.0)
    assert not _differ(masked[:0], masked[:0])
    with pytest.raises(ValidationError, match="along the release only"):
        LeakedKD(on_policy=0.5)
    assert service.queries == 5 * 60 + 2 * 40, "five further answers a text, and two leaks"
    assert InverseMap(asks=5).budget.queries == 4
    with pytest.raises(ValidationError, match="leave on_policy at 0, or asks at 1"):
        InverseMap(asks=2, on_policy=0.5)
    with pytest.raises(ValidationError, match="leave asks at 1"):
        ExtractedKD(asks=2)


def test_rounding_is_seen_through_by_dither() -> None:
    class Rounded(Shown):
        def biased(self, traces, groups_GK, offsets_GK=None):  # type: ignore[no-untyped-def]
            return [one.rounded(1.0) for one in super().biased(traces, groups_GK, offsets_GK)]

    traces, teacher = lesson(6), fresh("llama", spread=0.5)
    service, clean = Rounded(teacher), Shown(teacher).logprobs(traces)
    few = [one.top(5).rounded(1.0) for one in clean]

    def error(dither: int) -> float:
        made = ExtractedKD(invert=False, dither=dither).prepare(traces, few, world(service, 6), service)
        gaps = [(c.known_TK - e.known_TK).abs().mean() for c, e in zip(clean, made.shown, strict=True)]
        return float(torch.stack(gaps).mean())

    once = error(1)
    asked = service.queries
    assert error(16) < 0.4 * once
    assert service.queries == 17 * asked


def test_the_likeliest_shown_token_is_learned() -> None:
    lm = fresh("llama")
    known = torch.tensor([[-3.0, -0.2, -2.0], [-0.1, -4.0, -3.0]])
    logits = torch.randn(2, lm.vocab_size, requires_grad=True)
    labels = torch.tensor([0, 2])
    exposure = Exposure((0, 2), torch.randn(2, lm.vocab_size).log_softmax(-1))
    rows, own, index = torch.zeros(2, dtype=torch.long), torch.tensor([False]), torch.tensor([0])
    attack = Top1KD()
    source = Source(attack, Material((), ()), AttackRun(seed=0), Shown(lm), 0)
    guide = attack.follow(lm, source)
    ids = torch.tensor([[4, 7, 9], [5, 1, 2]])
    found = guide.loss(logits, labels, Target(known, ids, rows, own, index))
    whole = guide.loss(logits, labels, Target(exposure.known_TK, None, rows, own, index))
    logq = logits.log_softmax(-1)
    assert torch.allclose(found, -(logq[0, 7] + logq[1, 5]) / 2)
    best = exposure.known_TK.argmax(-1)
    assert torch.allclose(whole, -(logq[0, best[0]] + logq[1, best[1]]) / 2)
    assert torch.allclose(attack.divergence(exposure.known_TK, logq, 0.0).mean(), whole)
    with pytest.raises(ValidationError, match="takes no `missing`"):
        Top1KD(missing="renormalize")
