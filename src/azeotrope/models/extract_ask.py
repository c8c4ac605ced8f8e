"""Asking for the next token under a bias, with every reply counted and a cap on their number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from azeotrope.core.sampling import GREEDY
from azeotrope.core.types import Problem
from azeotrope.models.endpoint import Endpoint
from azeotrope.models.endpoint_cache import Job
from azeotrope.models.extract_reply import Shown, fields, read_choice, shown


class Asker:
    """Sends requests for one token and counts them by purpose.

    What counts is what the thief uses: a reply counts whether the server or the cache gave it, and the same
    request counts once. So a run that is continued has the counts of one that was not interrupted. `capped` is
    set as soon as something was left out because of `max_queries`.
    """

    def __init__(self, endpoint: Endpoint, max_queries: int | None = None, token_ids: bool = False) -> None:
        self.endpoint, self.max_queries, self.token_ids = endpoint, max_queries, token_ids
        self.queries: Counter[str] = Counter()
        self.prompt_tokens = self.completion_tokens = self.uncounted = 0
        self.capped = False
        self._known: set[str] = set()

    @property
    def total(self) -> int:
        """Replies used so far."""
        return self.queries.total()

    def ask(
        self,
        problem: Problem,
        biases: Sequence[Mapping[int, float]],
        k: int,
        purpose: str,
        *,
        again: bool = False,
    ) -> list[Shown]:
        """Replies of one token at temperature 0 with `k` log-probabilities, one per bias, in their order.

        With a cap, the first ones only; `again` asks anew what was asked before (another `seed` goes along).
        Raises what `Endpoint.replies` raises.
        """
        jobs = [self._job(problem, bias, k, again) for bias in biases]
        allowed, new = [], set[str]()
        for job in jobs:
            fresh = job.key not in self._known and job.key not in new
            if fresh and self.max_queries is not None and self.total + len(new) >= self.max_queries:
                self.capped = True
                break
            new |= {job.key} if fresh else set()
            allowed.append(job)
        replies = self.endpoint.replies(allowed, read=read_choice)
        for key in new:
            self.prompt_tokens += replies[key].tokens_in or 0
            self.completion_tokens += replies[key].tokens_out or 0
            self.uncounted += replies[key].tokens_in is None
        self.queries[purpose] += len(new)
        self._known |= new
        return [shown(replies[job.key]) for job in allowed]

    def _job(self, problem: Problem, bias: Mapping[int, float], k: int, again: bool) -> Job:
        more = fields(self.endpoint.settings.api, k, bias, token_ids=self.token_ids)
        return self.endpoint.request(problem, GREEDY, seed=int(again), limit=1, more=more)
