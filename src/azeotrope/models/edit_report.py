"""What a head edit does to held-out text: agreement of the argmax, divergence, information before and after.

Shapes: N tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from azeotrope.core.errors import ConfigError
from azeotrope.maths import cmi, divergences
from azeotrope.maths.cmi import Rows
from azeotrope.models.corpus import Corpus
from azeotrope.models.head_edit import HeadEdit

GROUPS = 10  # of traces, for standard errors


def edited(corpus: Corpus, edit: HeadEdit) -> Rows:
    """The teacher's logits under a finished edit."""
    view = corpus.teacher
    return lambda rows_N: edit.shift(view.logits(rows_N), view.hidden_ND[rows_N], 1.0)


def moved_by(corpus: Corpus, rows_N: Tensor, moved: Rows) -> float:
    """Mean KL (nats) of moved logits from the teacher's on some rows, in pieces."""
    total = 0.0
    for part_n in torch.split(rows_N, corpus.piece):
        logs, other = (torch.log_softmax(z(part_n).double(), -1) for z in (corpus.teacher.logits, moved))
        total += float(divergences.forward_kl(logs, other).sum())
    return total / max(1, len(rows_N))


def reported(corpus: Corpus, rows_N: Tensor, moved: Rows, temperatures: Sequence[float] = ()) -> dict[str, Any]:
    """Agreement, KL (nats), CMI and NCMI at temperature 1; with `temperatures` also the CMI at each of them.

    `moved` are the edited logits (`edited`), on the rows of whole traces.

    `cmi_change_se` is the standard error of CMI after minus before, by a delete-a-group jackknife over traces.
    Information is left out where no class has enough tokens.
    """
    sides = {"before": _among(rows_N, corpus.teacher.logits), "after": _among(rows_N, moved)}
    report: dict[str, Any] = {
        "agreement": _agreement(corpus, rows_N, moved),
        "kl": moved_by(corpus, rows_N, moved),
        "tokens": len(rows_N),
    }
    labels_N, piece = corpus.labels_N[rows_N], corpus.piece
    try:
        every = sorted({1.0, *temperatures})
        swept = {name: cmi.sweep(z, labels_N, every, piece=piece) for name, z in sides.items()}
    except ConfigError:  # too little text for any class
        return report
    for name, found in swept.items():
        report[f"cmi_{name}"], report[f"cmi_loo_{name}"] = found[1.0].cmi, found[1.0].cmi_loo
        report[f"ncmi_{name}"] = found[1.0].ncmi
        report["cmi_covered"] = found[1.0].covered
    report["cmi_change"] = report["cmi_after"] - report["cmi_before"]
    report["cmi_change_se"] = _jackknife(corpus, rows_N, sides)
    if temperatures:
        report["cmi_sweep"] = [
            {
                "temperature": t,
                **{f"cmi_{name}": found[t].cmi for name, found in swept.items()},
                **{f"cmi_loo_{name}": found[t].cmi_loo for name, found in swept.items()},
            }
            for t in temperatures
        ]
    return report


def _among(rows_N: Tensor, logits: Rows) -> Rows:
    """The logits by place among the rows."""
    return lambda places: logits(rows_N[places])


def _agreement(corpus: Corpus, rows_N: Tensor, moved: Rows) -> float:
    """The share of rows on which the argmax is still the teacher's."""
    same = 0
    for part_n in torch.split(rows_N, corpus.piece):
        same += int((corpus.teacher.logits(part_n).argmax(-1) == moved(part_n).argmax(-1)).sum())
    return same / max(1, len(rows_N))


def _jackknife(corpus: Corpus, rows_N: Tensor, sides: Mapping[str, Rows]) -> float | None:
    """The standard error of the change in CMI: whole traces are left out, a tenth of them at a time.

    None if without some of them no class is large enough.
    """
    _, place_N = torch.unique(corpus.owners(rows_N), return_inverse=True)
    groups = min(GROUPS, int(place_N.max()) + 1)
    if groups < 2:
        return None
    try:
        before_G, after_G = (
            cmi.without_each(z, corpus.labels_N[rows_N], place_N % groups, piece=corpus.piece)
            for z in (sides["before"], sides["after"])
        )
    except ConfigError:
        return None
    changes_G = after_G - before_G
    return float(((groups - 1) / groups * (changes_G - changes_G.mean()).square().sum()).sqrt())
