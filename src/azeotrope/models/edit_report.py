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

GROUPS = 10  # of traces, for standard errors


def edited(corpus: Corpus, rows_N: Tensor, edit: HeadEdit) -> Tensor:
    """The teacher's logits under a finished edit. [N, V]."""
    view = corpus.teacher
    return edit.shift(view.logits_NV[rows_N], view.hidden_ND[rows_N], 1.0)


def reported(
    corpus: Corpus, rows_N: Tensor, after_NV: Tensor, temperatures: Sequence[float] = ()
) -> dict[str, Any]:
    """Agreement, KL (nats), CMI and NCMI at temperature 1; with `temperatures` also the CMI at each of them.

    `after_NV` are the edited logits of the rows (`edited`).

    `cmi_change_se` is the standard error of CMI after minus before, by a delete-a-group jackknife over traces.
    Information is left out where no class has enough tokens.
    """
    before_NV = corpus.teacher.logits_NV[rows_N]
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
        report[f"ncmi_{name}"] = found.ncmi
        report["cmi_covered"] = found.covered
    report["cmi_change"] = pair[1].cmi - pair[0].cmi
    report["cmi_change_se"] = _jackknife(corpus, rows_N, before_NV, after_NV)
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


def _jackknife(corpus: Corpus, rows_N: Tensor, before_NV: Tensor, after_NV: Tensor) -> float | None:
    """The standard error of the change in CMI: whole traces are left out, a tenth of them at a time.

    None if without some of them no class is large enough.
    """
    owner_N = torch.bucketize(rows_N, torch.tensor([part.stop for part in corpus.slices]), right=True)
    _, place_N = torch.unique(owner_N, return_inverse=True)
    groups = min(GROUPS, int(place_N.max()) + 1)
    if groups < 2:
        return None
    found = []
    for group in range(groups):
        kept_N = place_N % groups != group
        labels_N = corpus.labels_N[rows_N][kept_N]
        try:
            pair = [cmi.information(z_NV[kept_N], labels_N).cmi for z_NV in (before_NV, after_NV)]
        except ConfigError:
            return None
        found.append(pair[1] - pair[0])
    changes_G = torch.tensor(found, dtype=torch.float64)
    return float(((groups - 1) / groups * (changes_G - changes_G.mean()).square().sum()).sqrt())
