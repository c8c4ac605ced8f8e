"""Purified logits with another map for every request, none of which was trained.

Shapes: N tokens, V vocabulary, R rank.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from azeotrope.core.errors import ConfigError
from azeotrope.core.methods import Maturity
from azeotrope.core.types import Paper
from azeotrope.defenses.base import Bench
from azeotrope.defenses.shuffled_map import ShuffledMap
from azeotrope.maths.cmi import Rows
from azeotrope.models.corpus import Corpus
from azeotrope.models.decode import LogitRule
from azeotrope.models.edit_draw import DrawnEditRule, DrawnEdits
from azeotrope.models.head_edit import LogitMap
from azeotrope.models.lm import LM


class DrawnMap(ShuffledMap):
    """z + s·P A(B Q z): the map of `cmi`, its tokens dealt anew for every request: P and Q come from its seed.

    Not in the paper (arXiv 2602.03396, eq. 9 gives the map that is trained first, to the letter as for `cmi`). A
    thief who learns the inverse of one map, or of a few, has learned nothing of the next request's. s is found as
    for `shuffled_map`: the mean KL at temperature 1 on held-out text, each text through a map of its own, is that
    of `cmi`. Whoever asks again for the same text meets another map, and the mean of many is the unmoved logits.

    What it cannot hide: undefended logits span D dimensions only, and what a map adds hardly lies in them, so that
    a linear projection onto them (`inverse_map` learns it from a leak) takes off all but about D/V of it.
    And texts that differ by request can be put to a vote: the majority of several likeliest ones
    (`resampled_sft` with `greedy`) needs no logits.
    """

    kind: ClassVar[str] = "drawn_map"
    summary: ClassVar[str] = "map the logits of every request by a map of its own"
    paper: ClassVar[Paper | None] = None
    maturity: ClassVar[Maturity] = Maturity.EXPERIMENTAL
    sweep: ClassVar[tuple[float, ...]] = (0.25, 0.5, 1.0)

    serve: Literal["merged", "unmerged"] = Field(default="unmerged", description="logit by logit only")

    @model_validator(mode="after")
    def _a_map_for_each_request(self) -> Self:
        if self.serve == "merged":
            raise ValueError("a map for every request cannot be merged into one head; leave serve at unmerged")
        if self.maps > 1:
            raise ValueError("every request has a map of its own already; leave maps at 1")
        return self

    def disguised(self, edit: LogitMap, seed: int) -> LogitMap:
        """See `ShuffledMap.disguised`: the tokens are dealt when a request comes."""
        return edit

    def moved(self, corpus: Corpus) -> Callable[[LogitMap], Rows]:
        """See `ShuffledMap.moved`: every text through a map of its own."""
        drawn: dict[int, DrawnEdits] = {}  # of the texts that were asked for; dealing tokens anew takes long

        def moved(edit: LogitMap, rows_N: Tensor) -> Tensor:
            out_NV, owners_N = corpus.teacher.logits(rows_N), corpus.owners(rows_N)
            for i in owners_N.unique().tolist():  # type: ignore[no-untyped-call]
                if i not in drawn:
                    drawn[i] = DrawnEdits(edit, torch.tensor([i]))
                drawn[i].edit = edit
                out_NV[owners_N == i] = drawn[i].shift(out_NV[owners_N == i])
            return out_NV

        return lambda edit: partial(moved, edit)

    def served(self, edit: LogitMap) -> LogitRule:
        """See `ShuffledMap.served`."""
        return DrawnEditRule(edit)

    def bind(self, bench: Bench) -> LogitRule:
        """Train the map and its size, or take those that were found for another strength on this bench."""
        (edit,) = self.trained(bench)
        assert isinstance(edit, LogitMap)
        return self.served(edit.scaled(self.scale))

    def fold(self, bench: Bench) -> LM:
        """See `LogitDefense.fold`."""
        raise ConfigError(f"'{self.label}' takes another map for each request; one head holds one map.")
