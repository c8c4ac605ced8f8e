"""Antidistillation sampling: Δ against autograd, back-ends against each other, sessions against full passes.

Models with RMSNorm compute it in float32 whatever their weights, so that exactness in float64 is asked of
gpt2 and gpt_neox. Shapes: B rows, T steps, V vocabulary, D hidden size, N contexts.
"""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.autograd import forward_ad

from azeotrope.core.errors import ConfigError
from azeotrope.core.sampling import Sampling
from azeotrope.core.types import Trace
from azeotrope.defenses import ads
from azeotrope.defenses.ads import ADS, AntidistillRule, Direction
from azeotrope.defenses.base import Bench, assemble
from azeotrope.defenses.epsilon import best, epsilon_curve
from azeotrope.defenses.permutation import Permutation
from azeotrope.maths import antidistill
from azeotrope.models.decode import Batch, LogitRule, Session, StepView, decode
from azeotrope.models.gradients import head_gradient, nll, pad_batch, proxy_gradient, token_batches
from azeotrope.models.lm import LM, embedded_names, load
from azeotrope.tasks.lookup import Lookup
from tiny import FAMILIES, Toy, bench, drive, fresh, kl, path, prompts, tiny, toy_traces

SMOOTH = ("gpt2", "gpt_neox")  # float64 throughout
BACKENDS = ("finite_difference", "jvp", "head", "self")
DOUBLE = torch.float64


def small(**settings: Any) -> ADS:
    return ADS(**{"holdout": 6, "holdout_max": 6, **settings})


def direction(lm: LM, backend: str, traces: list[Trace] | None = None, **settings: Any) -> Direction:
    traces = toy_traces(6) if traces is None else traces
    take = head_gradient if backend in ("head", "self") else proxy_gradient
    return Direction(small(backend=backend, normalize=False, **settings), lm, take(lm, traces), traces)


def context(lm: LM, trace: Trace) -> Tensor:
    """The token ids before the last completion token of a trace, [1, T]."""
    return next(token_batches(lm, [trace], 1)).ids_BT[:, :-1]


def log_p(lm: LM, ids_1T: Tensor) -> Tensor:
    return torch.log_softmax(lm.model(input_ids=ids_1T).logits[0, -1], -1)


def gradient_vectors(lm: LM, value: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*lm.model.named_parameters(), strict=True)
    grads = torch.autograd.grad(value, parameters, allow_unused=True, retain_graph=True)
    found = zip(names, parameters, grads, strict=True)
    return {n: torch.zeros_like(p) if g is None else g for n, p, g in found}


# What Δ is.


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_delta_is_the_inner_product_of_gradients(family: str, tied: bool) -> None:
    """Δ(v) = ⟨∇ℓ, ∇ log p(v|x)⟩, by reverse mode, for several v (float32 norms bound the precision)."""
    lm = tiny(family, seed=7, dtype=DOUBLE, tied=tied)
    d = direction(lm, "jvp")
    trace = toy_traces(1, "test")[0]
    delta_V = d.delta_on([trace])[-1]
    values = log_p(lm, context(lm, trace))
    for v in (0, 3, 17, 40, 66):
        grads = gradient_vectors(lm, values[v])
        expected = sum((grads[n] * d.gradient.vectors[n]).sum() for n in grads).item()
        assert delta_V[v].item() == pytest.approx(expected, rel=1e-9 if family == "gpt2" else 2e-4, abs=1e-6)


@pytest.mark.parametrize("family", SMOOTH)
def test_one_step_on_a_token_changes_the_holdout_loss_by_delta(family: str) -> None:
    """ℓ(θ + η∇log p(v|x)) − ℓ(θ) = ηΔ(v) + O(η²), for several v; Δ > 0 means the loss rises."""
    lm = fresh(family, seed=7, dtype=DOUBLE, spread=0.15)
    holdout = toy_traces(6)
    d = direction(lm, "jvp", holdout)
    trace = toy_traces(1, "test")[0]
    delta_V = d.delta_on([trace])[-1]
    grads = {v: gradient_vectors(lm, log_p(lm, context(lm, trace))[v]) for v in (2, 19, 50)}
    base, signs = nll(lm, holdout), set()
    for v, vectors in grads.items():
        delta, errors, ladder = delta_V[v].item(), [], (4e-4, 2e-4, 1e-4, 5e-5)
        for eta in ladder:
            moved = LM(copy.deepcopy(lm.model), lm.tokenizer, lm.ref, lm.revision)
            with torch.no_grad():
                for name, p in moved.model.named_parameters():
                    p.add_(vectors[name], alpha=eta)
            errors.append(abs(nll(moved, holdout) - base - eta * delta))
        assert errors[-1] < 0.05 * abs(ladder[-1] * delta)
        assert np.polyfit(np.log(ladder), np.log(errors), 1)[0] == pytest.approx(2.0, abs=0.15)
        signs.add(delta > 0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("backend", ["jvp", "head"])
def test_exact_back_ends_obey_the_score_identity(backend: str, family: str) -> None:
    """Σ_v p_P(v) Δ(v) = 0 to float64 rounding (where forward mode runs in float64 throughout: gpt2)."""
    lm = tiny(family, seed=7, dtype=DOUBLE)
    d, traces = direction(lm, backend), toy_traces(4, "test")
    delta_NV, p_NV = d.delta_on(traces), probabilities(lm, traces)
    residue = (p_NV * delta_NV).sum(-1).abs() / (p_NV * delta_NV.abs()).sum(-1)
    assert residue.max() < (1e-13 if backend == "head" or family == "gpt2" else 1e-5)


def probabilities(lm: LM, traces: list[Trace]) -> Tensor:
    rows = []
    with torch.no_grad():
        for batch in token_batches(lm, traces, 32):
            logits = lm.model(input_ids=batch.ids_BT, attention_mask=batch.mask_BT).logits[:, :-1]
            rows.append(torch.softmax(logits[batch.labels_BT[:, 1:] != -100], -1))
    return torch.cat(rows)


@pytest.mark.parametrize("family", SMOOTH)
def test_finite_differences_converge_with_slope_two(family: str) -> None:
    """Both the distance to the exact Δ and the residual Σ p Δ̂ fall as ε²."""
    lm = tiny(family, seed=7, dtype=DOUBLE)
    traces = toy_traces(4, "test")
    exact, p_NV = direction(lm, "jvp").delta_on(traces), probabilities(lm, traces)
    ladder = (4e-3, 2e-3, 1e-3, 5e-4)
    found = [direction(lm, "finite_difference", epsilon=e).delta_on(traces) for e in ladder]
    errors = [(f - exact).norm().item() for f in found]
    residues = [(p_NV * f).sum(-1).norm().item() for f in found]
    assert errors[-1] < 1e-3 * exact.norm()
    for values in (errors, residues):
        assert np.polyfit(np.log(ladder), np.log(values), 1)[0] == pytest.approx(2.0, abs=0.05)


# The head back-end.


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_head_equals_forward_mode_restricted_to_the_head(family: str, tied: bool) -> None:
    """Also with tied embeddings, where only the head's own use of W counts."""
    lm = tiny(family, seed=7, dtype=DOUBLE, tied=tied)
    d, trace = direction(lm, "head"), toy_traces(1, "test")[0]
    model = copy.deepcopy(lm.model)
    if tied:
        assert lm.head.weight is lm.model.get_input_embeddings().weight
        LM(model, lm.tokenizer, "", "").head.weight = nn.Parameter(lm.head.weight.detach().clone())
        model.config.tie_word_embeddings = False
    free = LM(model, lm.tokenizer, "", "")
    name = next(n for n, p in model.named_parameters() if p is free.head.weight)
    batch = next(token_batches(lm, [trace], 1))
    with torch.no_grad(), forward_ad.dual_level(), ads.eager_attention(free):
        dual = {
            n: forward_ad.make_dual(p.detach(), d.head_VD if n == name else torch.zeros_like(p))
            for n, p in model.named_parameters()
        }
        out = torch.func.functional_call(model, dual, kwargs={"input_ids": batch.ids_BT, "use_cache": False})
        logits, tangent = forward_ad.unpack_dual(out.logits[:, :-1])
        keep = batch.labels_BT[:, 1:] != -100
        expected = antidistill.center(tangent[keep], logits[keep])
    found = d.delta_on([trace])
    assert (found - expected).norm() < (1e-12 if family == "gpt2" else 1e-5) * expected.norm()
    full = direction(lm, "jvp").delta_on([trace])
    assert not torch.allclose(full, expected, rtol=0.1), "the trunk must matter, or this tests nothing"


# Sessions against full passes.


def full_delta(d: Direction, prompt: list[int], ids: list[int]) -> Tensor:
    """Δ at every position of `ids` after `prompt`, by the full-sequence form. [T, V]."""
    with torch.no_grad():
        return d._delta_batch(pad_batch([(prompt, ids)], 0))


class Spy(LogitRule):
    """Runs a rule and keeps (row seed, step) → change of logits, relative to the row's mean.

    Afterwards it lifts the end of sequence, so that rows end at different times and are dropped.
    """

    def __init__(self, rule: LogitRule) -> None:
        self.rule, self.needs_hidden = rule, rule.needs_hidden
        self.seen: dict[tuple[int, int], Tensor] = {}
        self.sizes: list[int] = []

    def open(self, batch: Batch) -> Session:
        spy, inner = self, self.rule.open(batch)

        class _Session(Session):
            def step(self, view: StepView) -> Tensor:
                out = inner.step(view)
                change = out - view.logits_BV
                for seed, t, row in zip(view.seeds_B.tolist(), view.t_B.tolist(), change, strict=True):
                    spy.seen[seed, t] = row - row.mean()
                spy.sizes.append(len(out))
                return out + 2.5 * (torch.arange(out.shape[-1]) == 1)

            def select(self, rows: Tensor) -> None:
                inner.select(rows)

            def close(self) -> None:
                inner.close()

        return _Session()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_lock_step_equals_the_full_sequence(backend: str, family: str) -> None:
    """With caches, across prompts of different lengths and after finished rows were dropped.

    (Eager attention takes its softmax in float32 in all families but gpt2, and a float64 mask overflows
    there: forward mode is for float32 models, and its NaN would be reported as a RunError.)
    """
    dtype = torch.float32 if backend == "jvp" and family != "gpt2" else DOUBLE
    tolerance = 1e-4 if dtype == torch.float32 else 1e-10
    proxy = tiny(family, seed=7, dtype=dtype)
    teacher = proxy if backend == "self" else tiny("gpt2", dtype=dtype)
    d = direction(proxy, backend, epsilon=1e-3)
    spy = Spy(AntidistillRule(small(backend=backend, normalize=False, lam=0.1), d, shuffled=False))
    rows, seeds = prompts(24), list(range(300, 324))
    got = decode(teacher, rows, seeds, Sampling(temperature=1.0), rules=[spy], max_new_tokens=30)
    assert len(set(spy.sizes)) > 2, "rows must be dropped on the way, or this tests nothing"
    for prompt, seed, sample in zip(rows, seeds, got, strict=True):
        expected = 0.1 * full_delta(d, prompt, list(sample.ids))
        expected = expected - expected.mean(-1, keepdim=True)
        found = torch.stack([spy.seen[seed, t] for t in range(len(sample.ids))])
        assert (found - expected).abs().max() < tolerance * expected.abs().max()


def test_dual_caches_survive_growth_beyond_a_block() -> None:
    """More than 128 tokens: the buffers of keys, values and their tangents are re-allocated on the way."""
    proxy = tiny("gpt2", seed=7, dtype=DOUBLE)
    d = direction(proxy, "jvp")
    rule = AntidistillRule(small(backend="jvp", normalize=False, lam=1.0), d, shuffled=False)
    rows, walk = [[5, 9, 14], [8] * 70], path(2, 80)
    steps = drive(tiny("llama", dtype=DOUBLE), rule, rows, [1, 2], walk)
    for i, prompt in enumerate(rows):
        expected = full_delta(d, prompt, [*walk[i].tolist(), 3])
        found = torch.stack([after[i] - before[i] for before, after in steps])
        assert torch.allclose(found, expected, atol=1e-9 * expected.abs().max().item(), rtol=1e-7)


def test_dual_sessions_restore_the_attention_and_leave_no_tangents() -> None:
    proxy = fresh("gpt2", seed=7)
    before = proxy.model.config._attn_implementation
    rule = AntidistillRule(small(backend="jvp"), direction(proxy, "jvp"), shuffled=False)
    drive(tiny("llama"), rule, prompts(3), [1, 2, 3], path(3, 3))
    assert proxy.model.config._attn_implementation == before
    assert all(not p.requires_grad or p.grad is None for p in proxy.model.parameters())


# Scale, strength, budget.


@pytest.mark.parametrize("backend", BACKENDS)
def test_normalized_delta_has_unit_spread(backend: str) -> None:
    b = bench(proxy="gpt2", teacher=tiny("gpt2", dtype=DOUBLE))
    d = small(backend=backend).direction(b)
    assert antidistill.spread(d.delta_on(d.calibration)) / d.scale == pytest.approx(1.0, rel=1e-9)
    raw = small(backend=backend, normalize=False).direction(b)
    assert raw.scale == 1.0
    assert d.scale != pytest.approx(1.0)


def test_the_tilt_is_lambda_delta_over_scale() -> None:
    b = bench(proxy="gpt2")
    one, two = (assemble([small(backend="head", lam=x)], b).rules[0] for x in (0.3, 0.6))
    walk, rows = path(4, 5), prompts(4)
    for (z, a), (_, c) in zip(*(drive(b.teacher, r, rows, range(4), walk) for r in (one, two)), strict=True):
        assert torch.allclose(2 * (a - z), c - z, atol=1e-12)


@pytest.mark.parametrize("method", [ADS, Permutation])
@pytest.mark.parametrize("backend", BACKENDS)
def test_kl_budget_is_spent_exactly(method: type[ads.AntidistillationBase], backend: str) -> None:
    b = bench(proxy="gpt2")
    defense = method(backend=backend, spend="kl_budget", lam=0.05, holdout=6, holdout_max=6)
    rule = assemble([defense], b).rules[0]
    for before, after in drive(b.teacher, rule, prompts(5), range(5), path(5, 4)):
        assert torch.allclose(kl(after, before), torch.tensor(0.05, dtype=DOUBLE), atol=1e-8)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_kl_budget_is_spent_in_the_direction_of_the_tilt(backend: str) -> None:
    """Up to an offset per row, the change is a positive multiple of the tilt's."""
    b, walk, rows = bench(proxy="gpt2"), path(5, 4), prompts(5)
    tilt = assemble([small(backend=backend, lam=0.1)], b).rules[0]
    budget = assemble([small(backend=backend, spend="kl_budget", lam=0.05)], b).rules[0]
    walks = (drive(b.teacher, rule, rows, range(5), walk) for rule in (tilt, budget))
    for (z, a), (_, c) in zip(*walks, strict=True):
        one, two = ((x - z) - (x - z).mean(-1, keepdim=True) for x in (a, c))
        assert torch.cosine_similarity(one, two, dim=-1).min() > 1 - 1e-9


def test_recorded_movement_is_the_budget() -> None:
    b = bench(proxy="gpt2", dtype=torch.float32)
    rule = assemble([small(backend="head", spend="kl_budget", lam=0.1)], b).rules[0]
    got = decode(b.teacher, prompts(6), range(6), b.sampling, rules=[rule], max_new_tokens=10, record=True)
    moved = [m for s in got for m in s.moved or ()]
    assert moved == pytest.approx([0.1] * len(moved), abs=1e-4)


def test_more_holdout_traces_are_asked_for_while_halves_disagree(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    b = bench(proxy="gpt2")
    real = head_gradient

    def disagreeing(lm: LM, traces: list[Trace]) -> Any:
        asked.append(len(traces))
        got = real(lm, traces)
        return type(got)(got.vectors, got.loss, 0.1 if len(traces) < 16 else 0.7, got.n)

    monkeypatch.setattr(ads, "head_gradient", disagreeing)
    settings = ADS(backend="head", holdout=4, holdout_max=100)
    settings.direction(b)
    assert asked == [4, 8, 16]
    assert b.notes["ads"]["holdout_traces"] == 16
    assert b.notes["ads"]["enough_traces"]
    asked.clear()
    ADS(backend="head", holdout=4, holdout_max=7).direction(b)
    assert asked == [4, 7]
    assert not b.notes["ads"]["enough_traces"]


# self, merged and unmerged.


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("temperature", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_merged_equals_unmerged(family: str, temperature: float, tied: bool) -> None:
    teacher = tiny(family, dtype=DOUBLE, tied=tied)
    before = {n: p.detach().clone() for n, p in teacher.model.named_parameters()}
    b = bench(teacher=teacher, temperature=temperature)
    free = assemble([small(backend="self", lam=0.5)], b)
    merged = assemble([small(backend="self", lam=0.5, merged=True)], b)
    assert free.teacher is teacher
    assert merged.rules == ()
    assert merged.teacher.revision != teacher.revision
    factor = temperature or 1.0
    plain = drive(merged.teacher, Nothing(), prompts(5), range(5), path(5, 4), temperature=factor)
    tilted = drive(teacher, free.rules[0], prompts(5), range(5), path(5, 4), temperature=factor)
    for (a, _), (z, c) in zip(plain, tilted, strict=True):
        assert torch.allclose(a, c, atol=1e-5 if family in ("llama", "qwen2") else 1e-9)
        assert not torch.allclose(z, c, atol=1e-2), "the defense must act, or this tests nothing"
    rows, seeds = prompts(6), range(6)
    one = decode(teacher, rows, seeds, b.sampling, rules=free.rules, max_new_tokens=12)
    two = decode(merged.teacher, rows, seeds, b.sampling, max_new_tokens=12)
    assert [s.ids for s in one] == [s.ids for s in two]
    after = dict(teacher.model.named_parameters())
    assert all(torch.equal(before[n], after[n]) for n in before), "the teacher itself was edited"


class Nothing(LogitRule, Session):
    def open(self, batch: Batch) -> Session:
        return self

    def step(self, view: StepView) -> Tensor:
        return view.logits_BV


def test_self_at_the_teacher_equals_head_with_the_teacher_as_proxy() -> None:
    teacher = tiny("gpt2", dtype=DOUBLE)
    b = bench(teacher=teacher, load=lambda _: teacher)
    head = assemble([small(backend="head", source="gold")], b).rules[0]
    own = assemble([small(backend="self")], b).rules[0]
    walks = (drive(teacher, r, prompts(4), range(4), path(4, 5)) for r in (head, own))
    for (_, a), (_, c) in zip(*walks, strict=True):
        assert torch.allclose(a, c, atol=1e-10)


def test_contradictions_are_refused() -> None:
    with pytest.raises(ValidationError, match="use source: gold"):
        ADS(backend="self", source="teacher")
    assert ADS(backend="self").trace_source == "gold"
    assert ADS(backend="head").trace_source == "teacher"
    assert ADS(backend="head", source="gold").trace_source == "gold"
    for settings in ({"backend": "head"}, {"backend": "self", "spend": "kl_budget"}):
        with pytest.raises(ValidationError, match="merged"):
            ADS(merged=True, **settings)
    with pytest.raises(ValidationError, match="at least holdout"):
        ADS(holdout=9, holdout_max=8)
    with pytest.raises(ValidationError, match="cannot be merged"):
        Permutation(backend="self", merged=True)


def test_two_merged_edits_are_refused_rather_than_lost() -> None:
    both = [small(backend="self", merged=True), small(backend="self", merged=True, lam=0.4)]
    with pytest.raises(ConfigError, match="merged"):
        assemble(both, bench())


@pytest.mark.parametrize("method", [ADS, Permutation])
@pytest.mark.parametrize("backend", ["finite_difference", "jvp", "head"])
def test_a_proxy_with_another_vocabulary_is_refused(method: type[ads.AntidistillationBase], backend: str) -> None:
    b = bench(load=lambda _: tiny("gpt2", vocab=71, dtype=DOUBLE))
    with pytest.raises(ConfigError, match="shares the teacher's tokenizer"):
        assemble([method(backend=backend)], b)


def test_gold_without_gold_traces_is_refused() -> None:
    class Bare(Toy):
        def gold_traces(self, problems: Any, seed: int = 0) -> list[Trace]:
            return []

    b = bench()
    with pytest.raises(ConfigError, match="no gold traces"):
        assemble([small(backend="self")], Bench(teacher=b.teacher, task=Bare(), sampling=b.sampling))


# The permutation control.


@pytest.mark.parametrize("backend", BACKENDS)
def test_permutation_is_the_same_numbers_without_their_direction(backend: str) -> None:
    b = bench(proxy="gpt2")
    settings = {"backend": backend, "lam": 0.7, "holdout": 6, "holdout_max": 6, "epsilon": 1e-3}
    rows, seeds, walk = prompts(6), list(range(40, 46)), path(6, 4)
    real = drive(b.teacher, assemble([ADS(**settings)], b).rules[0], rows, seeds, walk)
    control = assemble([Permutation(**settings)], b).rules[0]
    shuffled = drive(b.teacher, control, rows, seeds, walk)
    again = drive(b.teacher, control, rows, [s + 9 for s in seeds], walk)
    changes = []
    for (z, a), (_, c), (_, other) in zip(real, shuffled, again, strict=True):
        tilt, noise = a - z, c - z
        tilt = tilt - tilt.mean(-1, keepdim=True)
        assert torch.allclose(noise.abs().sort(-1).values, tilt.abs().sort(-1).values, atol=1e-8)
        assert not torch.allclose(noise, tilt, atol=1e-3)
        assert not torch.allclose(c, other, atol=1e-3), "another seed must give another permutation"
        changes.append(noise / noise.norm(dim=-1, keepdim=True))
    for a, c in pairwise(changes):
        assert ((a * c).sum(-1).abs() < 0.9).all(), "fresh per step"


# ε.


@pytest.mark.parametrize("family", FAMILIES)
def test_epsilon_has_a_good_minimum_and_the_default_is_near_it(family: str) -> None:
    """In float32 the error is U-shaped: round-off on the left, truncation on the right."""
    lm = fresh(family, seed=7, spread=0.15)
    traces = toy_traces(6)
    ladder = [10.0 ** (k / 2) for k in range(-12, 3)]
    points = epsilon_curve(lm, proxy_gradient(lm, traces), traces, ladder)
    least = best(points)
    assert [p.epsilon for p in points] == ladder
    assert least.error < 1e-3
    assert points[0].error > 30 * least.error
    assert points[-1].error > 300 * least.error
    at_default = epsilon_curve(lm, proxy_gradient(lm, traces), traces, [ADS().epsilon])[0].error
    assert at_default < 5e-3, "the default step must be good, whatever the exact minimum"
    assert at_default < 30 * least.error


@pytest.mark.parametrize("name", [n for n in embedded_names() if n.startswith("proxy")])
def test_the_default_epsilon_suits_the_embedded_proxies(name: str) -> None:
    lm = load(f"embedded/{name}")
    traces = Lookup().gold_traces(Lookup().problems("holdout", 16))
    gradient = proxy_gradient(lm, traces)
    ladder = [10.0 ** (k / 2) for k in range(-8, 0)]
    points = epsilon_curve(lm, gradient, traces[:4], [ADS().epsilon, *ladder])
    assert points[0].error < 0.01
    assert points[0].error < 30 * best(points).error


def test_epsilon_in_float64_only_truncates() -> None:
    lm = tiny("gpt2", seed=7, dtype=DOUBLE)
    points = epsilon_curve(lm, proxy_gradient(lm, toy_traces(4)), toy_traces(4), [1e-1, 1e-2, 1e-3, 1e-4])
    assert [p.error for p in points] == sorted((p.error for p in points), reverse=True)
    assert points[-1].error < 1e-6


def test_a_constant_tilt_by_self_runs_as_an_edited_head_and_samples_the_same() -> None:
    """Recording needs the undefended logits and takes the step-by-step path; both must draw alike."""
    place = bench(temperature=0.8)
    rule = small(backend="self", lam=0.7).bind(place)
    head_VD = rule.edited_head(place.teacher, 0.8)
    assert head_VD is not None
    assert rule.edited_head(place.teacher, 0.8) is head_VD
    args = (place.teacher, prompts(12), list(range(12)), place.sampling)
    plain, recorded, free = (
        decode(*args, rules=rules, max_new_tokens=20, record=record)
        for rules, record in (([rule], False), ([rule], True), ([], False))
    )
    assert [s.ids for s in plain] == [s.ids for s in recorded]
    assert [s.ids for s in plain] != [s.ids for s in free]
    assert torch.equal(
        small(backend="self", lam=0.0).bind(place).edited_head(place.teacher, 0.8), place.teacher.head.weight
    )
    for other in (small(backend="self", spend="kl_budget"), small(backend="head")):
        assert other.bind(place).edited_head(place.teacher, 0.8) is None


@pytest.mark.parametrize("shuffled", [False, True])
def test_two_walks_give_what_the_twin_gives(monkeypatch: pytest.MonkeyPatch, shuffled: bool) -> None:
    method = Permutation(holdout=6, holdout_max=6, lam=0.7) if shuffled else small(lam=0.7)
    together = method.bind(bench())
    monkeypatch.setattr(ads, "make_twin", lambda *_: None)
    apart = method.bind(bench())
    assert isinstance(together, AntidistillRule)
    assert isinstance(apart, AntidistillRule)
    assert together.twin is not None
    assert together.models == []
    assert apart.twin is None
    assert len(apart.models) == 2
    walk = (tiny("llama", dtype=DOUBLE), prompts(5), range(5), path(5, 6))
    found, wanted = (drive(walk[0], rule, *walk[1:], drop=(3, [4, 0])) for rule in (together, apart))
    for (z, a), (_, b) in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(z, a, atol=1e-2)
