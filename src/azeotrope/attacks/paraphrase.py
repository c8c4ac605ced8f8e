"""Rewriting every trace in other words before training: the student's own, or those of a paid model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any, ClassVar

from pydantic import Field, field_validator

from azeotrope.attacks.adaptive import AdaptiveSFT, Lessons, write
from azeotrope.attacks.base import AttackRun
from azeotrope.core.sampling import Sampling
from azeotrope.core.seeds import derive
from azeotrope.core.types import THINK_CLOSE, THINK_OPEN, Trace, split_answer
from azeotrope.models.endpoint import Endpoint, EndpointSettings, parse_ref
from azeotrope.models.lm import LM

RULE = "-----"  # stands between reasoning and answer; tags might be taken out by the server
REQUEST = (
    "Rewrite the text below in other words. Keep every statement, every number and their order, and keep the "
    "final answer exactly as it is written, with its notation. Leave nothing out and add nothing.{rule} Reply "
    "with the rewritten text only.\n\n{text}"
)
KEEP_RULE = f" Keep the line {RULE} where it is, between the reasoning and the answer."

_OPENING = re.compile(r"\s*" + re.escape(THINK_OPEN))
_RULED = re.compile(rf"\n[ \t]*{RULE}[ \t]*\r?\n")


class Paraphrase(AdaptiveSFT):
    """A copy of the base learns to restore traces from drafts with missing words, and rewrites each of them.

    Quirks of single tokens that the writer finds unlikely do not survive; what the sentences say mostly
    does. A rewriting counts only if it ends and keeps the answer; otherwise the original stays. The writer
    learns from the release itself: no query, no other model.

    With `writer`, any model behind an OpenAI-compatible endpoint rewrites instead (docs/endpoint.md), once for
    all bases, and `missing` and `epochs` have no effect. The notes say what it generated and what that costs
    (`writer_tokens`, `writer_cost`): the same for every base, and paid once.
    """

    kind: ClassVar[str] = "paraphrase"
    summary: ClassVar[str] = "rewrite every trace with the student's own model, then fine-tune"

    missing: float = Field(default=0.3, ge=0, lt=1, description="share of words missing from a draft")
    epochs: int = Field(default=2, ge=1, description="epochs of the writer's training")
    temperature: float = Field(default=0.6, ge=0, description="temperature of the rewriting")
    writer: str | None = Field(
        default=None, description="endpoint that rewrites, https://host/v1#model (default: the student's base)"
    )
    writer_limit: int = Field(default=4096, ge=1, description="tokens of one rewriting by an endpoint")

    @field_validator("writer")
    @classmethod
    def _is_an_endpoint(cls, value: str | None) -> str | None:
        if value is not None:
            parse_ref(value)
        return value

    def identity(self) -> dict[str, Any]:
        """See `Method.identity`: only the settings of the writer that is used, and never a cap or a price."""
        found = super().identity()
        if self.writer is None:
            unused = ("writer", "writer_limit")  # so that steps from before these settings are still found
        else:
            unused = ("missing", "epochs")
            found["writer"] = _settings(self.writer).identity()
        return {name: value for name, value in found.items() if name not in unused}

    @property
    def hired(self) -> tuple[str, int] | None:
        """See `StudentAttack.hired`."""
        return (self.writer, self.writer_limit) if self.writer else None

    def told(self, name: str) -> str:
        """See `Settings.told`: a writer without its options, of which most are money and patience."""
        return _settings(self.writer).ref if name == "writer" and self.writer else super().told(name)

    def prepare(self, lm: LM, traces: Sequence[Trace], run: AttackRun) -> Lessons:
        """Rewrite, and keep what still has the answer."""
        task = run.need_task(self.kind)
        if self.writer is None:
            written = self._own(lm, traces, run)
            own_tokens, notes = sum(t.n_tokens for t in written), {}
        else:
            written = self._bought(_settings(self.writer), traces, run)
            own_tokens, notes = 0, _bill(written)
        lessons, changed = [], 0
        for problem, trace, new in zip(run.problems, traces, written, strict=True):
            same = task.grade(problem, new.text).answer == task.grade(problem, trace.text).answer
            keep = new.finished and same
            changed += keep and new.text != trace.text
            lessons.append(replace(new, prompt=trace.prompt, token_ids=None, meta={}) if keep else trace)
        return Lessons(lessons, notes={"rewritten": changed, **notes}, own_tokens=own_tokens)

    def _own(self, lm: LM, traces: Sequence[Trace], run: AttackRun) -> list[Trace]:
        """Train the student's own writer and let it rewrite."""
        pairs = [replace(t, prompt=self._draft(t, run, "train"), token_ids=None) for t in traces]
        writer = self.pupil(lm, pairs, run, self.epochs)
        posed = [
            replace(p, prompt=self._draft(t, run, "write")) for p, t in zip(run.problems, traces, strict=True)
        ]
        return write(writer, run.need_task(self.kind), posed, self.temperature, derive(run.seed, "paraphrase"))

    def _bought(self, settings: EndpointSettings, traces: Sequence[Trace], run: AttackRun) -> list[Trace]:
        """Have an endpoint rewrite what says anything; a rewriting that lost its form counts as not finished."""
        posed = [
            replace(problem, prompt=_request(trace))
            for problem, trace in zip(run.problems, traces, strict=True)
            if _pieces(trace)
        ]
        # A seed of its own: all bases get the same rewritings, so that they are paid for once.
        sampling, seed = Sampling(temperature=self.temperature), derive(0, "paraphrase")
        replies = iter(
            Endpoint(settings).write(posed, sampling, seed=seed, max_new_tokens=self.writer_limit) if posed else ()
        )
        return [_put_back(trace, next(replies)) if _pieces(trace) else trace for trace in traces]

    def _draft(self, trace: Trace, run: AttackRun, stream: str) -> str:
        rng = Random(derive(run.seed, stream, trace.problem_id))
        words = [word for word in trace.text.split() if rng.random() >= self.missing]
        return f"{trace.prompt} {' '.join(words)}\nAgain:"


def _settings(writer: str) -> EndpointSettings:
    """The writer's own reasoning is no part of what it writes."""
    return parse_ref(writer).model_copy(update={"reasoning": "drop"})


def _parts(text: str) -> tuple[str, str, str, str]:
    """Opening tag, reasoning, closing tag and answer span; together they are `text`, and each may be empty."""
    head, answer = split_answer(text)
    closing = THINK_CLOSE if head.endswith(THINK_CLOSE) else ""
    opened = _OPENING.match(head)
    opening = opened[0] if opened else ""
    return opening, head[len(opening) : len(head) - len(closing)], closing, answer


def _pieces(trace: Trace) -> list[str]:
    """What there is to rewrite: reasoning and answer span, as far as they say anything."""
    _, reasoning, _, answer = _parts(trace.text)
    return [piece.strip() for piece in (reasoning, answer) if piece.strip()]


def _request(trace: Trace) -> str:
    pieces = _pieces(trace)
    return REQUEST.format(rule=KEEP_RULE if len(pieces) > 1 else "", text=f"\n{RULE}\n".join(pieces))


def _put_back(trace: Trace, reply: Trace) -> Trace:
    """The rewriting in the form of its original: the same tags, and the same white space around them."""
    said = split_answer(reply.text)[1] or reply.text  # without the writer's thoughts, if a server left them in
    opening, reasoning, closing, answer = _parts(trace.text)
    count = len(_pieces(trace))
    new = _RULED.split(said) if count > 1 else [said]
    if len(new) != count or not all(map(str.strip, new)) or THINK_OPEN in said or THINK_CLOSE in said:
        return replace(reply, finished=False)
    rest = iter(new)
    first, second = (_like(old, next(rest)) if old.strip() else old for old in (reasoning, answer))
    return replace(reply, text=f"{opening}{first}{closing}{second}")


def _like(old: str, new: str) -> str:
    """`new` between the white space that is around `old`."""
    before, after = old.split(old.strip(), 1)
    return f"{before}{new.strip()}{after}"


def _bill(written: Sequence[Trace]) -> dict[str, Any]:
    """What the rewritings cost, whether they came from the server or from the cache."""
    tokens = sum(trace.n_tokens for trace in written if "cost" in trace.meta)
    cost = sum(float(trace.meta.get("cost", 0.0)) for trace in written)
    return {"writer_tokens": tokens, "writer_cost": round(cost, 9)}
