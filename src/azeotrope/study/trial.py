"""Run a trial: its parts one after the other, then the verdicts, as files that say what they rest on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from azeotrope.study.claims import Trial
from azeotrope.study.forecast import Forecast
from azeotrope.study.origin import code_revision
from azeotrope.study.plan import Plan, make_plan, remaining
from azeotrope.study.run import MANIFEST, default_stages, dry_run_of, run
from azeotrope.study.specs import Stages
from azeotrope.study.store import DONE, Store, disk, read_json, write_bytes, write_json, write_parquet
from azeotrope.study.tables import TaskData, load_task
from azeotrope.study.verdicts import Finding, Verdict, decide, findings_table


@dataclass(frozen=True, slots=True)
class TrialResult:
    """The folder, the verdicts, what they rest on, and the facts as `claims.json` holds them."""

    folder: Path
    verdicts: list[Verdict]
    findings: list[Finding]
    facts: dict[str, Any]

    @property
    def unfinished(self) -> list[str]:
        """Parts that have not been run to their end."""
        return list(self.facts["unfinished"])


def run_trial(
    trial: Trial,
    *,
    runs: Path = Path("runs"),
    parts: Sequence[str] = (),
    workers: int = 1,
    threads: int = 1,
    stages: Stages | None = None,
    console: Console | None = None,
) -> TrialResult:
    """Run (or continue) the parts, and decide the claims of those that are complete.

    `parts` restricts what is run now; claims on parts that are not complete are left out. Writes
    `claims.parquet`, `claims.json` and `claims.md` into `runs`/<trial>. Raises what `run` raises.
    """
    working = stages or default_stages()
    for part in parts or tuple(trial.parts):
        run(trial.study(part), runs=runs, workers=workers, threads=threads, stages=working, console=console)
    return conclude(trial, runs=runs, stages=working)


def forecast_trial(
    trial: Trial, *, runs: Path, workers: int, parts: Sequence[str] = (), stages: Stages | None = None
) -> list[Forecast]:
    """What running each part (by default all) would do; steps that parts share are counted in each."""
    chosen = parts or tuple(trial.parts)
    return [dry_run_of(trial.study(part), runs=runs, workers=workers, stages=stages) for part in chosen]


def conclude(trial: Trial, *, runs: Path, stages: Stages | None = None) -> TrialResult:
    """Decide the claims of the finished parts and write the trial's files; run nothing."""
    store, working = Store(runs), stages or default_stages()
    measured: dict[str, tuple[Plan, dict[str, TaskData]]] = {}
    done: dict[str, Any] = {}
    seconds: dict[tuple[str, str], float] = {}
    for part in trial.parts:
        study = trial.study(part)
        manifest = store.root / study.name / MANIFEST
        plan = make_plan(study, working)
        if not manifest.is_file() or remaining(plan.work, store):
            continue
        measured[part] = (plan, {t.label: load_task(plan, store, t.label) for t in plan.expansion.tasks})
        own = {
            (s.stage, s.id): float(read_json(store.folder(s.stage, s.id) / DONE)["seconds"]) for s in plan.steps
        }
        seconds |= own
        done[part] = {
            "study_hash": study.hash,
            "steps": len(plan.work),
            "core_hours": round(sum(own.values()) / 3600, 3),
            "code_rev": read_json(manifest).get("code_rev"),
            "created": read_json(manifest).get("created"),
            "made": read_json(manifest).get("made"),
        }
    decidable = trial.model_copy(update={"claims": tuple(c for c in trial.claims if c.part in measured)})
    verdicts, findings = decide(decidable, measured)
    hours = sum(seconds.values()) / 3600
    folder = store.root / trial.name
    with disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
    facts = {
        "trial_hash": trial.hash,
        "code_rev": code_revision(),
        "core_hours": round(hours, 3),
        "parts": done,
        "unfinished": [part for part in trial.parts if part not in measured],
        "verdicts": [{k: _plain(v) for k, v in asdict(verdict).items()} for verdict in verdicts],
    }
    write_bytes(
        folder / "trial.yaml",
        str(yaml.safe_dump(trial.model_dump(mode="json"), sort_keys=False, allow_unicode=True)).encode(),
    )
    write_parquet(findings_table(findings), folder / "claims.parquet")
    write_bytes(folder / "claims.md", markdown(trial, verdicts, findings, facts).encode())
    write_json(folder / "claims.json", facts)
    return TrialResult(folder, verdicts, findings, facts)


def markdown(trial: Trial, verdicts: Sequence[Verdict], findings: Sequence[Finding], facts: dict[str, Any]) -> str:
    """The verdicts and what they rest on, as a page."""
    lines = [
        f"# Trial `{trial.name}`",
        "",
        f"Trial {facts['trial_hash'][:16]}, code {facts['code_rev']}; "
        f"{facts['core_hours']:.1f} hours of one core. "
        "Differences are in points (hundredths); MDD is the difference that a paired test of these seeds finds "
        f"with 80 % power. Smallest difference worth having: {100 * trial.margin:g} points.",
        "",
    ]
    if facts["unfinished"]:
        lines += [f"Not finished, and so not decided: {', '.join(facts['unfinished'])}.", ""]
    lines += ["| claim | | task | verdict | p (Holm) | MDD | remark |", "|---|---|---|---|---|---|---|"]
    lines += [
        f"| {v.claim} | {v.text} | {v.task} | **{v.verdict}** | {_number(v.p_holm, 3)} | {_points(v.mdd)} "
        f"| {v.reason} |"
        for v in verdicts
    ]
    lines += ["", "## What the verdicts rest on", ""]
    lines += [
        "| claim | task | student | effect (positive: as claimed) | points | interval | p | MDD | n "
        "| seeds | needed | reads |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {f.claim} | {f.task} | {f.student.rpartition('/')[2]} | {f.effect} | {_points(f.value)} "
        f"| [{_points(f.low)}, {_points(f.high)}] | {_number(f.p, 3)} | {_points(f.mdd)} | {f.n} | {f.n_seeds} "
        f"| {f.seeds_needed or '–'} | {f.reading}{': ' + f.note if f.note else ''} |"
        for f in findings
    ]
    return "\n".join(lines) + "\n"


def _points(value: float) -> str:
    return _number(100 * value, 1)


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".replace("-", "−") if math.isfinite(value) else "–"


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
