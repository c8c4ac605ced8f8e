"""Answers only: a share of the traces loses its whole reasoning.

For the owner of a data set. The thief's training set is then a mixture of full traces and of bare answers, in
the format it had: an empty think block, then the answer. `hide_reasoning` is what an API does instead: every
reply loses a part of its reasoning, and at full strength the block itself.

=================  =========================================================================================
symbol             argument
=================  =========================================================================================
share              `share`: the probability, in [0, 1], that a trace is dropped to its answer
=================  =========================================================================================

Guarantees. Share 0 is the identity, and with share 1 no trace keeps its reasoning. A trace either stays as it
is or loses every sentence of its reasoning but those with ``\\boxed``, which count as answer. The think tags
and everything after the last ``</think>`` stay, byte for byte. A trace draws one number and is dropped if it is
below the share: for a fixed random state, one that is dropped is dropped at every larger share too.

Assumptions and cost. A trace without ``</think>`` has declared no answer, so all of it is reasoning: what is
left may be empty. The share is one of traces, not of tokens, and is met on average. Linear time; streams with
the look-ahead of a sentence, in constant memory.
"""

from __future__ import annotations

from random import Random
from typing import ClassVar

from pydantic import Field

from azeotrope.core.methods import TextStream, TraceDefense
from azeotrope.core.types import THINK_CLOSE, Trace, split_answer
from azeotrope.defenses.traceguard import Removal, count_tokens, is_protected, is_tag, without
from azeotrope.text.segment import Segmenter, boundaries


class AnswerOnly(TraceDefense):
    """Drop the whole reasoning of a share of the traces; see the module's text."""

    kind: ClassVar[str] = "answer_only"
    summary: ClassVar[str] = "drops the whole reasoning of a share of the traces, keeping the empty think block"
    dial: ClassVar[str] = "share"
    sweep: ClassVar[tuple[float, ...]] = (0.25, 0.5, 0.75, 1.0)

    share: float = Field(default=1.0, ge=0, le=1, description="share of the traces that lose their reasoning")

    def rewrite(self, trace: Trace, rng: Random) -> Trace:
        """Return `trace`, perhaps without its reasoning; `meta` and `n_tokens` as in `TraceGuard.rewrite`.

        ``meta["undefended"]`` is true for a trace that was not drawn, too.
        """
        if self.share == 0:
            return trace
        return without(trace, self.choose(trace.text) if self.draws(rng) else [])

    def draws(self, rng: Random) -> bool:
        """Whether the trace with this random state loses its reasoning."""
        return rng.random() < self.share

    def choose(self, text: str) -> list[Removal]:
        """Return the runs of sentences that a drawn trace loses, in the order of the text."""
        reasoning, _ = split_answer(text)
        runs: list[tuple[int, int]] = []
        start = 0
        for end in boundaries(reasoning):
            if not is_protected(reasoning, start, end):
                joins = runs and runs[-1][1] == start
                runs.append((runs.pop()[0] if joins else start, end))
            start = end
        return [Removal(at, to, "reasoning", count_tokens(reasoning[at:to])) for at, to in runs]

    def incremental(self, rng: Random) -> TextStream:
        """The streaming form."""
        return self.stream(rng)

    def stream(self, rng: Random) -> AnswerOnlyStream:
        """Return the streaming form; it draws now."""
        return AnswerOnlyStream(dropping=self.draws(rng))


class AnswerOnlyStream:
    """`AnswerOnly` on text that is still being written; the output equals that of the finished form.

    The first ``</think>`` starts the answer (for a finished trace it is the last: a reply with several is the
    only case in which the two differ). A trace that was not drawn passes as it arrives.
    """

    def __init__(self, dropping: bool) -> None:
        self._passing = not dropping
        self._segmenter = Segmenter()

    def feed(self, chunk: str) -> str:
        """Take more of the trace; return the text that can be released now (often empty)."""
        return chunk if self._passing else self._release(self._segmenter.feed(chunk))

    def close(self) -> str:
        """Declare the trace finished; return the rest."""
        return "" if self._passing else self._release(self._segmenter.close())

    def _release(self, sentences: list[str]) -> str:
        kept: list[str] = []
        for index, sentence in enumerate(sentences):
            if is_tag(sentence) and THINK_CLOSE in sentence:
                self._passing = True
                return "".join([*kept, *sentences[index:], *self._segmenter.close()])
            if is_protected(sentence, 0, len(sentence)):
                kept.append(sentence)
        return "".join(kept)
