"""The control of `filtered_sft`: as many traces fewer, but any of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import ClassVar

from azeotrope.attacks.adaptive import Lessons
from azeotrope.attacks.base import AttackRun
from azeotrope.attacks.filtered_sft import FilteredSFT
from azeotrope.core.methods import Maturity
from azeotrope.core.seeds import derive
from azeotrope.core.types import Paper, Trace
from azeotrope.models.lm import LM


class RandomDrop(FilteredSFT):
    """Run the filter of `filtered_sft` only to learn how many traces it would drop; drop as many at random.

    Control of `filtered_sft`: where both do as well, filtering helps by how much it drops, not by what. Give
    both the same settings. Matched exactly: the number of traces trained on, per base (in one study both
    filters have the same seeds, so the same judges). Not matched: their tokens. No query; it costs what the
    filter costs.
    """

    kind: ClassVar[str] = "random_drop"
    summary: ClassVar[str] = "drop as many traces as filtered_sft, at random, then fine-tune (a control)"
    paper: ClassVar[Paper | None] = None
    maturity: ClassVar[Maturity] = Maturity.CONTROL

    def prepare(self, lm: LM, traces: Sequence[Trace], run: AttackRun) -> Lessons:
        """Filter, count, and draw. Raises RunError if the filter leaves nothing."""
        filtered = super().prepare(lm, traces, run)
        said = [trace for trace in traces if trace.text]
        chosen = Random(derive(run.seed, "drop")).sample(range(len(said)), len(filtered.traces))
        kept = [said[i] for i in sorted(chosen)]
        return replace(filtered, traces=kept, notes={"dropped": len(traces) - len(kept)})
