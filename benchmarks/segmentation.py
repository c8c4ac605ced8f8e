"""Sentence boundaries and TraceGuard on real traces: quality and speed, one core, same run.

    python benchmarks/segmentation.py [--data DIR] [--json FILE] [--repeats N]

Quality: precision, recall and F1 on the boundaries marked by hand (tests/data/segment_boundaries.json; rules
in tests/data/SEGMENT_CONVENTIONS.md). `tuning` and `heldout` are random passages split by trace; `hard`
passages were chosen because they hold abbreviations, factorials, ellipses, money, code or continued lines.
The rules of marking and the rules of the segmenter have one author: read the figures as "does what was
written down", not as agreement between strangers. Also prints how far the keyword taxonomy agrees with the
published labels of Thought Anchors (made by a language model).

Speed: MB of UTF-8 per second of CPU time over all traces, best of N. The plain rule (white space after `.?!`,
or a blank line) is the splitter of Thought Anchors without its merging, run beside ours.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

from azeotrope.core.types import Trace
from azeotrope.defenses.random_sentences import RandomSentences
from azeotrope.defenses.traceguard import TraceGuard
from azeotrope.text.segment import Segmenter, boundaries
from azeotrope.text.taxonomy import categorize

ROOT = Path(__file__).resolve().parent.parent
FILES = ("r1_distill_cots_300.jsonl", "thought_anchor_base_qwen14b.jsonl")
PLAIN = re.compile(r"[.?!]+\s+|\n\s*\n\s*")


def plain_boundaries(text: str) -> list[int]:
    ends = [match.end() for match in PLAIN.finditer(text)]
    return ends if ends and ends[-1] == len(text) else [*ends, len(text)]


def quality(split: Callable[[str], list[int]], texts: dict[str, list[str]]) -> dict[str, dict[str, float]]:
    counts: dict[str, Counter[str]] = {}
    for passage in json.loads((ROOT / "tests/data/segment_boundaries.json").read_text())["passages"]:
        text = texts[passage["source"]][passage["row"]][passage["start"] : passage["end"]]
        marked, found = set(passage["boundaries"]), set(split(text)[:-1])
        for name in (passage["split"], "all"):
            counts.setdefault(name, Counter()).update(
                hit=len(marked & found), wrong=len(found - marked), missed=len(marked - found)
            )
    return {name: _scores(count) for name, count in counts.items()}


def _scores(count: Counter[str]) -> dict[str, float]:
    hit, wrong, missed = count["hit"], count["wrong"], count["missed"]
    return {
        "marked": hit + missed,
        "precision": hit / max(hit + wrong, 1),
        "recall": hit / max(hit + missed, 1),
        "f1": 2 * hit / max(2 * hit + wrong + missed, 1),
    }


def speed(work: Callable[[], object], megabytes: float, repeats: int) -> float:
    best = float("inf")
    for _ in range(repeats):
        begin = time.process_time()
        work()
        best = min(best, time.process_time() - begin)
    return megabytes / best


def agreement(folder: Path) -> dict[str, float]:
    """Share of labeled sentences whose keyword category is among the labels; the majority class's share."""
    right, labels = 0, Counter[str]()
    for path in sorted(folder.glob("*.json")):
        for row in json.loads(path.read_text()):
            if row["function_tags"]:
                labels[row["function_tags"][0]] += 1
                right += categorize(row["chunk"]).value in row["function_tags"]
    total = max(sum(labels.values()), 1)
    return {
        "sentences": total,
        "agreement": right / total,
        "majority": max(labels.values(), default=0) / total,
    }


def stream(text: str) -> None:
    segmenter = Segmenter()
    for at in range(0, len(text), 16):
        segmenter.feed(text[at : at + 16])
    segmenter.close()


def speeds(texts: dict[str, list[str]], repeats: int) -> dict[str, float]:
    rows = [text for name in FILES for text in texts[name]]
    traces = [Trace(problem_id=str(number), prompt="", text=text) for number, text in enumerate(rows)]
    megabytes = sum(len(text.encode()) for text in rows) / 1e6
    methods = {
        "TraceGuard, share of tokens": TraceGuard(budget=0.2),
        "TraceGuard, count": TraceGuard(budget=5, unit="count"),
        "TraceGuard, with categories": TraceGuard.model_validate({"budget": 0.2, "categories": ["self_checking"]}),
        "random sentences, matched": RandomSentences(budget=0.2),
    }
    jobs: dict[str, Callable[[], object]] = {
        "plain rule": lambda: [plain_boundaries(text) for text in rows],
        "segmentation": lambda: [boundaries(text) for text in rows],
        "segmentation, streamed by 16": lambda: [stream(text) for text in rows],
        **{name: _rewriter(method, traces) for name, method in methods.items()},
    }
    return {name: speed(job, megabytes, repeats) for name, job in jobs.items()}


def _rewriter(method: TraceGuard | RandomSentences, traces: list[Trace]) -> Callable[[], object]:
    return lambda: [method.rewrite(trace, Random(0)) for trace in traces]


def main() -> None:
    parser = argparse.ArgumentParser(description="Quality and speed of sentence segmentation and TraceGuard.")
    parser.add_argument("--data", type=Path, default=os.environ.get("AZEOTROPE_DATA", ROOT.parent / "shared/data"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    folder = Path(args.data) / "traces_r1"
    if not folder.is_dir():
        parser.error(f"there are no traces in {folder}; set --data or AZEOTROPE_DATA")
    texts = {
        name: [json.loads(line)["solution"] for line in (folder / name).read_text(encoding="utf-8").splitlines()]
        for name in FILES
    }
    result = {
        "python": platform.python_version(),
        "quality": {"ours": quality(boundaries, texts), "plain rule": quality(plain_boundaries, texts)},
        "taxonomy": agreement(folder / "anchor_labels"),
        "mb_per_s": speeds(texts, args.repeats),
    }
    report(result)
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


def report(result: dict[str, object]) -> None:
    print(f"{'segmenter':<14}{'part':<10}{'marked':>7}{'P':>8}{'R':>8}{'F1':>8}")
    for name, parts in result["quality"].items():  # type: ignore[attr-defined]
        for part, s in parts.items():
            print(f"{name:<14}{part:<10}{s['marked']:>7}{s['precision']:>8.4f}{s['recall']:>8.4f}{s['f1']:>8.4f}")
    tax = result["taxonomy"]
    print("\ntaxonomy: {agreement:.3f} agree of {sentences} (majority class {majority:.3f})\n".format(**tax))  # type: ignore[arg-type]
    for name, value in result["mb_per_s"].items():  # type: ignore[attr-defined]
        print(f"{name:<32}{value:8.1f} MB/s")


if __name__ == "__main__":
    main()
