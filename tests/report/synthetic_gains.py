"""A made-up table of every defense against every attack: levels of access, gaps, and a student without a gain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from azeotrope.study.gains import NOTHING, OK, UNMEASURED

# attack → (what it reads, its gain without a defense, the part of a defense's effect that it feels)
FACED = {
    "sft": ("text", 0.5, 1.0),
    "topk_kd": ("topk_logprobs", 0.55, 0.8),
    "fkl": ("full_logits", 0.6, 0.7),
    "resampled_sft(check=consensus, tries=4)": ("text", 0.45, 0.3),
    "answers_only": ("text", -0.02, 0.0),
    "gkd(student_share=0.5)": ("full_logits", 0.58, 0.85),
}
BEST = "fkl"
STARTS = {"gpt-small": 0.15, "llama-small": 0.1}
GAPPY = "permutation lam=0.4"  # an arm that lacks two attacks
LACKED = ("topk_kd", "fkl")
IDLE = ("llama-small", "recall_hidden")  # a student and measure without an undefended gain
HALF = 0.06
Row = dict[str, Any]


def gains(tasks: Sequence[str], arms: Sequence[Mapping[str, Any]], losses: Mapping[str, float]) -> Iterator[Row]:
    """Rows of every arm; `losses` holds by kind of defense the share lost to it at full strength."""
    for task in tasks:
        for arm in arms:
            for student in STARTS:
                for metric in ("student_accuracy", "recall_hidden"):
                    yield from _arm(task, arm, student, metric, losses.get(arm["defense"], 0.4) * arm["share"])


def _arm(task: str, arm: Mapping[str, Any], student: str, metric: str, loss: float) -> Iterator[Row]:
    """One arm's rows; a constant factor between tasks keeps their numbers apart."""
    scale = 0.02 if (student, metric) == IDLE else 1.0 if task == "arithmetic" else 0.9
    gained = {name: scale * gain * (1 - loss * felt) for name, (_, gain, felt) in FACED.items()}
    known = {name: gain for name, gain in gained.items() if arm["arm"] != GAPPY or name not in LACKED}
    for name, (access, *_) in FACED.items():
        row = {
            "task": task, "arm": arm["arm"], "attack": name, "access": access, "student": student,
            "metric": metric, "undistilled": STARTS[student], "best": scale * FACED[BEST][1], "best_attack": BEST,
            "teacher_accuracy": 0.93 - arm["accuracy"] * arm["share"],
            **_bounded("teacher_drop", arm["accuracy"] * arm["share"], 0.01 * arm["share"]), "n_seeds": 5,
        }  # fmt: skip
        if name not in known:
            yield {**row, "worst": False, "status": UNMEASURED}
            continue
        share = {} if scale == 0.02 else _bounded("retained", known[name] / row["best"], HALF)
        worst = name == max(known, key=known.__getitem__)
        yield {
            **row, **share, "value": STARTS[student] + known[name], **_bounded("gain", known[name], 0.03),
            "worst": worst, "worst_low": share["retained"] - 0.05 if share and worst else None,
            "worst_high": share["retained"] + 0.05 if share and worst else None,
            "n": 400, "status": OK if share else NOTHING,
        }  # fmt: skip


def _bounded(name: str, value: float, half: float) -> dict[str, float]:
    return {name: value, f"{name}_low": value - half, f"{name}_high": value + half}


def crowd(rows: int, columns: int) -> list[Row]:
    """A table of many arms and attacks with long labels, for one task, student and measure."""
    arms = ["none", *(f"traceguard(budget={i}, unit=count) + temperature(heat=0.{i})" for i in range(1, rows))]
    found = []
    for i, arm in enumerate(arms):
        drop = 0.01 * i
        for j in range(columns):
            share = round((1 - 0.07 * i) * (1 - 0.03 * j), 4)
            found.append({
                "task": "arithmetic", "arm": arm, "attack": f"resampled_sft(check=gold, tries={j}, share=0.25)",
                "access": ("text", "topk_logprobs", "full_logits")[j % 3], "student": "gpt-small",
                "metric": "student_accuracy", "undistilled": 0.1, "best": 0.6,
                "best_attack": "resampled_sft(check=gold, tries=0, share=0.25)", "value": 0.1 + 0.6 * share,
                **_bounded("gain", 0.6 * share, 0.03), **_bounded("retained", share, HALF), "worst": j == 0,
                "worst_low": share - 0.05 if j == 0 else None, "worst_high": share + 0.05 if j == 0 else None,
                "teacher_accuracy": 0.93 - drop, **_bounded("teacher_drop", drop, 0.01), "n": 400, "n_seeds": 5,
                "status": OK,
            })  # fmt: skip
    return found
