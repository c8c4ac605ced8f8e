"""The control of purified logits: the same map on the wrong tokens, as large in what it does to the distribution.

Shapes: N tokens, V vocabulary, R rank.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import ClassVar

import torch

from azeotrope.core.methods import Maturity
from azeotrope.defenses.cmi import CMI
from azeotrope.defenses.trained_head import Accuracy
from azeotrope.maths.cmi import Rows
from azeotrope.models.corpus import Corpus
from azeotrope.models.decode import LogitRule
from azeotrope.models.edit_report import edited, moved_by, reported
from azeotrope.models.head_edit import HeadEdit, LogitMap
from azeotrope.models.head_training import Objective, Trained, Training, cross_entropy

HALVINGS = 30
LARGEST = 64.0  # times the trained map; more is not looked for


class ShuffledMap(CMI):
    """z + s·A'(B'z), A' and B' those of `cmi` with the tokens shuffled, s so that KL(p ‖ p') is that of `cmi`.

    The map of `cmi` (arXiv 2602.03396, eq. 9) is trained to the letter as there, from the same seed. Then the rows
    of A and the columns of B are each permuted over the vocabulary, and s is found by halving on the held-out
    text, where the mean KL at temperature 1 is measured. What is left is a change of the same rank, spectrum and
    size without its direction. B stays in its gauge.
    """

    kind: ClassVar[str] = "shuffled_map"
    summary: ClassVar[str] = "purified logits with their map shuffled: a change of the same size"
    maturity: ClassVar[Maturity] = Maturity.CONTROL
    trained_as: ClassVar[str] = "cmi"

    def finished(
        self,
        found: Trained,
        objective: Objective,
        training: Training,
        accuracy: Accuracy,
        seed: int,
    ) -> Trained:
        """Shuffle the map that was trained, and measure it anew."""
        assert isinstance(found.edit, LogitMap)
        corpus, held = objective.corpus, objective.corpus.held_out
        rows_N = corpus.rows(held)
        size = float(found.notes["kl"])

        served = self.moved(corpus)

        def reached(edit: LogitMap) -> float:
            return moved_by(corpus, rows_N, served(edit))

        edit = matched(self.disguised(found.edit, seed), reached, size)
        moved = served(edit)
        measure = objective.held_out(held, moved)
        loss = cross_entropy(corpus, held, moved, training.temperature)
        chosen = replace(found.chosen, edit=edit, measure=measure, loss=loss, accuracy=accuracy(self.served(edit)))
        notes = {
            **reported(corpus, rows_N, moved, objective.temperatures),
            "clean_accuracy": found.notes["clean_accuracy"],
            "kept": chosen.accuracy >= found.notes["clean_accuracy"] - self.keep,
            "kl_wanted": size,
            "trained_measure": found.chosen.measure,
        }
        return Trained(edit, chosen, [chosen], found.curve, found.name, notes)

    def disguised(self, edit: LogitMap, seed: int) -> LogitMap:
        """The trained map without its direction, before it is scaled."""
        return shuffled(edit, seed)

    def served(self, edit: LogitMap) -> HeadEdit | LogitRule:
        """What the teacher is served through when its accuracy is measured."""
        return edit

    def moved(self, corpus: Corpus) -> Callable[[LogitMap], Rows]:
        """The teacher's logits as the defense serves them with a map."""
        return partial(edited, corpus)


def shuffled(edit: LogitMap, seed: int) -> LogitMap:
    """The map with the tokens that it reads, and those that it writes, each permuted."""
    generator = torch.Generator().manual_seed(seed % 2**63)
    size = len(edit.a_VR)
    written, read = (torch.randperm(size, generator=generator) for _ in range(2))
    return replace(edit, a_VR=edit.a_VR[written].contiguous(), b_RV=edit.b_RV[:, read].contiguous())


def matched(edit: LogitMap, reached: Callable[[LogitMap], float], size: float) -> LogitMap:
    """The map scaled until what it moves the teacher by (`reached`, nats of KL) is `size`.

    If even `LARGEST` times the map does not move it so far, that many times the map.
    """
    high = 1.0
    while reached(edit.scaled(high)) < size and high < LARGEST:
        high *= 2.0
    low = 0.0
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if reached(edit.scaled(middle)) < size else (low, middle)
    return replace(edit, a_VR=high * edit.a_VR)
