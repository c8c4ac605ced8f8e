"""A made-up run folder that follows the contract, for developing and testing the report."""

from __future__ import annotations

import json
import math
from pathlib import Path
from random import Random
from typing import Any

import polars as pl
from synthetic_tables import write_tables

TASKS = ("arithmetic", "lookup")
STUDENTS = ("gpt-small", "llama-small")
ATTACKS = ("sft", "sft_filtered")
# attack → (recovery, half the interval, queries, own tokens, seconds); only `sft_filtered` is in the results too
ADAPTIVE = {
    "answers_only": (-0.4, 0.3, 0, 0, 21.4),
    "resampled_sft(check=consensus, tries=4)": (0.1, 0.25, 9000, 0, 260.0),
    "sft_filtered": (0.35, 0.15, 0, 0, 55.2),
    "trace_inversion": (0.3, 0.1, 3000, 1250000, 410.8),
}
BASE = {"arithmetic": (0.93, 0.72, 0.14), "lookup": (0.88, 0.66, 0.21)}

# kind → (dial, is_control, teacher drop at full strength, student drop, validity drop, strengths)
KINDS: dict[str, tuple[str, bool, float, float, float, tuple[float, ...]]] = {
    "none": ("", False, 0, 0, 0, (0.0,)),
    "temperature": ("excess", True, 0.20, 0.19, 0.16, (0.2, 0.4, 0.7, 1.0)),
    "gaussian": ("sigma", True, 0.22, 0.17, 0.21, (0.5, 1.0, 2.0)),
    "permutation": ("lam", True, 0.18, 0.22, 0.15, (0.05, 0.1, 0.2, 0.4)),
    "ads": ("lam", False, 0.16, 0.38, 0.17, (0.05, 0.1, 0.2, 0.4)),
    "traceguard": ("budget", False, 0.004, 0.22, 0.27, (0.1, 0.2, 0.4)),
    "random_sentences": ("budget", True, 0.003, 0.20, 0.30, (0.1, 0.2, 0.4)),
}
STAGES = (("release", 22.0, 52000), ("attack", 64.0, 410000), ("evaluate", 12.0, 33000))
HOSTILE = "</script><script>window.pwned = 1</script><img src=x onerror=\"window.pwned=2\"> & <!-- \u2028 'q'"


def make_run(folder: Path, seed: int = 0) -> Path:
    """Write a complete synthetic run into `folder` and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = Random(seed)
    results = pl.DataFrame(_results(rng), infer_schema_length=None)
    results.write_parquet(folder / "results.parquet")
    pl.DataFrame(_equal_cost(rng), infer_schema_length=None).write_parquet(folder / "equal_cost.parquet")
    pl.DataFrame(_losses(rng), infer_schema_length=None).write_parquet(folder / "losses.parquet")
    pl.DataFrame(_costs(rng), infer_schema_length=None).write_parquet(folder / "costs.parquet")
    pl.DataFrame(_recovery(Random(seed + 1)), infer_schema_length=None).write_parquet(folder / "recovery.parquet")
    write_tables(folder, TASKS, _losing(), [(attack, student) for attack in ATTACKS for student in STUDENTS])
    (folder / "diffs.json").write_text(json.dumps(_diffs(rng)), encoding="utf-8")
    (folder / "manifest.json").write_text(json.dumps(_manifest()), encoding="utf-8")
    return folder


def arms() -> list[dict[str, Any]]:
    """Return the arms of one task."""
    found = []
    for kind, (dial, control, *_, strengths) in KINDS.items():
        for position, strength in enumerate(strengths, 1):
            params: dict[str, Any] = {dial: strength} if dial else {}
            if kind == "ads":
                params |= {"backend": "finite_difference", "proxy": "proxy-small"}
            found.append({
                "arm": f"{kind} {dial}={strength:g}" if dial else kind, "defense": kind,
                "params": json.dumps(params), "strength": strength, "is_control": control,
                "share": position / len(strengths) if dial else 0.0,
            })  # fmt: skip
    return found


def _losing() -> list[dict[str, Any]]:
    """The arms with what they cost at full strength."""
    return [arm | {"accuracy": KINDS[arm["defense"]][2], "validity": KINDS[arm["defense"]][4]} for arm in arms()]


def _row(task: str, arm: dict[str, Any], attack: str, student: str, metric: str, value: float, half: float,
         unit: str = "fraction", better: bool | None = True) -> dict[str, Any]:  # fmt: skip
    return {
        "study": "synthetic", "task": task, "arm": arm["arm"], "defense": arm["defense"],
        "params": arm["params"], "strength": arm["strength"], "is_control": arm["is_control"],
        "attack": attack, "student": student, "metric": metric, "value": value, "low": value - half,
        "high": value + half, "n": 400, "n_seeds": 5 if student else 1, "unit": unit,
        "higher_is_better": better, "seconds": 31.5,
    }  # fmt: skip


def _results(rng: Random) -> list[dict[str, Any]]:
    rows = []
    for task in TASKS:
        for arm in arms():
            rows += _arm_rows(rng, task, arm)
    return rows


def _arm_rows(rng: Random, task: str, arm: dict[str, Any]) -> list[dict[str, Any]]:
    t0, s0, base = BASE[task]
    _, _, t_drop, s_drop, v_drop, _ = KINDS[arm["defense"]]
    curve = arm["share"] ** 1.4
    teacher = t0 - t_drop * curve + rng.gauss(0, 0.004) * bool(arm["share"])
    valid = 0.96 - v_drop * curve
    shorter = 0.3 * (arm["defense"] in ("traceguard", "random_sentences"))
    rows = [
        _row(task, arm, "", "", "teacher_accuracy", teacher, 0.022),
        _row(task, arm, "", "", "trace_validity", valid, 0.014),
        _row(task, arm, "", "", "reader_accuracy", 0.88 - 0.6 * v_drop * curve, 0.018),
        _row(task, arm, "", "", "grounding", 0.97 - 0.4 * v_drop * curve, 0.012),
        _row(task, arm, "", "", "wrong_statements", 0.1 + 2 * (0.96 - valid), 0.04, "statements", False),
        _row(task, arm, "", "", "trace_tokens", 84 * (1 - shorter * curve), 2.1, "tokens", None),
        _row(task, arm, "", "", "teacher_finished", 0.995, 0.004),
    ]
    for i, student in enumerate(STUDENTS):
        if arm["defense"] == "none":
            rows.append(_row(task, arm, "undistilled", student, "student_accuracy", base - 0.03 * i, 0.02))
            rows.append(_row(task, arm, "undistilled", student, "recall_hidden", 0.05, 0.012))
        for j, attack in enumerate(ATTACKS):
            value = s0 - 0.06 * i - s_drop * arm["share"] ** 0.8 * (1 - 0.35 * j) - 0.015 * j
            value += rng.gauss(0, 0.012)
            half = 0.03 + 0.02 * rng.random()
            rows += [
                _row(task, arm, attack, student, "student_accuracy", value, half),
                _row(task, arm, attack, student, "student_accuracy_finished", value + 0.01, half),
                _row(task, arm, attack, student, "student_finished", 0.985 - 0.05 * arm["share"], 0.01),
                _row(task, arm, attack, student, "recall_hidden", 0.6 * value + 0.1, half * 0.6),
                _row(task, arm, attack, student, "s_minus_t", value - teacher, half),
                _row(task, arm, attack, student, "gain", value - base + 0.03 * i, half),
                _row(task, arm, attack, student, "clean_nll", 0.4 + 0.3 * arm["share"], 0.01, "nats", False),
            ]
    return rows


def _equal_cost(rng: Random) -> list[dict[str, Any]]:
    rows = []
    pairs = [("ads", "temperature"), ("ads", "permutation"), ("traceguard", "random_sentences"),
             ("permutation", "temperature"), ("gaussian", "temperature")]  # fmt: skip
    for task in TASKS:
        for student in STUDENTS:
            for attack in ATTACKS:
                where = {"task": task, "student": student, "attack": attack}
                for utility in ("teacher_accuracy", "trace_validity"):
                    for drop in (0.02, 0.05, 0.10):
                        for metric in ("student_accuracy", "recall_hidden", "s_minus_t"):
                            for pair in pairs:
                                rows.append(_comparison(rng, where, utility, drop, metric, *pair))
    return rows


def _comparison(
    rng: Random, where: dict[str, str], utility: str, drop: float, metric: str, defense: str, reference: str
) -> dict[str, Any]:
    reached = not (utility == "teacher_accuracy" and defense == "traceguard")
    shift = {"ads": -0.9, "traceguard": -0.1}.get(defense, 0.1) * drop**0.7
    shift *= 0.45 if where["task"] == "lookup" else 1.0
    value, half = shift + rng.gauss(0, 0.008), 0.025 + 0.015 * rng.random()
    p = math.erfc(abs(value) / half * 1.96 / math.sqrt(2))
    return {
        **where, "utility": utility, "drop": drop, "metric": metric, "defense": defense,
        "reference": reference, "difference": value if reached else None,
        "low": value - half if reached else None, "high": value + half if reached else None,
        "p": p if reached else None, "n": 400, "n_seeds": 5, "status": "ok" if reached else "not reached",
    }  # fmt: skip


def _recovery(rng: Random) -> list[dict[str, Any]]:
    """Attacks in the order of their names; the page has to put the worst first."""
    rows = []
    for task in TASKS:
        for student in STUDENTS:
            for metric in ("student_accuracy", "recall_hidden"):
                for arm in (arm for arm in arms() if arm["defense"] != "none"):
                    for attack in ADAPTIVE:
                        rows.append(_recovered(rng, task, student, metric, arm, attack))
    return rows


def _recovered(
    rng: Random, task: str, student: str, metric: str, arm: dict[str, Any], attack: str
) -> dict[str, Any]:
    clean = BASE[task][1] - 0.06 * STUDENTS.index(student)
    lost = KINDS[arm["defense"]][3] * arm["share"] ** 0.8
    share, half, queries, own, seconds = ADAPTIVE[attack]
    share += rng.gauss(0, 0.01)
    nothing = lost < 0.075  # the weakest arms
    half *= 0.12 / lost
    return {
        "task": task, "student": student, "arm": arm["arm"], "attack": attack, "metric": metric,
        "clean": clean, "passive": clean - lost, "value": clean - lost * (1 - share),
        "gain": lost * share, "gain_low": lost * (share - half), "gain_high": lost * (share + half),
        "recovery": None if nothing else share, "recovery_low": None if nothing else share - half,
        "recovery_high": None if nothing else share + half, "n": 400, "n_seeds": 5,
        "status": "nothing lost" if nothing else "ok", "queries": queries, "query_tokens": 84 * queries,
        "own_tokens": own, "trained_tokens": 410000, "leaked": 0, "seconds": seconds,
        "extra_seconds": seconds - 5.0,
    }  # fmt: skip


def _losses(rng: Random) -> list[dict[str, Any]]:
    rows = []
    for task in TASKS:
        for arm in arms():
            for student in STUDENTS:
                for attack in ATTACKS:
                    for seed in range(3):
                        floor = 0.35 + 0.25 * arm["share"] + 0.02 * rng.random()
                        for step in range(0, 1001, 50):
                            fall = 2.6 * math.exp(-step / 180)
                            for split, gap in (("train", 0.0), ("holdout", 0.06 + step / 9000)):
                                rows.append({
                                    "task": task, "arm": arm["arm"], "attack": attack, "student": student,
                                    "seed": seed, "step": step, "split": split,
                                    "loss": floor + fall + gap + rng.gauss(0, 0.015),
                                })  # fmt: skip
    return rows


def _costs(rng: Random) -> list[dict[str, Any]]:
    rows = []
    for task in TASKS:
        for arm in arms():
            slow = {"ads": 2.9, "permutation": 2.8}.get(arm["defense"], 1.0) * (1 + 0.03 * rng.random())
            for stage, seconds, tokens in STAGES:
                factor = slow if stage == "release" and arm["defense"] != "none" else 1.0
                rows.append({
                    "task": task, "arm": arm["arm"], "stage": stage,
                    "seconds": seconds * factor, "tokens": tokens,
                    "tokens_per_second": tokens / (seconds * factor), "relative": factor,
                })  # fmt: skip
    return rows


PROMPT = "Box a holds 7. Put in 5, take out 4, double it. What is the last digit?"
NONE_TEXT = (
    "I will start from the innermost part. 7 + 5 = 12. So the box holds 12. Wait, I should check that. "
    "7 + 5 is 12, right. Then 12 - 4 = 8. Double it: 8 * 2 = 16. Hmm, mod 10 that is 6.</think> 6"
)


def _diffs(rng: Random) -> list[dict[str, Any]]:
    found = []
    for task in TASKS:
        for k in range(3):
            hostile = f"Let me see 🙂 {HOSTILE} done. It is 6. So 6.</think> 6"
            text = f"{NONE_TEXT} (case {k})" if k < 2 else hostile
            cut = text.index("Wait") if "Wait" in text else 4
            end = text.index("Then") if "Then" in text else 12
            wrong = text.replace("12", "13")
            kept = text[:cut] + text[end:]
            found.append({
                "task": task, "problem_id": f"{task}-{k:04d}", "gold": "6",
                "prompt": PROMPT + (HOSTILE if k == 2 else ""),
                "arms": [
                    _shown("none", text),
                    _shown("ads lam=0.1", text, tokens=_tokens(rng, text, 0.25)),
                    _shown("ads lam=0.4", wrong, correct=False, tokens=_tokens(rng, wrong, 1.2)),
                    _shown("temperature excess=0.7", text, tokens=_tokens(rng, text, 0.15)),
                    _shown("traceguard budget=0.2", kept, removed=[[cut, end]]),
                ],
            })  # fmt: skip
    return found


def _shown(arm: str, text: str, correct: bool = True, tokens: Any = None, removed: Any = None) -> dict[str, Any]:
    return {"arm": arm, "text": text, "correct": correct, "tokens": tokens, "removed": removed}


def _tokens(rng: Random, text: str, scale: float) -> list[dict[str, Any]]:
    pieces, start = [], 0
    while start < len(text):
        size = rng.choice((2, 3, 4, 5))
        moved = rng.expovariate(1 / scale) * (rng.random() < 0.4)
        pieces.append({"text": text[start : start + size], "moved": moved})
        start += size
    return pieces


def _manifest() -> dict[str, Any]:
    return {
        "name": "synthetic", "created": "2026-01-05T09:30:00Z", "azeotrope_version": "0.1.0",
        "code_rev": "557a4c3d9e0b", "study_hash": "9f2c1a7be4d05533",
        "config": {"name": "synthetic", "tasks": list(TASKS), "seeds": [0, 1, 2, 3, 4], "note": HOSTILE,
                   "analysis": {"confidence": 0.95}},
        "command": "azeotrope run studies/demo.yaml --out runs/synthetic",
        "hardware": {"cpu": "Example CPU @ 2.5 GHz", "cores": 2, "memory_gb": 7.7},
        "packages": {"torch": "2.8.0", "transformers": "5.1.0", "polars": "1.40.0", "numpy": "2.1.0"},
        "logit_order": ["repetition_penalty", "temperature", "defense", "top_k", "top_p"],
        "wall_seconds": 5423.7, "headline": {"metric": "student_accuracy", "attack": "sft"},
        "notes": ["Synthetic numbers for development; they mean nothing."],
        "problems": {task: {"test": 400, "release": 3000} for task in TASKS},
    }  # fmt: skip


if __name__ == "__main__":
    import sys

    print(make_run(Path(sys.argv[1])))
