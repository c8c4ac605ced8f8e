"""Antidistillation sampling (ADS), with four back-ends for its penalty Δ.

Shapes: B rows, V vocabulary, D hidden size.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.autograd import forward_ad

from azeotrope.core.methods import Maturity
from azeotrope.core.seeds import fingerprint
from azeotrope.core.types import Paper, Trace
from azeotrope.defenses.base import Bench, LogitDefense
from azeotrope.maths import antidistill
from azeotrope.models.attention import eager_attention
from azeotrope.models.decode import Batch, LogitRule, Session, StepView
from azeotrope.models.gradients import (
    ProxyGradient,
    head_gradient,
    head_inputs,
    proxy_gradient,
    token_batches,
)
from azeotrope.models.head_edit import HeadShift, merged
from azeotrope.models.lm import LM, check_pair
from azeotrope.models.stepper import Stepper
from azeotrope.models.twin import Twin, make_twin
from azeotrope.models.walking import WalkingSession

Backend = Literal["finite_difference", "jvp", "head", "self"]


_HEADS = 4  # edited heads that are kept: requests may name any temperature


class AntidistillationBase(LogitDefense):
    """The settings that antidistillation sampling and its permutation control share."""

    paper: ClassVar[Paper | None] = Paper(
        id="2504.13146", title="Antidistillation Sampling", equations=("Δ (§3)", "central difference", "p̃")
    )
    dial: ClassVar[str] = "lam"
    sweep: ClassVar[tuple[float, ...]] = (0.06, 0.12, 0.2)

    lam: float = Field(default=0.2, ge=0, description="λ, or the KL budget in nats a token")
    spend: Literal["tilt", "kl_budget"] = Field(
        default="tilt", description="is `lam` the tilt λ itself, or a per-token KL budget solved each step"
    )
    backend: Backend = Field(default="finite_difference", description="how Δ is computed")
    proxy: str = Field(default="embedded/proxy", min_length=1, description="model that stands in for the student")
    protect: str | None = Field(default=None, description="task whose capability is protected (default: own)")
    source: Literal["teacher", "gold"] | None = Field(
        default=None, description="holdout traces of the downstream loss; default teacher, gold for `self`"
    )
    holdout: int = Field(default=256, ge=2, description="holdout traces of the downstream loss to start with")
    holdout_max: int = Field(default=1024, ge=2, description="most traces asked for while halves disagree")
    normalize: bool = Field(default=True, description="divide Δ by its mean standard deviation over V")
    epsilon: float = Field(default=0.005, gt=0, description="length of the finite-difference step in θ")
    merged: bool = Field(default=False, description="fold `self` into the LM head (constant λ only)")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.backend == "self" and self.source == "teacher":
            raise ValueError(
                "the downstream loss of backend 'self' cannot use the teacher's own samples, whose expected "
                "gradient is zero; use source: gold"
            )
        if self.merged and (self.backend != "self" or self.spend != "tilt"):
            raise ValueError("only backend 'self' with spend 'tilt' can be merged into the head")
        if self.holdout_max < self.holdout:
            raise ValueError("holdout_max must be at least holdout")
        return self

    @property
    def trace_source(self) -> str:
        """Where the holdout traces come from."""
        return self.source or ("gold" if self.backend == "self" else "teacher")

    def direction(self, bench: Bench) -> Direction:
        """Take the gradient, ask for more traces while its halves disagree, and calibrate the scale.

        Kept on the bench: it does not depend on the strength, nor on whether it will be shuffled.
        """
        key = fingerprint(self.model_dump(exclude={"lam", "spend", "merged"}, mode="json"))
        if key not in bench.memory:
            bench.memory[key] = self._direction(bench)
        found: Direction = bench.memory[key]
        bench.notes[self.kind] = found.notes()
        return found

    def _direction(self, bench: Bench) -> Direction:
        lm = bench.teacher if self.backend == "self" else bench.model(self.proxy)
        if self.backend != "self":
            check_pair(bench.teacher, lm)
        n = self.holdout
        head_only = self.backend in ("head", "self")
        while True:
            traces = bench.holdout(n, self.trace_source, self.protect)
            gradient = head_gradient(lm, traces) if head_only else proxy_gradient(lm, traces)
            if gradient.split_half_cosine >= 0.5 or n >= self.holdout_max:
                break
            n = min(2 * n, self.holdout_max)
        return Direction(self, lm, gradient, traces[:32])


class ADS(AntidistillationBase):
    """Sample from softmax(log p_T / τ + λΔ), Δ(v) = ⟨∇ℓ(θ_P), ∇ log p(v|x; θ_P)⟩ (arXiv 2504.13146, §3).

    ℓ is the proxy's loss on clean holdout traces; Δ > 0 where training on v raises it. Symbols: λ → `lam`,
    ε → `epsilon` (of the *unit* gradient direction), θ_P → `proxy`, ℓ's data → `source`/`holdout`.

    Back-ends: `finite_difference` (two proxy passes a token, O(ε²)), `jvp` (forward mode, exact, slow: the
    oracle), `head` (exact for the LM-head gradient; one proxy trunk pass, no ε), `self` (the teacher is
    its own proxy in head mode: no extra pass, and mergeable into the head).
    Δ is divided by its mean standard deviation over the vocabulary on holdout contexts, so that λ compares
    across proxies; `normalize: false` keeps the raw scale. The proxy must share the teacher's vocabulary.
    """

    kind: ClassVar[str] = "ads"
    summary: ClassVar[str] = "tilt sampling against what a student would learn from"
    maturity: ClassVar[Maturity] = Maturity.EXPERIMENTAL

    def bind(self, bench: Bench) -> LogitRule:
        """Return the rule that tilts by λΔ (or by the λ that spends the KL budget)."""
        return AntidistillRule(self, self.direction(bench), shuffled=False)

    def merge(self, bench: Bench) -> LM | None:
        """With `merged`, return the teacher with W' = W + λτG/scale; decoding then costs nothing extra."""
        if not self.merged:
            return None
        shift_VD = self.direction(bench).shift(self.lam, bench.sampling.divisor)
        return merged(bench.teacher, HeadShift(shift_VD))


class Direction:
    """A gradient direction of a proxy with everything needed to turn it into Δ."""

    def __init__(
        self, settings: AntidistillationBase, lm: LM, gradient: ProxyGradient, calibration: Sequence[Trace]
    ) -> None:
        self.settings, self.lm, self.gradient = settings, lm, gradient
        self.calibration = calibration
        self.scale = 1.0
        if settings.normalize:
            self.scale = antidistill.spread(self.delta_on(calibration)) or 1.0

    @property
    def head_VD(self) -> Tensor:  # noqa: N802 - a shape suffix
        """The LM-head gradient G, [V, D]."""
        return self.gradient.vectors["head"]

    def shift(self, lam: float, temperature: float) -> Tensor:
        """λτG/scale, [V, D]: what a tilt by `self`'s Δ adds to the teacher's head."""
        return lam * temperature / self.scale * self.head_VD

    def notes(self) -> dict[str, Any]:
        """What a study records about this direction."""
        return {
            "backend": self.settings.backend,
            "proxy": self.lm.ref,
            "holdout_loss": self.gradient.loss,
            "holdout_traces": self.gradient.n,
            "split_half_cosine": self.gradient.split_half_cosine,
            "enough_traces": self.gradient.split_half_cosine >= 0.5,
            "gradient_norm": self.gradient.norm,
            "scale": self.scale,
        }

    def perturbed(self, sign: float) -> LM:
        """A copy of the proxy at θ ± ε g/‖g‖, in the proxy's own precision."""
        model = copy.deepcopy(self.lm.model)
        step = sign * self.settings.epsilon / max(self.gradient.norm, 1e-300)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.add_(self.gradient.vectors[name], alpha=step)
        return LM(model, self.lm.tokenizer, self.lm.ref, self.lm.revision)

    @cached_property  # a pass over every parameter, which no token should pay for
    def divisor(self) -> float:
        """2ε̂ with ε̂ = ε/‖g‖: turns a difference of log-probabilities into Δ along the raw gradient."""
        return 2.0 * self.settings.epsilon / max(self.gradient.norm, 1e-300)

    def dual_parameters(self) -> dict[str, Tensor]:
        """Parameters carrying g as tangent; call inside a dual level."""
        return {
            name: forward_ad.make_dual(p.detach(), self.gradient.vectors[name])  # type: ignore[no-untyped-call]
            for name, p in self.lm.model.named_parameters()
        }

    def delta_on(self, traces: Sequence[Trace]) -> Tensor:
        """Raw Δ at every completion position of `traces` by this back-end, centered under p_P. [N, V]."""
        with torch.no_grad():
            rows = [self._delta_batch(batch) for batch in token_batches(self.lm, traces, 32)]
        return torch.cat(rows)

    def _delta_batch(self, batch: Any) -> Tensor:
        backend = self.settings.backend
        if backend in ("head", "self"):
            hidden_ND, logits_NV, _ = head_inputs(self.lm, batch)
            return antidistill.center(hidden_ND @ self.head_VD.T, logits_NV)
        if backend == "finite_difference":
            plus, minus = (head_inputs(self.perturbed(sign), batch)[1] for sign in (1.0, -1.0))
            return antidistill.finite_difference(plus, minus, self.divisor / 2.0)
        with forward_ad.dual_level(), eager_attention(self.lm):
            out = torch.func.functional_call(
                self.lm.model,
                self.dual_parameters(),
                kwargs={"input_ids": batch.ids_BT, "attention_mask": batch.mask_BT, "use_cache": False},
            )
            logits, tangent = forward_ad.unpack_dual(out.logits[:, :-1])  # type: ignore[no-untyped-call]
            keep = batch.labels_BT[:, 1:] != -100
            return antidistill.center(tangent[keep], logits[keep])


class AntidistillRule(LogitRule):
    """Tilts by λΔ; with `shuffled`, by the permuted and sign-flipped Δ."""

    def __init__(self, settings: AntidistillationBase, direction: Direction, *, shuffled: bool) -> None:
        self.settings, self.direction, self.shuffled = settings, direction, shuffled
        self.needs_hidden = settings.backend == "self"
        self.twin: Twin | None = None
        self.heads: dict[float, Tensor] = {}  # by temperature
        if settings.backend == "finite_difference":
            pair = [direction.perturbed(1.0), direction.perturbed(-1.0)]
            self.twin = make_twin(*pair)
            self.models = pair if self.twin is None else []  # a twin holds both: keep no second copy
        else:
            self.models = [direction.lm]

    def edited_head(self, lm: LM, temperature: float) -> Tensor | None:
        """W + λτG/scale for `self` with a constant λ; see `LogitRule.edited_head`."""
        if self.settings.backend != "self" or self.settings.spend != "tilt" or self.shuffled:
            return None
        if temperature not in self.heads:
            if len(self.heads) >= _HEADS:
                del self.heads[next(iter(self.heads))]
            shift_VD = self.direction.shift(self.settings.lam, temperature)
            self.heads[temperature] = lm.head.weight.detach() + shift_VD
        return self.heads[temperature]

    def open(self, batch: Batch) -> Session:
        """Start the proxy's own walk over the batch."""
        if self.twin is not None:
            return _TwinSession(self, batch, self.twin)
        kinds: dict[str, type[_Session]] = {
            "finite_difference": _DifferenceSession,
            "jvp": _DualSession,
            "head": _HeadSession,
            "self": _SelfSession,
        }
        return kinds[self.settings.backend](self, batch)


class _Session(WalkingSession):
    """Common part: from Δ to defended logits."""

    joins: ClassVar[bool] = True

    def __init__(self, rule: AntidistillRule, batch: Batch) -> None:
        super().__init__(batch)
        self.rule = rule
        self.scale = rule.direction.scale

    @abstractmethod
    def delta(self, view: StepView) -> Tensor:
        """Δ up to a constant per row, raw scale. [B, V]."""

    def step(self, view: StepView) -> Tensor:
        settings = self.rule.settings
        if settings.spend == "tilt" and not self.rule.shuffled:
            return self.tilt(view)
        delta_BV = self.delta(view) / self.scale
        if self.rule.shuffled:
            delta_BV = antidistill.scramble(delta_BV, view.seeds_B, view.t_B)
        if settings.spend == "tilt":
            return view.logits_BV + settings.lam * delta_BV
        lam_B = antidistill.solve_kl_budget(view.logits_BV, delta_BV, settings.lam)
        return view.logits_BV + lam_B[:, None] * delta_BV

    def tilt(self, view: StepView) -> Tensor:
        """z + λΔ with constant λ."""
        return torch.add(view.logits_BV, self.delta(view), alpha=self.rule.settings.lam / self.scale)


class _DifferenceSession(_Session):
    """Walks θ+ε and θ−ε one after the other: any model."""

    def __init__(self, rule: AntidistillRule, batch: Batch) -> None:
        super().__init__(rule, batch)
        self.steppers = [Stepper(lm) for lm in rule.models]

    def delta(self, view: StepView) -> Tensor:
        plus, minus = (self.walk(stepper, view).logits_BV for stepper in self.steppers)
        if self.rule.shuffled:  # the control needs log-probability differences, without their offset
            return antidistill.finite_difference(plus, minus, self.rule.direction.divisor / 2.0)
        return (plus - minus) / self.rule.direction.divisor

    def tilt(self, view: StepView) -> Tensor:
        plus, minus = (self.walk(stepper, view).logits_BV for stepper in self.steppers)
        factor = self.rule.settings.lam / self.scale / self.rule.direction.divisor
        return torch.add(view.logits_BV, plus - minus, alpha=factor)


class _TwinSession(_Session):
    """Walks θ+ε and θ−ε together, as one model on twice the rows."""

    def __init__(self, rule: AntidistillRule, batch: Batch, twin: Twin) -> None:
        super().__init__(rule, batch)
        self.twin = twin
        self.steppers = [Stepper(twin.lm, hidden=True, logits=False)]

    def hidden(self, view: StepView) -> Tensor:
        """The last hidden states of both copies, stacked. [2B, D]."""
        stepper = self.steppers[0]
        if view.tokens_B is None:
            out = stepper.prefill([*self.batch.prompts, *self.batch.prompts])
        else:
            out = stepper.advance(view.tokens_B.repeat(2))
        assert out.hidden_BD is not None
        return out.hidden_BD

    def delta(self, view: StepView) -> Tensor:
        hidden_2BD = self.hidden(view)
        divisor = self.rule.direction.divisor
        if self.rule.shuffled:
            return antidistill.finite_difference(*self.twin.logits(hidden_2BD), divisor / 2.0)
        return self.twin.difference(hidden_2BD, scale=1.0 / divisor)

    def tilt(self, view: StepView) -> Tensor:
        factor = self.rule.settings.lam / self.scale / self.rule.direction.divisor
        return self.twin.difference(self.hidden(view), view.logits_BV, factor)

    def select(self, rows: Tensor) -> None:
        stepper = self.steppers[0]
        stepper.select(torch.cat([rows, rows + len(stepper.mask_BC) // 2]))

    def join(self, other: Session) -> None:
        assert isinstance(other, _TwinSession)
        mine, theirs = (len(session.steppers[0].mask_BC) // 2 for session in (self, other))
        super().join(other)
        rows = torch.arange(2 * (mine + theirs), device=self.steppers[0].mask_BC.device)
        ours, others = rows[: 2 * mine].view(2, mine), rows[2 * mine :].view(2, theirs)
        self.steppers[0].select(torch.cat([ours, others], dim=1).flatten())


class _HeadSession(_Session):
    def __init__(self, rule: AntidistillRule, batch: Batch) -> None:
        super().__init__(rule, batch)
        self.steppers = [Stepper(rule.models[0], hidden=True, logits=False)]

    def delta(self, view: StepView) -> Tensor:
        hidden_BD = self.walk(self.steppers[0], view).hidden_BD
        assert hidden_BD is not None
        return hidden_BD @ self.rule.direction.head_VD.T


class _SelfSession(_Session):
    def delta(self, view: StepView) -> Tensor:
        assert view.hidden_BD is not None
        return view.hidden_BD @ self.rule.direction.head_VD.T

    def tilt(self, view: StepView) -> Tensor:
        assert view.hidden_BD is not None
        factor = self.rule.settings.lam / self.scale
        return torch.addmm(view.logits_BV, view.hidden_BD, self.rule.direction.head_VD.T, alpha=factor)


class _DualSession(_Session):
    def __init__(self, rule: AntidistillRule, batch: Batch) -> None:
        super().__init__(rule, batch)
        self.steppers = [Stepper(rule.models[0])]

    def delta(self, view: StepView) -> Tensor:
        stepper = self.steppers[0]
        with forward_ad.dual_level(), eager_attention(stepper.lm):
            stepper.parameters = self.rule.direction.dual_parameters()
            out = self.walk(stepper, view)
            logits_BV, tangent_BV = forward_ad.unpack_dual(out.logits_BV)  # type: ignore[no-untyped-call]
            delta_BV = antidistill.center(tangent_BV, logits_BV)
            stepper.parameters = None
            for layer in stepper.cache.layers:  # views of this level must not outlive it
                layer.forget()
        return delta_BV
