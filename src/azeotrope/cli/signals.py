"""`signals`: extraction detection on real logs, on simulated traffic, and its calibration."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from azeotrope.cli.out import AsJson, emit, say, show, table

if TYPE_CHECKING:
    from azeotrope.gateway.signals.calibration import Calibration
    from azeotrope.gateway.signals.reasons import Alarm, Reason
    from azeotrope.gateway.signals.simulate.table import Row

SHOWN = 20  # lines that could not be read and are named one by one
SEEDS = 8

app = typer.Typer(
    help="Detect extraction: calibrate on benign traffic, replay logs, simulate.", no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip

SecretEnv = Annotated[
    str,
    typer.Option(
        metavar="NAME", help="Environment variable with the secret under which prompts and metadata are hashed."
    ),
]
Questions = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Draw the harvested questions from JSON lines such as GSM8K."),
]


@app.callback()
def _signals() -> None:
    """Detect extraction: calibrate on benign traffic, replay logs, simulate."""


@app.command("replay")
def replay_(
    log: Annotated[
        Path, typer.Argument(metavar="LOG", show_default=False, help="JSON lines: time, key, tenant, prompt, ...")
    ],
    calibration: Annotated[Path, typer.Option(metavar="FILE", help="What `azeotrope signals calibrate` wrote.")],
    secret_env: SecretEnv = "AZEOTROPE_SIGNALS_SECRET",
    as_json: AsJson = False,
) -> None:
    """Run a log through the detection and list the alarms with their reasons."""
    from azeotrope.core.errors import RunError
    from azeotrope.gateway.signals.calibration import load
    from azeotrope.gateway.signals.replay import replay

    complain = _Complaints(log)
    report = replay(log, load(calibration), secret=_secret(secret_env), complain=complain)
    complain.close()
    snapshot = report.snapshot
    found: dict[str, Any] = {
        "log": log, "lines": report.lines, "malformed": report.malformed, "out_of_order": report.disordered,
        "keys": snapshot.keys, "tenants": snapshot.tenants, "clusters": snapshot.clusters,
        "discoveries": report.discoveries, "alarms": [_alarm(alarm) for alarm in report.alarms],
    }  # fmt: skip
    if as_json:
        emit(found)
    else:
        _tell(report.alarms, found)
    if report.malformed:
        raise RunError(
            f"{report.malformed} of {report.lines} lines of '{log}' could not be read and were left out; "
            "the rest was replayed."
        )


@app.command("calibrate")
def calibrate_(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Calibration to write (JSON).")],
    log: Annotated[
        Path | None,
        typer.Argument(metavar="[LOG]", show_default=False, help="Benign traffic, JSON lines in order of time."),
    ] = None,
    simulated: Annotated[
        bool, typer.Option("--simulated", help="Calibrate on simulated traffic: for trying things out only.")
    ] = False,
    alpha: Annotated[
        float,
        typer.Option(min=1e-4, max=0.5, metavar="SHARE", help="Share of benign key-days that may be raised."),
    ] = 0.01,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the simulated traffic.")] = 0,
    secret_env: SecretEnv = "AZEOTROPE_SIGNALS_SECRET",
    as_json: AsJson = False,
) -> None:
    """Learn from benign traffic what is usual, and where the response begins."""
    from azeotrope.core.errors import ConfigError
    from azeotrope.gateway.signals.calibration import save
    from azeotrope.gateway.signals.simulate.trial import calibrate

    if (log is None) == (not simulated):
        raise ConfigError("Give either a LOG of benign traffic or --simulated.")
    secret = _secret(secret_env)
    made = calibrate(seed=seed, alpha=alpha, secret=secret) if log is None else _from_log(log, secret, alpha)
    save(made, out)
    found = {
        "out": out, "p0": made.p0, "first_rise": made.rises[0], "share_of_key_days": made.alpha,
        "key_days": made.key_days, "volumes": made.volumes,
    }  # fmt: skip
    if as_json:
        emit(found)
    else:
        show(*(f"{name:18} {_plain(value)}" for name, value in found.items()))


@app.command("simulate")
def simulate_(
    calibration: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Calibration to use (default: one on simulated traffic).")
    ] = None,
    seeds: Annotated[int, typer.Option(min=2, metavar="N", help="Days of every scenario.")] = SEEDS,
    questions: Questions = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Two days of four scenarios, a small calibration: a smoke test.")
    ] = False,
    secret_env: SecretEnv = "AZEOTROPE_SIGNALS_SECRET",
    as_json: AsJson = False,
) -> None:
    """Measure the detection on simulated traffic that the calibration has not seen."""
    from azeotrope.gateway.signals.calibration import load
    from azeotrope.gateway.signals.simulate.scenarios import QUICK_SCENARIOS, SCENARIOS
    from azeotrope.gateway.signals.simulate.table import markdown, measure
    from azeotrope.gateway.signals.simulate.thieves import from_file, made_up

    ask = from_file(questions) if questions else made_up
    made = load(calibration) if calibration else _simulated(quick)
    rows = measure(
        made, range(2 if quick else seeds), scenarios=QUICK_SCENARIOS if quick else SCENARIOS, ask=ask,
        secret=_secret(secret_env) if calibration else b"", told=say,
    )  # fmt: skip
    emit({"rows": [_row(row) for row in rows]}) if as_json else show(markdown(rows))


def _simulated(quick: bool) -> Calibration:
    from azeotrope.gateway.signals.simulate.trial import QUICK_ALPHA, QUICK_SIZES, calibrate

    return calibrate(sizes=QUICK_SIZES, alpha=QUICK_ALPHA) if quick else calibrate()


def _from_log(log: Path, secret: bytes, alpha: float) -> Calibration:
    """Calibrate on a log, its tenants dealt into three parts by hash; a bad line is an error here."""
    from azeotrope.core.errors import RunError
    from azeotrope.gateway.signals.fit import fit
    from azeotrope.gateway.signals.replay import Log, part_of

    complain = _Complaints(log)
    whole = Log(log, secret, complain)
    made = fit([part_of(whole, i) for i in range(3)], secret=secret, alpha=alpha)
    if whole.malformed:
        complain.close()
        raise RunError(f"{whole.malformed} lines of '{log}' could not be read; calibrate on a clean log.")
    return made


class _Complaints:
    """Says which lines could not be read, the first few of them."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._lines: dict[int, None] = {}

    def __call__(self, number: int, why: str) -> None:
        if number not in self._lines and len(self._lines) < SHOWN:
            say(f"{self._log}, line {number}: {why}.")
        self._lines[number] = None

    def close(self) -> None:
        """Say how many more there were."""
        if len(self._lines) > SHOWN:
            say(f"... and {len(self._lines) - SHOWN} more.")


def _secret(name: str) -> bytes:
    return os.environ.get(name, "").encode()


def _tell(alarms: tuple[Alarm, ...], found: dict[str, Any]) -> None:
    rows = [
        [f"{alarm.time:.0f}", alarm.level, alarm.name, f"{alarm.before} → {alarm.after}",
         "; ".join(f"{reason.code}: {reason.text} (e = {reason.evalue:g})" for reason in alarm.reasons)]
        for alarm in alarms
    ]  # fmt: skip
    table("Alarms", ("time", "level", "name", "stance", "reasons"), rows)
    names = ("lines", "malformed", "out_of_order", "keys", "tenants", "clusters")
    show(*(f"{name:13} {found[name]}" for name in names))
    if found["discoveries"]:
        show(f"{'discoveries':13} {', '.join(found['discoveries'])} (tenants, false-discovery rate 5 %)")


def _alarm(alarm: Alarm) -> dict[str, Any]:
    return {
        "time": alarm.time, "level": alarm.level, "name": alarm.name, "before": alarm.before, "after": alarm.after,
        "reasons": [_reason(reason) for reason in alarm.reasons],
    }  # fmt: skip


def _reason(reason: Reason) -> dict[str, Any]:
    return {"code": reason.code, "level": reason.level, "text": reason.text, "evalue": reason.evalue}


def _row(row: Row) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(row)


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(f"{part:.4g}" for part in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
