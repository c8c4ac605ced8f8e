"""Training several student seeds as one batch against one after the other.

    python benchmarks/stacked_students.py [--students 5] [--batch 8 32] [--rounds R] [--quick]

One training step (forward, backward, clipping, AdamW; bfloat16 autocast, eager attention as in `sft`) of N
students, each on its own batch of the same size: one after the other, and as one stacked model whose rows are
shared out among N copies of the weights (`azeotrope.models.stack`). A third figure, one student on N times the
rows, is a floor for any way of stacking on one core: it does the same work without N sets of weights.
Ratios are taken within a round, the three in random order; median and quartiles over rounds.
"""

from __future__ import annotations

import argparse
import copy
import random
import time
from collections.abc import Callable, Sequence
from itertools import chain

import torch
from decode_cost import machine, machine_line, spread, table
from torch.nn import functional as F  # noqa: N812

from azeotrope.models.gradients import IGNORE, TokenBatch, token_batches
from azeotrope.models.lm import LM, family_members, load
from azeotrope.models.stack import stack_into, stacked
from azeotrope.models.stepper import trunk
from azeotrope.tasks.lookup import Lookup

Step = Callable[[TokenBatch], None]


def inputs(batch: TokenBatch) -> dict[str, torch.Tensor]:
    rows, length = batch.ids_BT.shape
    positions_BT = torch.arange(length).expand(rows, length)
    return {"input_ids": batch.ids_BT, "attention_mask": batch.mask_BT, "position_ids": positions_BT}


def single(lm: LM) -> Step:
    parameters = list(lm.model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)

    def step(batch: TokenBatch) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            logits = lm.head(trunk(lm)(**inputs(batch)).last_hidden_state[:, :-1])
        loss = F.cross_entropy(logits.float().flatten(0, 1), batch.labels_BT[:, 1:].flatten(), ignore_index=IGNORE)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    return step


def together(students: Sequence[LM]) -> Step:
    body = copy.deepcopy(students[0].model)
    model = LM(body, students[0].tokenizer, "stack", "stack")
    stack_into(trunk(model), [trunk(lm) for lm in students])
    head = stacked([lm.head for lm in students])
    parameters = [p for p in chain(trunk(model).parameters(), head.parameters()) if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    n = len(students)

    def step(batch: TokenBatch) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            logits = head(trunk(model)(**inputs(batch)).last_hidden_state[:, :-1])
        loss = F.cross_entropy(logits.float().flatten(0, 1), batch.labels_BT[:, 1:].flatten(), ignore_index=IGNORE)
        optimizer.zero_grad(set_to_none=True)
        (n * loss).backward()
        # Clipping by copy would read the same numbers; one norm over all costs no more.
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    return step


def measure(family: str, students: int, size: int, rounds: int) -> dict[str, list[float]]:
    members = [load(ref) for ref in family_members(family)[:students]]
    for lm in members:
        lm.model.set_attn_implementation("eager")  # as `sft` trains on a CPU
        lm.model.train()
    task = Lookup()
    traces = task.gold_traces(task.problems("release", size * students))
    whole = next(token_batches(members[0], traces, size * students))
    rows = torch.arange(size * students).view(size, students).T  # every part as long as the whole

    def part(i: int) -> TokenBatch:
        return TokenBatch(*(getattr(whole, name)[rows[i]] for name in ("ids_BT", "mask_BT", "labels_BT")))

    parts = [part(i) for i in range(students)]
    alone = [single(lm) for lm in members]
    stack, floor = together(members), single(copy.deepcopy(members[0]))

    def in_turn() -> None:
        for step, batch in zip(alone, parts, strict=True):
            step(batch)

    jobs: dict[str, Callable[[], None]] = {
        "in turn": in_turn,
        "stacked": lambda: stack(whole),
        "floor": lambda: floor(whole),
    }
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    rng = random.Random(0)
    for i in range(rounds + 2):
        order = list(jobs)
        rng.shuffle(order)
        for name in order:
            begin = time.perf_counter()
            jobs[name]()
            if i >= 2:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--family", nargs="+", default=["embedded/student-llama", "embedded/student-gpt2"])
    parser.add_argument("--students", type=int, default=5)
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="two students, two rounds, to see that it runs")
    args = parser.parse_args()
    if args.quick:
        args.students, args.batch, args.rounds = 2, [4], 2
    torch.set_num_threads(args.threads)
    rows = []
    for family in args.family:
        for size in args.batch:
            seconds = measure(family, args.students, size, args.rounds)
            ratios = {
                name: spread([a / b for a, b in zip(seconds["in turn"], seconds[name], strict=True)])
                for name in ("stacked", "floor")
            }
            milliseconds = 1e3 * spread(seconds["in turn"]).median / args.students
            rows.append(
                [
                    family.removeprefix("embedded/student-"),
                    str(size),
                    f"{milliseconds:.0f}",
                    *(str(ratios[name]) for name in ("stacked", "floor")),
                ]
            )
    print(machine_line(machine()), "\n")
    print(f"{args.students} students, n = {args.rounds} rounds; speed relative to one after the other.\n")
    print(table(["family", "batch", "ms a student step", "stacked", "floor (one student, all rows)"], rows))


if __name__ == "__main__":
    main()
