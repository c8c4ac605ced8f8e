"""What another memory allocator is worth where students are trained.

    python benchmarks/allocator.py [--rounds N] [--students N]

One process a run trains `--students` students, one after the other, by fine-tuning on 200 traces of the task
`lookup` (15 epochs, as in `studies/logits.yaml`), first with the allocator of the system and then with what
`azeotrope.study.allocator` finds, in turns. Seconds of the first and the last student of a process, the ratios of
a round, and whether the last students came out alike. Says so and stops where there is no other allocator.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from statistics import median, quantiles
from typing import Any

import torch

from azeotrope.attacks.base import AttackRun, Outcome
from azeotrope.attacks.sft import SFT
from azeotrope.core.sampling import Sampling
from azeotrope.models.lm import load
from azeotrope.models.sample import generate
from azeotrope.study.allocator import preloaded
from azeotrope.tasks.lookup import Lookup


def train(students: int) -> dict[str, Any]:
    """Train in this process: seconds a student, and a digest of the last one's weights."""
    torch.set_num_threads(1)
    task = Lookup()
    problems = task.problems("release", 200, 1)
    traces = generate(load("embedded/teacher"), problems, task, Sampling(temperature=0.6), seed=1)
    seconds = []
    for _ in range(students):
        lm = load("embedded/student-llama-0")
        began = time.perf_counter()
        SFT(epochs=15).teach(lm, traces, AttackRun(seed=1), 0, Outcome([]))
        seconds.append(time.perf_counter() - began)
    digest = hashlib.sha256()
    for parameter in lm.model.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    return {"seconds": seconds, "digest": digest.hexdigest()}


def apart(students: int, library: str | None) -> dict[str, Any]:
    """Train in a process of its own, with `library` preloaded."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.update({} if library is None else {"LD_PRELOAD": library})
    command = [sys.executable, __file__, "--students", str(students), "--child"]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--students", type=int, default=4)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        print(json.dumps(train(chosen.students)))
        return
    library = preloaded()
    if library is None:
        raise SystemExit(
            "No other allocator was found; install libtcmalloc_minimal (Debian: libtcmalloc-minimal4)."
        )
    pairs = [(apart(chosen.students, None), apart(chosen.students, library)) for _ in range(chosen.rounds)]
    print(f"| student of a process | system, s | {library}, s | ratio |\n|---|---|---|---|")
    for name, place in (("first", 0), ("last", -1)):
        both = [(a["seconds"][place], b["seconds"][place]) for a, b in pairs]
        cells = [f"{median(values):.2f}" for values in zip(*both, strict=True)]
        ratios = [b / a for a, b in both]
        low, middle, high = quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
        print(
            f"| {name} of {chosen.students} | " + " | ".join(cells) + f" | {middle:.2f} [{low:.2f}, {high:.2f}] |"
        )
    alike = all(a["digest"] == b["digest"] for a, b in pairs)
    print(f"\nThe students are {'the same to the last bit' if alike else 'NOT the same'}.")


if __name__ == "__main__":
    main()
