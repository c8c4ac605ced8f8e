"""A deterministic miniature of the lab: fake methods and stages, no torch, importable by workers."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl

from azeotrope.core import plugins
from azeotrope.core.errors import ConfigError, nearest
from azeotrope.core.methods import Attack, Defense, Maturity, Method, Settings, Stage
from azeotrope.core.seeds import derive
from azeotrope.study.config import Study, parse_study
from azeotrope.study.specs import AttackSpec, DetectSpec, Estimate, ReleaseSpec, Spec, UndistilledSpec
from azeotrope.study.store import write_json, write_parquet


class FakeNone(Defense):
    kind: ClassVar[str] = "none"
    stage: ClassVar[Stage] = Stage.LOGITS
    dial: ClassVar[str] = ""


class FakeTemperature(Defense):
    kind: ClassVar[str] = "temperature"
    stage: ClassVar[Stage] = Stage.LOGITS
    dial: ClassVar[str] = "delta"
    maturity: ClassVar[Maturity] = Maturity.CONTROL
    delta: float = 0.1


class FakeADS(Defense):
    kind: ClassVar[str] = "ads"
    stage: ClassVar[Stage] = Stage.LOGITS
    dial: ClassVar[str] = "lam"
    lam: float = 0.1
    proxy: str = "embedded/proxy"


class FakeGuard(Defense):
    kind: ClassVar[str] = "traceguard"
    stage: ClassVar[Stage] = Stage.TRACE
    dial: ClassVar[str] = "budget"
    budget: float = 0.1


class FakeTask(Settings):
    kind: ClassVar[str] = "facts"
    version: ClassVar[int] = 1
    level: int = 1


class FakeSFT(Attack):
    kind: ClassVar[str] = "sft"
    epochs: int = 3


class FakeDetector(Method):
    kind: ClassVar[str] = "eye"
    sharpness: float = 1.0


CLASSES: dict[str, dict[str, Any]] = {
    "detectors": {"eye": FakeDetector},
    "defenses": {c.kind: c for c in (FakeNone, FakeTemperature, FakeADS, FakeGuard)},
    "attacks": {"sft": FakeSFT},
    "tasks": {"facts": FakeTask},
}


def fake_load(group: str, name: str) -> Any:
    if name not in CLASSES[group]:
        raise ConfigError(f"There is no {group[:-1]} '{name}'.{nearest(name, CLASSES[group])}")
    return CLASSES[group][name]


def install() -> None:
    """Replace the catalogue in this process (tests in-process use monkeypatch instead)."""
    plugins.load = fake_load


def strength(arm: tuple[dict[str, Any], ...]) -> float:
    return sum(float(m.get("lam", m.get("delta", m.get("budget", 0.0)))) for m in arm)


@dataclass(frozen=True)
class FakeStages:
    """Bernoulli teachers and students whose accuracy falls with strength; `trouble` misbehaves on demand."""

    sleep: float = 0.0
    trouble: str = ""
    log: str = ""
    versions: Mapping[str, int] = field(
        default_factory=lambda: {"release": 1, "attack": 1, "undistilled": 1, "detect": 1}
    )

    def inputs(self, spec: Spec) -> dict[str, str]:
        return {"weights": "abc"}

    def estimate(self, spec: Spec) -> Estimate:
        return {"seconds": 10.0, "tokens": 1000}

    def release(self, spec: ReleaseSpec, out: Path) -> None:
        self._before("release")
        rng = _rng(spec.seed, "release", spec.draw, strength(spec.arm))
        n = spec.evaluation.problems
        correct = _common(spec.seed, spec.draw, n) < 0.92 - 0.4 * strength(spec.arm)
        ids = [f"p{i}" for i in range(n)]
        write_parquet(
            pl.DataFrame(
                {
                    "problem_id": [f"r{i}" for i in range(spec.n)],
                    "prompt": "q",
                    "text": "a",
                    "seed": spec.draw,
                    "finished": True,
                    "n_tokens": 5,
                }
            ),
            out / "traces.parquet",
        )
        write_parquet(
            pl.DataFrame(
                {
                    "problem_id": ids,
                    "correct": correct,
                    "finished": rng.random(n) < 0.97,
                    "n_tokens": rng.integers(5, 9, n),
                    "valid_share": np.where(rng.random(n) < 0.1, np.nan, rng.uniform(0.8, 1, n)),
                    "wrong_statements": rng.integers(0, 2, n),
                    "n_sentences": 4,
                }
            ).with_columns(pl.col("valid_share").fill_nan(None)),
            out / "samples.parquet",
        )
        write_json(
            out / "diffs.json",
            [
                {
                    "problem_id": ids[0],
                    "prompt": "q",
                    "gold": "1",
                    "text": "a",
                    "correct": bool(correct[0]),
                    "tokens": None,
                    "removed": None,
                }
            ],
        )
        write_json(out / "info.json", {"seconds": 1.0 + strength(spec.arm), "tokens": 100, "cosine": 0.5})

    def attack(self, spec: AttackSpec, release_dir: Path, out: Path) -> None:
        self._before("attack")
        traces = pl.read_parquet(release_dir / "traces.parquet")
        teacher = float(np.mean(pl.read_parquet(release_dir / "samples.parquet")["correct"].to_numpy()))
        assert len(traces)
        rng = _rng(spec.seed, "attack", spec.draw, str(teacher))
        self._students(spec, out, 0.8 * teacher, rng)
        write_parquet(
            pl.DataFrame({"base": [0, 0], "step": [1, 2], "split": "train", "loss": [2.0, 1.0]}),
            out / "losses.parquet",
        )

    def undistilled(self, spec: UndistilledSpec, out: Path) -> None:
        self._before("undistilled")
        self._students(spec, out, 0.2, _rng(spec.seed, "undistilled", 0))

    def detect(self, spec: DetectSpec, release_dir: Path, clean_dir: Path, out: Path) -> None:
        self._before("detect")
        assert spec.control == (release_dir == clean_dir)
        moved = release_dir.joinpath("info.json").read_text() != clean_dir.joinpath("info.json").read_text()
        rows = [
            {
                "detector": one["kind"],
                "measure": "auroc",
                "unit": "per_trace",
                "value": 0.9 if moved else 0.5,
                "low": 0.4,
                "high": None,
                "n": 10,
                "n_problems": 5,
                "note": "",
            }
            for one in spec.detectors
        ]
        write_parquet(pl.DataFrame(rows), out / "detect.parquet")
        write_json(out / "info.json", {"seconds": 1.0, "tokens": 0})

    def _students(
        self, spec: AttackSpec | UndistilledSpec, out: Path, level: float, rng: np.random.Generator
    ) -> None:
        n, bases = spec.evaluation.problems, spec.bases
        base = np.repeat(np.arange(bases), n)
        skill = level + 0.02 * np.arange(bases)
        finished = rng.random(n * bases) < 0.9
        write_parquet(
            pl.DataFrame(
                {
                    "base": base,
                    "problem_id": [f"p{i}" for i in range(n)] * bases,
                    "finished": finished,
                    "correct": finished & (rng.random(n * bases) < skill[base]),
                    "n_tokens": 6,
                }
            ),
            out / "samples.parquet",
        )
        write_parquet(
            pl.DataFrame(
                {
                    "base": np.repeat(np.arange(bases), 20),
                    "content": [f"f{i // 2}" for i in range(20)] * bases,
                    "hidden": [i < 16 for i in range(20)] * bases,
                    "recalled": (rng.random(20 * bases) < level).astype(int),
                }
            ),
            out / "probes.parquet",
        )
        write_parquet(
            pl.DataFrame({"base": np.arange(bases), "metric": "clean_nll", "value": 1 - skill}),
            out / "metrics.parquet",
        )
        write_json(out / "info.json", {"seconds": 2.0, "tokens": 200, "notes": ["a note"]})

    def _before(self, stage: str) -> None:
        if self.log:
            with open(self.log, "a", encoding="utf-8") as handle:
                handle.write(f"{stage} {os.environ.get('OMP_NUM_THREADS')} {os.environ.get('LD_PRELOAD', '-')}\n")
        time.sleep(self.sleep)
        if self.trouble == f"raise:{stage}":
            raise ZeroDivisionError("seventeen\nsecond line")
        if self.trouble == f"die:{stage}":
            os._exit(9)
        if self.trouble == f"full:{stage}":
            raise OSError(28, "No space left on device")


def _rng(seed: int, *names: object) -> np.random.Generator:
    return np.random.default_rng(derive(seed, *map(str, names)))


def _common(seed: int, draw: int, n: int) -> Any:
    return _rng(seed, "common", draw).random(n)


def study(**changes: Any) -> Study:
    raw: dict[str, Any] = {
        "name": "demo",
        "teacher": "embedded/teacher",
        "tasks": [{"kind": "facts"}],
        "release": {"n": 10},
        "defenses": [{"kind": "temperature", "delta": [0.1, 0.3]}, {"kind": "ads", "lam": [0.1, 0.4]}],
        "attacks": [{"kind": "sft"}],
        "students": [{"family": "embedded/student", "bases": 3}],
        "detectors": [],
        "draws": 2,
        "evaluation": {"problems": 40},
        "analysis": {"replicates": 200, "unit": "pair"},
    }
    return parse_study({**raw, **changes})


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
