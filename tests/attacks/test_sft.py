"""Supervised fine-tuning on released text, on tiny students; and what a release lets an attack read."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from azeotrope.attacks import sft
from azeotrope.attacks.base import AttackRun, Outcome, StudentAttack
from azeotrope.attacks.sft import SFT
from azeotrope.core.access import Access
from azeotrope.core.errors import ConfigError, RunError
from azeotrope.core.release import Release
from azeotrope.core.types import Trace
from azeotrope.models.gradients import IGNORE, completions, nll, pad_batch
from azeotrope.models.lm import LM
from tiny import FAMILIES, fresh, toy_traces

QUICK: dict[str, Any] = {"epochs": 6, "lr": 1e-2, "batch_size": 8, "warmup": 0.1}


def lesson(n: int = 32) -> list[Trace]:
    """A trivially learnable release: the same short completion after every prompt."""
    private = {"token_ids": (1, 2), "moved": (0.5,)}
    return [
        Trace(problem_id=t.problem_id, prompt=t.prompt, text="xyzzy", **private) for t in toy_traces(n, "release")
    ]


def exam() -> list[Trace]:
    return [Trace(problem_id=t.problem_id, prompt=t.prompt, text="xyzzy") for t in toy_traces(8, "test")]


def weights(lm: LM) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in lm.model.named_parameters()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def train(lm: LM, traces: Sequence[Trace], seed: int = 0, **settings: Any) -> Outcome:
    return SFT(**{**QUICK, **settings}).train([lm], Release.of(traces), AttackRun(seed=seed))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_trivial_lesson_is_learned(family: str) -> None:
    lm = fresh(family, spread=0.1)
    before = nll(lm, exam())
    outcome = train(lm, lesson(), curve_points=0)
    assert outcome.students == [lm]
    assert nll(lm, exam()) < 0.2 * before
    assert not lm.model.training
    assert lm.revision.endswith("+sft")
    lengths = [len(t.prompt) + 5 + 1 for t in lesson()]
    assert outcome.tokens == 6 * sum(lengths)
    curve = [p for p in outcome.losses if p.split == "train"]
    assert curve[-1].loss < curve[0].loss


def test_the_holdout_curve_is_measured_on_clean_traces() -> None:
    lm = fresh("llama", spread=0.1)
    attack = SFT(**QUICK, curve_points=4)
    outcome = attack.train([lm], Release.of(lesson()), AttackRun(seed=0, holdout=exam()))
    points = [p for p in outcome.losses if p.split == "holdout"]
    assert 3 <= len(points) <= 6
    assert points[-1].loss == pytest.approx(nll(lm, exam()), rel=1e-5), "the last point is the final model"
    assert [p.step for p in points] == sorted({p.step for p in points})


@pytest.mark.parametrize("traces", [[], [Trace(problem_id="a", prompt="abc", text="")]])
def test_nothing_to_learn_leaves_the_student_bit_for_bit(traces: list[Trace]) -> None:
    lm = fresh("llama")
    before, revision = weights(lm), lm.revision
    outcome = train(lm, traces)
    assert same(weights(lm), before)
    assert lm.revision == revision
    assert outcome.tokens == 0
    assert outcome.losses == []


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_seeds_reproduce(lora_rank: int) -> None:
    """The same seed gives the same weights, whatever the global generator's state; another seed others."""
    found = []
    for seed, noise in ((3, 0), (3, 1234), (4, 0)):
        lm = fresh("llama", spread=0.1)
        torch.manual_seed(noise)
        train(lm, lesson(16), seed=seed, epochs=1, lora_rank=lora_rank)
        found.append(weights(lm))
    assert same(found[0], found[1])
    assert not same(found[0], found[2])


def test_every_base_is_trained_on_its_own() -> None:
    """Several bases in one call: each learns, and the first is what it would be alone."""
    alone = fresh("llama", spread=0.1)
    train(alone, lesson(), seed=1, epochs=1)
    pair = [fresh("llama", spread=0.1), fresh("gpt2", spread=0.1)]
    before = [weights(lm) for lm in pair]
    attack = SFT(**{**QUICK, "epochs": 1})
    outcome = attack.train(pair, Release.of(lesson()), AttackRun(seed=1))
    assert outcome.students == pair
    assert all(not same(weights(lm), b) for lm, b in zip(pair, before, strict=True))
    assert same(weights(pair[0]), weights(alone))
    assert {p.base for p in outcome.losses} == {0, 1}


@pytest.mark.parametrize(
    "family", ["llama", "gpt2", *(pytest.param(f, marks=pytest.mark.slow) for f in ("gpt_neox", "qwen2"))]
)
def test_lora_is_merged_into_a_plain_model(family: str) -> None:
    lm = fresh(family, spread=0.1)
    before, kind = weights(lm), type(lm.model)
    start = nll(lm, exam())
    train(lm, lesson(), lora_rank=4, lora_alpha=32, lr=2e-2)
    assert type(lm.model) is kind
    after = weights(lm)
    assert after.keys() == before.keys(), "adapters are left behind"
    assert nll(lm, exam()) < 0.7 * start
    embedding = next(n for n in before if "embed_tokens" in n or "wte" in n or "embed_in" in n)
    assert torch.equal(after[embedding], before[embedding]), "only linear layers are adapted"
    assert all(p.requires_grad for p in lm.model.parameters()), "the student must be trainable again"
    assert nll(LM(copy.deepcopy(lm.model), lm.tokenizer, "", ""), exam()) == pytest.approx(nll(lm, exam()))


def test_a_poisoned_student_is_a_run_error() -> None:
    lm = fresh("llama", spread=0.1)
    with torch.no_grad():
        lm.head.weight[3, 3] = float("nan")
    with pytest.raises(RunError, match="loss"):
        train(lm, lesson())


def test_divergence_is_a_run_error_even_on_the_last_step() -> None:
    """One step at an absurd learning rate: the loss was fine, the weights are not."""
    lm = fresh("gpt2", spread=0.1)
    with pytest.raises(RunError, match="learning rate"):
        train(lm, lesson(8), epochs=1, lr=1e30, warmup=0.0)
    lm = fresh("gpt2", spread=0.1)
    with pytest.raises(RunError, match="learning rate"):
        train(lm, lesson(), epochs=4, lr=1e30, warmup=0.0)


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_the_student_computes_in_its_own_precision(lora_rank: int) -> None:
    """Training in bfloat16 autocast must not leave the autocast wrapped around the student."""
    lm, clean = fresh("llama", spread=0.1), fresh("llama", spread=0.1)
    train(lm, lesson(), epochs=1, lora_rank=lora_rank)
    clean.model.load_state_dict(lm.model.state_dict())
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        assert torch.allclose(lm.model(ids).logits, clean.model(ids).logits, atol=1e-5)


def test_no_curve_points_no_holdout_passes() -> None:
    lm = fresh("llama", spread=0.1)
    attack = SFT(**{**QUICK, "epochs": 1}, curve_points=0)
    outcome = attack.train([lm], Release.of(lesson(8)), AttackRun(seed=0, holdout=exam()))
    assert {p.split for p in outcome.losses} == {"train"}


def test_training_has_no_effect_outside_the_student() -> None:
    state = torch.random.get_rng_state()
    lm = fresh("llama", spread=0.1)
    attention = lm.model.config._attn_implementation
    release = Release.of(lesson())
    traces = copy.deepcopy(release.traces)
    SFT(**{**QUICK, "epochs": 1}).train([lm], release, AttackRun(seed=1))
    assert release.traces == traces
    assert lm.model.config._attn_implementation == attention
    assert all(p.grad is None or isinstance(p, nn.Parameter) for p in lm.model.parameters())
    assert len(state) == len(torch.random.get_rng_state())


def test_long_examples_are_cut() -> None:
    lm = fresh("llama", spread=0.1)
    long = [Trace(problem_id="l", prompt="ab", text="c" * 500)] * 2
    outcome = train(lm, long, epochs=1, max_length=20)
    assert outcome.tokens == 2 * 20
    outcome = train(lm, [Trace(problem_id="p", prompt="a" * 40, text="bc")], epochs=1, max_length=20)
    assert outcome.tokens == 41, "a prompt beyond the limit keeps one labeled token"


# What a release lets an attack read.


class Peeper(StudentAttack):
    """A fake attack that needs full logits."""

    kind: ClassVar[str] = "peeper"
    needs: ClassVar[Access] = Access.FULL_LOGITS

    def train(self, bases: Sequence[LM], release: Release, run: AttackRun) -> Outcome:
        release.view(self.needs, reader=f"the attack '{self.kind}'")
        return Outcome(students=list(bases))


def test_an_attack_cannot_read_above_the_release() -> None:
    for access in (Access.TEXT, Access.TOPK_LOGPROBS):
        with pytest.raises(ConfigError, match=r"peeper.*FULL_LOGITS.*only exposes " + access.name):
            Peeper().train([], Release.of(lesson(), access), AttackRun(seed=0))
    for access in (Access.FULL_LOGITS, Access.WEIGHTS):
        Peeper().train([], Release.of(lesson(), access), AttackRun(seed=0))


def test_a_view_strips_what_never_leaves() -> None:
    trace = Trace(
        problem_id="p", prompt="q", text="t", seed=7, finished=False, n_tokens=3,
        token_ids=(1, 2, 3), moved=(0.1, 0.2, 0.3), meta={"removed": [], "secret": 1},
    )  # fmt: skip
    release = Release.of([trace], Access.FULL_LOGITS)
    for access in (Access.TEXT, Access.TOPK_LOGPROBS, Access.FULL_LOGITS):
        view = release.view(access)
        (seen,) = view.traces
        assert view.access == access
        assert (seen.token_ids, seen.moved, dict(seen.meta)) == (None, None, {})
        assert (seen.prompt, seen.text, seen.finished) == ("q", "t", False)
    assert release.traces[0] is trace
    with pytest.raises(ConfigError, match="WEIGHTS"):
        release.view(Access.WEIGHTS)
    with pytest.raises(ConfigError):
        release.view(Access.TEXT).view(Access.TOPK_LOGPROBS)


def test_access_is_ordered() -> None:
    assert Access.TEXT < Access.TOPK_LOGPROBS < Access.FULL_LOGITS < Access.WEIGHTS


def test_a_student_never_sees_more_than_the_view() -> None:
    """Poisoned private fields change nothing."""
    found = []
    for ids in ((1, 2), (9, 9, 9)):
        lm = fresh("llama", spread=0.1)
        data = [
            Trace(problem_id=t.problem_id, prompt=t.prompt, text=t.text, token_ids=ids, meta={"x": len(ids)})
            for t in lesson()
        ]
        train(lm, data, epochs=1)
        found.append(weights(lm))
    assert same(*found)


def test_a_model_that_cannot_trim_its_logits_learns_the_same() -> None:
    trimming, whole = fresh("llama"), fresh("llama")
    vars(whole)["forward_keys"] = trimming.forward_keys - {"logits_to_keep"}
    for lm in (trimming, whole):
        train(lm, lesson(), bfloat16=False)
    for name, value in weights(whole).items():
        torch.testing.assert_close(value, weights(trimming)[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_like_length_go_together(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices change how a batch is computed, not its logits or gradients; none is padded to the longest row."""
    lm = fresh(family, spread=0.1)
    texts = ["1 2 3", "4", "5 6 7 8 9 1 2 3", "2 2"] * 6
    traces = [replace(one, text=text) for one, text in zip(lesson(24), texts, strict=True)]
    prompts = lm.encode_many([t.prompt for t in traces])
    batch = pad_batch(list(zip(prompts, completions(lm, traces), strict=True)), lm.pad)
    inputs = {"input_ids": batch.ids_BT, "attention_mask": batch.mask_BT, "labels": batch.labels_BT}
    targets_N = batch.labels_BT[:, 1:][batch.labels_BT[:, 1:] != IGNORE]
    shapes: list[torch.Size] = []
    lm.model.register_forward_pre_hook(
        lambda _m, _a, given: shapes.append(given["input_ids"].shape), with_kwargs=True
    )
    found = []
    for p in lm.model.parameters():
        p.requires_grad_(True)
    for rows in (1000, 4):
        monkeypatch.setattr(sft, "SLICE_ROWS", rows)
        lm.model.zero_grad()
        logits_NV = sft._logits(lm.model, lm.head, inputs)
        cross_entropy(logits_NV, targets_N).backward()
        gradients = {n: p.grad.clone() for n, p in lm.model.named_parameters() if p.grad is not None}
        found.append((logits_NV.detach(), gradients))
    (whole_NV, slow), (sliced_NV, fast) = found
    torch.testing.assert_close(sliced_NV, whole_NV, atol=1e-5, rtol=1e-4)
    assert slow.keys() == fast.keys() != set()
    for name, gradient in slow.items():
        torch.testing.assert_close(fast[name], gradient, atol=1e-6, rtol=1e-3)
    assert [s[0] for s in shapes] == [24] + [4] * 6
    assert shapes[1][1] == shapes[0][1] > shapes[-1][1]
