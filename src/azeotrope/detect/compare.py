"""Every arm beside its control: a clean resample against the same clean traces, by the same code.

A detector can be fooled by anything that differs between two samples of the *same* teacher. What it says of a
defense is worth reading only if it says nothing (AUROC near .5, deltas near 0) of two clean samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from azeotrope.core.errors import ConfigError
from azeotrope.detect.base import Detector, Measurement, Texts, shared_problems

CONTROL = "clean resample"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure of one arm. `detector` is the label with the settings that differ from their defaults."""

    arm: str
    detector: str
    measure: str
    unit: str
    value: float
    low: float
    high: float
    n: int
    n_problems: int
    note: str = ""

    @property
    def is_control(self) -> bool:
        """Whether this is the control row of its figure."""
        return self.arm == CONTROL

    def as_dict(self) -> dict[str, Any]:
        """Return the row as plain values."""
        return asdict(self)


def compare(
    arms: Mapping[str, Texts],
    clean: Texts,
    resample: Texts | None,
    detectors: Sequence[Detector],
    seed: int = 0,
) -> list[Row]:
    """Measure every arm, and the control, by every detector; each figure's control row comes first.

    All rows use the problems that every arm, `clean` and `resample` share, and the same split and resampling, so
    that an arm and its control differ in their texts only. Without `resample` there are no control rows.

    Raises ConfigError if no problem is shared or a detector needs more of them.
    """
    if CONTROL in arms:
        raise ConfigError(f"'{CONTROL}' is the name of the control; give the arm another one.")
    sides = {**({CONTROL: resample} if resample is not None else {}), **arms}
    if not shared_problems(clean, *sides.values()):
        raise ConfigError(
            f"The clean traces and {', '.join(map(repr, sides))} have no problem in common; problems are matched "
            "by problem_id, so sample both sides from the same problems."
        )
    ids = shared_problems(clean, *sides.values())
    base = {name: clean[name] for name in ids}
    rows = []
    for detector in detectors:
        by_arm = {
            arm: detector.measure({name: texts[name] for name in ids}, base, seed) for arm, texts in sides.items()
        }
        for figures in zip(*by_arm.values(), strict=True):
            rows += [_row(arm, detector, found) for arm, found in zip(by_arm, figures, strict=True)]
    return rows


def _row(arm: str, detector: Detector, found: Measurement) -> Row:
    return Row(
        arm=arm, detector=detector.label, measure=found.measure, unit=str(found.unit), value=found.value,
        low=found.low, high=found.high, n=found.n, n_problems=found.n_problems, note=found.note,
    )  # fmt: skip
