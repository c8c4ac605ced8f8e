"""Purified logits: a learned linear map that turns a distiller's gradient away.

Shapes: V vocabulary, R rank.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from azeotrope.core.methods import Maturity
from azeotrope.core.seeds import derive, fingerprint
from azeotrope.core.types import Paper
from azeotrope.defenses.base import Bench, LogitDefense
from azeotrope.models.decode import LogitRule
from azeotrope.models.head_edit import EditRule, LogitMap, edit_of
from azeotrope.models.purify import Layer, Purified, Recipe, purify
from azeotrope.models.sample import generate


class CMI(LogitDefense):
    """z' = (E + AB)z, trained by CE(z') + λ·cos(g, g') on a surrogate student (arXiv 2602.03396, eq. 9, alg. 1).

    g is the gradient of the thief's loss (1 − α)·CE + α·KL in a layer of the surrogate, g' the same with z'.
    Symbols: λ → `lam`, r → `rank`, α → `alpha`, surrogate → `proxy`. The dial `scale` multiplies AB after training
    (1: as trained), so that the effect goes to zero with it. Where the paper leaves it open: the cross-entropy is
    that of the *transformed* logits (printed without the map, it would not depend on it) at the temperature at
    which the teacher's text was drawn; logits are centered before B (the gauge); A ~ N(0, 1/r). Among `checks`
    checkpoints that cost the teacher at most `keep` of accuracy, the one of the lowest held-out cosine is taken.

    Assumes that the surrogate shares the teacher's vocabulary. E + AB is invertible: nothing is removed from the
    logits, a student's gradient is misled, and whoever learns the inverse map is not. CMI before and after is
    recorded. Merged, the decoder runs another LM head of the same size; `serve: unmerged` adds O(V·r) a token.
    """

    kind: ClassVar[str] = "cmi"
    summary: ClassVar[str] = "map the logits so that a distiller's gradient turns away"
    paper: ClassVar[Paper | None] = Paper(
        id="2602.03396",
        title="Towards Distillation-Resistant Large Language Models",
        equations=("9", "alg. 1"),
    )
    maturity: ClassVar[Maturity] = Maturity.EXPERIMENTAL
    dial: ClassVar[str] = "scale"
    sweep: ClassVar[tuple[float, ...]] = (0.5, 1.0, 1.5)

    scale: float = Field(default=1.0, ge=0, description="how much of the trained AB is applied (1: all)")
    lam: float = Field(default=1.0, ge=0, description="λ, weight of the cosine; 0 is the control without it")
    rank: int = Field(default=32, ge=1, description="r")
    alpha: float = Field(default=0.5, ge=0, le=1, description="α, share of distillation in the thief's loss")
    layer: Layer = Field(default="head", description="where the surrogate's gradient is taken")
    kd_only: bool = Field(default=False, description="take g and g' of the distillation term alone")
    proxy: str = Field(default="embedded/proxy", description="the surrogate student")
    holdout: int = Field(default=512, ge=4, description="teacher traces to train on; a quarter is held out")
    epochs: int = Field(default=20, ge=1)
    lr: float = Field(default=3e-4, gt=0)
    checks: int = Field(default=5, ge=1, description="checkpoints whose teacher accuracy is measured")
    problems: int = Field(default=128, ge=1, description="holdout problems that measure it")
    keep: float = Field(default=0.01, ge=0, description="accuracy that the chosen checkpoint may cost, at scale 1")
    serve: Literal["merged", "unmerged"] = Field(default="merged", description="as the head, or logit by logit")

    def bind(self, bench: Bench) -> LogitRule:
        """Train the map, or take the one that was trained for another strength on this bench."""
        edit = self.trained(bench).scaled(self.scale)
        return EditRule(edit, bench.sampling.temperature or 1.0, merge=self.serve == "merged")

    def trained(self, bench: Bench) -> LogitMap:
        """The map at scale 1; kept on the bench, and with a release."""
        key = f"{self.kind}-{fingerprint(self.model_dump(exclude={'scale', 'serve'}, mode='json'))}"
        if key not in bench.fitted:
            found = self._train(bench)
            bench.fitted[key], bench.memory[key] = found.edit.tensors(), told(found)
        if key in bench.memory:
            bench.notes[self.kind] = bench.memory[key]
        bench.used.add(key)
        edit = edit_of(bench.fitted[key])
        assert isinstance(edit, LogitMap)
        return edit

    def _train(self, bench: Bench) -> Purified:
        task, sampling = bench.task, bench.sampling
        problems = task.problems("holdout", self.problems, derive(bench.seed, "checks"))

        def accuracy(edit: LogitMap | None) -> float:
            rules = () if edit is None else (EditRule(edit, sampling.temperature or 1.0),)
            traces = generate(
                bench.teacher, problems, task, sampling, seed=derive(bench.seed, "check"), rules=rules
            )
            right = [task.grade(p, t.text).correct for p, t in zip(problems, traces, strict=True)]
            return sum(right) / max(1, len(right))

        recipe = Recipe(
            lam=self.lam,
            rank=self.rank,
            alpha=self.alpha,
            layer=self.layer,
            kd_only=self.kd_only,
            epochs=self.epochs,
            lr=self.lr,
            temperature=sampling.temperature or 1.0,
            checks=self.checks,
        )
        return purify(
            bench.teacher,
            bench.model(self.proxy),
            bench.holdout(self.holdout),
            recipe,
            seed=derive(bench.seed, self.kind),
            accuracy=accuracy,
            keep=self.keep,
        )


def told(found: Purified) -> dict[str, object]:
    """What a study records about a map as trained: the cosine's way, the checkpoints, what held-out text says."""
    every = max(1, len(found.cosines) // 50)
    return {
        **found.notes,
        "measured_at_scale": 1.0,
        "cosine_first": found.cosines[0],
        "cosine_held_out": found.chosen.cosine,
        "cosines": [round(c, 4) for c in found.cosines[::every]],
        "chosen_step": found.chosen.step,
        "checkpoints": [
            {"step": c.step, "cosine": c.cosine, "cross_entropy": c.loss, "accuracy": c.accuracy}
            for c in found.checkpoints
        ],
    }
