"""Turn `diffs.json` into pieces of text that can be shown one after the other.

Offsets are counted in characters, which Python and JavaScript count differently (JavaScript counts UTF-16
units), so spans are cut here and the page never slices text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from azeotrope.core.errors import RunError
from azeotrope.study.vocabulary import UNDEFENDED


def trace_pages(diffs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the problems with their arms as pieces, and the top of the color scale in nats.

    Raises RunError if an entry does not follow the contract.
    """
    try:
        problems = [_problem(entry) for entry in diffs]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise RunError(f"diffs.json does not follow the run-folder contract ({reason}).") from None
    moved = sorted(
        piece["moved"]
        for problem in problems
        for arm in problem["arms"]
        for piece in arm["pieces"]
        if piece.get("moved") is not None
    )
    top = moved[min(len(moved) - 1, int(0.99 * len(moved)))] if moved else 0.0
    return {"problems": problems, "top": top or (moved[-1] if moved else 0.0)}


def cut(text: str, removed: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
    """Split `text` at the spans in `removed`; overlapping and out-of-range spans are merged and clipped.

    >>> cut("abcd", [(1, 3)])
    [{'text': 'a'}, {'text': 'bc', 'removed': True}, {'text': 'd'}]
    """
    pieces: list[dict[str, Any]] = []
    position = 0
    for start, end in sorted((max(0, int(s)), min(len(text), int(e))) for s, e in removed):
        start = max(start, position)
        if end <= start:
            continue
        if start > position:
            pieces.append({"text": text[position:start]})
        pieces.append({"text": text[start:end], "removed": True})
        position = end
    if position < len(text):
        pieces.append({"text": text[position:]})
    return pieces


def _problem(entry: Mapping[str, Any]) -> dict[str, Any]:
    original = next((arm["text"] for arm in entry["arms"] if arm["arm"] == UNDEFENDED), None)
    return {
        "task": str(entry["task"]),
        "problem": str(entry["problem_id"]),
        "prompt": str(entry["prompt"]),
        "gold": str(entry["gold"]),
        "arms": [_arm(arm, original) for arm in entry["arms"]],
    }


def _arm(arm: Mapping[str, Any], original: str | None) -> dict[str, Any]:
    tokens, removed = arm.get("tokens"), arm.get("removed")
    if tokens:
        form = "tokens"
        pieces = [{"text": str(token["text"]), "moved": _number(token["moved"])} for token in tokens]
    elif removed and original is not None:
        form, pieces = "removed", cut(original, removed)
    else:
        form, pieces = "plain", [{"text": str(arm["text"])}]
    return {"arm": str(arm["arm"]), "correct": arm.get("correct"), "form": form, "pieces": pieces}


def _number(value: Any) -> float | None:
    return None if value is None else max(0.0, float(value))
