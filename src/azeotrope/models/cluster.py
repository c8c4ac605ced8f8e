"""Outputs drawn to, or driven from, the centroid of their class: CMI as an objective (2507.00012, 2401.08732).

I(X; Ŷ | Y) is the least mean of KL(P_x ‖ Q^y) over all Q, reached at the class means: the centroids are held while
the edit is trained, and renewed from the training text in turn. A power α of the outputs, P^(α) ∝ P^α, is what an
attacker sees at temperature 1/α.

Shapes: N tokens, V vocabulary, C classes (next-token ids with enough occurrences), k probabilities kept of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import torch
from torch import Tensor

from azeotrope.core.errors import ConfigError
from azeotrope.core.seeds import derive
from azeotrope.maths import cmi, divergences
from azeotrope.maths.cmi import Rows
from azeotrope.models.corpus import Corpus
from azeotrope.models.head_edit import HeadEdit
from azeotrope.models.head_training import Measure, Objective
from azeotrope.models.learnable import Learnable

FLOOR = 1e-12  # least probability of a centroid: a divergence from it stays below 28 nats
CHUNK = 4096  # rows whose outputs are held at a time when centroids are renewed


class Clusters(Objective):
    """Mean of min(KL(P^(α)_x ‖ Q^{y,(α)}), cap) over the tokens of the classes and over powers α.

    Lowered with `sign` +1 (CMIM), raised with −1 (MCMI). Every step draws `draws` of the `powers`; centroids are
    renewed every `refresh` epochs. Held-out traces are measured at all powers, against centroids of the training
    text under the edit as it is (so no token is part of its own centroid). Raises ConfigError if no class has
    `least` tokens in the training text, or if the held-out text has none of the classes.
    """

    name = "divergence"
    temperatures = cmi.TEMPERATURES

    def __init__(
        self,
        corpus: Corpus,
        head: Learnable,
        *,
        sign: float,
        powers: Sequence[float] = (1.0,),
        draws: int = 1,
        least: int = cmi.MIN_COUNT,
        refresh: int = 1,
        cap: float = float("inf"),
        keep: int = 512,
        seed: int = 0,
    ) -> None:
        super().__init__(corpus, head)
        self.sign, self.powers, self.draws = sign, tuple(powers), min(draws, len(powers))
        self.refresh, self.cap, self.keep = refresh, cap, keep
        self.rng = Random(derive(seed, "powers"))
        known_N = corpus.rows(corpus.training)
        self.classes_C = cmi.frequent(corpus.labels_N[known_N], least)
        self.places_N = cmi.places(corpus.labels_N, self.classes_C)
        self.known_N = known_N[self.places_N[known_N] >= 0]
        self.tables: dict[float, cmi.Centroids] = {}
        if not len(self.classes_C):
            raise ConfigError(
                f"No token occurs {least} times in the {len(corpus.training)} training traces, so there is no "
                "class to take a centroid of; raise `holdout` or lower `least`."
            )
        if not (self.places_N[corpus.rows(corpus.held_out)] >= 0).any():
            raise ConfigError("The held-out traces contain no token of any class; raise `holdout`.")

    def begin(self, epoch: int) -> None:
        """Renew the centroids, every `refresh` epochs."""
        if epoch % self.refresh == 0:
            self.tables = self.centroids()

    def measure(self, chosen: Sequence[int], rows_N: Tensor, moved_NV: Tensor) -> Tensor:
        """See `Objective.measure`; 0 where the chosen traces have no token of any class."""
        return self._drawn()(chosen, rows_N, moved_NV)

    def shares(self, parts: Sequence[Sequence[int]]) -> Measure:
        """See `Objective.shares`: all parts at the same powers."""
        return self.weighed(parts, self._drawn())

    def _drawn(self) -> Measure:
        powers = sorted(self.rng.sample(self.powers, self.draws))
        return lambda _, rows_N, moved_NV: self.spread(rows_N, moved_NV, powers, self.tables)

    def counted(self, rows_N: Tensor) -> int:
        """See `Objective.counted`."""
        return int((self.places_N[rows_N] >= 0).sum())

    @torch.no_grad()
    def held_out(self, chosen: Sequence[int], moved: Rows) -> float:
        """See `Objective.held_out`; draws no random number, so checkpoints do not change the training."""
        tables = self.centroids()
        return self.mean(chosen, lambda _, rows_N: self.spread(rows_N, moved(rows_N), self.powers, tables))

    def report(self, rows_N: Tensor, edit: HeadEdit) -> dict[str, Any]:
        """How many classes there are, and the share of held-out tokens that belong to them."""
        covered = (self.places_N[rows_N] >= 0).double().mean()
        return {"classes": len(self.classes_C), "classes_cover": float(covered)}

    def spread(
        self, rows_N: Tensor, moved_NV: Tensor, powers: Sequence[float], tables: dict[float, cmi.Centroids]
    ) -> Tensor:
        """The measure at the given powers, against the given centroids."""
        places_N = self.places_N[rows_N]
        inside_N = places_N >= 0
        if not inside_N.any():
            return moved_NV.new_zeros(())
        inside_NV, places_N = moved_NV[inside_N], places_N[inside_N]
        total = moved_NV.new_zeros(())
        for alpha in powers:
            centers_NV = tables[alpha].dense(places_N).clamp(min=FLOOR).log()
            gaps_N = divergences.forward_kl(cmi.power(inside_NV, alpha), centers_NV)
            total = total + gaps_N.clamp(max=self.cap).mean()
        return total / len(powers)

    @torch.no_grad()
    def centroids(self) -> dict[float, cmi.Centroids]:
        """Class means of the training outputs under the edit as it is, by power."""
        count_C = torch.bincount(self.places_N[self.known_N], minlength=len(self.classes_C))
        view = self.corpus.teacher
        sums = {alpha: view.hidden_ND.new_zeros(len(count_C), view.size) for alpha in self.powers}
        for rows_N in torch.split(self.known_N, min(CHUNK, self.corpus.piece)):
            moved_NV, places_N = self.moved(rows_N), self.places_N[rows_N]
            for alpha, sums_CV in sums.items():
                sums_CV.index_add_(0, places_N, cmi.power(moved_NV, alpha).exp())
        return {alpha: cmi.Centroids.of(sums_CV / count_C[:, None], self.keep) for alpha, sums_CV in sums.items()}
