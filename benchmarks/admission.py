"""What gathering requests into batches is worth in the engine behind `azeotrope serve --teacher`.

    python benchmarks/admission.py [--rate N] [--requests N] [--rounds N]

Requests arrive one by one, at random (exponential gaps) and at `--rate` a second; each is a prompt of the task
`lookup`, continued by the embedded teacher. `joined` is the engine as it is; `gathered` is what it does under
defenses that cannot be joined; `apart` does neither, so that nearly every request is a batch of its own. All
decode the same prompts at the same times, in turns; medians and quartiles over rounds of tokens a second, seconds
to the first token and to the last one. `decoder` is the lock-step decoder given all prompts at once.
"""

from __future__ import annotations

import argparse
import threading
import time
from random import Random
from statistics import median, quantiles
from typing import Any

import torch

from azeotrope.core.errors import RunError
from azeotrope.core.sampling import Sampling
from azeotrope.models.decode import decode
from azeotrope.models.engine import Engine, Ticket
from azeotrope.models.lm import LM, load
from azeotrope.tasks.lookup import Lookup

LIMIT = 160
SAMPLING = Sampling(temperature=0.6)


class Gathered(Engine):
    """Joins nothing; the more batches there are, the longer it waits before it begins another."""

    def _join(self, cohorts: list[Any]) -> None:
        self._cohorts = cohorts

    def _patience(self) -> int:
        return len(self._cohorts)


class Apart(Gathered):
    """Neither joins nor waits: nearly every request is a batch of its own."""

    def _patience(self) -> int:
        return 0


KINDS = {"apart": Apart, "gathered": Gathered, "joined": Engine}


class Client:
    """One request: when it was sent, and when its tokens came."""

    def __init__(self) -> None:
        self.began, self.first, self.last, self.tokens = time.perf_counter(), 0.0, 0.0, 0
        self.over = threading.Event()
        self.error: RunError | None = None

    def take(self, token: int, finished: bool) -> bool:
        self.last = time.perf_counter()
        self.first = self.first or self.last
        self.tokens += 1
        if finished or self.tokens == LIMIT:
            self.over.set()
        return not finished

    def fail(self, error: RunError) -> None:
        self.error = error
        self.over.set()


def serve(engine: Engine, prompts: list[tuple[int, ...]], gaps: list[float]) -> tuple[float, float, float]:
    """Tokens a second, and the median seconds to the first and the last token."""
    clients: list[Client] = []
    began = time.perf_counter()
    due = began
    for seed, (prompt, gap) in enumerate(zip(prompts, gaps, strict=True)):
        due += gap
        time.sleep(max(0.0, due - time.perf_counter()))
        client = Client()
        clients.append(client)
        engine.submit(Ticket(prompt, seed, SAMPLING, LIMIT, client.take, client.fail))
    for client in clients:
        client.over.wait()
        if client.error is not None:
            raise SystemExit(str(client.error))
    seconds = time.perf_counter() - began
    return (
        sum(client.tokens for client in clients) / seconds,
        median(client.first - client.began for client in clients),
        median(client.last - client.began for client in clients),
    )


def measure(lm: LM, rate: float, requests: int, rounds: int) -> dict[str, list[tuple[float, float, float]]]:
    prompts = [tuple(ids) for ids in lm.encode_many([p.prompt for p in Lookup().problems("test", requests, 3)])]
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in KINDS}
    for number in range(rounds):
        random = Random(number)
        gaps = [random.expovariate(rate) for _ in prompts]
        for name in random.sample(sorted(KINDS), len(KINDS)):
            engine = KINDS[name](lm, rows=64)
            found[name].append(serve(engine, prompts, gaps))
            engine.stop()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, nargs="+", default=[2.0, 20.0, 100.0])
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    lm = load("embedded/teacher")
    print("| arrivals a second | admission | tokens/s | first token, s | last token, s |\n|---|---|---|---|---|")
    prompts = lm.encode_many([p.prompt for p in Lookup().problems("test", chosen.requests, 3)])
    speeds = []
    for _ in range(chosen.rounds):
        began = time.perf_counter()
        samples = decode(lm, prompts, range(len(prompts)), SAMPLING, max_new_tokens=LIMIT, batch_size=64)
        speeds.append(sum(len(sample.ids) for sample in samples) / (time.perf_counter() - began))
    print(f"| | decoder | {median(speeds):.3g} | | |", flush=True)
    for rate in chosen.rate:
        requests = min(chosen.requests, max(20, round(rate * 20)))
        for name, rows in measure(lm, rate, requests, chosen.rounds).items():
            cells = []
            for values in zip(*rows, strict=True):
                low, middle, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
                cells.append(f"{middle:.3g} [{low:.3g}, {high:.3g}]")
            print(f"| {rate:g} | {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
