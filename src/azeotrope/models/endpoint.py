"""A teacher behind an OpenAI-compatible endpoint: traces for problems, paid for once, under a cap.

    endpoint = Endpoint(parse_ref("https://host/v1#model?price_in=0.15&price_out=0.6&max_cost=5"))
    traces = endpoint.write(problems, Sampling(), seed=0, max_new_tokens=2048)

Every reply is in the cache before the next one is asked for; running again after a failure, a kill or a cap sends
what is missing only. What a server makes of `seed` is its own affair: the cache is what makes a run repeatable.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import Any

from azeotrope.core.errors import ConfigError, MissingError, RunError
from azeotrope.core.sampling import Sampling
from azeotrope.core.seeds import derive, fingerprint
from azeotrope.core.types import THINK_CLOSE, THINK_OPEN, Problem, Trace
from azeotrope.models.endpoint_cache import Cache, Job, Reader, Reply
from azeotrope.models.endpoint_settings import NANO, EndpointSettings, is_endpoint, parse_ref

__all__ = [
    "Endpoint",
    "EndpointSettings",
    "RefusedRequestError",
    "is_endpoint",
    "parse_ref",
    "text_of",
    "wire_seed",
]

OVERHEAD = 256  # prompt tokens that a chat template and a server's own system prompt may add


class RefusedRequestError(RunError):
    """The server will not answer a request, however often it is sent.

    `said` is what it did, "answered 400: …"; `status` the HTTP status, 0 without one.
    """

    def __init__(self, message: str, said: str, status: int) -> None:
        super().__init__(message)
        self.said, self.status = said, status


class Endpoint:
    """One model on one server. Holds no connection and no file between calls.

    The key is read from the environment here and goes nowhere but into the request's header. Raises
    ConfigError if it cannot be sent.
    """

    def __init__(self, settings: EndpointSettings) -> None:
        self.settings = settings
        self._requests, self._spent, self._lock = 0, 0, Lock()
        self._key = os.environ.get(settings.key_env, "").strip() if settings.key_env else ""
        if not (self._key.isascii() and self._key.isprintable()) or " " in self._key:
            raise ConfigError(
                f"The key in {settings.key_env} contains spaces or signs that cannot be sent; set it again."
            )

    def write(
        self,
        problems: Sequence[Problem],
        sampling: Sampling,
        *,
        seed: int,
        max_new_tokens: int,
        prefix: str = "",
        progress: Callable[[int], None] | None = None,
    ) -> list[Trace]:
        """One completion a problem, in their order; a row's seed depends on `seed` and the problem's id only.

        `max_new_tokens` applies where `sampling` sets none. With `prefix`, every text begins with it. `progress`
        is told how many completions have come in since the last call. A trace's `n_tokens` is what the server
        says, 0 if it does not; its `meta` holds `prompt_tokens` and `cost` (currency units), the same whether
        it came from the server or from the cache.

        Raises RunError when the cap is reached, the server refuses or keeps failing, or the cache cannot be
        used; MissingError if no HTTP client is installed.
        """
        jobs = [self._job(problem, sampling, seed, max_new_tokens, prefix) for problem in problems]
        replies = self.replies(jobs, progress=progress)
        return [self._trace(job, replies[job.key], prefix) for job in jobs]

    def replies(
        self,
        jobs: Sequence[Job],
        *,
        read: Reader | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> dict[str, Reply]:
        """The replies to requests by their key, from the cache or else from the server.

        `read` says what is kept of a choice (default: its text and its reasoning). Raises what `write` raises;
        RefusedRequestError, a RunError, where the server refuses a request.
        """
        keys = [job.key for job in jobs]
        with self._cache() as cache:
            replies = cache.find(keys)
            if len(replies) < len(set(keys)):
                with cache.alone(keys):  # another process may have asked for the same meanwhile
                    replies = cache.find(keys)
                    self._fetch(cache, jobs, replies, read, progress)
            elif progress is not None and jobs:
                progress(len(jobs))
        return replies

    def request(
        self,
        problem: Problem,
        sampling: Sampling,
        *,
        seed: int,
        limit: int,
        prefix: str = "",
        more: Mapping[str, Any] | None = None,
    ) -> Job:
        """One request for at most `limit` tokens, with this very `seed`; `more` are further fields of its body."""
        body = {**self._body(problem.prompt, prefix, sampling, wire_seed(seed), limit), **(more or {})}
        return Job(
            problem=problem,
            seed=seed,
            key=fingerprint({"url": self.settings.url, "api": self.settings.api, "body": body}, 40),
            body=json.dumps(body).encode(),
            # No tokenizer is at hand; a token is at least one byte, so this is never too low.
            bound_in=len((problem.prompt + prefix).encode("utf-8", "replace")) + OVERHEAD,
            bound_out=limit,
        )

    def bounds(
        self, problems: Sequence[Problem], sampling: Sampling, *, seed: int, max_new_tokens: int, prefix: str = ""
    ) -> dict[str, float]:
        """The requests that `write` would need, by their key, and the most that each can cost (currency units)."""
        jobs = [self._job(problem, sampling, seed, max_new_tokens, prefix) for problem in problems]
        return {job.key: job.cost(self.settings) / NANO for job in jobs}

    def stored(self, keys: Sequence[str]) -> set[str]:
        """Which of `keys` have been answered. Makes no cache file where there is none."""
        if not self.settings.cache_file.exists():
            return set()
        with self._cache() as cache:
            return set(cache.find(keys))

    def spent(self) -> float:
        """What this and earlier runs spent on this model through this cache, in currency units."""
        with self._cache() as cache:
            return cache.account().spent / NANO

    def ledger(self) -> dict[str, float]:
        """What this object sent: `requests`, retried ones included, and `spent` on them in currency units."""
        with self._lock:
            return {"requests": self._requests, "spent": self._spent / NANO}

    def _cache(self) -> Cache:
        return Cache(self.settings.cache_file, self.settings.url, self.settings.model)

    def _fetch(
        self,
        cache: Cache,
        jobs: Sequence[Job],
        replies: dict[str, Reply],
        read: Reader | None,
        progress: Callable[[int], None] | None,
    ) -> None:
        """Ask for what is missing in `replies` and add it."""
        missing = {job.key: job for job in jobs if job.key not in replies}
        if progress is not None and replies:
            progress(sum(job.key in replies for job in jobs))
        if not missing:
            return
        try:
            from azeotrope.models.endpoint_http import Wire
            from azeotrope.models.endpoint_queue import HaltError, Queue
        except ModuleNotFoundError as error:
            raise MissingError(
                f"Asking an endpoint needs the package '{error.name}', which is not installed; "
                "run: pip install 'azeotrope[endpoint]'."
            ) from None

        times = Counter(job.key for job in jobs)  # the same request twice is sent once

        def received(job: Job, reply: Reply) -> None:
            replies[job.key] = reply
            if progress is not None:
                progress(times[job.key])

        try:
            with Wire(self.settings, self._key, read) as wire:
                queue = Queue(self.settings, cache, wire)
                try:
                    queue.work(list(missing.values()), received)
                finally:
                    with self._lock:
                        self._requests += queue.sent
                        self._spent += queue.spent
        except HaltError as halt:
            done = sum(job.key in replies for job in jobs)
            message = (
                f"{halt}; {done} of {len(jobs)} completions are done and cached, and {halt.remedy} continues."
            )
            if halt.refused is not None:
                raise RefusedRequestError(message, str(halt.refused), halt.refused.status) from None
            raise RunError(message) from None

    def _job(self, problem: Problem, sampling: Sampling, seed: int, max_new_tokens: int, prefix: str) -> Job:
        limit = sampling.max_new_tokens or max_new_tokens
        row_seed = derive(seed, "sampling", problem.id)
        return self.request(problem, sampling, seed=row_seed, limit=limit, prefix=prefix)

    def _body(self, prompt: str, prefix: str, sampling: Sampling, seed: int, limit: int) -> dict[str, Any]:
        """The request: everything that changes the completion, and nothing else."""
        body: dict[str, Any] = {
            "model": self.settings.model,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": seed,
            self.settings.limit_field: limit,
        }
        # Not in OpenAI's interface, but in vLLM's, SGLang's and llama.cpp's: a server that cannot do it says so.
        if sampling.top_k:
            body["top_k"] = sampling.top_k
        if sampling.repetition_penalty != 1:
            body["repetition_penalty"] = sampling.repetition_penalty
        if self.settings.api == "completions":
            return {**body, "prompt": prompt + prefix}
        messages = [{"role": "user", "content": prompt}]
        if prefix:
            messages.append({"role": "assistant", "content": prefix})
        return {**body, "messages": messages}

    def _trace(self, job: Job, reply: Reply, prefix: str) -> Trace:
        chat = self.settings.api == "chat"
        cost = job.cost(self.settings, (reply.tokens_in, reply.tokens_out))
        return Trace(
            problem_id=job.problem.id,
            prompt=job.problem.prompt,
            text=text_of(reply, prefix, think=self.settings.reasoning == "think", may_echo=chat),
            seed=job.seed,
            finished=reply.finish == "stop",
            n_tokens=reply.tokens_out or 0,
            meta={"prompt_tokens": reply.tokens_in or 0, "cost": cost / NANO},
        )


def wire_seed(seed: int) -> int:
    """Fold a seed to 31 bits, which every server accepts."""
    return (seed ^ (seed >> 31)) & 0x7FFF_FFFF


def text_of(reply: Reply, prefix: str = "", *, think: bool = True, may_echo: bool = True) -> str:
    """The text of a trace: reasoning that came apart put into think tags, and `prefix` at its beginning.

    A text that has tags already is left as it is; one that was cut off in its reasoning gets no closing tag.
    With `may_echo`, a text that begins with the prefix is taken to repeat it.

    >>> text_of(Reply("4.", "2 + 2."))
    '<think>2 + 2.</think> 4.'
    """
    text = reply.content
    if think and reply.reasoning and THINK_OPEN not in text and THINK_CLOSE not in text:
        gap = "" if text[:1].isspace() else " "
        text = THINK_OPEN + reply.reasoning + (THINK_CLOSE + gap + text if text else "")
    if may_echo and text.startswith(prefix):
        return text
    if prefix.startswith(THINK_OPEN) and THINK_CLOSE not in prefix:
        text = text.removeprefix(THINK_OPEN)  # the prefix has opened the reasoning
    return prefix + text
