"""Hide the reasoning, as providers do: the reply shows a part of it, or none.

For the owner of an API. Every reply loses the same share of its reasoning, from the end backwards (the reader
sees how it starts) or from the start on; at full strength there is no think block at all, as in a reply whose
reasoning was never sent. `answer_only` is for the owner of a data set: it takes all of the reasoning of some
traces, nothing of the others, and keeps the empty block.

=================  =========================================================================================
symbol             argument
=================  =========================================================================================
share              `share`: the share, in [0, 1], of the reasoning's sentences that is hidden, rounded down
direction          `side`: "end" hides the last sentences, "start" the first ones
=================  =========================================================================================

Guarantees. Share 0 is the identity. Below 1 the output is the input with whole sentences left out, each with
the white space after it; the think tags and any sentence with ``\\boxed`` stay. At 1 everything up to and
including the last ``</think>`` is gone, and the text is exactly what followed it. The answer is the same, byte
for byte, at every share. A larger share hides a superset, and no share is exceeded. No random numbers are used.

Assumptions and cost. A trace without ``</think>`` has declared no answer, so all of it is reasoning; at 1 its
sentences with ``\\boxed`` are then all that is left. The output at 1 has no tag to tell where the answer starts:
a text defense after this one would take the answer for reasoning, so this one belongs last (the command
`azeotrope defend` stops there). Linear time. Side "end" streams: a sentence is shown once so many have followed
it that it cannot be hidden any more.
"""

from __future__ import annotations

from collections import deque
from random import Random
from typing import ClassVar, Literal

from pydantic import Field

from azeotrope.core.errors import ConfigError
from azeotrope.core.methods import Buffered, TextStream, TraceDefense
from azeotrope.core.types import THINK_CLOSE, Trace, split_answer
from azeotrope.defenses.traceguard import SLACK, Removal, count_tokens, is_protected, is_tag, without
from azeotrope.text.segment import Segmenter, boundaries


class HideReasoning(TraceDefense):
    """Hide a share of the reasoning's sentences, and at 1 the think block; see the module's text."""

    kind: ClassVar[str] = "hide_reasoning"
    summary: ClassVar[str] = "hides a share of every trace's reasoning from its end; at 1 there is no think block"
    dial: ClassVar[str] = "share"
    # Not 1: there is no tag left then, and what compares answer spans by the tag would find none.
    sweep: ClassVar[tuple[float, ...]] = (0.25, 0.5, 0.75, 0.95)

    share: float = Field(default=0.5, ge=0, le=1, description="share of the reasoning's sentences hidden")
    side: Literal["end", "start"] = Field(default="end", description="which sentences are hidden first")

    def rewrite(self, trace: Trace, rng: Random) -> Trace:
        """Return what is shown of `trace`; `meta` and `n_tokens` as in `TraceGuard.rewrite`."""
        if self.share == 0:
            return trace
        return without(trace, self.choose(trace.text))

    def choose(self, text: str) -> list[Removal]:
        """Return the spans of `text` to hide, in the order of the text."""
        reasoning, _ = split_answer(text)
        if self.share == 1 and THINK_CLOSE in reasoning:
            return [_removal(reasoning, 0, len(reasoning))]
        found, start = [], 0
        for end in boundaries(reasoning):
            if not is_protected(reasoning, start, end) or (self.share == 1 and is_tag(reasoning[start:end])):
                found.append(_removal(reasoning, start, end))
            start = end
        count = self.hidden(len(found))
        return found[:count] if self.side == "start" else found[len(found) - count :]

    def hidden(self, sentences: int) -> int:
        """How many of `sentences` are hidden."""
        return int(self.share * sentences + SLACK)

    def incremental(self, rng: Random) -> TextStream:
        """The streaming form where there is one; otherwise one that waits."""
        return self.stream() if self.side == "end" or self.share in (0, 1) else Buffered(self, rng)

    def stream(self) -> HideReasoningStream:
        """Return the streaming form. Raises ConfigError if `side` is "start" and the share below 1."""
        return HideReasoningStream(self)


class HideReasoningStream:
    """`HideReasoning` on text that is still being written; the output equals that of the finished form.

    The first ``</think>`` starts the answer (for a finished trace it is the last: a reply with several is the
    only case in which the two differ). What may still have to be hidden is held: the share of the reasoning so
    far, and at share 1 only sentences with ``\\boxed``.
    """

    def __init__(self, method: HideReasoning) -> None:
        if method.side == "start" and 0 < method.share < 1:
            raise ConfigError(
                "hide_reasoning cannot stream with side 'start', because it needs the length of the trace; "
                "set side to 'end' or do not stream."
            )
        self._method = method
        self._segmenter = Segmenter()
        self._passing = method.share == 0
        self._held: deque[tuple[str, int]] = deque()  # sentence, and its number (0: it stays)
        self._seen = 0

    def feed(self, chunk: str) -> str:
        """Take more of the trace; return the text that can be released now (often empty)."""
        return chunk if self._passing else self._take(self._segmenter.feed(chunk))

    def close(self) -> str:
        """Declare the trace finished; return the rest."""
        if self._passing:
            return ""
        shown = self._take(self._segmenter.close())
        return shown if self._passing else shown + self._finish()

    def _take(self, sentences: list[str]) -> str:
        everything = self._method.share == 1
        for index, sentence in enumerate(sentences):
            tag = is_tag(sentence)
            if tag and THINK_CLOSE in sentence:
                self._passing = True
                after = "".join([*sentences[index:], *self._segmenter.close()])
                return after.partition(THINK_CLOSE)[2] if everything else self._finish() + after
            if not (tag and everything):
                self._hold(sentence)
        return "" if everything else self._show(self._seen - self._method.hidden(self._seen))

    def _hold(self, sentence: str) -> None:
        if is_protected(sentence, 0, len(sentence)):
            self._held.append((sentence, 0))
            return
        self._seen += 1
        if self._method.share < 1:
            self._held.append((sentence, self._seen))

    def _show(self, kept: int) -> str:
        """Release what is certain to stay when at least the first `kept` sentences do."""
        shown: list[str] = []
        while self._held and self._held[0][1] <= kept:
            shown.append(self._held.popleft()[0])
        return "".join(shown)

    def _finish(self) -> str:
        """The reasoning is complete: release what is not hidden."""
        kept = self._seen - self._method.hidden(self._seen)
        return "".join(sentence for sentence, number in self._held if number <= kept)


def _removal(text: str, start: int, end: int) -> Removal:
    return Removal(start, end, "hidden", count_tokens(text[start:end]))
