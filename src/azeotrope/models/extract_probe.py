"""What a server lets be seen: two or three requests that decide how its logits are read, or why they cannot be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from azeotrope.core.errors import ConfigError, RunError
from azeotrope.core.types import Problem
from azeotrope.models.endpoint import RefusedRequestError
from azeotrope.models.extract_ask import Asker
from azeotrope.models.extract_methods import Lens, Name, identified
from azeotrope.models.extract_reply import Entry, Shown
from azeotrope.models.extract_tokens import Vocabulary, is_number

PURPOSE = "probe"
STRANGE = 0.1  # of the tokens shown may have names that the tokenizer does not know
_REFUSALS = (400, 403, 405, 415, 422, 501)
_ALLOWED: dict[Name, tuple[Name, ...]] = {
    "shared": ("shared", "single"),
    "single": ("single",),
    "sampled": ("sampled",),
}


@dataclass(frozen=True)
class Probe:
    """A server, the first prompt, and what is wanted of them."""

    asker: Asker
    words: Vocabulary
    problem: Problem
    method: Literal["auto"] | Name
    k: int
    bias: float
    resolution: float

    @property
    def _who(self) -> str:
        return f"The endpoint {self.asker.endpoint.settings.ref}"

    def lens(self) -> Lens:
        """Find out how to read logits.

        Raises RunError if the server shows no log-probabilities, refuses `logit_bias` or ignores it, if another
        method is wanted than works, or if `max_queries` does not even allow this; ConfigError if the server's
        tokens are not the tokenizer's.
        """
        if self.method == "argmax":
            return self._lens("argmax", 0, self._moved(self._ask({}, 0)))
        natural = self._ask({}, self.k)
        if not natural.entries:
            raise RunError(
                f"{self._who} shows no log-probabilities; only the method 'argmax' works without them, "
                "which takes many more queries."
            )
        strange = [entry for entry in natural.entries if self.words.strange(entry)]
        home = next((i for entry in natural.entries if (i := self.words.find(entry)) is not None), None)
        if home is None or len(strange) > max(1, STRANGE * len(natural.entries)):
            raise self._other(strange or natural.entries)
        found, k = self._found(home, natural)
        wanted = found if self.method == "auto" else self.method
        if wanted not in _ALLOWED[found]:
            raise RunError(
                f"{self._who} can be read by the method '{found}', not by '{wanted}'; leave the method out."
            )
        return self._lens(wanted, k if wanted == "shared" else 1, home, all(map(is_number, natural.entries)))

    def _found(self, home: int, natural: Shown) -> tuple[Name, int]:
        """The cheapest method that works, and how many log-probabilities a reply shows."""
        seen = {self.words.find(entry) for entry in natural.entries}
        others = self.words.spread(max(1, self.k - 1), without={i for i in seen if i is not None})
        if self.k > 1:
            asked = [home, *others]
            raised = self._ask(dict.fromkeys(asked, self.bias), self.k)
            usual = {entry.name for entry in natural.entries}
            strange = [e for e in raised.top if e.name not in usual and self._unasked(e, raised, asked)]
            if strange:
                raise self._other(strange)
            shown = identified(self.words, raised, asked, self.bias)
            if home in shown and any(i in shown for i in others):
                return "shared", min(self.k, len(raised.top))
        reply = self._ask({others[0]: self.bias}, self.k)
        if reply.said is None or self.words.identify(reply.said, others[:1]) is None:
            raise RunError(
                f"{self._who} ignores logit_bias: a token that was raised by {self.bias:g} nats was not said; "
                f"without it, no more than the {self.k} likeliest tokens of a prompt can be read."
            )
        # Certain under the bias; without it, a token that is not the likeliest has less than half.
        return ("single" if reply.said.logprob > -0.5 else "sampled"), 1

    def _unasked(self, entry: Entry, reply: Shown, asked: Sequence[int]) -> bool:
        """Whether a token is as likely as raised ones are, and by its name none of those asked for."""
        near = entry.logprob > max(one.logprob for one in reply.top) - self.bias / 2
        return near and self.words.identify(entry, asked) is None

    def _other(self, entries: Sequence[Entry]) -> ConfigError:
        names = ", ".join(repr(entry.name[:20]) for entry in entries[:3])
        return ConfigError(
            f"{self._who} shows tokens ({names}) that the tokenizer does not have, or not once, or numbers "
            "otherwise; name the teacher's own."
        )

    def _moved(self, natural: Shown) -> int:
        """A token that is said when it is raised: the reference of `argmax`."""
        natural_is = self.words.find(Entry(natural.text, 0.0))
        (token,) = self.words.spread(1, without={natural_is} if natural_is is not None else ())
        reply = self._ask({token: self.bias}, 0)
        if (reply.text, reply.finish) == (natural.text, natural.finish):
            raise RunError(
                f"{self._who} ignores logit_bias: a token that was raised by {self.bias:g} nats was not said; "
                "without it, only the likeliest token of a prompt can be read."
            )
        return token

    def _ask(self, bias: Mapping[int, float], k: int) -> Shown:
        try:
            replies = self.asker.ask(self.problem, [bias], k, PURPOSE)
        except RefusedRequestError as error:
            if error.status not in _REFUSALS:
                raise
            what = "logit_bias" if bias else f"{k} log-probabilities" if k else "a reply of one token"
            hint = "" if bias else "; ask for fewer" if k > 1 else ""
            raise RunError(f"{self._who} refuses {what} (it {error.said}){hint}.") from None
        if not replies:
            raise RunError(
                f"The cap of {self.asker.max_queries} queries is reached before anything is read; raise it."
            )
        return replies[0]

    def _lens(self, method: Name, k: int, reference: int, by_id: bool = False) -> Lens:
        return Lens(self.asker, self.words, method, k, reference, self.bias, self.resolution, by_id)
