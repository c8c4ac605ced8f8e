"""Where an upstream's model puts its reasoning: one short question, asked before anybody is served.

What `tags` should be cannot be read off a client's reply: a reply that begins within reasoning and ends before the
closing tag looks like an answer, and anybody can ask a model to write such a tag. So the operator asks, a question
that no client can influence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from azeotrope.core.errors import ConfigError, MissingError, RunError
from azeotrope.gateway.dialects import dialect
from azeotrope.gateway.relay import name_limit
from azeotrope.gateway.settings import ServerFile, Tags, UpstreamSettings
from azeotrope.gateway.upstream import Upstream, UpstreamError
from azeotrope.gateway.wire import events as ev
from azeotrope.gateway.wire.errors import WireError
from azeotrope.gateway.wire.fields import encode
from azeotrope.gateway.wire.request import Message, Request
from azeotrope.gateway.wire.think import Splitter

Place = Literal["apart", "tags", "opened", "none", "unknown"]
QUESTION: Final = "What is 17 + 25? Think about it first, then answer with the number alone."
TOKENS: Final = 1024
SAID: Final[Mapping[Place, str]] = {
    "apart": "the server tells reasoning apart itself",
    "tags": "the model writes both tags in its text",
    "opened": "the template opens the reasoning, so that only the closing tag is in the text",
    "none": "no reasoning was seen",
    "unknown": "the reply ended before it was seen where reasoning is",
}
FITS: Final[Mapping[Place, tuple[Tags, ...]]] = {  # the first is what to write
    "apart": ("auto", "none"),
    "tags": ("auto", "opened"),
    "opened": ("opened",),
    "none": ("auto", "none"),
    "unknown": (),
}


@dataclass(frozen=True)
class Look:
    """What was seen of a model. `tags` is what the file says; `failure` why nothing was seen."""

    upstream: str
    model: str
    tags: Tags
    place: Place = "unknown"
    failure: str = ""

    @property
    def fits(self) -> bool:
        """Whether the setting is seen to show no reasoning as an answer and to hide no answer as reasoning."""
        return not self.failure and self.tags in FITS[self.place]

    @property
    def told(self) -> bool:
        """Whether anything was seen."""
        return not self.failure and self.place != "unknown"

    @property
    def sentence(self) -> str:
        """What was seen and what to do, for people."""
        where = f"{self.upstream}, model '{self.model}'"
        if self.failure:
            return f"{where}: {self.failure}"
        if self.place == "unknown":
            return f"{where}: {SAID[self.place]}; ask again with a larger --max-tokens."
        if self.fits:
            return f"{where}: {SAID[self.place]}; 'tags: {self.tags}' is right."
        return f"{where}: {SAID[self.place]}; write 'tags: {FITS[self.place][0]}' in place of '{self.tags}'."


def asked(settings: ServerFile, model: str = "") -> list[tuple[str, str]]:
    """Upstreams and their own names of the models that the file serves; all are asked for `model` if it is given.

    Raises MissingError where the file names no model of an upstream and none is given, ConfigError for a file
    without upstreams.
    """
    if not settings.upstreams:
        raise ConfigError("There is no upstream to ask: a model of one's own is read from its chat template.")
    if model:
        return [(name, model) for name in settings.upstreams]
    found = sorted({(m.upstream, m.served or name) for name, m in settings.models.items()})
    found = [pair for pair in found if pair[0] in settings.upstreams]
    for name in settings.upstreams:
        if name not in {upstream for upstream, _ in found}:
            raise MissingError(f"No model of upstream '{name}' is named in 'models'; give one with --model.")
    return found


async def look(name: str, settings: UpstreamSettings, model: str, tokens: int = TOKENS) -> Look:
    """Ask a model one question. What goes wrong is told in the result."""
    seen, outward = Look(name, model, settings.tags), dialect(settings.dialect)
    try:
        upstream = Upstream(settings)
    except MissingError as error:  # its key; the others can be asked all the same
        return replace(seen, failure=str(error))
    try:
        exchange = await upstream.post(outward.path, _question(settings, model, tokens))
        if exchange.status != 200:
            exchange.close()
            hint = "address, key, model and limit_field" if exchange.status == 400 else "address, key and model"
            return replace(seen, failure=f"status {exchange.status}; check the upstream's {hint}.")
        body = await exchange.body(settings.largest_reply)
        return replace(seen, place=place(settings.dialect, body))
    except UpstreamError as error:
        return replace(seen, failure=error.problem.message)
    except WireError:
        return replace(seen, failure="its reply cannot be read; check the upstream's dialect.")
    except RunError as error:
        return replace(seen, failure=str(error))
    finally:
        await upstream.stop()


def _question(settings: UpstreamSettings, model: str, tokens: int) -> bytes:
    request = Request(model, (Message("user", (QUESTION,)),), max_tokens=tokens)
    written = dialect(settings.dialect).write(request)
    name_limit(written, settings)
    return encode(written)


def place(name: str, body: bytes) -> Place:
    """Where reasoning is in a whole reply of a dialect. Raises WireError and RunError for one that is none."""
    reader = dialect(name).reader(None)
    plain = [*reader.whole(body), *reader.close()]
    if any(isinstance(one, ev.Failure) for one in plain) or not any(isinstance(one, ev.Finish) for one in plain):
        raise RunError("it answered with an error; check the upstream's key and model.")
    if any(isinstance(one, ev.Reasoning | ev.Sealed) for one in plain):
        return "apart"
    reader = dialect(name).reader(Splitter)
    events = [*reader.whole(body), *reader.close()]
    if reader.stray:
        return "opened"
    if any(isinstance(one, ev.Reasoning) for one in events):
        return "tags"
    ended = any(isinstance(one, ev.Finish) and one.reason == ev.STOP for one in events)
    return "none" if ended else "unknown"
