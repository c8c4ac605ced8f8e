"""Bridging gaps: where a step seems to be missing, the undistilled student writes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar

from pydantic import Field

from azeotrope.attacks.adaptive import AdaptiveSFT, Lessons
from azeotrope.attacks.base import AttackRun
from azeotrope.core.sampling import Sampling
from azeotrope.core.seeds import derive
from azeotrope.core.types import THINK_CLOSE, THINK_OPEN, Trace, split_answer
from azeotrope.models.decode import decode
from azeotrope.models.lm import LM
from azeotrope.models.scoring import trace_nll
from azeotrope.text.segment import boundaries, segment


@dataclass(frozen=True, slots=True)
class Junction:
    """The place before a sentence of a trace: where (row, offset), the sentence, its surprise (nats a token).

    `tag`: what stands between the place and the sentence, where the sentence is the answer.
    """

    row: int
    at: int
    sentence: str
    surprise: float
    tag: str = ""


class Infill(AdaptiveSFT):
    """Find the sentences that surprise the undistilled student most and let it write one sentence before each.

    A bridge stays only if it makes the next sentence more likely by `gain` nats a token. Aims at defenses
    that remove sentences. No query; the student's own mistakes come in with its bridges. With `close` the place
    before the end of the reasoning counts as well, for defenses that cut there: the answer is then what must
    become more likely.
    """

    kind: ClassVar[str] = "infill"
    summary: ClassVar[str] = "regenerate missing steps with the undistilled student, then fine-tune"

    share: float = Field(default=0.2, ge=0, le=1, description="share of junctions that are tried")
    gain: float = Field(default=0.1, ge=0, description="nats a token the next sentence must gain")
    temperature: float = Field(default=0.6, ge=0, description="temperature of the bridges")
    tokens: int = Field(default=32, ge=1, description="longest bridge")
    close: bool = Field(default=False, description="whether a step may be missing at the end of the reasoning too")

    def identity(self) -> dict[str, Any]:
        """See `Method.identity`: without `close` where it is off, so that steps from before it are still found."""
        return {name: value for name, value in super().identity().items() if name != "close" or value}

    def prepare(self, lm: LM, traces: Sequence[Trace], run: AttackRun) -> Lessons:
        """Bridge the most surprising junctions."""
        junctions = sorted(junctions_of(lm, traces, self.close), key=lambda j: (-j.surprise, j.row, j.at))
        tried = junctions[: round(self.share * len(junctions))]
        bridges, spent = self.bridges(lm, traces, tried, run)
        after = trace_nll(
            lm, [_before(traces[j.row], j, bridge) for j, bridge in zip(tried, bridges, strict=True)]
        )
        kept = [
            (j, bridge)
            for j, bridge, value in zip(tried, bridges, after, strict=True)
            if bridge and value <= j.surprise - self.gain
        ]
        lessons = bridged(traces, kept)
        return Lessons(lessons, notes={"tried": len(tried), "bridged": len(kept)}, own_tokens=spent)

    def bridges(
        self, lm: LM, traces: Sequence[Trace], tried: Sequence[Junction], run: AttackRun
    ) -> tuple[list[str], int]:
        """One sentence before each junction (empty where none was finished), and the tokens written."""
        if not tried:
            return [], 0
        prompts = [traces[j.row].prompt + traces[j.row].text[: j.at].rstrip() for j in tried]
        seeds = [derive(run.seed, "bridge", j.row, j.at) for j in tried]
        sampling = Sampling(temperature=self.temperature)
        samples = decode(lm, lm.encode_many(prompts), seeds, sampling, max_new_tokens=self.tokens)
        found = []
        for j, sample in zip(tried, samples, strict=True):
            written = segment(lm.decode(sample.ids).lstrip())
            whole = len(written) > 1 and THINK_CLOSE not in written[0] and THINK_OPEN not in written[0]
            space = traces[j.row].text[: j.at][len(traces[j.row].text[: j.at].rstrip()) :] or " "
            bridge = " " + written[0].strip() if j.tag else written[0].strip() + space
            found.append(bridge if whole else "")
        return found, sum(len(sample.ids) for sample in samples)


def bridged(traces: Sequence[Trace], kept: Sequence[tuple[Junction, str]]) -> list[Trace]:
    """The traces with bridges put in where they belong."""
    texts = [trace.text for trace in traces]
    for j, bridge in sorted(kept, key=lambda item: -item[0].at):  # from the end, so that offsets hold
        texts[j.row] = texts[j.row][: j.at] + bridge + texts[j.row][j.at :]
    return [
        trace if text == trace.text else replace(trace, text=text, n_tokens=0, token_ids=None, moved=None)
        for trace, text in zip(traces, texts, strict=True)
    ]


def junctions_of(lm: LM, traces: Sequence[Trace], close: bool) -> list[Junction]:
    """Every place between two sentences of a reasoning, with the surprise of the second.

    With `close` also the place before its end, with that of the answer.
    """
    places = []
    for row, trace in enumerate(traces):
        reasoning, answer = split_answer(trace.text)
        ends = boundaries(reasoning)
        for at, end in pairwise(ends):
            sentence = reasoning[at:end]
            if sentence.strip() and THINK_CLOSE not in sentence:
                places.append(Junction(row, at, sentence, 0.0))
            elif close and sentence.strip() == THINK_CLOSE and answer.strip():
                kept = len(reasoning[:at].rstrip())
                places.append(Junction(row, kept, answer, 0.0, reasoning[kept:]))
    values = trace_nll(lm, [_before(traces[j.row], j, "") for j in places])
    return [replace(j, surprise=value) for j, value in zip(places, values, strict=True)]


def _before(trace: Trace, j: Junction, bridge: str) -> Trace:
    """The junction's sentence as a completion of everything before it (and a bridge)."""
    head = trace.prompt + trace.text[: j.at] + bridge + j.tag
    return replace(trace, prompt=head.rstrip(), text=" " + j.sentence.strip(), finished=False)
