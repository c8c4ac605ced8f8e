"""How a trainer is told to follow a teacher's distributions instead of its text alone.

Shapes: B rows, N labeled tokens of a batch (row after row), V vocabulary, K known tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from azeotrope.core.types import Trace
from azeotrope.models.exposure import Exposure
from azeotrope.models.lm import LM


@dataclass(frozen=True, slots=True)
class Target:
    """What is known of a batch: log-probabilities [N, K] (of `ids_NK`, or all V; K = 0 where none are given), the
    row of every token [N], which rows hold the student's own text [B], and which texts the rows are [B], counted
    among those that are not empty.
    """

    known_NK: Tensor
    ids_NK: Tensor | None
    rows_N: Tensor
    own_B: Tensor
    index_B: Tensor


class Guide(ABC):
    """A loss that knows the teacher's distributions along the training texts.

    `targets` are handed out with the batches, one a text (none: the guide looks up by `Target.index_B`).
    """

    targets: Sequence[Exposure] = ()
    progress: float = 0.0  # share of the training steps that is done

    @abstractmethod
    def loss(self, logits_NV: Tensor, labels_N: Tensor, target: Target) -> Tensor:
        """The loss of a batch from the student's logits at its labeled tokens."""

    def renew(self, lm: LM, epoch: int) -> Mapping[int, tuple[Trace, Exposure | None]]:
        """Called before every epoch with the student so far: texts of its own, by position, to learn from."""
        return {}
