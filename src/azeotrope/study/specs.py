"""What a step is asked to do, and the protocol of the functions that do it.

Specs hold plain values only (strings, numbers, dicts of JSON values), so that they can be sent to another
process, hashed and written down. Method settings are complete (defaults filled in) and carry their `kind`.
Everything in a spec changes the output; batch sizes, devices and retries do not belong here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypedDict

from azeotrope.core.sampling import Sampling
from azeotrope.study.config import Evaluation

RELEASE, ATTACK, UNDISTILLED, DETECT = "release", "attack", "undistilled", "detect"
STAGES = (UNDISTILLED, RELEASE, ATTACK, DETECT)

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseSpec:
    """Generate `n` defended traces, and measure the defended teacher on the test problems.

    `arm` holds the defenses that make the text, in the order in which they act; empty means undefended. `draw`
    numbers the independent data draws; derive every random stream from (`seed`, a name, `draw`), not from the arm,
    so that arms see the same problems and, where possible, the same random numbers. A `teacher` that is an
    endpoint carries options, such as a cap, that change no output.
    """

    teacher: str
    task: Json
    arm: tuple[Json, ...]
    n: int
    draw: int
    seed: int
    sampling: Sampling
    evaluation: Evaluation


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackSpec:
    """Train all `bases` students of `family` on one release and evaluate them on the test problems.

    `release` says how the release was made, for attacks that ask the same service for more; `access` what the
    service shows with its text, as in `ReleaseSettings`, and `surfaces` the defenses that change that.
    """

    task: Json
    attack: Json
    family: str
    bases: int
    draw: int
    seed: int
    evaluation: Evaluation
    release: ReleaseSpec
    access: str = "text"
    top_logprobs: int = 20
    surfaces: tuple[Json, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class UndistilledSpec:
    """Evaluate all `bases` students of `family` as they are before any attack."""

    task: Json
    family: str
    bases: int
    seed: int
    evaluation: Evaluation


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectSpec:
    """Tell one release from the undefended one; `control` instead sets a clean resample in its place."""

    detectors: tuple[Json, ...]
    control: bool
    seed: int


Spec = ReleaseSpec | AttackSpec | UndistilledSpec | DetectSpec


class Estimate(TypedDict):
    """What a step is expected to take: wall seconds in one worker, and tokens generated or trained on."""

    seconds: float
    tokens: int


class Stages(Protocol):
    """The four stage functions. An instance is pickled once per worker: hold settings, load models lazily.

    The files that each function writes into `out` are listed in `azeotrope.study.tables`, with their columns.
    `out` is an empty temporary folder; the runner adds `done.json` and renames it when the function returns.
    """

    @property
    def versions(self) -> Mapping[str, int]:
        """VERSION per stage name (see `STAGES`); bump when its numbers change."""

    def inputs(self, spec: Spec) -> Mapping[str, str]:
        """Return name → revision hash of every model and data file that the step reads.

        For a release: the teacher, the proxies its defenses name, the task's data. For an attack or an
        undistilled evaluation: the student family (one hash over the bases used) and the task's data; not
        the release, whose step id is added by the plan. Called for every step at planning time: cache.
        """

    def estimate(self, spec: Spec) -> Estimate:
        """Return a cheap heuristic; the plan rescales it by the timings of earlier steps of the stage."""

    def release(self, spec: ReleaseSpec, out: Path) -> None:
        """Write traces.parquet, samples.parquet, diffs.json (optional) and info.json."""

    def attack(self, spec: AttackSpec, release_dir: Path, out: Path) -> None:
        """Write samples, probes, metrics and losses (the last three optional) and info.json."""

    def undistilled(self, spec: UndistilledSpec, out: Path) -> None:
        """Write samples, probes and metrics (the last two optional) and info.json."""

    def detect(self, spec: DetectSpec, release_dir: Path, clean_dir: Path, out: Path) -> None:
        """Write detect.parquet and info.json; for a control both folders are the undefended release's."""
