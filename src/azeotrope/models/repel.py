"""Logits that move away from what proxies say while the teacher reasons (DOGe, arXiv 2505.19504).

Shapes: N tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from azeotrope.core.errors import ConfigError
from azeotrope.maths import divergences
from azeotrope.models.corpus import Corpus
from azeotrope.models.edit_report import edited
from azeotrope.models.head_edit import HeadEdit
from azeotrope.models.head_training import Objective
from azeotrope.models.learnable import Learnable


class Repulsion(Objective):
    """The capped divergence of the teacher from the proxies, a mean over reasoning tokens; training raises it.

    The proxies are the corpus's other models. Raises ConfigError if no token that is trained on, or none that is
    held out, is reasoning.
    """

    name = "divergence"
    sign = -1.0

    def __init__(self, corpus: Corpus, head: Learnable, *, alpha: float = 2.0, cap: float = 5.0) -> None:
        super().__init__(corpus, head)
        self.alpha, self.cap = alpha, cap
        for part, which in ((corpus.training, "training"), (corpus.held_out, "held-out")):
            if not corpus.reasoning_N[corpus.rows(part)].any():
                raise ConfigError(
                    f"None of the {len(part)} {which} traces has a reasoning token, so nothing can be turned "
                    "away from the proxies; raise `holdout`, or choose a task whose traces show reasoning."
                )

    def measure(self, chosen: Sequence[int], rows_N: Tensor, moved_NV: Tensor) -> Tensor:
        """See `Objective.measure`; 0 where the chosen traces have no reasoning."""
        reasons_N = self.corpus.reasoning_N[rows_N]
        if not reasons_N.any():
            return moved_NV.new_zeros(())
        proxies = [view.logits(rows_N[reasons_N]) for view in self.corpus.others]
        return divergence(moved_NV[reasons_N], proxies, self.alpha).clamp(max=self.cap).mean()

    def counted(self, rows_N: Tensor) -> int:
        """See `Objective.counted`."""
        return int(self.corpus.reasoning_N[rows_N].sum())

    def report(self, rows_N: Tensor, edit: HeadEdit) -> dict[str, Any]:
        """The divergence (not capped) where the teacher reasons and where it answers, before and after."""
        corpus = self.corpus
        reasons_N = corpus.reasoning_N[rows_N]
        report: dict[str, Any] = {"reasoning_share": float(reasons_N.double().mean())}
        for name, logits in (("before", corpus.teacher.logits), ("after", edited(corpus, edit))):
            found_PN = torch.cat(
                [
                    divergence(logits(part_n), [view.logits(part_n) for view in corpus.others], self.alpha)
                    for part_n in torch.split(rows_N, corpus.piece)
                ],
                dim=1,
            )
            report[f"divergence_reasoning_{name}"] = float(found_PN[:, reasons_N].mean())
            if not reasons_N.all():
                report[f"divergence_rest_{name}"] = float(found_PN[:, ~reasons_N].mean())
            report[f"capped_{name}"] = float((found_PN[:, reasons_N] >= self.cap).double().mean())
        return report


def divergence(logits_NV: Tensor, proxies: Sequence[Tensor], alpha: float) -> Tensor:
    """KL(softmax(z/α) ‖ softmax(z_P/α)) in nats for every one of the P proxies' logits [N, V]. [P, N]."""
    logs_NV = torch.log_softmax(logits_NV / alpha, -1)
    return torch.stack(
        [divergences.forward_kl(logs_NV, torch.log_softmax(proxy_NV / alpha, -1)) for proxy_NV in proxies]
    )
