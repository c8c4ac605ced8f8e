"""What every registered defense must do. Parametrized over the catalogue: a new method gets this for free."""

from __future__ import annotations

import inspect
import json
import random
from itertools import pairwise
from random import Random
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from azeotrope.core.errors import ConfigError
from azeotrope.core.methods import Defense, Maturity, Stage, TraceDefense, parse_method
from azeotrope.core.plugins import catalogue
from azeotrope.core.types import Trace, split_answer
from azeotrope.defenses.base import Bench, LogitDefense, assemble
from azeotrope.models.cache import capacity
from azeotrope.models.decode import Batch, LogitRule, Run, Session, StepView, decode
from azeotrope.tasks import grammar
from azeotrope.tasks.arithmetic import Arithmetic
from azeotrope.tasks.lookup import Lookup
from conformance.cases import (
    CHEAP,
    DEFENSES,
    SETTINGS,
    WRITES_NEW_TEXT,
    build,
    cases,
    defense_class,
    strengths,
)
from tiny import VOCAB, bench, drive, kl, path, prompts, tiny

every_defense = pytest.mark.parametrize("kind", DEFENSES)
every_case = pytest.mark.parametrize(("kind", "settings"), cases())
every_logit_case = pytest.mark.parametrize(("kind", "settings"), cases(Stage.LOGITS))
every_text_case = pytest.mark.parametrize(("kind", "settings"), cases(Stage.TRACE))
DOUBLE = torch.float64
PROXY = "gpt2"  # runs in float64 throughout, also in forward mode
TEACHER = "gpt2"
STEPS = 4


def workplace(dtype: torch.dtype = DOUBLE) -> Bench:
    return bench(teacher=tiny(TEACHER, dtype=dtype), proxy=PROXY, dtype=dtype)


def rule_of(defense: Defense, where: Bench | None = None) -> LogitRule:
    assert isinstance(defense, LogitDefense)
    return defense.bind(where or workplace())


# Declarations.


def test_the_catalogue_is_covered() -> None:
    """Every registered kind is under test, and the tables name no kind that does not exist."""
    assert {case.values[0] for case in cases()} == set(catalogue("defenses"))
    assert set(SETTINGS) <= set(DEFENSES), "a stale row in conformance/cases.py"
    staged = [case.values[0] for stage in (Stage.LOGITS, Stage.TRACE) for case in cases(stage)]
    others = [kind for kind in DEFENSES if defense_class(kind).stage in (Stage.TEACHER, Stage.SURFACE)]
    assert set(staged) | set(others) == set(DEFENSES)
    assert set(CHEAP) & set(defense_class("ads").model_fields) == set(CHEAP)


@every_defense
def test_it_says_what_it_is(kind: str) -> None:
    cls = defense_class(kind)
    assert cls.kind == kind
    assert cls.summary.strip()
    assert isinstance(cls.maturity, Maturity)
    assert isinstance(cls.stage, Stage)
    assert cls.version >= 1
    own = inspect.getdoc(cls) or ""
    assert len(own) > 20, "no docstring"
    if cls.paper is not None:
        module = inspect.getdoc(inspect.getmodule(cls)) or ""
        assert cls.paper.id in own + module, "the docstring does not cite the paper"
        assert cls.paper.title
        assert cls.paper.equations, "which equations does it implement?"


@every_defense
def test_it_has_exactly_one_dial(kind: str) -> None:
    cls = defense_class(kind)
    if not cls.dial:
        assert cls().strength == 0.0
        assert cls().at(3.0) == cls()
        assert cls.sweep == ()
        return
    assert cls.dial in cls.model_fields
    assert cls.model_fields[cls.dial].annotation in (float, int)
    assert not cls.model_fields[cls.dial].is_required()
    assert len(cls.sweep) >= 3
    assert list(cls.sweep) == sorted(set(cls.sweep))
    assert cls.sweep[0] > 0
    with pytest.raises(ValidationError):
        cls().at(-0.1)
    with pytest.raises(ValidationError):
        cls().at(float("nan"))


@every_case
def test_at_changes_the_strength_and_nothing_else(kind: str, settings: dict[str, Any]) -> None:
    defense = build(kind, settings)
    if not defense.dial:
        pytest.skip("no dial")
    before = defense.model_dump()
    other = defense.at(strengths(defense)[0])
    assert type(other) is type(defense)
    assert other.strength == strengths(defense)[0] != defense.strength
    changed = {name for name, value in other if value != getattr(defense, name)}
    assert changed == {defense.dial}
    assert defense.model_dump() == before
    with pytest.raises(ValidationError):
        setattr(defense, defense.dial, 0.0)


@every_case
def test_settings_survive_json(kind: str, settings: dict[str, Any]) -> None:
    defense, cls = build(kind, settings), defense_class(kind)
    assert cls.model_validate_json(defense.model_dump_json()) == defense
    plain = json.loads(json.dumps(defense.model_dump(mode="json")))
    assert parse_method(cls, plain, "defenses.0") == defense
    identity = defense.identity()
    assert json.loads(json.dumps(identity)) == identity
    assert identity["kind"] == kind
    assert identity["version"] == cls.version
    if defense.dial:
        assert defense.at(strengths(defense)[0]).identity() != identity
        assert defense.at(strengths(defense)[0]).label != defense.label


@every_defense
def test_an_unknown_setting_is_named_with_the_nearest(kind: str) -> None:
    cls = defense_class(kind)
    known = cls.dial or "setting"
    with pytest.raises(ConfigError) as caught:
        parse_method(cls, {known + "x": 1}, "defenses.0")
    message = str(caught.value)
    assert f"'defenses.0.{known}x'" in message
    assert "\n" not in message
    if cls.dial:
        assert f"Did you mean '{known}'?" in message


# Identity and continuity.


@every_case
def test_strength_zero_is_the_identity(kind: str, settings: dict[str, Any]) -> None:
    """Through `assemble`: the same teacher object, nothing to run, and the same samples bit for bit."""
    where = workplace()
    pipeline = assemble([build(kind, settings).at(0.0)], where)
    assert pipeline.teacher is where.teacher
    assert pipeline.rules == ()
    assert all(text.strength == 0.0 for text in pipeline.text)
    assert pipeline.text == ()
    assert where.notes == {}, "nothing is measured for a defense that does nothing"


@every_logit_case
def test_a_bound_rule_at_zero_changes_no_bit(kind: str, settings: dict[str, Any]) -> None:
    for dtype in (torch.float32, DOUBLE):
        where = workplace(dtype)
        rule = rule_of(build(kind, settings).at(0.0), where)
        for before, after in drive(where.teacher, rule, prompts(3), range(3), path(3, STEPS)):
            assert torch.equal(before, after)
        rows, seeds = prompts(6), range(6)
        plain = decode(where.teacher, rows, seeds, where.sampling, max_new_tokens=8)
        same = decode(where.teacher, rows, seeds, where.sampling, rules=[rule], max_new_tokens=8)
        assert plain == same


@every_logit_case
def test_movement_vanishes_continuously_with_strength(kind: str, settings: dict[str, Any]) -> None:
    """KL to the undefended distribution falls strictly over a geometric ladder, toward zero."""
    where, defense = workplace(), build(kind, settings)
    top = strengths(defense)[-1]
    ladder = [top / 8**k for k in range(5)]
    moved = []
    for strength in ladder:
        rule = rule_of(defense.at(strength), where)
        steps = drive(where.teacher, rule, prompts(6), range(6), path(6, 3))
        moved.append(torch.stack([kl(after, before) for before, after in steps]))
    means = [m.mean().item() for m in moved]
    assert all(small < large for large, small in pairwise(means))
    assert means[-1] < 2e-4
    assert means[-1] < 1e-3 * means[0]
    assert means[0] > 1e-3, "the strongest setting must move something, or this tests nothing"
    for large, small in pairwise(moved):
        assert (small <= large + 1e-12).all(), "monotone at every position"


# Tensors.


def walk(defense: Defense, rows: list[list[int]], seeds: list[int], forced: Tensor, **more: Any) -> list[Tensor]:
    where = workplace()
    return [after for _, after in drive(where.teacher, rule_of(defense, where), rows, seeds, forced, **more)]


@every_logit_case
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_shapes_and_types_are_kept_and_inputs_untouched(
    kind: str, settings: dict[str, Any], dtype: torch.dtype
) -> None:
    where = workplace(dtype)
    weights = {n: p.detach().clone() for n, p in where.teacher.model.named_parameters()}
    kept: list[tuple[StepView, StepView]] = []

    def watch(view: StepView, _session: Session) -> None:
        copies = [None if x is None else x.clone() for x in (view.tokens_B, view.logits_BV, view.hidden_BD)]
        kept.append((view, StepView(view.t_B, copies[0], copies[1], copies[2], view.seeds_B.clone())))

    rule = rule_of(build(kind, settings), where)
    steps = drive(where.teacher, rule, prompts(4), range(4), path(4, STEPS), watch=watch)
    for before, after in steps:
        assert after.shape == before.shape == (4, VOCAB)
        assert after.dtype == before.dtype == dtype
        assert after.device == before.device
        assert torch.isfinite(after).all()
        assert not after.requires_grad
    for view, copy in kept:
        for name in ("tokens_B", "logits_BV", "hidden_BD", "seeds_B"):
            now, then = getattr(view, name), getattr(copy, name)
            assert (now is None) == (then is None)
            assert now is None or torch.equal(now, then), f"{name} was modified"
    assert all(torch.equal(weights[n], p) for n, p in where.teacher.model.named_parameters())


@every_logit_case
def test_masked_tokens_stay_masked_and_the_rest_finite(kind: str, settings: dict[str, Any]) -> None:
    where = workplace()
    masked = [0, 5, 66]
    rule = rule_of(build(kind, settings), where)
    for before, after in drive(where.teacher, rule, prompts(4), range(4), path(4, STEPS), mask=masked):
        assert after[:, masked].isneginf().all()
        assert torch.isfinite(torch.where(before.isneginf(), 0.0, after)).all()
        assert torch.isfinite(kl(after, before)).all()


@every_logit_case
def test_rows_are_permuted_with_their_batch(kind: str, settings: dict[str, Any]) -> None:
    defense, rows, seeds, forced = build(kind, settings), prompts(6), list(range(60, 66)), path(6, STEPS)
    order = [3, 0, 5, 1, 4, 2]
    whole = walk(defense, rows, seeds, forced)
    moved = walk(defense, [rows[i] for i in order], [seeds[i] for i in order], forced[order])
    for a, b in zip(whole, moved, strict=True):
        assert torch.allclose(a[order], b, atol=1e-9)


@every_logit_case
def test_padding_and_company_do_not_matter(kind: str, settings: dict[str, Any]) -> None:
    """A short prompt alone equals the same prompt left-padded beside a long one."""
    defense, forced = build(kind, settings), path(2, STEPS)
    short, long = [4, 9, 33], list(range(2, 42))
    alone = walk(defense, [short], [71], forced[:1])
    beside = walk(defense, [short, long], [71, 72], forced)
    for a, b in zip(alone, beside, strict=True):
        assert torch.allclose(a[0], b[0], atol=1e-9)


@every_logit_case
def test_state_survives_dropped_rows(kind: str, settings: dict[str, Any]) -> None:
    defense, rows, seeds, forced = build(kind, settings), prompts(6), list(range(80, 86)), path(6, 8)
    whole = walk(defense, rows, seeds, forced)
    keep = [1, 2, 5]
    for when in (1, 4):
        some = walk(defense, rows, seeds, forced, drop=(when, keep))
        for t, (a, b) in enumerate(zip(whole, some, strict=True)):
            assert torch.allclose(a if t < when else a[keep], b, atol=1e-9)


@every_logit_case
def test_samples_do_not_depend_on_the_batch(kind: str, settings: dict[str, Any]) -> None:
    """Through the decoder, in float64: any batch size and row order give the same tokens."""
    where = workplace()
    rule = rule_of(build(kind, settings), where)
    rows, seeds = prompts(10), list(range(500, 510))
    whole = decode(where.teacher, rows, seeds, where.sampling, rules=[rule], max_new_tokens=10)
    order = list(range(10))
    random.Random(2).shuffle(order)
    mixed = decode(
        where.teacher, [rows[i] for i in order], [seeds[i] for i in order], where.sampling,
        rules=[rule], max_new_tokens=10, batch_size=3,
    )  # fmt: skip
    assert [mixed[order.index(i)].ids for i in range(10)] == [s.ids for s in whole]


@every_logit_case
def test_batches_that_began_apart_become_one(kind: str, settings: dict[str, Any]) -> None:
    """In float64: rows say what they say alone, whenever others join, and whoever has ended before."""
    where = workplace()
    rules = [rule_of(build(kind, settings), where)]
    rows, seeds = [*prompts(9), list(range(2, 42))], torch.arange(700, 710)
    alone = decode(where.teacher, rows, seeds.tolist(), where.sampling, rules=rules, max_new_tokens=24)
    parts = [slice(0, 4), slice(4, 9), slice(9, 10)]
    runs = [
        Run(where.teacher, Batch(tuple(map(tuple, rows[part])), seeds[part]), where.sampling, rules)
        for part in parts
    ]
    written: dict[int, list[int]] = {}

    def step(run: Run) -> None:
        live = [row for row in run.live if not row.finished]
        names = [int(run.seeds_B[run.live.index(row)]) for row in live]
        if live:
            run.step()
        written.update({name: row.ids for name, row in zip(names, live, strict=True)})

    with torch.no_grad():
        for _ in range(7):
            step(runs[0])
        for run in runs[1:]:
            assert not runs[0].can_join(run), "it has not begun"
            step(run)
            if not runs[0].can_join(run):
                assert not type(rules[0]).__module__.startswith("azeotrope."), "our own defenses can be joined"
                pytest.skip(f"'{kind}' does not set 'joins': its batches stay apart in a server")
            runs[0].join(run)
            for _ in range(5):
                step(runs[0])
        width = runs[0]._teacher.mask_BC.shape[1]  # type: ignore[union-attr]
        for _ in range(12):
            step(runs[0])
    assert width <= capacity(40 + 6), "columns that nobody uses are dropped"
    for seed, sample in zip(seeds.tolist(), alone, strict=True):
        n = min(len(sample.ids), len(written[seed]))
        assert n >= min(12, len(sample.ids))
        assert tuple(written[seed][:n]) == sample.ids[:n]


@every_logit_case
def test_float32_samples_differ_only_at_thin_margins(kind: str, settings: dict[str, Any]) -> None:
    """Where Δ is a difference of nearly equal numbers, round-off is larger: the margin allows for it."""
    where = workplace(torch.float32)
    rule = rule_of(build(kind, settings), where)
    rows, seeds = prompts(8), range(8)
    a, b = (
        decode(
            where.teacher, rows, seeds, where.sampling,
            rules=[rule], max_new_tokens=6, batch_size=size, record=True,
        )
        for size in (8, 1)
    )  # fmt: skip
    thin = 1e-2 if settings.get("backend") == "finite_difference" else 1e-4
    for x, y in zip(a, b, strict=True):
        assert x.ids == y.ids or min(x.margin or 0, y.margin or 0) < thin
    assert sum(x.ids != y.ids for x, y in zip(a, b, strict=True)) <= 2


@every_logit_case
def test_seeds_decide(kind: str, settings: dict[str, Any]) -> None:
    where, defense = workplace(), build(kind, settings)
    rows = prompts(8)
    first, again, other = (
        decode(where.teacher, rows, seeds, where.sampling, rules=[rule_of(defense, where)], max_new_tokens=8)
        for seeds in (range(8), range(8), range(100, 108))
    )
    assert first == again
    assert sum(x.ids != y.ids for x, y in zip(first, other, strict=True)) >= 6
    forced = path(8, STEPS)
    same = [walk(defense, rows, list(range(8)), forced) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*same, strict=True)), "bit for bit"


@every_logit_case
def test_one_token_and_small_vocabularies(kind: str, settings: dict[str, Any]) -> None:
    """A vocabulary of 5 tokens and a prompt of one."""
    lm = tiny(TEACHER, vocab=5, dtype=DOUBLE)
    where = bench(teacher=lm, load=lambda _: tiny(PROXY, vocab=5, seed=7, dtype=DOUBLE))
    rule = rule_of(build(kind, settings), where)
    for _, after in drive(lm, rule, [[2]], [0], path(1, 2, vocab=5)):
        assert torch.isfinite(after).all()


@every_logit_case
def test_other_models_must_share_the_vocabulary(kind: str, settings: dict[str, Any]) -> None:
    defense = build(kind, settings)
    asked: list[str] = []

    def stranger(ref: str) -> Any:
        asked.append(ref)
        return tiny(PROXY, vocab=71, dtype=DOUBLE)

    where = bench(teacher=tiny(TEACHER, dtype=DOUBLE), load=stranger)
    try:
        rule_of(defense, where)
    except ConfigError as error:
        message = str(error)
        assert asked
        assert "71" in message
        assert str(VOCAB) in message
        assert message.endswith(".")
        assert "\n" not in message
    else:
        assert not asked, "a model with another vocabulary was accepted"


# Text.


def corpus() -> list[Trace]:
    """Traces of the embedded grammar with slips and corrections, and awkward ones."""
    out = []
    for task in (Lookup(), Arithmetic()):
        for i, problem in enumerate(task.problems("release", 12)):
            out.append(task.write(problem, Random(i), grammar.Style(slip=0.5, doubt=0.5, check=0.3)))
    odd = (
        "",
        "<think></think>",
        "<think>One sentence</think> The answer is 4.",
        "No tags. Wait, that is wrong. Alternatively, try again. The answer is 5.",
        "<think>Wait. Wait. Wait, no. Hmm, maybe.</think>\n\n**Answer**\n\\boxed{7}",
        "<think>Wait, \\boxed{3} it is. But wait.</think> Wait, this is the answer span. Wait.",
        "<think>\nLet x = 3.5 kg. However, 2 < 3.\n\nWait, e.g. this. Actually no!\n</think>\nWait: 3.5",
    )
    template = out[0]
    more = [Trace(problem_id=f"odd-{i}", prompt=template.prompt, text=text) for i, text in enumerate(odd)]
    return out + more


def text_defense(kind: str, settings: dict[str, Any]) -> TraceDefense:
    defense = build(kind, settings)
    assert isinstance(defense, TraceDefense)
    return defense


def is_subsequence(small: str, large: str) -> bool:
    letters = iter(large)
    return all(letter in letters for letter in small)


@every_text_case
def test_text_at_strength_zero_is_untouched(kind: str, settings: dict[str, Any]) -> None:
    defense = text_defense(kind, settings).at(0.0)
    for trace in corpus():
        assert defense.rewrite(trace, Random(0)) == trace


@every_text_case
def test_the_answer_span_is_never_touched(kind: str, settings: dict[str, Any]) -> None:
    defense = text_defense(kind, settings)
    changed = 0
    for strength in strengths(defense) if defense.dial else (0.0,):
        for seed, trace in enumerate(corpus()):
            got = defense.at(strength).rewrite(trace, Random(seed))
            assert split_answer(got.text)[1] == split_answer(trace.text)[1]
            assert got.text.count("\\boxed") == trace.text.count("\\boxed")
            assert (got.problem_id, got.prompt, got.seed) == (trace.problem_id, trace.prompt, trace.seed)
            if kind not in WRITES_NEW_TEXT:
                assert is_subsequence(got.text, trace.text)
            if got.text != trace.text:
                changed += 1
                assert got.token_ids is None
                assert got.moved is None
    assert changed or not defense.dial, "it must act on something, or this tests nothing"


@every_text_case
def test_text_is_deterministic_and_not_modified_in_place(kind: str, settings: dict[str, Any]) -> None:
    defense = text_defense(kind, settings)
    for seed, trace in enumerate(corpus()):
        text, meta = trace.text, dict(trace.meta)
        first, again = (defense.rewrite(trace, Random(seed)) for _ in range(2))
        assert first == again
        assert (trace.text, dict(trace.meta)) == (text, meta)


@every_text_case
def test_budgets_nest(kind: str, settings: dict[str, Any]) -> None:
    """With one random state, more strength never brings anything back."""
    defense = text_defense(kind, settings)
    if not defense.dial or kind in WRITES_NEW_TEXT:
        pytest.skip("no dial, or not a deletion")
    for seed, trace in enumerate(corpus()):
        texts = [defense.at(s).rewrite(trace, Random(seed)).text for s in (0.0, *strengths(defense))]
        for larger, smaller in pairwise(texts):
            assert is_subsequence(smaller, larger)


@every_text_case
def test_text_defenses_run_in_an_assembly(kind: str, settings: dict[str, Any]) -> None:
    defense = text_defense(kind, settings)
    where = workplace()
    pipeline = assemble([defense], where)
    assert pipeline.rules == ()
    assert pipeline.teacher is where.teacher
    assert pipeline.text == ((defense,) if defense.strength else ())
