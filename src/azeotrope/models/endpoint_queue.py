"""Sending what is missing: several requests at a time, under a cap, with retries."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from threading import Condition, Event

from azeotrope.core.seeds import derive
from azeotrope.models.endpoint_cache import Cache, Job, Reply
from azeotrope.models.endpoint_http import FailedError, RefusedError, Wire
from azeotrope.models.endpoint_settings import NANO, EndpointSettings

MAX_BACKOFF_S = 60.0


class HaltError(Exception):
    """Why no further request is sent: the first half of a sentence, and what would make it go on.

    `refused` is what the server said if it refused a request.
    """

    def __init__(self, reason: str, remedy: str, refused: RefusedError | None = None) -> None:
        super().__init__(reason)
        self.remedy, self.refused = remedy, refused


class _StoppedError(Exception):
    """Another job failed first."""


@dataclass(slots=True)
class _Bill:
    """What a request turned out to cost, and its reply."""

    cost: int
    reply: Reply | None = None


class Queue:
    """Works through jobs; whatever is received is in the cache before anything else happens.

    `sent` counts requests, `spent` what they cost or may have cost, in billionths.
    """

    def __init__(self, settings: EndpointSettings, cache: Cache, wire: Wire) -> None:
        self.settings, self.cache, self.wire = settings, cache, wire
        self.sent = self.spent = 0
        self._under_way = 0
        self._changed, self._stop = Condition(), Event()

    def work(self, jobs: Sequence[Job], received: Callable[[Job, Reply], None]) -> None:
        """Send every job once; `received` is called in this thread, in the order of arrival.

        Raises HaltError for the first job, in their order, that could not be completed. Requests that are
        under way then are waited for, since they are paid for.
        """
        failed: dict[Future[Reply], BaseException] = {}
        with ThreadPoolExecutor(min(self.settings.concurrency, len(jobs)), "endpoint") as pool:
            futures = {pool.submit(self._ask, job): job for job in jobs}
            try:
                for future in as_completed(futures):
                    error = future.exception()
                    if error is None:
                        received(futures[future], future.result())
                    elif not isinstance(error, _StoppedError):
                        failed[future] = error
            finally:
                self._stop.set()  # if this loop was left early: interrupted, or `received` raised
        for future in futures:
            if future in failed:
                raise failed[future]

    def _ask(self, job: Job) -> Reply:
        try:
            return self._try(job)
        except BaseException:
            self._stop.set()
            raise

    def _try(self, job: Job) -> Reply:
        for attempt in range(self.settings.retries + 1):
            try:
                with self._booked(job) as bill:
                    return self._send(job, bill)
            except RefusedError as error:
                raise self._refused(job, error) from None
            except FailedError as error:
                reason, wait = str(error), error.wait
            if attempt < self.settings.retries and self._stop.wait(wait + self._backoff(job, attempt)):
                raise _StoppedError
        times = f"{attempt + 1} attempts" if attempt else "1 attempt"
        raise HaltError(f"{self._who} {reason} for problem '{job.problem.id}' after {times}", "running again")

    def _send(self, job: Job, bill: _Bill) -> Reply:
        """One attempt; notes in the bill what is known of its cost."""
        try:
            bill.reply = reply = self.wire.send(job.body)
        except RefusedError:
            bill.cost = 0
            raise
        except FailedError as error:
            bill.cost = 0 if error.billed is None else job.cost(self.settings, error.billed)
            raise
        bill.cost = job.cost(self.settings, (reply.tokens_in, reply.tokens_out))
        return reply

    @contextmanager
    def _booked(self, job: Job) -> Iterator[_Bill]:
        """Book the worst case on entry and what it turned out to be on exit."""
        worst = job.cost(self.settings)
        self._book(worst)
        bill = _Bill(worst)
        try:
            yield bill
        finally:
            try:
                self.cache.settle(bill.cost - worst, job.key, bill.reply)
            finally:
                with self._changed:
                    self.spent += bill.cost
                    self._under_way -= 1
                    self._changed.notify_all()

    def _book(self, worst: int) -> None:
        """Wait until the worst case fits under the cap. Raises HaltError once waiting cannot help."""
        cap = round(self.settings.max_cost * NANO)
        with self._changed:
            while not self._stop.is_set():
                barrier = self.cache.book(worst, cap, self.settings.max_requests)
                if barrier is None:
                    self.sent += 1
                    self._under_way += 1
                    return
                if barrier == "max_requests" or not self._under_way:
                    raise self._capped(barrier, worst)
                self._changed.wait()  # a reply may cost less than its worst case
            raise _StoppedError

    def _capped(self, barrier: str, worst: int) -> HaltError:
        now = self.cache.account()
        value = getattr(self.settings, barrier)
        next_one = f", and the next one may cost {worst / NANO:.6g}" if barrier == "max_cost" else ""
        return HaltError(
            f"The cap {barrier}={value:g} is reached for {self.settings.ref}: {now.spent / NANO:.6g} was spent "
            f"with {now.requests} requests through the cache '{self.cache.path}'{next_one}",
            f"running again with a higher {barrier}",
        )

    def _refused(self, job: Job, error: RefusedError) -> HaltError:
        name = self.settings.key_env
        hint = f" (the key is read from {name})" if name and error.status in (401, 403) else ""
        reason = f"{self._who} {error}{hint} for problem '{job.problem.id}'"
        return HaltError(reason, "running again once that is corrected", error)

    @property
    def _who(self) -> str:
        return f"The endpoint {self.settings.ref}"

    def _backoff(self, job: Job, attempt: int) -> float:
        """Seconds: doubled each time, give or take a half, so that clients do not return all at once."""
        jitter = Random(derive(job.seed, "backoff", attempt)).uniform(0.5, 1.5)
        return min(MAX_BACKOFF_S, self.settings.backoff * 2.0**attempt) * jitter
