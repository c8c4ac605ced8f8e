"""Every registered method with settings that are cheap on tiny models.

A method that is not in `SETTINGS` is tested with its defaults, adapted by field name (`proxy`, `holdout`,
...): new methods are covered without touching this file. More rows cover more of a method's parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from azeotrope.core.methods import Attack, Defense, Stage, TraceDefense
from azeotrope.core.plugins import catalogue, load
from azeotrope.defenses.base import LogitDefense

Json = dict[str, Any]

TRAINED: Json = {"epochs": 1, "checks": 1, "problems": 2, "lr": 0.05}
BACKENDS = ("finite_difference", "jvp", "head", "self")
SETTINGS: Mapping[str, tuple[Json, ...]] = {
    "ads": tuple({"backend": backend, "spend": spend} for backend in BACKENDS for spend in ("tilt", "kl_budget")),
    "permutation": (
        *({"backend": backend} for backend in BACKENDS),
        {"backend": "head", "spend": "kl_budget"},
    ),
    "gaussian": (
        {"choose": "random", "rate": 0.5, "tokens": 2},  # so that the budget runs out within a test
        {"choose": "entropy", "threshold": 1.0, "tokens": 2},
    ),
    "traceguard": (
        *({"order": order} for order in ("first", "last", "random", "longest")),
        {"unit": "sentences"},
        {"unit": "count"},
        {"categories": ("uncertainty_management",)},
        {"detector": "marker_rate", "max_score": 8.0},
        {"detector": "token_delta", "max_score": 0.2, "order": "longest"},
        {"detector": "tfidf_cosine", "max_score": 0.05, "unit": "count"},
    ),
    "cmi": tuple(
        {"epochs": 1, "checks": 1, "problems": 2, "rank": 3, "lr": 0.05, **more}
        for more in (
            {},
            {"layer": "block"},
            {"serve": "unmerged", "kd_only": True},
            {"serve": "unmerged", "maps": 3},
        )
    ),
    "shuffled_map": (
        {**TRAINED, "rank": 3},
        {**TRAINED, "rank": 3, "serve": "unmerged", "maps": 3},
    ),
    "drawn_map": ({**TRAINED, "rank": 3},),
    "doge": tuple(
        {**TRAINED, **more} for more in ({"more_proxies": ("tiny too",)}, {"rank": 3, "serve": "unmerged"})
    ),
    "cmim": tuple(
        {**TRAINED, "least": 2, **more} for more in ({}, {"rank": 3, "draws": 1}, {"serve": "unmerged"})
    ),
    "mcmi": tuple({**TRAINED, "least": 2, **more} for more in ({}, {"rank": 3, "serve": "unmerged"})),
    "random_sentences": ({}, {"match": "share"}, {"pool": "computation"}, {"guard": {"unit": "sentences"}}),
}
ATTACK_SETTINGS: Mapping[str, tuple[Json, ...]] = {  # beside the defaults, where they change what is paid
    "clean_kd": ({"share": 0.35},),
    "clean_mix": ({"share": 0.35}, {"share": 0.0}),
    "gkd": ({"warmup": 0},),
    "gold": ({"warmup": 0},),
    "inverse_map": ({"asks": 3},),
    "minillm": ({"warmup": 0},),
    "random_resample": ({"queries": 1}, {"queries": 5}),
    "resampled_sft": ({"queries": 1}, {"queries": 5}),
    "reweighted_sft": ({"trusted": "leak", "leaked": 7}, {"trusted": "leak"}),
    "trace_inversion": ({"source": "leak"}, {"source": "leak", "share": 0.55}),
}
CHEAP: Json = {"proxy": "tiny", "holdout": 4, "holdout_max": 4, "epsilon": 1e-3}
STRENGTHS: Mapping[tuple[str, str], tuple[float, ...]] = {
    ("kl_budget", "spend"): (0.02, 0.1, 0.4),
    ("count", "unit"): (1.0, 2.0, 3.0),
}
WRITES_NEW_TEXT: frozenset[str] = frozenset()  # kinds of text defenses that do more than leave text out

DEFENSES = tuple(catalogue("defenses"))
ATTACKS = tuple(catalogue("attacks"))


def defense_class(kind: str) -> type[Defense]:
    cls = load("defenses", kind)
    assert issubclass(cls, Defense)
    return cls


def attack_class(kind: str) -> type[Attack]:
    cls = load("attacks", kind)
    assert issubclass(cls, Attack)
    return cls


def build(kind: str, settings: Json) -> Defense:
    """An instance at a working strength, with everything expensive made cheap."""
    cls = defense_class(kind)
    cheap = {name: value for name, value in CHEAP.items() if name in cls.model_fields}
    method = cls.model_validate({**cheap, **settings})
    return method.at(strengths(method)[-1])


def strengths(defense: Defense) -> tuple[float, ...]:
    """A few working strengths, rising."""
    for (value, field), ladder in STRENGTHS.items():
        if getattr(defense, field, None) == value:
            return ladder
    return defense.sweep or (defense.strength,)


def cases(stage: Stage | None = None) -> list[Any]:
    """(kind, settings) parameters of every registered defense, or of one stage."""
    out = []
    for kind in DEFENSES:
        cls = defense_class(kind)
        if stage is not None and cls.stage != stage:
            continue
        if stage == Stage.LOGITS:
            assert issubclass(cls, LogitDefense)
        if stage == Stage.TRACE:
            assert issubclass(cls, TraceDefense)
        for settings in SETTINGS.get(kind, ({},)):
            name = ",".join([kind, *(str(v) for v in settings.values())])
            out.append(pytest.param(kind, settings, id=name))
    return out
