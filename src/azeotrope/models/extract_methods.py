"""Four ways to read logits at one prompt through `logit_bias` (arXiv 2403.06634, §5 and its supplement).

Each returns logits relative to the reference token R, z_i − z_R in nats, float64 [V], NaN where nothing is known.
What a server must show decides which of them works:

| method | the server shows | replies for V tokens |
|---|---|---|
| `shared` | k ≥ 2 log-probabilities, under the bias | ⌈(V−1)/(k−1)⌉ |
| `single` | one log-probability, under the bias | V, times 2 to 3 for finding the bias |
| `sampled` | the log-probability of the token it says, without the bias; the bias moves the text only | V |
| `argmax` | text only, moved by the bias | V·(1 + log₂(bias/resolution)) |

Shapes: V vocabulary. k tokens shown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from azeotrope.core.types import Problem
from azeotrope.maths.extraction import relative, unbiased
from azeotrope.models.extract_ask import Asker
from azeotrope.models.extract_reply import Entry, Shown
from azeotrope.models.extract_tokens import Vocabulary

Name = Literal["shared", "single", "sampled", "argmax"]

AGAIN = 0.5  # of the bias, when values are asked again: a float then rounds elsewhere
ENOUGH = 0.05  # 1 − P of a single log-probability: an error of it grows 20-fold at most
TARGET = 1.0  # log odds of P that are aimed at: likelier than the rest, and far from certain
STEP = 8.0  # nats between biases while nothing is known of a token
START = 12.0  # nats, the first guess of −log p
PILOT = 16  # tokens that give the others their first guess
ROUNDS = 24


@dataclass
class Lens:
    """How the logits of one model are read: whom to ask, its tokens, and with what settings."""

    asker: Asker
    words: Vocabulary
    method: Name
    k: int
    reference: int
    bias: float = 100.0
    resolution: float = 0.01
    by_id: bool = False  # replies name tokens by number
    surprise: dict[int, float] = field(default_factory=dict)  # `single`: the last −log p of a token

    def read(self, problem: Problem, ids: Sequence[int], purpose: str, *, again: bool = False) -> Tensor:
        """z_i − z_R of the tokens `ids` (and 0 for R). [V], NaN for all others and what was not to be had.

        Raises what `Endpoint.replies` raises.
        """
        wanted = [i for i in dict.fromkeys(ids) if i != self.reference]
        known = _METHODS[self.method](self, problem, wanted, purpose, again)
        found = torch.full((self.words.size,), math.nan, dtype=torch.float64)
        if self.reference in known:
            at = torch.tensor(list(known))
            values = torch.tensor(list(known.values()), dtype=torch.float64)
            found[at] = relative(values, known[self.reference])
        return found

    def limit(self, again: bool) -> float:
        """The largest bias that is used."""
        return self.bias * (AGAIN if again else 1.0)


def _shared(lens: Lens, problem: Problem, ids: Sequence[int], purpose: str, again: bool) -> dict[int, float]:
    """k − 1 tokens and R under one bias; the bias and the normalization cancel in each reply."""
    home, known, limit = lens.reference, {lens.reference: 0.0}, lens.limit(again)
    groups = lens.words.groups(ids, lens.k - 1, by_id=lens.by_id)
    biases = [dict.fromkeys([home, *group], limit) for group in groups]
    for group, reply in zip(groups, lens.asker.ask(problem, biases, lens.k, purpose, again=again), strict=False):
        values = identified(lens.words, reply, [home, *group], limit)
        if home in values:
            known |= {i: values[i] - values[home] for i in group if i in values}
    return known


def identified(words: Vocabulary, reply: Shown, asked: Collection[int], bias: float) -> dict[int, float]:
    """The log-probabilities of those tokens of `asked`, all raised by `bias`, that a reply shows.

    A text that several tokens have may also be that of one that was not raised. Such are at least half the bias
    below the likeliest that was, unless that is itself so far below the likeliest without a bias: what is further
    down is not believed.
    """
    found: dict[int, float] = {}
    for entry in sorted(reply.entries, key=lambda entry: -entry.logprob):
        token = words.identify(entry, asked)
        if token is None or token in found:
            continue
        near = not found or entry.logprob > max(found.values()) - bias / 2
        if near or words.unique(token) or words.exact(entry):
            found[token] = entry.logprob
    return found


def _sampled(lens: Lens, problem: Problem, ids: Sequence[int], purpose: str, again: bool) -> dict[int, float]:
    """One token is forced at a time; its log-probability is shown as it is without the bias."""
    wanted, known = [lens.reference, *ids], {}
    for natural in lens.asker.ask(problem, [{}], 1, purpose):
        biases = [{i: lens.limit(again)} for i in wanted]
        for i, reply in zip(wanted, lens.asker.ask(problem, biases, 1, purpose, again=again), strict=False):
            value = _of(lens.words, i, reply.said, natural.said)
            if value is not None:
                known[i] = value
    return known


def _of(words: Vocabulary, token: int, entry: Entry | None, natural: Entry | None) -> float | None:
    """The log-probability of `token` if `entry` is that token, and not the one that is said without a bias."""
    if entry is None or words.identify(entry, [token]) is None:
        return None
    same = natural is not None and (entry.name, entry.raw) == (natural.name, natural.raw)
    return None if same and natural is not None and words.find(natural) != token else entry.logprob


def _single(lens: Lens, problem: Problem, ids: Sequence[int], purpose: str, again: bool) -> dict[int, float]:
    """One token is raised at a time until it is the likeliest but not certain: log p from one log-probability."""
    wanted, known = [lens.reference, *ids], dict[int, float]()
    for natural in lens.asker.ask(problem, [{}], 1, purpose):
        first = wanted if lens.surprise else wanted[:PILOT]
        for part in (first, wanted[len(first) :]):
            known |= _raise(lens, problem, part, _likeliest(natural), purpose, again)
    return known


def _likeliest(reply: Shown) -> Entry | None:
    return reply.top[0] if reply.top else reply.said


@dataclass
class _Search:
    """The bias of one token: between one at which it was not the likeliest and one at which it was certain."""

    at: float
    low: float
    high: float

    def move(self, to: float) -> bool:
        """Go to `to`, or half-way if that is known to be wrong. False if there is nothing left to try."""
        self.at = to if self.low < to < self.high else (self.low + self.high) / 2
        return self.high - self.low > 1e-3


def _raise(
    lens: Lens, problem: Problem, ids: Sequence[int], natural: Entry | None, purpose: str, again: bool
) -> dict[int, float]:
    limit, known = lens.limit(again), dict[int, float]()
    usual = _median(lens.surprise.values(), START)
    search = {i: _Search(lens.surprise.get(i, usual) + TARGET, -limit - 1e-9, limit + 1e-9) for i in ids}
    for one in search.values():
        one.at = max(-limit, min(limit, one.at))
    for _ in range(ROUNDS):
        if not search or lens.asker.capped:
            break
        asked = list(search)
        replies = lens.asker.ask(problem, [{i: search[i].at} for i in asked], 1, purpose, again=again)
        for i, reply in zip(asked, replies, strict=False):
            shown = _of(lens.words, i, _likeliest(reply), natural)
            value, going = _narrow(search[i], shown, limit)
            if value is not None:
                known[i] = value
                lens.surprise[i] = -value
            if not going:
                del search[i]
    return known


def _narrow(search: _Search, shown: float | None, limit: float) -> tuple[float | None, bool]:
    """What a log-probability shown under `search.at` says: log p if it is precise, and whether to go on."""
    if shown is None:  # another token was likelier
        if search.at >= limit:
            return None, False
        search.low = search.at
        return None, search.move(min(search.at + STEP, limit))
    log_p = float(unbiased(torch.tensor(shown, dtype=torch.float64), search.at))
    rest = -math.expm1(shown)
    if rest >= ENOUGH:
        return log_p, False
    search.high = search.at
    if rest == 0 or log_p >= 0:
        return None, search.move(search.at - STEP)
    return None, search.move(TARGET - log_p + math.log(-math.expm1(log_p)))


def _argmax(lens: Lens, problem: Problem, ids: Sequence[int], purpose: str, again: bool) -> dict[int, float]:
    """Bisection on the bias at which a token is said instead of the likeliest one: z_top − z_i is that bias."""
    known: dict[int, float] = {}
    for natural in lens.asker.ask(problem, [{}], 0, purpose):
        top = lens.words.find(Entry(natural.text, 0.0))
        # A server may strip texts: the token is the likeliest only if banning it changes what is said.
        ban = [] if top is None else lens.asker.ask(problem, [{top: -lens.limit(again)}], 0, purpose, again=again)
        if top is not None and any(_differs(reply, natural) for reply in ban):
            known[top] = 0.0
        ranges = {i: (0.0, 2 * lens.limit(again)) for i in [lens.reference, *ids] if i not in known}
        while ranges and not lens.asker.capped:
            biases = [{i: (low + high) / 2} for i, (low, high) in ranges.items()]
            replies = lens.asker.ask(problem, biases, 0, purpose, again=again)
            for (i, (low, high)), reply in zip(list(ranges.items()), replies, strict=False):
                middle = (low + high) / 2
                ranges[i] = low, high = (low, middle) if _differs(reply, natural) else (middle, high)
                if low >= lens.limit(again):  # never said, not even under the largest bias
                    del ranges[i]
                elif high - low <= lens.resolution:
                    known[i] = -(low + high) / 2
                    del ranges[i]
    return known


def _differs(reply: Shown, natural: Shown) -> bool:
    return (reply.text, reply.finish) != (natural.text, natural.finish)


def _median(values: Collection[float], otherwise: float) -> float:
    return sorted(values)[len(values) // 2] if values else otherwise


_Read = Callable[[Lens, Problem, Sequence[int], str, bool], dict[int, float]]
_METHODS: dict[Name, _Read] = {
    "shared": _shared,
    "single": _single,
    "sampled": _sampled,
    "argmax": _argmax,
}
