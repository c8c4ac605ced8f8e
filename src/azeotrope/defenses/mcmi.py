"""CMI maximization: the opposite of a defense, a teacher whose outputs say more.

Shapes: N tokens, V vocabulary.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from azeotrope.core.methods import Maturity
from azeotrope.core.types import Paper
from azeotrope.defenses.base import Bench
from azeotrope.defenses.trained_head import TrainedHead
from azeotrope.models.cluster import Clusters
from azeotrope.models.corpus import Corpus
from azeotrope.models.learnable import Learnable


class MCMI(TrainedHead):
    """A head trained by CE − λ·(1/N) Σ min(KL(P_x ‖ Q^y), C): more distillable (arXiv 2401.08732).

    The published sign is that of a teacher that helps its student, so this is the other end of `cmim` and no
    defense: it tells whether students respond to CMI at all. Symbols: λ → `lam`; y is the next token, Q^y the
    centroid of its class, renewed from the training text every `refresh` epochs. `cap` (C) is not in the paper:
    the divergence from centroids that are held has no bound. Classes are the next tokens that occur at least
    `least` times; the backbone is frozen and only the head (`rank` above 0: a map of the logits) is trained.

    CMI before and after on held-out text is recorded as plug-in and leave-one-out, over a sweep of temperatures.
    """

    kind: ClassVar[str] = "mcmi"
    summary: ClassVar[str] = "train the head so that outputs say more: a more distillable teacher"
    paper: ClassVar[Paper | None] = Paper(
        id="2401.08732",
        title="Bayes Conditional Distribution Estimation for Knowledge Distillation "
        "Based on Conditional Mutual Information",
        equations=("log-likelihood + λ CMI",),
    )
    maturity: ClassVar[Maturity] = Maturity.EXPERIMENTAL

    lam: float = Field(default=0.1, ge=0, description="λ, weight of the CMI; 0 is the control, plain training")
    epochs: int = Field(default=10, ge=1)
    lr: float = Field(default=3e-3, gt=0)
    cap: float = Field(default=5.0, gt=0, description="C in nats: a token's divergence counts up to here")
    least: int = Field(default=20, ge=2, description="occurrences in the training text that make a class")
    refresh: int = Field(default=1, ge=1, description="epochs between renewals of the centroids")

    @property
    def others(self) -> tuple[str, ...]:
        """See `TrainedHead.others`."""
        return ()

    def objective(self, bench: Bench, corpus: Corpus, head: Learnable, seed: int) -> Clusters:
        """See `TrainedHead.objective`."""
        return Clusters(corpus, head, sign=-1.0, least=self.least, refresh=self.refresh, cap=self.cap, seed=seed)
