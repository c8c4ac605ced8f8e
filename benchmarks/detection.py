"""Extraction detection on simulated traffic: false alarms on legitimate customers, and what is found how soon.

    python benchmarks/detection.py [--quick] [--seeds N] [--questions FILE] [--json FILE]

Thresholds are set on benign traffic of one half of the phrase lists; the table is measured on the other half,
other seeds, and attacks that no calibration has seen. Chat subjects, batch templates, applications and test
templates of the two halves are different; what fills batch templates (products, tickets, addresses) is one
vocabulary. Attacks draw on made-up reasoning questions, or on a file of real ones (`--questions
.../gsm8k/test.jsonl`).

The first line is the legitimate batch customer that declared nothing. Then the cost of a request: inline and in
the worker, processor time of one core.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

from azeotrope.gateway.signals.bank import ROW_BYTES
from azeotrope.gateway.signals.calibration import Calibration
from azeotrope.gateway.signals.prompts import Reader
from azeotrope.gateway.signals.simulate.scenarios import QUICK_SCENARIOS, SCENARIOS
from azeotrope.gateway.signals.simulate.table import Row, markdown, measure
from azeotrope.gateway.signals.simulate.thieves import from_file, made_up
from azeotrope.gateway.signals.simulate.trial import (
    CALIBRATED_ON,
    QUICK_ALPHA,
    QUICK_SIZES,
    SETTINGS,
    calibrate,
)
from azeotrope.gateway.signals.simulate.world import day, population
from azeotrope.gateway.signals.watch import Watch

SEEDS = 8


def cost(calibration: Calibration, tenants: int) -> dict[str, float]:
    """Microseconds of processor time a request: what the serving thread pays, and what the worker pays."""
    actors = population(Random("cost"), "b", {"chat": tenants, "batch": max(1, tenants // 8)})
    traffic = [item.seen for item in day(actors, Reader(), Random("cost"), others=0)]
    watch = Watch(SETTINGS.model_copy(update={"queue": len(traffic)}), calibration)
    begin = time.process_time()
    for seen in traffic:
        watch.observe(seen)
    inline = time.process_time() - begin
    begin = time.process_time()
    watch.drain()
    worker = time.process_time() - begin
    begin = time.process_time()
    for seen in traffic:
        watch.stance(seen.key, seen.time)
    stance = time.process_time() - begin
    return {
        name: 1e6 * seconds / len(traffic)
        for name, seconds in (("observe", inline), ("stance", stance), ("worker", worker))
    }


def reasons(rows: Sequence[Row]) -> str:
    """Which signals carried the first alarms, per hostile scenario."""
    lines = [
        f"- {row.scenario}: {', '.join(f'{code} {count}' for code, count in row.codes) or 'nothing was raised'}"
        for row in rows
        if row.hostile
    ]
    return "\n".join(lines)


def page(
    calibration: Calibration, rows: Sequence[Row], costs: dict[str, float], seconds: float, seeds: int
) -> str:
    machine = f"{platform.machine()}, Python {platform.python_version()}"
    return (
        f"{seeds} days of every scenario; first rung at a score of {calibration.rises[0]:.2f}, set so that at "
        f"most {calibration.alpha:.0%} of benign key-days reach it in every group "
        f"({calibration.key_days} key-days); p0 = {calibration.p0:.3f}.\n\n"
        f"{markdown(rows)}\n"
        "Intervals: 95 %, Student t over seeds; without a single alarm the exact Poisson bound; shares and "
        "AUC of 0 and 1, and days found: Wilson.\n\n"
        "Signals behind the first alarms of hostile keys:\n\n"
        f"{reasons(rows)}\n\n"
        f"A request costs {costs['observe']:.0f} µs inline, {costs['stance']:.1f} µs for its stance and "
        f"{costs['worker']:.0f} µs in the worker; a key or a tenant {ROW_BYTES:,} bytes in the worker "
        f"({machine}; the whole run took {seconds:.0f} s of processor time).\n"
    )


def run(arguments: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Run the benchmark; return its page and its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two days of four scenarios, a small calibration")
    parser.add_argument("--seeds", type=int, default=SEEDS, metavar="N", help="days of every scenario")
    parser.add_argument("--questions", type=Path, metavar="FILE", help="JSON lines to draw questions from")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures, too")
    options = parser.parse_args(arguments)
    begin = time.process_time()
    quick = options.quick
    calibration = calibrate(
        sizes=QUICK_SIZES if quick else CALIBRATED_ON, alpha=QUICK_ALPHA if quick else 0.01
    )  # fmt: skip
    seeds = range(2 if quick else options.seeds)
    ask = from_file(options.questions) if options.questions else made_up
    rows = measure(
        calibration, seeds, scenarios=QUICK_SCENARIOS if quick else SCENARIOS, ask=ask,
        told=lambda name: print(name, file=sys.stderr),
    )  # fmt: skip
    costs = cost(calibration, 8 if quick else 60)
    seconds = time.process_time() - begin
    figures = {
        "rows": [asdict(row) for row in rows], "microseconds": costs, "seconds": seconds,
        "rises": calibration.rises, "p0": calibration.p0, "key_days": calibration.key_days,
    }  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))
    return page(calibration, rows, costs, seconds, len(seeds)), figures


if __name__ == "__main__":
    print(run(sys.argv[1:])[0])
