"""The cost of a defended token against the bare teacher, side by side in one run.

    python benchmarks/decode_cost.py [--pair embedded|135m|both] [--quick] [--cpu-time] [--json FILE]

Every variant decodes the same 32 prompts for a fixed number of steps with the package's own lock-step
decoder; the end of sequence is disabled, so that all generate the same number of tokens. Variants take turns,
in a new random order each round; a round's figure is the median over its steps, and ratios are taken within
a round, so that a load on the machine hits both sides. Reported: median and quartiles over rounds.
`--cpu-time` counts processor instead of wall time, which is steadier where other processes compete for the
cores (one thread only). `--markdown` prints only the section of docs/benchmarks.md.

T  teacher alone: sampling included, no defense.
P  proxy alone: one `Stepper.advance`, its LM head included.
H  teacher's LM head alone, run where the decoder runs it: right after the trunk, whose weights have just
   displaced the head's from the processor's caches.

`map` is a logit map z + A(Bz) of rank 32 (purified logits), as another head or logit by logit; `shift unmerged`
adds a whole ΔW h to the logits (a trained head that is not merged).

Gradients and edits are random tensors: the cost does not depend on their values. The rules are built by the same
`bind` and `merge` as in a study; only the gradient is put in their place, and Δ is not normalized.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from azeotrope.core.sampling import Sampling
from azeotrope.defenses.ads import ADS, Direction
from azeotrope.defenses.base import Bench
from azeotrope.maths import lowrank
from azeotrope.models.decode import Batch, LogitRule, Session, StepView, decode
from azeotrope.models.gradients import ProxyGradient
from azeotrope.models.head_edit import EditRule, HeadShift, LogitMap
from azeotrope.models.lm import LM, embedded_names, load
from azeotrope.models.stepper import Stepper

ROWS = 32
SAMPLING = Sampling()
Bar = Callable[[float, float], float]
BARS: dict[str, tuple[str, Bar]] = {  # in P/T and H/T
    "finite_difference": ("1 + 2.2 P/T", lambda p, h: 1.0 + 2.2 * p),
    "head": ("1 + 1.2 P/T + 1.1 H/T", lambda p, h: 1.0 + 1.2 * p + 1.1 * h),
    "self": ("1 + 1.2 H/T", lambda p, h: 1.0 + 1.2 * h),
    "self merged": ("1.02", lambda p, h: 1.02),
    "map as head": ("1.02", lambda p, h: 1.02),
    "map unmerged": ("1.10", lambda p, h: 1.10),
    "shift unmerged": ("1 + 1.1 H/T", lambda p, h: 1.0 + 1.1 * h),
}
RANK = 32  # of the map z + A(Bz)


@dataclass(frozen=True)
class Pair:
    """A teacher, a proxy and how long to run them."""

    name: str
    teacher: LM
    proxy: LM
    prompt: tuple[int, int]
    steps: int
    rounds: int
    note: str
    clock: Callable[[], float] = time.perf_counter


@dataclass(frozen=True)
class Spread:
    """Median and quartiles over `n` rounds."""

    median: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}]"


def spread(values: Sequence[float]) -> Spread:
    quartiles = torch.quantile(torch.tensor(values, dtype=torch.float64), torch.tensor([0.25, 0.5, 0.75]).double())
    return Spread(float(quartiles[1]), float(quartiles[0]), float(quartiles[2]), len(values))


class Endless:
    """A tokenizer without an end of sequence."""

    eos_token_id = -1
    pad_token_id = 0

    def __init__(self, inner: Any = None) -> None:
        self.inner = inner

    def get_vocab(self) -> dict[str, int]:
        return {} if self.inner is None else dict(self.inner.get_vocab())


class Clock(LogitRule, Session):
    """Notes the time of every step; changes nothing."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.ticks: list[float] = []

    def open(self, batch: Batch) -> Session:
        return self

    def step(self, view: StepView) -> Tensor:
        self.ticks.append(self.clock())
        return view.logits_BV


class GivenDirection(ADS):
    """ADS with a random gradient in place of one from holdout traces."""

    def direction(self, bench: Bench) -> Direction:
        lm = bench.teacher if self.backend == "self" else bench.model(self.proxy)
        generator = torch.Generator().manual_seed(0)
        shapes = (
            {"head": lm.head.weight} if self.backend in ("head", "self") else dict(lm.model.named_parameters())
        )
        vectors = {n: torch.randn(p.shape, generator=generator) * 1e-3 for n, p in shapes.items()}
        return Direction(self, lm, ProxyGradient(vectors, 0.0, 1.0, 0), ())


def random_lm(name: str, family: str, **shape: Any) -> LM:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, max_position_embeddings=2048, **shape)
    return LM(AutoModelForCausalLM.from_config(config).eval(), Endless(), name, "random")


def parameters(lm: LM) -> float:
    return sum(p.numel() for p in lm.model.parameters()) / 1e6


def embedded_pair(quick: bool) -> Pair:
    run = {"prompt": (40, 60), "steps": 24, "rounds": 3 if quick else 80}
    if {"teacher", "proxy"} <= set(embedded_names()):
        loaded = [load(f"embedded/{name}") for name in ("teacher", "proxy")]
        teacher, proxy = (replace(lm, tokenizer=Endless(lm.tokenizer)) for lm in loaded)
        return Pair("embedded", teacher, proxy, note="embedded/teacher and embedded/proxy", **run)
    common = {"vocab_size": 1024, "tie_word_embeddings": False}

    def shape(hidden: int, layers: int, heads: int) -> dict[str, int]:
        return {
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "intermediate_size": 3 * hidden,
        }

    teacher = random_lm("teacher", "llama", **common, **shape(128, 4, 4))
    proxy = random_lm("proxy", "qwen2", **common, **shape(96, 3, 3))
    return Pair("embedded", teacher, proxy, note="random weights in the shapes of the embedded models", **run)


def large_pair(quick: bool) -> Pair:
    common = {"vocab_size": 49152, "tie_word_embeddings": True, "num_key_value_heads": 3}
    teacher = random_lm(
        "teacher",
        "llama",
        **common,
        hidden_size=576,
        num_hidden_layers=30,
        num_attention_heads=9,
        intermediate_size=1536,
    )
    proxy = random_lm(
        "proxy",
        "llama",
        **common,
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        intermediate_size=1024,
    )
    note = (
        f"random weights, embeddings tied: Llama of {parameters(teacher):.1f} M parameters "
        "(the shape of SmolLM-135M) "
        f"with a proxy of {parameters(proxy):.1f} M (hidden 384, 12 layers), vocabulary 49,152"
    )
    steps, rounds = (4, 2) if quick else (12, 9)
    return Pair("135m", teacher, proxy, prompt=(8, 16), steps=steps, rounds=rounds, note=note)


def variants(pair: Pair) -> dict[str, Callable[[], list[float]]]:
    """Each variant returns the seconds of every step of one run."""
    rng = random.Random(0)
    prompts = [[rng.randrange(2, 1000) for _ in range(rng.randint(*pair.prompt))] for _ in range(ROWS)]
    bench = Bench(teacher=pair.teacher, task=None, sampling=SAMPLING, load=lambda _: pair.proxy)  # type: ignore[arg-type]

    def defense(**settings: Any) -> GivenDirection:
        return GivenDirection(normalize=False, lam=0.1, **settings)

    def decoded(lm: LM, *rules: LogitRule) -> Callable[[], list[float]]:
        def run() -> list[float]:
            clock = Clock(pair.clock)
            decode(lm, prompts, range(ROWS), SAMPLING, rules=[*rules, clock], max_new_tokens=pair.steps)
            assert len(clock.ticks) == pair.steps, "a variant stopped early"
            return [b - a for a, b in zip(clock.ticks, clock.ticks[1:], strict=False)]

        return run

    def walked(lm: LM, whole: bool) -> Callable[[], list[float]]:
        def run() -> list[float]:
            stepper, seconds = Stepper(lm, hidden=not whole, logits=whole), []
            tokens_B = torch.full((ROWS,), 7)
            with torch.no_grad():
                stepper.prefill(prompts)
                for _ in range(pair.steps - 1):
                    begin = pair.clock()
                    out = stepper.advance(tokens_B)
                    if not whole:
                        begin = pair.clock()
                        pair.teacher.head(out.hidden_BD)
                    seconds.append(pair.clock() - begin)
            stepper.close()
            return seconds

        return run

    generator = torch.Generator().manual_seed(0)
    size, width = pair.teacher.head.weight.shape
    a_VR, b_RV = (1e-3 * torch.randn(shape, generator=generator) for shape in ((size, RANK), (RANK, size)))
    mapped = LogitMap(a_VR, lowrank.centered(b_RV))
    shifted = HeadShift(1e-3 * torch.randn(size, width, generator=generator))
    merged = defense(backend="self", merged=True).merge(bench)
    assert merged is not None
    return {
        "T": decoded(pair.teacher),
        "P": walked(pair.proxy, whole=True),
        "H": walked(pair.teacher, whole=False),
        **{
            name: decoded(pair.teacher, defense(backend=name).bind(bench))
            for name in ("finite_difference", "head", "self")
        },
        "self merged": decoded(merged),
        "map as head": decoded(pair.teacher, EditRule(mapped, 1.0)),
        "map unmerged": decoded(pair.teacher, EditRule(mapped, 1.0, merge=False)),
        "shift unmerged": decoded(pair.teacher, EditRule(shifted, 1.0, merge=False)),
    }


def measure(pair: Pair, note: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    runs = variants(pair)
    for run in runs.values():  # once for nothing: allocator, lazy imports
        run()
    rounds: list[dict[str, float]] = []
    rng = random.Random(1)
    for i in range(pair.rounds):
        order = list(runs)
        rng.shuffle(order)
        rounds.append({name: median(runs[name]()) for name in order})
        note(f"{pair.name} round {i + 1}/{pair.rounds}")
    ratios = [{name: r[name] / r["T"] for name in r} for r in rounds]
    rows = []
    for name, (formula, bar) in BARS.items():
        bars = [bar(r["P"], r["H"]) for r in ratios]
        slack = spread([b - r[name] for b, r in zip(bars, ratios, strict=True)])
        rows.append(
            {
                "variant": name,
                "ratio": asdict(spread([r[name] for r in ratios])),
                "bar": asdict(spread(bars)),
                "formula": formula,
                "slack": asdict(slack),
                "passed": slack.median >= 0.0,
            }
        )
    return {
        "pair": pair.name,
        "note": pair.note,
        "rows": ROWS,
        "prompt_tokens": pair.prompt,
        "steps": pair.steps,
        "milliseconds": {name: asdict(spread([1e3 * r[name] for r in rounds])) for name in runs},
        "P/T": asdict(spread([r["P"] for r in ratios])),
        "H/T": asdict(spread([r["H"] for r in ratios])),
        "variants": rows,
    }


def machine(cpu_time: bool = False) -> dict[str, Any]:
    load_1, _, _ = os.getloadavg()
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processor": processor(),
        "load": round(load_1, 2),
        "clock": "processor" if cpu_time else "wall",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )


def machine_line(m: dict[str, Any]) -> str:
    return (
        f"{m['date']}, {m['processor']}, {m['cores']} cores, {m['threads']} thread(s), load at start "
        f"{m['load']}, {m['clock']} time, torch {m['torch']}, Python {m['python']}."
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, *rows)]
    lines.insert(1, "|" + "---|" * len(head))
    return "\n".join(lines)


def markdown(report: dict[str, Any]) -> str:
    parts = [
        "## The cost of a defended token",
        f"`{report['command']}`",
        machine_line(report["machine"]),
        "One decoding step of a defended teacher over one of the bare teacher (T), batch 32, medians and "
        "quartiles over n rounds of side-by-side runs. P is a step of the proxy alone, H the teacher's LM "
        "head alone. Slack is bar minus cost within a round; a back-end is within its bar if the median "
        "of its slack is not negative.",
    ]
    for pair in report["pairs"]:
        n = pair["P/T"]["n"]
        ms = {name: f"{value['median']:.2f} ms" for name, value in pair["milliseconds"].items()}
        parts += [
            f"**{pair['pair']}**: {pair['note']}. Prompts of {pair['prompt_tokens'][0]} to "
            f"{pair['prompt_tokens'][1]} tokens, {pair['steps']} steps, n = {n} rounds. "
            f"T {ms['T']}, P {ms['P']}, H {ms['H']} a step; "
            f"P/T {Spread(**pair['P/T'])}, H/T {Spread(**pair['H/T'])}.",
            table(
                ["back-end", "cost / T", "bar", "", "slack", "within"],
                [
                    [
                        row["variant"],
                        str(Spread(**row["ratio"])),
                        f"{row['bar']['median']:.3f}",
                        row["formula"],
                        str(Spread(**row["slack"])),
                        "yes" if row["passed"] else "**no**",
                    ]
                    for row in pair["variants"]
                ],
            ),
        ]
    return "\n\n".join(parts) + "\n"


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pair", choices=("embedded", "135m", "both"), default="both")
    parser.add_argument("--quick", action="store_true", help="a few rounds, to see that it runs")
    parser.add_argument("--rounds", type=int, help="rounds, instead of the pair's own number")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cpu-time", action="store_true", help="count processor time (one thread only)")
    parser.add_argument("--json", type=Path, help="write the full report here")
    parser.add_argument("--markdown", action="store_true", help="print only the section of docs/benchmarks.md")
    args = parser.parse_args(argv)
    if args.cpu_time and args.threads != 1:
        parser.error("--cpu-time adds up all threads; use it with --threads 1")
    clock = time.process_time if args.cpu_time else time.perf_counter
    torch.set_num_threads(args.threads)
    command = " ".join(["python benchmarks/decode_cost.py", *(sys.argv[1:] if argv is None else argv)])
    makers = {"embedded": embedded_pair, "135m": large_pair}
    report: dict[str, Any] = {"command": command, "machine": machine(args.cpu_time), "pairs": []}
    for name, make in makers.items():
        if args.pair in (name, "both"):
            pair = make(args.quick)
            pair = replace(pair, rounds=args.rounds or pair.rounds, clock=clock)
            report["pairs"].append(measure(pair, (lambda _: None) if args.markdown else print))
    print(markdown(report))
    if args.json is not None:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    return report


if __name__ == "__main__":
    main()
