"""What it takes to train purified logits: time, and the largest tensor of the Gram trick.

    python benchmarks/purifier.py [--task lookup|arithmetic|both] [--quick] [--markdown]

Trains `cmi` with its defaults on the embedded teacher (holdout traces included) and reports wall time, the cosine
and the teacher's accuracy. Then the cosine of two LM-head gradients is taken by the Gram trick and with the
gradients themselves, forward and backward, on random errors in the shapes of a 7 B model's head: reported are the
largest tensor that either makes, in elements of the V × D gradient, and the growth of the process's peak memory.
Last, the map is trained for an epoch on random inputs of heads in the shape of SmolLM-135M's, text in pieces as it
always is and held whole: growth of peak memory, time, and what was trained.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from decode_cost import machine, machine_line, table
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from azeotrope.core.sampling import Sampling
from azeotrope.core.types import Trace
from azeotrope.defenses.base import Bench
from azeotrope.defenses.cmi import CMI
from azeotrope.maths import lowrank
from azeotrope.models import corpus
from azeotrope.models.head_training import Training, train
from azeotrope.models.learnable import LearnableMap
from azeotrope.models.lm import LM, load
from azeotrope.models.purify import Cosine
from azeotrope.models.tail import Tail
from azeotrope.study.service import make_task

SHAPE = (256, 152064, 3584)  # tokens, vocabulary and width: a batch of Qwen2.5-7B's head
BAR = 300.0  # seconds
TEXT = (24, 200, 49152, 576)  # traces, tokens of each, vocabulary and width: SmolLM-135M's head
RANK = 32


class Largest(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for x in found if isinstance(found, (tuple, list)) else (found,):
            if isinstance(x, Tensor) and func is not torch.ops.aten.t.default:
                self.numel = max(self.numel, x.numel())
        return found


def explicit(first_NV: Tensor, second_NV: Tensor, hidden_ND: Tensor) -> Tensor:
    """The same cosine from the gradients themselves."""
    one, other = (e.T @ hidden_ND for e in (first_NV, second_NV))
    return torch.nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0)


FORMS = {"Gram trick": lowrank.cosine, "gradients": explicit}


def footprint(form: Callable[..., Tensor], shape: tuple[int, int, int]) -> dict[str, float]:
    """Largest tensor, and growth of peak memory beyond the inputs, forward and backward."""
    n, size, width = shape
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(n, size, generator=generator) for _ in range(2))
    hidden = torch.randn(n, width, generator=generator)
    second.requires_grad_()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with Largest() as largest:
        value = form(first, second, hidden)
        value.backward()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "largest": largest.numel / (size * width),
        "inputs": n * size / (size * width),
        "megabytes": (after - before) / 1024,
        "cosine": float(value.detach()),
    }


def apart(form: Callable[..., Any], *args: Any) -> Any:
    """In a process of its own, so that peaks do not add up."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(form, args)


def text(shape: tuple[int, int, int, int]) -> corpus.Corpus:
    """Random inputs of two heads, and labels, in the shape of a corpus."""
    traces, length, size, width = shape
    generator = torch.Generator().manual_seed(0)
    n = traces * length
    views = []
    for _ in range(2):
        head = torch.nn.Linear(width, size, bias=False)
        torch.nn.init.normal_(head.weight, std=0.05, generator=generator)
        views.append(corpus.View(torch.randn(n, width, generator=generator), Tail(head), size))
    empty = Trace(problem_id="", prompt="", text="", finished=True, n_tokens=length)
    return corpus.Corpus(
        traces=(empty,) * traces,
        slices=tuple(slice(i * length, (i + 1) * length) for i in range(traces)),
        labels_N=torch.randint(0, 20, (n,), generator=generator),
        reasoning_N=torch.ones(n, dtype=torch.bool),
        teacher=views[0],
        others=(views[1],),
    )


def held(whole: bool, shape: tuple[int, int, int, int], threads: int) -> dict[str, Any]:
    """Growth of peak memory over an epoch of training, and what was trained."""
    torch.set_num_threads(threads)
    if whole:
        corpus.ROOM = 2**60
    objective = Cosine(
        text(shape), LearnableMap(shape[2], RANK, seed=1), cast(LM, None)
    )  # its head is in the text
    plan = Training(epochs=1, batch_size=shape[0] // 3, checks=1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.perf_counter()
    trained = train(objective, plan, seed=1, accuracy=lambda edit: 1.0)
    seconds = time.perf_counter() - begin
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "megabytes": (after - before) / 1024,
        "seconds": seconds,
        "cosine": trained.chosen.measure,
        "kl": trained.notes["kl"],
    }


def trained(kind: str, quick: bool) -> dict[str, Any]:
    """Train the default map for a task; figures that `told` records, and the time."""
    bench = Bench(load("embedded/teacher"), make_task({"kind": kind}), Sampling(temperature=0.6), seed=1)
    defense = CMI(epochs=1, holdout=32, checks=1, problems=8) if quick else CMI()
    begin = time.perf_counter()
    defense.bind(bench)
    seconds = time.perf_counter() - begin
    notes = bench.notes["cmi"]
    return {"task": kind, "seconds": seconds, **{k: notes[k] for k in ("cosine_first", "cosine_held_out")}} | {
        "clean": notes["clean_accuracy"],
        "checkpoints": notes["checkpoints"],
        "chosen": notes["chosen_step"],
    }


def markdown(report: dict[str, Any]) -> str:
    def chosen(row: dict[str, Any]) -> float:
        return next(c["accuracy"] for c in row["checkpoints"] if c["step"] == row["chosen"])

    training = [
        [
            row["task"], f"{row['seconds']:.0f} s", "yes" if row["seconds"] <= BAR else "**no**",
            f"{row['cosine_first']:.2f} → {row['cosine_held_out']:.2f}",
            f"{100 * row['clean']:.1f} → {100 * chosen(row):.1f}",
        ]
        for row in report["training"]
    ]  # fmt: skip
    n, size, width = report["shape"]
    memory = [
        [name, f"{row['largest']:.3f}", f"{row['megabytes']:.0f} MB", f"{row['cosine']:.5f}"]
        for name, row in report["memory"].items()
    ]
    traces, length, size_, width_ = report["text"]
    pieces = [
        [
            name,
            f"{row['megabytes']:,.0f} MB",
            f"{row['seconds']:.0f} s",
            f"{row['cosine']:.5f}",
            f"{row['kl']:.5f}",
        ]
        for name, row in report["held"].items()
    ]  # fmt: skip
    return (
        "\n\n".join(
            [
                "## Training purified logits",
                f"`{report['command']}`",
                machine_line(report["machine"]),
                "`cmi` with its defaults on the embedded teacher, holdout traces and checks of its accuracy "
                f"included; bar {BAR:.0f} s.",
                table(["task", "time", "within", "cosine, held out", "teacher on the checks, %"], training),
                f"The cosine of two gradients of an LM head of {size:,} × {width:,} over {n} tokens, forward and "
                f"backward; errors and inputs given ({n / width:.3f} of a gradient each). Largest tensor in "
                "gradients (V × D), growth of peak memory in a process of its own.",
                table(["form", "largest tensor", "memory", "cosine"], memory),
                f"An epoch of training the map: {traces} traces of {length} tokens, a third of them a step, heads "
                f"of {size_:,} × {width_:,}; the logits of the text would take "
                f"{2 * 4 * traces * length * size_ / 1e6:,.0f} MB of the two models.",
                table(["text", "memory", "time", "cosine, held out", "KL, nats"], pieces),
            ]
        )
        + "\n"
    )


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--task", choices=("lookup", "arithmetic", "both"), default="both")
    parser.add_argument("--quick", action="store_true", help="a few steps and small shapes, to see that it runs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--markdown", action="store_true", help="print only the section of docs/benchmarks.md")
    parser.add_argument("--json", type=str, help="write the full report here")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    tasks = ("lookup", "arithmetic") if args.task == "both" else (args.task,)
    shape, text_shape = ((64, 4096, 128), (24, 40, 4096, 64)) if args.quick else (SHAPE, TEXT)
    report: dict[str, Any] = {
        "command": " ".join(["python benchmarks/purifier.py", *(argv or [])]),
        "machine": machine(),
        "shape": shape,
        "memory": {name: apart(footprint, form, shape) for name, form in FORMS.items()},
        "text": text_shape,
        "held": {name: apart(held, name == "whole", text_shape, args.threads) for name in ("in pieces", "whole")},
        "training": [trained(kind, args.quick) for kind in tasks],
    }
    print(markdown(report))
    if args.json is not None:
        with open(args.json, "w") as file:
            json.dump(report, file, indent=1)
    return report


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
