"""What a head edit does to held-out text: agreement of the argmax, divergence, information before and after.

Shapes: N tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from azeotrope.core.errors import ConfigError
from azeotrope.maths import cmi, divergences
from azeotrope.models.corpus import Corpus
from azeotrope.models.head_edit import HeadEdit


def edited(corpus: Corpus, rows_N: Tensor, edit: HeadEdit) -> Tensor:
    """The teacher's logits under a finished edit. [N, V]."""
    view = corpus.teacher
    return edit.shift(view.logits_NV[rows_N], view.hidden_ND[rows_N], 1.0)


def reported(corpus: Corpus, rows_N: Tensor, edit: HeadEdit, temperatures: Sequence[float] = ()) -> dict[str, Any]:
    """Agreement, KL (nats) and CMI at temperature 1; with `temperatures` also the CMI at each of them.

    Information is left out where no class has enough tokens.
    """
    before_NV, after_NV = corpus.teacher.logits_NV[rows_N], edited(corpus, rows_N, edit)
    logs, moved = (torch.log_softmax(z.double(), -1) for z in (before_NV, after_NV))
    report: dict[str, Any] = {
        "agreement": float((before_NV.argmax(-1) == after_NV.argmax(-1)).double().mean()),
        "kl": float(divergences.forward_kl(logs, moved).mean()),
        "tokens": len(rows_N),
    }
    labels_N = corpus.labels_N[rows_N]
    try:
        pair = [cmi.information(z_NV, labels_N) for z_NV in (before_NV, after_NV)]
        swept = [cmi.sweep(z_NV, labels_N, temperatures) for z_NV in (before_NV, after_NV)]
    except ConfigError:  # too little text for any class
        return report
    for name, found in zip(("before", "after"), pair, strict=True):
        report[f"cmi_{name}"], report[f"cmi_loo_{name}"] = found.cmi, found.cmi_loo
        report["cmi_covered"] = found.covered
    if temperatures:
        report["cmi_sweep"] = [
            {
                "temperature": t,
                **{f"cmi_{name}": by[t].cmi for name, by in zip(("before", "after"), swept, strict=True)},
                **{f"cmi_loo_{name}": by[t].cmi_loo for name, by in zip(("before", "after"), swept, strict=True)},
            }
            for t in temperatures
        ]
    return report
