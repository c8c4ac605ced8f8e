"""CMI minimization: outputs of one class are drawn together at every temperature.

Shapes: N tokens, V vocabulary.
"""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator

from azeotrope.core.methods import Maturity
from azeotrope.core.types import Paper
from azeotrope.defenses.base import Bench
from azeotrope.defenses.trained_head import TrainedHead
from azeotrope.models.cluster import Clusters
from azeotrope.models.corpus import Corpus
from azeotrope.models.learnable import Learnable


class CMIM(TrainedHead):
    """A head trained by CE + λ·mean over powers α of (1/N) Σ KL(P^(α)_x ‖ Q^{y,(α)}) (arXiv 2507.00012).

    P^(α) ∝ P^α is the output at temperature 1/α, y the next token, Q^{y,(α)} the centroid of its class. Symbols:
    λ → `lam`; the α of a step are `draws` of `grid` even steps up to `alpha_max`. Centroids are held while the
    head is trained and renewed from the training text every `refresh` epochs, which is the published alternation.
    An adaptation to language models: the paper trains image classifiers with given classes; here classes are the
    next tokens that occur at least `least` times, other tokens are left out (`classes_cover` is recorded), the
    backbone is frozen and only the head (`rank` above 0: a map of the logits) is trained.

    CMI before and after on held-out text is recorded as plug-in and leave-one-out, over a sweep of temperatures.
    No other model is needed. Costs a pass of the teacher over the traces, and V·C numbers a power for the
    centroids while they are formed.
    """

    kind: ClassVar[str] = "cmim"
    summary: ClassVar[str] = "train the head so that outputs say little beyond the next token"
    paper: ClassVar[Paper | None] = Paper(
        id="2507.00012",
        title="Towards Undistillable Models by Minimizing Conditional Mutual Information",
        equations=("CE + λ CMI over temperatures",),
    )
    maturity: ClassVar[Maturity] = Maturity.EXPERIMENTAL

    lam: float = Field(default=3.0, ge=0, description="λ, weight of the CMI; 0 is the control, plain training")
    epochs: int = Field(default=10, ge=1)
    lr: float = Field(default=3e-3, gt=0)
    alpha_max: float = Field(default=2.0, gt=0, description="largest power α of the outputs")
    grid: int = Field(default=8, ge=1, description="powers on (0, alpha_max]")
    draws: int = Field(default=3, ge=1, description="powers a step")
    least: int = Field(default=20, ge=2, description="occurrences in the training text that make a class")
    refresh: int = Field(default=1, ge=1, description="epochs between renewals of the centroids")

    @model_validator(mode="after")
    def _enough_powers(self) -> Self:
        if self.draws > self.grid:
            raise ValueError("draws cannot exceed grid, the number of powers there are")
        return self

    @property
    def others(self) -> tuple[str, ...]:
        """See `TrainedHead.others`."""
        return ()

    @property
    def powers(self) -> tuple[float, ...]:
        """The grid of α."""
        return tuple(self.alpha_max * (i + 1) / self.grid for i in range(self.grid))

    def objective(self, bench: Bench, corpus: Corpus, head: Learnable, seed: int) -> Clusters:
        """See `TrainedHead.objective`."""
        return Clusters(
            corpus,
            head,
            sign=1.0,
            powers=self.powers,
            draws=self.draws,
            least=self.least,
            refresh=self.refresh,
            seed=seed,
        )
