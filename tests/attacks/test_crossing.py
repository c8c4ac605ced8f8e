"""Distillation across tokenizers: as token by token where both sides cut alike, and whole chunks elsewhere."""

from __future__ import annotations

import math

import pytest
import torch
from shown import Shown

from azeotrope.attacks.alm import ALM
from azeotrope.attacks.base import AttackRun
from azeotrope.attacks.crossing import AcrossTokenizers, ChunkByChunk, Compared
from azeotrope.attacks.following import Material, Source
from azeotrope.attacks.gold import Gold
from azeotrope.attacks.guide import Target
from azeotrope.attacks.sft import SFT
from azeotrope.attacks.uld import ULD
from azeotrope.core.access import Access
from azeotrope.core.release import Release
from azeotrope.core.types import Trace
from azeotrope.maths import divergences
from azeotrope.models.gradients import completions
from azeotrope.models.lm import LM, load
from azeotrope.models.scoring import trace_nll
from azeotrope.tasks.lookup import Lookup

QUICK = SFT(epochs=1, lr=5e-3, batch_size=8, curve_points=0, bfloat16=False)


@pytest.fixture(scope="module")
def teacher() -> LM:
    return load("embedded/teacher")


def lessons(n: int) -> list[Trace]:
    task = Lookup()
    return task.gold_traces(task.problems("release", n, 0), 0)


def guide_of(attack: AcrossTokenizers, lm: LM, teacher: LM, traces: list[Trace]) -> ChunkByChunk:
    service = Shown(teacher)
    targets = service.logprobs(traces, released=True)
    found = attack.follow(lm, Source(attack, Material(traces, targets), AttackRun(seed=0), service, 0))
    assert isinstance(found, ChunkByChunk)
    return found


def batch(lm: LM, traces: list[Trace], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, Target]:
    """Random student logits along texts."""
    rows = completions(lm, traces)
    labels = torch.tensor([i for row in rows for i in row])
    owners = torch.tensor([r for r, row in enumerate(rows) for _ in row])
    logits = torch.randn(len(labels), lm.vocab_size, generator=torch.Generator().manual_seed(seed))
    none = logits[:, :0]
    target = Target(none, None, owners, torch.zeros(len(rows), dtype=torch.bool), torch.arange(len(rows)))
    return logits, labels, target


def test_with_one_tokenizer_chunks_are_tokens(teacher: LM) -> None:
    traces = lessons(3)
    lm = load("embedded/student-llama-0")
    known = torch.cat([e.known_TK for e in Shown(teacher).logprobs(traces)])
    logits, labels, target = batch(lm, traces)
    logq = torch.log_softmax(logits, -1)
    said = torch.arange(len(labels)), labels
    expected = {
        ULD: divergences.sorted_l1(known, logq),
        Gold: divergences.jensen_shannon(known, logq, 0.5),
        ALM: divergences.bernoulli_kl(known[said], logq[said]),
    }
    for kind, value in expected.items():
        attack = kind()
        found = guide_of(attack, lm, teacher, traces).distance(logits, labels, target)
        assert found is not None
        assert found.item() == pytest.approx(value.mean().item(), rel=1e-4), attack.kind


def test_with_two_tokenizers_whole_chunks_are_compared(teacher: LM) -> None:
    """By brute force over the words of each text, and cut where the student's text is cut."""
    traces = lessons(2)
    lm = load("embedded/student-othertok-0")
    guide = guide_of(ALM(), lm, teacher, traces)
    logits, labels, target = batch(lm, traces)
    found = guide.compared(logits, labels, target)
    said = torch.log_softmax(logits, -1)[torch.arange(len(labels)), labels]
    assert found.student_total_M.sum().item() == pytest.approx(said.sum().item(), rel=1e-5)
    theirs = Shown(teacher).logprobs(traces)
    total = sum(float(e.known_TK[torch.arange(len(e.tokens)), list(e.tokens)].sum()) for e in theirs)
    assert found.teacher_total_M.sum().item() == pytest.approx(total, rel=1e-4)
    assert len(found.student_total_M) < len(labels), "some chunks hold several tokens"
    first = guide.texts[0]
    keep = target.rows_N != 0
    keep[:9] = True  # only nine tokens of the first text
    part = Target(target.known_NK[keep], None, target.rows_N[keep], target.own_B, target.index_B)
    fewer = guide.compared(logits[keep], labels[keep], part)
    assert len(found.student_total_M) - len(fewer.student_total_M) == int((first.end_M > 9).sum())


def test_matched_tokens_are_compared_by_name_and_others_by_rank() -> None:
    """By brute force: the teacher has 4 tokens, the student 5, and two of each are spelled alike."""
    generator = torch.Generator().manual_seed(0)
    teacher, student = (torch.randn(3, n, generator=generator).double().log_softmax(-1) for n in (4, 5))
    rest = -torch.rand(2, 3, generator=generator).double()  # of the chunks' other tokens
    found = Compared(teacher, student, rest[0], rest[1], rest[0], rest[1])
    ours, theirs, beta = torch.tensor([3, 0]), torch.tensor([1, 2]), 0.3
    got = Gold(beta=beta).divergence(found, (ours, theirs))
    for m in range(3):
        p, q = ((a[m] + r[m]).exp().tolist() for a, r in ((teacher, rest[0]), (student, rest[1])))
        alike = 0.0
        for i, j in ((3, 1), (0, 2)):
            middle = beta * p[j] + (1 - beta) * q[i]
            alike += beta * p[j] * math.log(p[j] / middle) + (1 - beta) * q[i] * math.log(q[i] / middle)
        left, right = sorted([p[0], p[3], 0.0], reverse=True), sorted([q[1], q[2], q[4]], reverse=True)
        others = sum(abs(a - b) for a, b in zip(left, right, strict=True))
        assert got[m].item() == pytest.approx(2 / 5 * alike + 3 / 5 * others)


@pytest.mark.parametrize("attack", [ULD(), Gold(beta=0.3)])
@pytest.mark.parametrize("alike", [6, 9])
def test_tokens_that_are_not_shown_are_not_impossible(attack: AcrossTokenizers, alike: int) -> None:
    """Where three of nine are shown, D is 0 for the student who says what the teacher says, and positive else."""
    generator = torch.Generator().manual_seed(0)
    p = torch.randn(4, 9, generator=generator).double().log_softmax(-1)
    order = torch.randperm(9, generator=generator)  # the student's numbers of the teacher's tokens
    q = torch.empty_like(p)
    q[:, order] = p
    shown = p.masked_fill(p < p.topk(3, -1).values[:, -1:], float("-inf"))
    rest = -torch.rand(4, generator=generator).double()
    ids = order[:alike], torch.arange(9)[:alike]

    def distance(own: torch.Tensor) -> torch.Tensor:
        return attack.divergence(Compared(shown, own, rest, rest, rest, rest, whole=False), ids)

    assert torch.allclose(distance(q), torch.zeros(4, dtype=torch.float64), atol=1e-9)
    sharper = torch.empty_like(q)
    sharper[:, order] = shown.log_softmax(-1)
    assert (distance(sharper.clamp(min=-30.0).log_softmax(-1)) > 1e-3).all(), "nothing left for what is hidden"
    assert (distance(q.roll(1, 0)) > 1e-3).all()
    logits = torch.randn(4, 9, generator=generator).double().requires_grad_()
    (slope,) = torch.autograd.grad(distance(logits.log_softmax(-1)).sum(), logits)
    assert slope.isfinite().all()
    assert slope.abs().sum() > 0


def test_only_what_is_shown_is_compared(teacher: LM) -> None:
    """Through a service that shows five: the student is told so, and rounding is made up for."""

    class Few(Shown):
        def logprobs(self, traces, *, access=Access.FULL_LOGITS, released=False):  # type: ignore[no-untyped-def]
            return [one.top(5) for one in super().logprobs(traces, access=access, released=released)]

    traces, lm, service = lessons(2), load("embedded/student-othertok-0"), Few(teacher)
    for attack in (ULD(), Gold()):
        source = Source(
            attack, Material(traces, service.logprobs(traces, released=True)), AttackRun(seed=0), service, 0
        )
        guide = attack.follow(lm, source)
        assert isinstance(guide, ChunkByChunk)
        found = guide.compared(*batch(lm, traces))
        assert not found.whole
        assert (found.teacher_MU.isfinite().sum(-1) == 5).all()
        distance = guide.distance(*batch(lm, traces))
        assert distance is not None
        assert 0 < distance.item() < 2


@pytest.mark.parametrize("attack", [ULD(sft=QUICK), Gold(sft=QUICK, on_policy=0.25, warmup=0), ALM(sft=QUICK)])
def test_a_student_with_another_tokenizer_learns(attack: AcrossTokenizers, teacher: LM) -> None:
    task, n = Lookup(), 24
    problems = task.problems("release", n, 0)
    lm, traces = load("embedded/student-othertok-0"), task.gold_traces(problems, 0)
    before = sum(trace_nll(lm, traces))
    run = AttackRun(seed=0, task=task, problems=problems, service=Shown(teacher))
    outcome = attack.train([lm], Release.of(traces, Access.FULL_LOGITS), run)
    assert sum(trace_nll(lm, traces)) < before
    assert outcome.queries == round(attack.on_policy * n)
    assert outcome.notes["shown"] == "full_logits"


def test_chunks_that_are_not_shown_are_left_out(teacher: LM) -> None:
    traces, lm = lessons(2), load("embedded/student-othertok-0")
    guide = guide_of(ALM(), lm, teacher, traces)
    logits, labels, target = batch(lm, traces)
    whole = guide.distance(logits, labels, target)
    for text in guide.texts.values():
        text.total_M[:] = float("nan")
    assert whole is not None
    assert guide.distance(logits, labels, target) is None
    assert guide.loss(logits, labels, target).item() == pytest.approx(
        torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-5
    ), "then it is fine-tuning"


@pytest.mark.parametrize("attack", [ULD(), Gold(), ALM()])
def test_chunks_that_are_not_shown_leave_the_gradient_finite(attack: AcrossTokenizers, teacher: LM) -> None:
    """It is that of the others, though 0 times what is not a number is not 0."""
    traces, lm = lessons(2), load("embedded/student-othertok-0")
    guide = guide_of(attack, lm, teacher, traces)
    logits, labels, target = batch(lm, traces)
    hidden = guide.texts[0]
    for part in (hidden.known_MV, hidden.rest_M, hidden.total_M):
        part[: len(part) // 2] = float("nan")
    logits.requires_grad_()
    found = guide.distance(logits, labels, target)
    assert found is not None
    found.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad.abs().sum() > 0
