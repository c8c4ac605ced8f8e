"""Events put together again: what a whole reply says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from azeotrope.gateway.wire import events as ev


@dataclass(slots=True)
class Call:
    """A tool call."""

    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(slots=True)
class Choice:
    """One alternative: lists of pieces, joined when they are read."""

    reasoning_pieces: list[str] = field(default_factory=list)
    summary_pieces: list[str] = field(default_factory=list)
    text_pieces: list[str] = field(default_factory=list)
    refusal_pieces: list[str] = field(default_factory=list)
    sealed: list[ev.Sealed] = field(default_factory=list)
    calls: dict[int, Call] = field(default_factory=dict)
    call_pieces: dict[int, list[str]] = field(default_factory=dict)
    logprobs: list[ev.Logprob] = field(default_factory=list)
    reason: ev.Reason | None = None

    @property
    def reasoning(self) -> str:
        """The reasoning, whole."""
        return "".join(self.reasoning_pieces)

    @property
    def summary(self) -> str:
        """The provider's summary of the reasoning."""
        return "".join(self.summary_pieces)

    @property
    def text(self) -> str:
        """The answer."""
        return "".join(self.text_pieces)

    @property
    def refusal(self) -> str:
        """The words of a refusal."""
        return "".join(self.refusal_pieces)

    @property
    def tools(self) -> list[Call]:
        """Calls in the order of their slots."""
        found = []
        for slot in sorted(self.calls):
            call = self.calls[slot]
            found.append(Call(call.id, call.name, "".join(self.call_pieces[slot])))
        return found


@dataclass(slots=True)
class Reply:
    """A whole reply. `failure` is set if the upstream gave up."""

    id: str = ""
    model: str = ""
    created: int = 0
    choices: dict[int, Choice] = field(default_factory=dict)
    usage: ev.Usage | None = None
    failure: ev.Failure | None = None

    def add(self, event: ev.Event) -> None:
        """Take in one event."""
        match event:
            case ev.Start(id=name, model=model, created=created):
                self.id, self.model, self.created = name, model, created
            case ev.Usage():
                self.usage = event
            case ev.Failure():
                self.failure = event
            case _:
                _put(self.choices.setdefault(event.choice, Choice()), event)


def gather(events: Iterable[ev.Event]) -> Reply:
    """The reply that the events make."""
    reply = Reply()
    for event in events:
        reply.add(event)
    return reply


def _put(choice: Choice, event: ev.Event) -> None:
    match event:
        case ev.Reasoning(text=text, summary=summary):
            (choice.summary_pieces if summary else choice.reasoning_pieces).append(text)
        case ev.Text(text=text, refusal=refusal, tokens=tokens):
            (choice.refusal_pieces if refusal else choice.text_pieces).append(text)
            choice.logprobs.extend(tokens)
        case ev.Sealed():
            choice.sealed.append(event)
        case ev.Tool(slot=slot):
            call = choice.calls.setdefault(slot, Call())
            call.id = call.id or event.id
            call.name = call.name or event.name
            choice.call_pieces.setdefault(slot, []).append(event.arguments)
        case ev.Finish(reason=reason):
            choice.reason = reason
