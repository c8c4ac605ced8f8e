"""What a stance does to one reply: events in, events that may leave out.

Reasoning of a choice goes through the stance's text defenses, piece by piece where they can. The answer, tool
calls and their order are not touched. What an event can say of reasoning beside its text (log-probabilities,
sealed copies, token counts) leaves only if the reasoning itself leaves unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random
from typing import Literal, Self
from zlib import crc32

import msgspec

from azeotrope.core.methods import SurfaceDefense, TextStream, TraceDefense
from azeotrope.core.types import THINK_CLOSE, THINK_OPEN
from azeotrope.gateway.wire import events as ev
from azeotrope.gateway.wire.think import Tagless

HIDDEN = -9999.0  # what OpenAI writes for a token that is not among the likeliest
Disclose = Literal["full", "none"]


@dataclass(frozen=True, slots=True)
class Treatment:
    """What happens to a reply. `texts` act in order; `logprobs`: whether any are shown at all.

    `tell_reasoning`: whether the usage says how many tokens reasoning took. `bill_reasoning`: whether they are
    part of the completion tokens that the client is told; the audit log has the upstream's numbers in any case.
    """

    disclose: Disclose = "full"
    texts: tuple[TraceDefense, ...] = ()
    surfaces: tuple[SurfaceDefense, ...] = ()
    logprobs: bool = True
    tell_reasoning: bool = True
    bill_reasoning: bool = True

    @property
    def exact(self) -> bool:
        """Whether reasoning leaves as it came."""
        return self.disclose == "full" and not self.texts


@dataclass(slots=True)
class Change:
    """What was done to a reply: characters of reasoning that came, and that left; of the answer; whether they
    differ.

    `numbers` counts the log-probabilities that left. `original` holds the reasoning that came, by choice, if it
    was to be kept, `summaries` what an upstream said of it in its place.
    """

    came: int = 0
    left: int = 0
    answer: int = 0
    altered: bool = False
    numbers: int = 0
    original: dict[int, list[str]] = field(default_factory=dict)
    summaries: dict[int, list[str]] = field(default_factory=dict)
    sealed: dict[int, list[ev.Sealed]] = field(default_factory=dict)


class Thoughts:
    """The text defenses on one run of reasoning."""

    def __init__(self, methods: Iterable[TraceDefense], rng: Random) -> None:
        self._clean, self._bare = Tagless(), Tagless()
        self._streams: list[TextStream] = [method.incremental(rng) for method in methods]
        self._came = self._left = 0
        self._ready = self._through(THINK_OPEN)

    @property
    def altered(self) -> bool:
        """Whether what left, up to now or (after `close`) in all, is not what came."""
        return self._came != self._left

    def feed(self, text: str) -> str:
        """Take more of the reasoning; return what may leave."""
        self._came = crc32(text.encode("utf-8", "surrogatepass"), self._came)
        return self._out(self._ready + self._through(self._clean.strip(text)))

    def close(self) -> str:
        """The reasoning is over; return the rest."""
        text = self._ready + self._through(self._clean.rest() + THINK_CLOSE)
        for place, stream in enumerate(self._streams):
            text += self._through(stream.close(), place + 1)
        return self._out(text, last=True)

    def _through(self, text: str, start: int = 0) -> str:
        for stream in self._streams[start:]:
            text = stream.feed(text)
        return text

    def _out(self, text: str, *, last: bool = False) -> str:
        self._ready = ""
        text = self._bare.strip(text) + (self._bare.rest() if last else "")
        self._left = crc32(text.encode("utf-8", "surrogatepass"), self._left)
        return text


class Shield:
    """One reply under a treatment. Feed it events with `take`, and `close` it.

    `dice` names what the random choices of this reply follow from: the same name makes the same choices, so that
    asking again shows nothing more. `asked` is how many alternatives a token the client wants to see. `keep`: keep
    the original reasoning in `change`. `cached`: let the count of cached tokens leave. `restored`: the share of
    the prompt that is reasoning of earlier turns which the client was not given.
    """

    def __init__(
        self,
        treatment: Treatment,
        dice: bytes,
        *,
        asked: int = 0,
        keep: bool = False,
        cached: bool = False,
        restored: float = 0.0,
    ) -> None:
        self._do, self._dice, self._asked, self._keep, self._cached = treatment, dice, asked, keep, cached
        self._restored = restored
        self._open: dict[tuple[int, bool], Thoughts] = {}
        self._runs = 0
        self.change = Change()

    def take(self, events: Iterable[ev.Event]) -> list[ev.Event]:
        """What of `events`, and of what was held back, may leave now."""
        found: list[ev.Event] = []
        for event in events:
            self._take(event, found)
        return found

    def close(self) -> list[ev.Event]:
        """What is still held back."""
        found: list[ev.Event] = []
        for choice in sorted({choice for choice, _ in self._open}):
            found += self._finish(choice)
        return found

    def _take(self, event: ev.Event, found: list[ev.Event]) -> None:
        if isinstance(event, ev.Reasoning):
            self._think(event, found)
        elif isinstance(event, ev.Text):
            self.change.answer += len(event.text)
            found += self._finish(event.choice)
            found.append(self._show(event) if event.tokens else event)
        elif isinstance(event, ev.Tool | ev.Finish):
            if isinstance(event, ev.Tool):
                self.change.answer += len(event.arguments)
            found += self._finish(event.choice)
            found.append(event)
        elif isinstance(event, ev.Sealed):
            if self._keep:
                self.change.sealed.setdefault(event.choice, []).append(event)
            if self._do.exact:
                found.append(event)
        elif isinstance(event, ev.Usage):
            found.append(self._bill(event))
        else:
            found.append(event)

    def _think(self, event: ev.Reasoning, found: list[ev.Event]) -> None:
        change = self.change
        change.came += len(event.text)
        if self._keep:
            kept = change.summaries if event.summary else change.original
            kept.setdefault(event.choice, []).append(event.text)
        if self._do.exact:
            change.left += len(event.text)
            found.append(event)
            return
        if self._do.disclose == "none":
            change.altered = change.altered or bool(event.text)
            return
        key = (event.choice, event.summary)
        thoughts = self._open.get(key)
        if thoughts is None:
            self._runs += 1
            rng = Random(self._dice + self._runs.to_bytes(4, "big"))
            thoughts = self._open[key] = Thoughts(self._do.texts, rng)
        self._say(thoughts.feed(event.text), key, found)

    def _finish(self, choice: int) -> list[ev.Event]:
        """End the runs of reasoning of a choice."""
        if not self._open:
            return []
        found: list[ev.Event] = []
        for key in [key for key in self._open if key[0] == choice]:
            thoughts = self._open.pop(key)
            self._say(thoughts.close(), key, found)
            self.change.altered |= thoughts.altered
        return found

    def _say(self, text: str, key: tuple[int, bool], found: list[ev.Event]) -> None:
        if text:
            self.change.left += len(text)
            found.append(ev.Reasoning(text, key[0], key[1]))

    def _show(self, event: ev.Text) -> ev.Text:
        """A piece of the answer with what the surfaces leave of its log-probabilities."""
        said = Said(event.tokens if self._do.logprobs else ())
        for surface in self._do.surfaces:
            said = surface.expose(said)
        tokens = said.first(self._asked)
        self.change.numbers += sum(1 + len(token.top) for token in tokens)
        return msgspec.structs.replace(event, tokens=tokens)

    def _bill(self, usage: ev.Usage) -> ev.Usage:
        completion = usage.completion
        if not self._do.bill_reasoning and completion is not None:
            completion = max(0, completion - (usage.reasoning or self._share(completion)))
        told = usage.reasoning if self._do.tell_reasoning else None
        prompt, cached = usage.prompt, usage.cached if self._cached else None
        if not self._do.bill_reasoning and self._restored:  # what is cached would tell its size, too
            prompt, cached = None if prompt is None else round(prompt * (1.0 - self._restored)), None
        return ev.Usage(prompt, completion, told, cached)

    def _share(self, completion: int) -> int:
        """How many of a reply's tokens were reasoning, by its characters, where the upstream does not say so."""
        came = self.change.came
        return -(-completion * came // (came + self.change.answer)) if came else 0


@dataclass(frozen=True, slots=True)
class Said:
    """Log-probabilities of a reply's tokens, in the form that surface defenses know (`Exposed`).

    The token that was said counts as one of the alternatives where the upstream lists it; where a defense leaves
    it out, its own log-probability is `HIDDEN`.
    """

    tokens: tuple[ev.Logprob, ...]

    def top(self, k: int) -> Self:
        """Only the k largest of a token."""
        return self._each(lambda token: _best(token, k))

    def rounded(self, step: float) -> Self:
        """Rounded to multiples of `step` nats; 0 leaves them."""
        return self if step == 0 else self._each(lambda token: _mapped(token, lambda _, p: round(p / step) * step))

    def mixed(self, share: float) -> Self:
        """Those of (1 − share)·p + share·(the token that was said); at share 1 nothing."""
        if share == 1:
            return type(self)(())

        def mix(token: ev.Logprob) -> ev.Logprob:
            def value(name: str, p: float) -> float:
                kept = (1 - share) * math.exp(min(p, 0.0))
                total = kept + (share if name == token.token else 0.0)
                return math.log(total) if total > 0 else HIDDEN

            return _mapped(token, value)

        return self._each(mix)

    def first(self, n: int) -> tuple[ev.Logprob, ...]:
        """The tokens with at most n alternatives each."""
        return tuple(msgspec.structs.replace(token, top=token.top[:n]) for token in self.tokens)

    def _each(self, change: Callable[[ev.Logprob], ev.Logprob]) -> Self:
        return type(self)(tuple(change(token) for token in self.tokens))


def _best(token: ev.Logprob, k: int) -> ev.Logprob:
    top = tuple(sorted(token.top, key=lambda other: -other.logprob)[:k])
    shown = any(other.token == token.token for other in top)
    return ev.Logprob(token.token, token.logprob if shown else HIDDEN, top, token.raw)


def _mapped(token: ev.Logprob, value: Callable[[str, float], float]) -> ev.Logprob:
    top = tuple(ev.Alternative(other.token, value(other.token, other.logprob)) for other in token.top)
    return ev.Logprob(token.token, value(token.token, token.logprob), top, token.raw)
