"""What the status page shows, in memory that is bounded: minutes of all traffic, and of tenants what they asked.

Nothing here is a prompt or a reply. Names that others chose (tenants, models, codes) are cut and kept as text; the
page shows them as text. One thread writes: a request that is over costs some additions, no lock and no I/O.
"""

from __future__ import annotations

from collections import deque
from time import time
from typing import TYPE_CHECKING, Final

import msgspec

from azeotrope.gateway.ledger.audit_row import plain
from azeotrope.gateway.status.minutes import LEVELS, MINUTE_BYTES, Lane, Minutes, Outcome, bucket, count
from azeotrope.gateway.status.settings import StatusSettings

if TYPE_CHECKING:
    from azeotrope.gateway.case import Case

LONGEST: Final = 64  # characters of a name
MOST_REASONS, LONGEST_REASON = 9, 32
MOST_CHANGES: Final = 30  # of levels, of a tenant
MOST_RAISED: Final = 50  # keys of a tenant whose level is above 0
ENTRY_BYTES: Final = 2000  # of a request or a change with the longest names there can be; usually 400
TENANT_BYTES: Final = 32 * 1024  # of a tenant without its requests, with the longest names; usually 1 KB
CLIENT_GONE: Final = 499


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One request of a tenant. `time` in Unix seconds, `took` and `work` (our own) in seconds."""

    time: float
    model: str
    dialect: str
    stance: str
    level: int | None
    reasons: tuple[str, ...]
    status: int
    code: str
    prompt: int
    completion: int
    took: float
    work: float
    streamed: bool
    altered: bool


class Change(msgspec.Struct, frozen=True, gc=False):
    """A key's level of suspicion as it was met, and as it was met before."""

    time: float
    key: str
    before: int
    after: int
    reasons: tuple[str, ...]


class Tenant:
    """What a tenant asked lately. `raised`: the levels of its keys that are above 0, at their latest requests."""

    __slots__ = ("changes", "entries", "lane", "raised", "seen", "stances")

    def __init__(self, settings: StatusSettings) -> None:
        self.lane = Lane(settings.minutes)
        self.entries: deque[Entry] = deque(maxlen=settings.requests)
        self.changes: deque[Change] = deque(maxlen=MOST_CHANGES)
        self.raised: dict[str, int] = {}
        self.stances: dict[str, int] = {}
        self.seen = 0.0


class Asking:
    """How an upstream does: replies and failures so far, and when the last of each was."""

    __slots__ = ("code", "failed", "failed_at", "failures", "replied_at", "replies")

    def __init__(self) -> None:
        self.replies = self.failures = 0
        self.failed = 0  # in a row
        self.replied_at = self.failed_at = 0.0
        self.code = ""


class Book:
    """All of it. `upstreams` are the names of those that there are."""

    def __init__(self, settings: StatusSettings, upstreams: list[str], *, keyed: bool) -> None:
        """`keyed`: whether tenants are known by keys, so that who has shown none is nobody's request."""
        self.settings = settings
        self.minutes = Minutes(settings.minutes)
        self.tenants: dict[str, Tenant] = {}  # the latest last
        self.forgotten = 0
        self.upstreams = {name: Asking() for name in upstreams}
        self.began = time()
        self._keyed = keyed

    def add(self, case: Case) -> None:
        """Take a request in that is over."""
        now = time()
        job, broke = case.job, case.broke
        outcome = outcome_of(case.status, broke)
        usage = job.usage if job is not None else None
        prompt, completion = ((usage.prompt or 0), (usage.completion or 0)) if usage is not None else (0, 0)
        stance = "" if case.decision is None else case.decision.stance.name[:LONGEST]
        minute = self.minutes.now(int(now // 60))
        minute.outcomes[outcome] += 1
        minute.prompt += prompt
        minute.completion += completion
        work = max(0.0, case.overhead)
        minute.overhead[bucket(work)] += 1
        minute.work += work
        if stance:
            count(minute.stances, stance)
        if code := (case.code or broke)[:LONGEST]:
            count(minute.codes, code)
        if case.level is not None:
            minute.levels[min(case.level, LEVELS - 1)] += 1
        if job is not None:
            self._upstream(case.upstream, outcome, broke or case.code, now)
        if case.identity.key_id or not self._keyed:
            self._tenant(case, outcome, Entry(
                time=now, model="" if case.request is None else plain(case.request.model[:LONGEST]),
                dialect=case.outward.name, stance=stance, level=case.level, reasons=_reasons(case),
                status=case.status, code=code, prompt=prompt, completion=completion,
                took=case.took, work=work, streamed=case.request is not None and case.request.stream,
                altered=bool(job is not None and job.shield is not None and job.shield.change.altered),
            ))  # fmt: skip

    def _tenant(self, case: Case, outcome: Outcome, entry: Entry) -> None:
        name = case.identity.tenant[:LONGEST]
        found = self.tenants.pop(name, None)
        if found is None:
            found = Tenant(self.settings)
            if len(self.tenants) >= self.settings.tenants:
                del self.tenants[next(iter(self.tenants))]
                self.forgotten += 1
        self.tenants[name] = found
        place = found.lane.place(int(entry.time // 60))
        found.lane.requests[place] += 1
        found.lane.errors[place] += outcome in ("refused", "failed")
        found.lane.tokens[place] += entry.prompt + entry.completion
        found.seen = entry.time
        if entry.stance:
            count(found.stances, entry.stance)
        found.entries.append(entry)
        if entry.level is not None:
            found.lane.level[place] = max(found.lane.level[place], min(entry.level, LEVELS - 1))
            _level(found, case.identity.key_id[:LONGEST], entry.level, entry)

    def _upstream(self, name: str, outcome: Outcome, code: str, now: float) -> None:
        """Note how an upstream did: a reply, or a failure that is not the client's, nor ours."""
        found = self.upstreams.get(name)
        if found is None:
            return
        if outcome == "answered":
            found.replies += 1
            found.failed, found.replied_at = 0, now
        elif code.startswith("upstream_"):
            found.failures += 1
            found.failed += 1
            found.failed_at, found.code = now, code[:LONGEST]


def _level(tenant: Tenant, key: str, level: int, entry: Entry) -> None:
    """Note a key's level, and that it changed if it did."""
    before = tenant.raised.get(key, 0)
    if level == before:
        return
    if level:
        if key not in tenant.raised and len(tenant.raised) >= MOST_RAISED:
            del tenant.raised[next(iter(tenant.raised))]
        tenant.raised[key] = level
    else:
        del tenant.raised[key]
    tenant.changes.append(Change(entry.time, key, before, level, entry.reasons))


def _reasons(case: Case) -> tuple[str, ...]:
    found = case.reasons
    return tuple(one[:LONGEST_REASON] for one in found[:MOST_REASONS]) if found else ()


def outcome_of(status: int, broke: str) -> Outcome:
    """How a request ended: a reply that broke off failed, whatever its status said."""
    if status == CLIENT_GONE:
        return "left"
    if broke or status >= 500:
        return "failed"
    return "refused" if status >= 400 else "answered"


def bound(settings: StatusSettings) -> int:
    """The most bytes that a book with these settings can take."""
    entries = settings.requests + MOST_CHANGES
    tenant = TENANT_BYTES + 25 * settings.minutes + ENTRY_BYTES * entries
    return MINUTE_BYTES * settings.minutes + tenant * settings.tenants
