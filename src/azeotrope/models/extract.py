"""Full-vocabulary logits, and the hidden size, of a model behind an endpoint that shows a few log-probabilities.

    found = extract(Endpoint(parse_ref("https://host/v1#model", api="completions")), words, prompts, Extraction())

The first prompts are read token by token. Logits are W·h: as soon as those read whole lie in a space of D
dimensions, and predict whole vectors that were kept aside, about D well-chosen tokens of every further prompt give
the rest (arXiv 2403.09539, 2403.06634). Replies come from the cache where they were asked for before.

Shapes: N prompts, V vocabulary, K tokens asked for, C tokens known at all whole prompts, D hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from azeotrope.core.errors import ConfigError, RunError
from azeotrope.core.methods import Settings
from azeotrope.core.seeds import derive
from azeotrope.core.types import Problem
from azeotrope.maths import extraction
from azeotrope.models.endpoint import Endpoint
from azeotrope.models.extract_ask import Asker
from azeotrope.models.extract_methods import Lens, Name
from azeotrope.models.extract_probe import Probe
from azeotrope.models.extract_tokens import Vocabulary

WHOLE, FEW, CHECK = "whole", "completed", "check"
LEAST = 5  # whole vectors before a space is looked for
MORE = 1.125  # by how much their number grows until it is looked for again


class Extraction(Settings):
    """How logits are read, and how many replies that may take."""

    method: Literal["auto"] | Name = Field(default="auto", description="how; auto takes the cheapest that works")
    k: int = Field(default=5, ge=1, le=1000, description="log-probabilities a reply is asked for")
    bias: float = Field(default=100.0, gt=0, le=1000, description="largest logit bias, in nats")
    resolution: float = Field(default=0.01, gt=0, description="nats at which `argmax` stops bisecting")
    max_queries: int | None = Field(default=None, ge=1, description="cap on replies used, cached ones included")
    token_ids: bool = Field(default=False, description="ask for token ids in place of texts (vLLM)")
    complete: bool = Field(default=True, description="complete later prompts from few tokens, once that is exact")
    tolerance: float = Field(default=0.01, gt=0, description="nats by which a completed logit may be wrong")
    checks: int = Field(default=8, ge=0, description="groups of tokens that are asked for once more")
    seed: int = Field(default=0, description="of the choice of tokens to complete from, and to check")


@dataclass(frozen=True)
class Space:
    """The space that logits (relative to R) lie in, and what shows it.

    `gap` is the factor by which singular values fall after the `rank`-th. `error` is the largest difference (nats)
    between a logit vector that was kept aside and its completion from the tokens `ids_K`.
    """

    rank: int
    gap: float
    error: float
    columns_C: Tensor
    ids_K: Tensor
    basis_DC: Tensor

    def complete(self, row_V: Tensor) -> Tensor:
        """The row with all of `columns_C` filled in from its values at `ids_K`; NaN where too few are known."""
        at_K = torch.searchsorted(self.columns_C, self.ids_K)
        known_K = row_V[self.ids_K].isfinite()
        filled = row_V.clone()
        if int(known_K.sum()) >= self.rank:
            values = row_V[self.ids_K[known_K]][None]
            filled[self.columns_C] = extraction.complete(values, at_K[known_K], self.basis_DC)[0]
        return filled


@dataclass(frozen=True)
class Extracted:
    """What was read: logits relative to the token `reference`, NaN where not known, and what it took.

    `asked_NV` marks what was read rather than completed. `changes` are the largest differences (nats) on asking
    again, for logits that were read and for completed ones; None where there were none to ask for. `again` is the
    number of logits that were.
    """

    logits_NV: Tensor
    asked_NV: Tensor
    reference: int
    method: Name
    k: int
    space: Space | None
    whole: int
    completed: int
    saved: int
    capped: bool
    asker: Asker
    changes: tuple[float | None, float | None]
    again: int
    tolerance: float

    @property
    def hidden_size(self) -> int | None:
        """The dimension of the space, if that predicts vectors it was not found from; None is unknown."""
        return self.space.rank if self.space is not None and self.space.error <= self.tolerance else None

    def summary(self) -> dict[str, Any]:
        """The figures, as plain values."""
        covered_V = self.logits_NV[: max(1, self.whole)].isfinite().all(0)
        return {
            "method": self.method, "k": self.k, "reference": self.reference,
            "prompts": len(self.logits_NV), "whole": self.whole, "completed": self.completed,
            "vocabulary": self.logits_NV.shape[1], "covered": int(covered_V.sum()) if self.whole else 0,
            "queries": self.asker.total, "queries_by_purpose": dict(self.asker.queries),
            "queries_saved": self.saved, "capped": self.capped,
            "prompt_tokens": self.asker.prompt_tokens, "completion_tokens": self.asker.completion_tokens,
            "replies_without_usage": self.asker.uncounted,
            "hidden_size": self.hidden_size, "rank": self.space.rank if self.space else None,
            "gap": self.space.gap if self.space else None,
            "held_out_error": self.space.error if self.space else None,
            "asked_again": self.again,
            "largest_change": self.changes[0], "largest_change_completed": self.changes[1],
        }  # fmt: skip


def extract(
    endpoint: Endpoint,
    words: Vocabulary,
    problems: Sequence[Problem],
    settings: Extraction,
    progress: Callable[[str], None] | None = None,
) -> Extracted:
    """Read the logits that follow every prompt. Needs more prompts than the hidden size to find that.

    Where `max_queries` is reached, what was read so far, and `capped`. `progress` is told what was found out.
    Raises ConfigError without prompts or with one twice, what `Probe.lens` raises about the server's defenses,
    RunError if nothing at all can be read at the first prompt, and what `Endpoint.replies` raises; everything that
    was answered is in the cache then.
    """
    if not problems or len({problem.prompt for problem in problems}) < len(problems):
        raise ConfigError("Logits are read at one or more prompts, each named once.")
    asker = Asker(endpoint, settings.max_queries, settings.token_ids)
    lens = Probe(asker, words, problems[0], settings.method, settings.k, settings.bias, settings.resolution).lens()
    return _Reading(lens, problems, settings, progress or (lambda _: None)).run()


class _Reading:
    """One run through the prompts."""

    def __init__(
        self, lens: Lens, problems: Sequence[Problem], settings: Extraction, tell: Callable[[str], None]
    ) -> None:
        self.lens, self.problems, self.settings, self.tell = lens, problems, settings, tell
        self.rows: list[Tensor] = []
        self.asked: list[Tensor] = []
        self.whole = self.completed = 0

    def run(self) -> Extracted:
        space, due = None, LEAST
        for problem in self.problems:
            if space is None and self.settings.complete and self.whole >= due:
                space, due = self._trusted(), math.ceil(due * MORE)
            self._complete(problem, space) if space else self._read(problem)
            if self.lens.asker.capped:
                break
        read, guessed = self._check()
        found = space or self._space()
        return Extracted(
            torch.stack(self.rows), torch.stack(self.asked), self.lens.reference, self.lens.method, self.lens.k,
            found, self.whole, self.completed, self._saved(), self.lens.asker.capped, self.lens.asker,
            (max(read, default=None), max(guessed, default=None)), len(read) + len(guessed),
            self.settings.tolerance,
        )  # fmt: skip

    def _read(self, problem: Problem) -> None:
        row_V = self.lens.read(problem, range(self.lens.words.size), WHOLE)
        self.rows.append(row_V)
        self.asked.append(row_V.isfinite())
        if not self.rows[1:] and not self.lens.asker.capped and int(row_V.isfinite().sum()) < 2:
            raise RunError(
                f"No logit could be read from the endpoint {self.lens.asker.endpoint.settings.ref} by the method "
                f"'{self.lens.method}', though it honors logit_bias; try another method, or a larger bias."
            )
        self.whole += not self.lens.asker.capped
        self.tell(f"{int(row_V.isfinite().sum())} of {len(row_V)} logits read at '{problem.id}'.")

    def _complete(self, problem: Problem, space: Space) -> None:
        row_V = self.lens.read(problem, space.ids_K.tolist(), FEW)
        self.asked.append(row_V.isfinite())
        self.rows.append(row_V if self.lens.asker.capped else space.complete(row_V))
        self.completed += not self.lens.asker.capped

    def _trusted(self) -> Space | None:
        """The space, if it predicts what was kept aside, and asking for few tokens is cheaper."""
        space = self._space()
        if space is None or space.error > self.settings.tolerance or 2 * len(space.ids_K) > len(space.columns_C):
            return None
        self.tell(
            f"{self.whole} prompts lie in {space.rank} dimensions (error {space.error:.1e} nats on those kept "
            f"aside); further ones are completed from {len(space.ids_K)} tokens."
        )
        return space

    def _space(self) -> Space | None:
        """The space of the vectors read whole: found in most, tried on the last of them, then taken from all."""
        if self.whole < LEAST:
            return None
        rows_NV = torch.stack(self.rows[: self.whole])
        columns_C = rows_NV.isfinite().all(0).nonzero()[:, 0]
        rows_NC = rows_NV[:, columns_C]
        if len(columns_C) < 2 or not bool(rows_NC.any()):
            return None
        aside = max(1, self.whole // 16)
        kept_NC, aside_NC = rows_NC[:-aside], rows_NC[-aside:]
        rank, gap = extraction.rank_gap(kept_NC)
        basis_DC = extraction.span(kept_NC, rank)
        at_K = self._tokens(basis_DC, columns_C)
        error = float((extraction.complete(aside_NC[:, at_K], at_K, basis_DC) - aside_NC).abs().max())
        return Space(rank, gap, error, columns_C, columns_C[at_K], extraction.span(rows_NC, rank))

    def _tokens(self, basis_DC: Tensor, columns_C: Tensor) -> Tensor:
        """Where in C to complete from: a sixteenth more than needed, and then as many as the replies show. [K].

        Tokens that look like others are asked for one a reply, so they are avoided.
        """
        rank, each, words = len(basis_DC), max(1, self.lens.k - 1), self.lens.words
        wanted = -(-(rank + max(2, rank // 16)) // each) * each
        plain = torch.tensor([self.lens.by_id or words.unique(i) for i in columns_C.tolist()])
        among = (plain if int(plain.sum()) >= wanted else torch.ones_like(plain)).nonzero()[:, 0]
        seed = derive(self.settings.seed, "extract", "tokens")
        return among[extraction.telling(basis_DC[:, among], min(wanted, len(among)), seed)]

    def _saved(self) -> int:
        """How many queries completion spared: those of as many whole prompts, less what was asked instead."""
        queries = self.lens.asker.queries
        return round(queries[WHOLE] / self.whole * self.completed) - queries[FEW] if self.completed else 0

    def _check(self) -> tuple[list[float], list[float]]:
        """Ask for random groups of tokens once more: the changes of logits read, and of completed ones."""
        random, asker = Random(derive(self.settings.seed, "extract", "check")), self.lens.asker
        done = self.whole + self.completed
        changes: list[list[float]] = [[], []]
        for turn in range(self.settings.checks if done else 0):
            n = turn % done if done <= self.settings.checks else random.randrange(done)
            known = [i for i in self.rows[n].isfinite().nonzero()[:, 0].tolist() if i != self.lens.reference]
            ids = random.sample(known, min(len(known), max(1, self.lens.k - 1)))
            row_V = self.lens.read(self.problems[n], ids, CHECK, again=True)
            for i in ids:
                if math.isfinite(change := abs(float(row_V[i] - self.rows[n][i]))):
                    changes[not bool(self.asked[n][i])].append(change)
            if asker.capped:
                break
        return changes[0], changes[1]
