"""The control of `strip_style`: traces shortened as much, but not by their style."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import ClassVar

from azeotrope.attacks.adaptive import Lessons
from azeotrope.attacks.base import AttackRun
from azeotrope.attacks.strip_style import StripStyle, without
from azeotrope.core.methods import Maturity
from azeotrope.core.seeds import derive
from azeotrope.core.types import THINK_CLOSE, THINK_OPEN, Trace, split_answer
from azeotrope.models.lm import LM
from azeotrope.text.segment import segment


class StripRandom(StripStyle):
    r"""Drop random sentences, in every trace as many tokens as `strip_style` drops there, then fine-tune.

    Control of `strip_style`: where both do as well, stripping helps by making traces shorter. Give both the
    same settings. Matched per trace: the tokens dropped (the student's own), as closely as whole sentences
    allow; the notes hold both sums. Traces without style stay as they are. Not matched: the number of
    sentences. Never dropped: the answer, the think tags, sentences with \boxed, and those that `strip_style`
    drops (a close match to them would be they themselves). No query.
    """

    kind: ClassVar[str] = "strip_random"
    summary: ClassVar[str] = "drop random sentences, matched in tokens to strip_style (a control)"
    maturity: ClassVar[Maturity] = Maturity.CONTROL

    def prepare(self, lm: LM, traces: Sequence[Trace], run: AttackRun) -> Lessons:
        """Shorten every trace that has style."""
        stripped, wanted, found = list(traces), 0, 0
        for row, trace in enumerate(traces):
            pieces = segment(split_answer(trace.text)[0])
            style = self.style(pieces)
            if any(style):
                # A space before and none behind: how a sentence is cut into tokens in the middle of a text.
                sizes = [len(ids) for ids in lm.encode_many([f" {piece.strip()}" for piece in pieces])]
                target = sum(size for size, drop in zip(sizes, style, strict=True) if drop)
                pool = [i for i, piece in enumerate(pieces) if not style[i] and _free(piece)]
                Random(derive(run.seed, "strip", row)).shuffle(pool)
                chosen = {pool[k] for k in nearest([sizes[i] for i in pool], target)}
                stripped[row] = without(trace, pieces, [i in chosen for i in range(len(pieces))])
                wanted, found = wanted + target, found + sum(sizes[i] for i in chosen)
        changed = sum(a.text != b.text for a, b in zip(traces, stripped, strict=True))
        return Lessons(stripped, notes={"changed": changed, "tokens": found, "tokens_of_style": wanted})


def nearest(sizes: Sequence[int], target: int) -> list[int]:
    """Indices of sizes whose sum is nearest to `target` (the smaller sum on a tie), from the front if possible.

    >>> nearest([5, 4, 3, 9], 8), nearest([5, 5], 2), nearest([3], 9)
    ([0, 2], [], [0])
    """
    reached = [1]  # bit s of reached[k] is set if some of the first k sizes have the sum s
    cap = (1 << (2 * target + 1)) - 1  # nothing at all is nearer than larger sums
    for size in sizes:
        reached.append((reached[-1] | reached[-1] << size) & cap)
    total = min(_bits(reached[-1]), key=lambda s: (abs(s - target), s))
    k = next(k for k, sums in enumerate(reached) if sums >> total & 1)
    chosen = []
    while k:
        if not reached[k - 1] >> total & 1:
            total -= sizes[k - 1]
            chosen.append(k - 1)
        k -= 1
    return chosen[::-1]


def _bits(number: int) -> list[int]:
    return [i for i, bit in enumerate(reversed(f"{number:b}")) if bit == "1"]


def _free(piece: str) -> bool:
    """Whether a sentence may go."""
    return bool(piece.strip()) and not any(part in piece for part in (THINK_OPEN, THINK_CLOSE, "\\boxed"))
