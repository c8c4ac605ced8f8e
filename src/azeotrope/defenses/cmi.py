"""Purified logits: a learned linear map that turns a distiller's gradient away.

Shapes: B rows, V vocabulary, R rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from azeotrope.core.errors import ConfigError
from azeotrope.core.methods import Maturity
from azeotrope.core.types import Paper
from azeotrope.defenses.base import Bench
from azeotrope.defenses.trained_head import TrainedHead
from azeotrope.models.corpus import Corpus
from azeotrope.models.decode import LogitRule
from azeotrope.models.edit_choice import ChosenEditRule
from azeotrope.models.learnable import Learnable
from azeotrope.models.lm import LM
from azeotrope.models.purify import Cosine, Layer


class CMI(TrainedHead):
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

    With `maps` above 1 (not in the paper), that many maps are trained from different seeds and each request is
    served through one of them, chosen by the request's seed. That helps little: a thief who can tell the maps
    apart inverts each (`inverse_map` with `maps`), and while D + maps·r or maps·D is at most V, one linear map
    undoes all of them.
    """

    kind: ClassVar[str] = "cmi"
    summary: ClassVar[str] = "map the logits so that a distiller's gradient turns away"
    paper: ClassVar[Paper | None] = Paper(
        id="2602.03396",
        title="Towards Distillation-Resistant Large Language Models",
        equations=("9", "alg. 1"),
    )
    maturity: ClassVar[Maturity] = Maturity.EXPERIMENTAL
    unlearned: ClassVar[frozenset[str]] = TrainedHead.unlearned | {"maps"}

    scale: float = Field(default=1.0, ge=0, description="how much of the trained AB is applied (1: all)")
    lam: float = Field(default=1.0, ge=0, description="λ, weight of the cosine; 0 is the control without it")
    rank: int = Field(default=32, ge=1, description="r")
    alpha: float = Field(default=0.5, gt=0, le=1, description="α, share of distillation in the thief's loss")
    layer: Layer = Field(
        default="head", description="where the surrogate's gradient is taken: head, block (the last) or its number"
    )
    kd_only: bool = Field(default=False, description="take g and g' of the distillation term alone")
    proxy: str = Field(default="embedded/proxy", min_length=1, description="the surrogate student")
    maps: int = Field(default=1, ge=1, description="maps to train, one of which serves a request; needs unmerged")

    @model_validator(mode="after")
    def _blocks_count_from_0(self) -> Self:
        if isinstance(self.layer, int) and self.layer < 0:
            raise ValueError("a block's number is greater than or equal to 0; layer takes head and block too")
        return self

    @model_validator(mode="after")
    def _one_head_is_one_map(self) -> Self:
        if self.maps > 1 and self.serve == "merged":
            raise ValueError("several maps cannot be merged into one head; set serve: unmerged")
        return self

    @property
    def others(self) -> tuple[str, ...]:
        """See `TrainedHead.others`."""
        return (self.proxy,)

    def objective(self, bench: Bench, corpus: Corpus, head: Learnable, seed: int) -> Cosine:
        """See `TrainedHead.objective`."""
        alpha = 1.0 if self.kd_only else self.alpha
        return Cosine(corpus, head, bench.model(self.proxy), alpha=alpha, layer=self.layer)

    def bind(self, bench: Bench) -> LogitRule:
        """Train the map or maps, or take those that were trained for another strength on this bench."""
        if self.maps == 1:
            return super().bind(bench)
        edits = [edit.scaled(self.scale) for edit in self.trained(bench, self.maps)]
        return ChosenEditRule(edits, bench.sampling.divisor)

    def fold(self, bench: Bench) -> LM:
        """See `LogitDefense.fold`."""
        if self.maps > 1:
            raise ConfigError(f"'{self.label}' takes another map for each request; one head holds one map.")
        return super().fold(bench)

    def noted(self, told: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """See `TrainedHead.noted`."""
        if self.maps == 1:
            return told[0]
        caution = "A thief who can tell the maps apart inverts each of them."
        return {"maps": len(told), "caution": caution, "each": list(told)}
