"""Antidistillation sampling: our decoder against the procedure as published, on the same work.

    python benchmarks/published_ads.py [--problems N] [--batch B ...] [--repeats R] [--quick] [--cpu-time]

The baseline is written here from the description of the published procedure: transformers' `generate()`
samples from the teacher in static batches (a finished row runs on, padded, until the longest ends); a logits
processor calls the proxies at θ+εg and θ−εg one after the other at every token, each with a `DynamicCache`
(copied by concatenation at every token), and reads prompts with logits for every position. Two things are
made right in its favor: caches are fresh in every batch, and padded rows get their position ids.

Both sides use the same perturbed proxies, λ, temperature, prompts, batch size and token limit, and sample
from the same distribution: `generate()` divides by the temperature after its processors, so that the baseline
adds λτΔ where ours adds λΔ. They draw with different generators, so that traces and their lengths differ by
chance: compared are useful tokens (up to and including a row's end) per second. `wall` compares whole runs.

The ablations take one thing away from ours at a time. Variants take turns, in a new random order each
repeat; ratios are taken within a repeat and given as geometric mean with a 95 % interval (t, on logarithms).
`--json FILE` and `--markdown` as in decode_cost.py.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any
from unittest.mock import patch

import torch
from decode_cost import machine, machine_line, table
from scipy.stats import t as student_t
from torch import Tensor
from transformers import DynamicCache, LogitsProcessor, LogitsProcessorList

from azeotrope.core.sampling import Sampling
from azeotrope.core.types import Problem
from azeotrope.defenses.ads import ADS, AntidistillRule
from azeotrope.defenses.base import Bench
from azeotrope.models import decode as decoding
from azeotrope.models import stepper
from azeotrope.models.lm import LM, load
from azeotrope.tasks.lookup import Lookup

Rows = list[tuple[int, ...]]
BAR = 2.0


class PublishedProcessor(LogitsProcessor):
    """Adds `factor`·(log p(θ+εg) − log p(θ−εg)); one batch each."""

    def __init__(self, plus: LM, minus: LM, mask_BT: Tensor, factor: float) -> None:
        self.models = (plus.model, minus.model)
        self.caches = (DynamicCache(), DynamicCache())
        self.mask_BT, self.factor = mask_BT, factor

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        grown = input_ids.shape[1] - self.mask_BT.shape[1]
        if grown:
            self.mask_BT = torch.cat([self.mask_BT, self.mask_BT.new_ones(len(input_ids), grown)], dim=1)
            input_ids = input_ids[:, -grown:]
        positions_BT = (self.mask_BT.cumsum(-1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
        plus, minus = (
            torch.log_softmax(
                model(
                    input_ids=input_ids,
                    attention_mask=self.mask_BT,
                    position_ids=positions_BT,
                    past_key_values=cache,
                    use_cache=True,
                ).logits[:, -1],
                dim=-1,
            )
            for model, cache in zip(self.models, self.caches, strict=True)
        )
        return scores + self.factor * (plus - minus)


@cache
def pair_of(rule: AntidistillRule) -> tuple[LM, LM]:
    """θ + ε and θ − ε as models of their own."""
    return rule.direction.perturbed(1.0), rule.direction.perturbed(-1.0)


def generated(
    teacher: LM,
    rule: AntidistillRule | None,
    prompts: Rows,
    sampling: Sampling,
    limit: int,
    batch: int,
    seed: int,
) -> Rows:
    """The baseline: completions up to and including the end of sequence. Without a rule: undefended."""
    torch.manual_seed(seed)
    rows: Rows = []
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch]
        longest = max(map(len, part))
        ids_BT = torch.tensor([[teacher.pad] * (longest - len(p)) + list(p) for p in part])
        mask_BT = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in part])
        processors = LogitsProcessorList()
        if rule is not None:
            factor = rule.settings.lam * sampling.temperature / rule.direction.scale / rule.direction.divisor
            processors.append(PublishedProcessor(*pair_of(rule), mask_BT, factor))
        with torch.no_grad():
            out = teacher.model.generate(
                ids_BT,
                attention_mask=mask_BT,
                do_sample=True,
                temperature=sampling.temperature,
                top_k=0,
                top_p=1.0,
                max_new_tokens=limit,
                eos_token_id=teacher.eos,
                pad_token_id=teacher.pad,
                logits_processor=processors,
            )
        for row in out[:, longest:].tolist():
            rows.append(tuple(row[: row.index(teacher.eos) + 1] if teacher.eos in row else row))
    return rows


class ConcatCache(DynamicCache):
    """transformers' own growing cache, with what the stepper asks of a cache."""

    def select(self, rows: Tensor) -> None:
        self.batch_select_indices(rows)

    def close(self) -> None:
        self.layers.clear()


@contextmanager
def without(*parts: str) -> Iterator[None]:
    """Take `compaction` or the roomy `cache` away from our decoder."""
    never = patch.object(decoding, "_COMPACT_BELOW", 0.0 if "compaction" in parts else decoding._COMPACT_BELOW)
    copying = patch.object(stepper, "RoomyCache", ConcatCache if "cache" in parts else stepper.RoomyCache)
    with never, copying:
        yield


@dataclass(frozen=True)
class Work:
    """What every variant does."""

    teacher: LM
    rules: dict[str, Any]
    problems: list[Problem]
    prompts: Rows
    sampling: Sampling
    limit: int
    batch: int

    def ours(self, rule: str | None, *missing: str) -> Callable[[int], Rows]:
        def run(seed: int) -> Rows:
            with without(*missing):
                samples = decoding.decode(
                    self.teacher,
                    self.prompts,
                    [seed * 1_000_003 + i for i in range(len(self.prompts))],
                    self.sampling,
                    rules=[] if rule is None else [self.rules[rule]],
                    max_new_tokens=self.limit,
                    batch_size=self.batch,
                )
            return [sample.ids for sample in samples]

        return run

    def published(self, rule: str | None) -> Callable[[int], Rows]:
        bound = None if rule is None else self.rules[rule]
        return lambda seed: generated(
            self.teacher, bound, self.prompts, self.sampling, self.limit, self.batch, seed
        )

    def variants(self) -> dict[str, Callable[[int], Rows]]:
        fd = "finite_difference"
        return {
            "published procedure": self.published(fd),
            "ours, finite differences": self.ours(fd),
            "ours, without compaction": self.ours(fd, "compaction"),
            "ours, concatenating caches": self.ours(fd, "cache"),
            "ours, without either": self.ours(fd, "compaction", "cache"),
            "ours, head back-end": self.ours("head"),
            "undefended, generate()": self.published(None),
            "undefended, ours": self.ours(None),
        }


def prepare(teacher: str, proxy: str, problems: int, batch: int, holdout: int, lam: float) -> Work:
    lm, task, sampling = load(teacher), Lookup(), Sampling()
    chosen = task.problems("test", problems, 0)
    bench = Bench(teacher=lm, task=task, sampling=sampling)
    rules = {
        name: ADS(backend=name, proxy=proxy, lam=lam, holdout=holdout, holdout_max=holdout).bind(bench)
        for name in ("finite_difference", "head")
    }
    prompts = [tuple(ids) for ids in lm.encode_many([p.prompt for p in chosen])]
    return Work(lm, rules, chosen, prompts, sampling, task.max_new_tokens, batch)


def interval(ratios: Sequence[float]) -> dict[str, float]:
    """Geometric mean and its 95 % interval."""
    logs = [math.log(r) for r in ratios]
    n = len(logs)
    half = float(student_t.ppf(0.975, n - 1)) * stdev(logs) / math.sqrt(n) if n > 1 else math.inf
    center = fmean(logs)
    return {
        "ratio": math.exp(center),
        "low": math.exp(center - half),
        "high": math.exp(center + half),
        "n": n,
    }


def measure(
    work: Work,
    repeats: int,
    note: Callable[[str], None] = lambda _: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    runs = work.variants()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    tokens: dict[str, list[int]] = {name: [] for name in runs}
    correct: dict[str, list[float]] = {name: [] for name in runs}
    rng, task = random.Random(1), Lookup()
    for repeat in range(repeats):
        order = list(runs)
        rng.shuffle(order)
        for name in order:
            begin = clock()
            rows = runs[name](repeat)
            seconds[name].append(clock() - begin)
            tokens[name].append(sum(map(len, rows)))
            graded = [task.grade(p, work.teacher.decode(r)) for p, r in zip(work.problems, rows, strict=True)]
            correct[name].append(fmean(g.correct for g in graded))
        note(f"repeat {repeat + 1}/{repeats}")
    base = "published procedure"

    def rates(name: str) -> list[float]:
        return [n / s for n, s in zip(tokens[name], seconds[name], strict=True)]

    rows_out = [
        {
            "variant": name,
            "seconds": median(seconds[name]),
            "tokens_per_second": median(rates(name)),
            "tokens_per_row": fmean(tokens[name]) / len(work.prompts),
            "correct": fmean(correct[name]),
            "speed": interval([a / b for a, b in zip(rates(name), rates(base), strict=True)]),
            "wall": interval([b / a for a, b in zip(seconds[name], seconds[base], strict=True)]),
        }
        for name in runs
    ]
    ours = next(row for row in rows_out if row["variant"] == "ours, finite differences")
    return {
        "problems": len(work.prompts),
        "batch": work.batch,
        "limit": work.limit,
        "repeats": repeats,
        "teacher": work.teacher.ref,
        "proxy": work.rules["head"].direction.lm.ref,
        "variants": rows_out,
        "bar": BAR,
        "passed": ours["speed"]["ratio"] >= BAR,
        "passed_surely": ours["speed"]["low"] >= BAR,
    }


def shown(value: dict[str, float]) -> str:
    return f"{value['ratio']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"


def markdown(report: dict[str, Any]) -> str:
    parts = [
        "## Antidistillation sampling against the published procedure",
        f"`{report['command']}`",
        machine_line(report["machine"]),
        "Useful tokens per second relative to the published procedure (`generate()`, two sequential proxies "
        "in a logits processor, static batches), the same prompts, models, λ and limits; geometric mean over "
        "repeats with 95 % interval. Rows below the first two take one thing away from ours, or change the "
        "question.",
    ]
    for run in report["runs"]:
        verdict = (
            "yes" if run["passed_surely"] else "yes, but the interval includes less" if run["passed"] else "**no**"
        )
        parts += [
            f"**Batch {run['batch']}**: teacher {run['teacher']}, proxy {run['proxy']}, {run['problems']} "
            f"problems of `lookup`, at most {run['limit']} tokens, n = {run['repeats']} repeats. At least "
            f"{run['bar']:.0f} times as fast: {verdict}.",
            table(
                ["variant", "speed", "wall time saved", "tokens/s", "seconds", "tokens a row", "correct"],
                [
                    [
                        row["variant"],
                        shown(row["speed"]),
                        shown(row["wall"]),
                        f"{row['tokens_per_second']:.0f}",
                        f"{row['seconds']:.1f}",
                        f"{row['tokens_per_row']:.1f}",
                        f"{row['correct']:.3f}",
                    ]
                    for row in run["variants"]
                ],
            ),
        ]
    return "\n\n".join(parts) + "\n"


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--teacher", default="embedded/teacher")
    parser.add_argument("--proxy", default="embedded/proxy")
    parser.add_argument("--problems", type=int, default=384)
    parser.add_argument("--batch", type=int, nargs="+", default=[192, 32], help="batch sizes to run")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--holdout", type=int, default=128)
    parser.add_argument("--lam", type=float, default=0.2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="few problems, two repeats, to see that it runs")
    parser.add_argument("--cpu-time", action="store_true", help="count processor time (one thread only)")
    parser.add_argument("--json", type=Path, help="write the full report here")
    parser.add_argument("--markdown", action="store_true", help="print only the section of docs/benchmarks.md")
    args = parser.parse_args(argv)
    if args.quick:
        args.problems, args.batch, args.repeats, args.holdout = min(args.problems, 24), [12], 2, 16
    if args.cpu_time and args.threads != 1:
        parser.error("--cpu-time adds up all threads; use it with --threads 1")
    clock = time.process_time if args.cpu_time else time.perf_counter
    torch.set_num_threads(args.threads)
    command = " ".join(["python benchmarks/published_ads.py", *(sys.argv[1:] if argv is None else argv)])
    report: dict[str, Any] = {"command": command, "machine": machine(args.cpu_time), "runs": []}
    note = (lambda _: None) if args.markdown else print
    for batch in args.batch:
        work = prepare(args.teacher, args.proxy, args.problems, batch, args.holdout, args.lam)
        report["runs"].append(measure(work, args.repeats, note, clock))
    print(markdown(report))
    if args.json is not None:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    return report


if __name__ == "__main__":
    main()
