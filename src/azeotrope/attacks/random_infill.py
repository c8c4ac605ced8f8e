"""The control of `infill`: as many sentences more from the same writer, but anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import ClassVar

from azeotrope.attacks.adaptive import Lessons
from azeotrope.attacks.base import AttackRun
from azeotrope.attacks.infill import Infill, Junction, bridged, junctions_of
from azeotrope.core.methods import Maturity
from azeotrope.core.seeds import derive
from azeotrope.core.types import Trace
from azeotrope.models.lm import LM


class RandomInfill(Infill):
    """Run `infill` only to learn how many sentences it keeps; let the student write as many at random places.

    Control of `infill`: where both do as well, infilling helps by more text of the student's own, not by where it
    stands and what it explains. Give both the same settings. Matched: the number of sentences put in, as far as
    the student finishes one (the notes hold both numbers), and their writer. Not matched: their tokens, and how
    many are written in all. No query.
    """

    kind: ClassVar[str] = "random_infill"
    summary: ClassVar[str] = "put in as many sentences as infill, at random places, then fine-tune (a control)"
    maturity: ClassVar[Maturity] = Maturity.CONTROL

    def prepare(self, lm: LM, traces: Sequence[Trace], run: AttackRun) -> Lessons:
        """Infill, count, and write elsewhere."""
        infilled = super().prepare(lm, traces, run)
        wanted = infilled.notes["bridged"]
        places = junctions_of(lm, traces, self.close)
        Random(derive(run.seed, "anywhere")).shuffle(places)
        kept: list[tuple[Junction, str]] = []
        spent = 0
        while places and len(kept) < wanted:
            tried, places = places[: wanted - len(kept)], places[wanted - len(kept) :]
            bridges, tokens = self.bridges(lm, traces, tried, run)
            kept += [(j, bridge) for j, bridge in zip(tried, bridges, strict=True) if bridge]
            spent += tokens
        return replace(
            infilled,
            traces=bridged(traces, kept),
            notes={"bridged": len(kept), "bridged_by_infill": wanted},
            own_tokens=infilled.own_tokens + spent,
        )
