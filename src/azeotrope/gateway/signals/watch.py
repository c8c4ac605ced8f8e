"""The watch: told of every answered request, asked for the stance of the next one.

    watch = Watch(settings, load(path), secret=secret)
    watch.start()                       # the worker thread
    ...
    stance = watch.stance(key, tenant_name=tenant)  # before answering: a few lookups
    watch.observe(Seen(...))            # after answering: signals A and E inline, the rest handed to the worker

Threads. One thread (the event loop) calls `observe`; any may call `stance` and `snapshot`. Prompts are read in the
worker, from a queue that never blocks: when it is full a request is counted as dropped, and its volume and conduct
still count. Several processes each watch what they serve; a key that is spread over k of them is seen k-fold
thinner.

Nothing is acted upon without a calibration: stances stay at 0.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Final, NamedTuple

from azeotrope.core.errors import ConfigError, RunError
from azeotrope.gateway.signals import evidence
from azeotrope.gateway.signals.analyst import Analyst, Regrouping, Task
from azeotrope.gateway.signals.calibration import Calibration, Nulls
from azeotrope.gateway.signals.conduct import suspicion, wording
from azeotrope.gateway.signals.exempt import BatchProfile
from azeotrope.gateway.signals.gauge import Gauge
from azeotrope.gateway.signals.ladder import GROUND, Rules, advance
from azeotrope.gateway.signals.prompts import CHARACTERS, Reader
from azeotrope.gateway.signals.reasons import EXEMPT, Alarm, Reason, Stance, reasons_of
from azeotrope.gateway.signals.roster import Roster
from azeotrope.gateway.signals.seen import NAME_LIMIT, Flag, Seen
from azeotrope.gateway.signals.settings import WatchSettings
from azeotrope.maths.evalues import Bets, ebh

UNCALIBRATED: Final = Bets(0.2)
ALARMS: Final = 1000  # recent alarms that are kept
SWEEP: Final = 1024  # requests between two looks at silent subjects above 0
BATCH: Final = 256  # requests that the worker reads together
LOST: Final = 100  # requests in a row that the worker fails at, before the detection counts as down
AGAIN: Final = 10.0  # seconds after which it is tried again
GATHER: Final = 0.25  # seconds that the worker lets them gather
_log = logging.getLogger(__name__)


class Snapshot(NamedTuple):
    """What a status page and metrics need.

    `stances` counts subjects above 0 by (level, rung), `alarms` the rises to a rung so far, `conduct_alarms` the
    keys that passed a false-alarm bound of signal E (the e-process's or the e-detector's).
    """

    calibrated: bool
    requests: int
    queued: int
    dropped: int
    failed: int
    keys: int
    tenants: int
    clusters: int
    worker_seconds: float
    bank_bytes: int
    stances: dict[tuple[str, int], int]
    alarms: dict[tuple[str, int], int]
    recent: tuple[Alarm, ...]
    conduct_alarms: int


class Watch:
    """Follows keys, tenants and clusters; see the module's text."""

    def __init__(
        self,
        settings: WatchSettings | None = None,
        calibration: Calibration | None = None,
        *,
        secret: bytes = b"",
        profiles: Iterable[BatchProfile] = (),
        clock: Callable[[], float] = time.time,
        dates: Callable[[], float] | None = None,
        on_alarm: Callable[[Alarm], None] | None = None,
        on_judged: Callable[[Gauge, float], None] | None = None,
    ) -> None:
        self.settings = settings or WatchSettings()
        self._reader = Reader(secret)
        if calibration is not None and calibration.secret != self._reader.fingerprint:
            raise ConfigError(
                "The calibration of the detection was made under another secret; make it again under this one."
            )
        if calibration is not None and calibration.settings != self.settings.meaning:
            raise ConfigError(
                "The calibration of the detection was made with other weights, half-lives or link strength; "
                "make it again with these."
            )
        self._calibration, self._clock, self._dates = calibration, clock, dates
        self._bets = Bets(calibration.p0) if calibration else UNCALIBRATED
        self._benign = calibration.volumes if calibration else ()
        self._nulls = Nulls(calibration.nulls) if calibration else None
        self._rules = Rules(calibration.rises, self.settings.hold, self.settings.dwell) if calibration else None
        self._on_alarm, self._on_judged = on_alarm, on_judged
        self._keys = Roster(self.settings.keys, self._hash_key, self._drop_raised)
        self._tenants = Roster(self.settings.tenants, self._hash_tenant, self._drop_raised)
        self._analyst = Analyst(
            self.settings, calibration, self._reader, self._bets, self._tenants.get, self._regrouped
        )
        self._profiles = {profile.tenant: profile for profile in profiles}
        self._queue: SimpleQueue[Task | None] = SimpleQueue()
        self._worker: threading.Thread | None = None
        self._lock = threading.RLock()  # a callback may ask back
        self._raised: dict[tuple[str, str], Gauge] = {}
        self._alarms: deque[Alarm] = deque(maxlen=ALARMS)
        self._alarm_counts: dict[tuple[str, int], int] = {}
        self.requests = self.dropped = self.failed = 0
        self._lost, self._lost_at = 0, 0.0  # in a row, and when the last one was
        self.worker_seconds = 0.0
        self._processed = 0
        self.conduct_alarms = 0

    @property
    def calibration(self) -> Calibration | None:
        """What stances are based on; None: stances stay at 0."""
        return self._calibration

    @property
    def bets(self) -> Bets:
        """The bets of signal E."""
        return self._bets

    @property
    def healthy(self) -> bool:
        """Whether requests are being taken in: the worker lives, and does not fail at one after the other."""
        if self._worker is not None and not self._worker.is_alive():
            return False
        return self._lost < LOST or time.monotonic() - self._lost_at > AGAIN

    def keyed(self, kind: str, value: str) -> int:
        """Return the keyed hash of a piece of metadata for `Seen.links`."""
        return self._reader.keyed(kind, value)

    def declare(self, profile: BatchProfile) -> None:
        """Exempt a tenant; a stance that it had ends."""
        self._profiles[profile.tenant] = profile

    def withdraw(self, tenant: str) -> None:
        """End a tenant's exemption."""
        self._profiles.pop(tenant, None)

    def observe(self, seen: Seen) -> None:
        """Take an answered request in. Never blocks and never raises for what a client sent."""
        now, name, owner = seen.time, seen.key[:NAME_LIMIT], seen.tenant[:NAME_LIMIT]
        key = self._keys.use(name, lambda: Gauge("key", name, owner, self._bets, now), now)
        tenant = self._tenants.use(owner, lambda: Gauge("tenant", owner, owner, self._bets, now), now)
        exempt = self._exempt(tenant, now) is not None
        cluster = None if exempt else self._analyst.clusters.get(owner)
        flags = seen.flags | wording(seen.prompt)
        if seen.prompt or seen.features is not None:
            body = hash(seen.prompt) if seen.features is None else seen.features.body
            if body == key.last:
                flags |= Flag.RESAMPLE if seen.sampling == key.sampling else Flag.RESAMPLE | Flag.SWEEP
            key.last, key.sampling = body, seen.sampling
        x = suspicion(flags)
        half_life = self.settings.conduct_half_life
        weight = self._weight(seen)
        for gauge in (key, tenant) if cluster is None else (key, tenant, cluster):
            gauge.take(now, weight, x, self._bets, half_life)
        if cluster is not None:
            cluster.rhythm.tick(now)
        self.requests += 1
        task = Task(
            key, tenant, now, seen.prompt[:CHARACTERS], len(seen.prompt), seen.features, seen.links,
            not exempt,
        )  # fmt: skip
        if self._queue.qsize() >= self.settings.queue:
            self.dropped += 1
            self._judge_all(task, always=True)
        else:
            self._queue.put(task)

    def stance(self, key: str, now: float | None = None, tenant_name: str = "") -> Stance:
        """Return the stance for the next request of a key: the highest of key, tenant and cluster.

        `tenant_name` is whose key it is: a key that was never seen, or is forgotten, has the stance of its tenant.
        Raises RunError while nothing is taken in (see `healthy`).
        """
        if not self.healthy:
            raise RunError("The detection takes nothing in any more; see the log.")
        gauge = self._keys.get(key[:NAME_LIMIT])
        owner = tenant_name[:NAME_LIMIT] or (gauge.tenant if gauge is not None else "")
        if self._rules is None or not owner:
            return Stance()
        now = self._clock() if now is None else now
        tenant = self._tenants.get(owner)
        if tenant is not None and (profile := self._exempt(tenant, now)) is not None:
            return Stance(0, (Reason(EXEMPT, "tenant", f"declared batch work until {profile.until:.0f}", 0.0),))
        subjects = (gauge, tenant, self._analyst.clusters.get(owner))
        raised = [subject for subject in subjects if subject is not None and subject.rungs is not GROUND]
        if not raised:
            return Stance()
        with self._lock:
            for subject in raised:
                self._climb(subject, now)
        level = max(subject.rungs.level for subject in raised)
        carrying = [subject for subject in raised if subject.rungs.level == level]
        if not level:
            return Stance()
        told = tuple(reason for subject in carrying for reason in reasons_of(subject, self._benign))
        return Stance(level, told, min(subject.rungs.since for subject in carrying))

    def subject(self, level: str, name: str) -> Gauge | None:
        """Return what is kept of a "key", a "tenant" or the "cluster" of a tenant."""
        if level == "cluster":
            return self._analyst.clusters.get(name)
        return (self._keys if level == "key" else self._tenants).get(name)

    def start(self) -> None:
        """Start the worker thread."""
        if self._worker is None:
            self._worker = threading.Thread(target=self._work, name="azeotrope-signals", daemon=True)
            self._worker.start()

    def stop(self) -> None:
        """Finish what waits and stop the worker thread."""
        if self._worker is not None:
            self._queue.put(None)
            self._worker.join()
            self._worker = None

    def drain(self) -> int:
        """Process what waits in this thread, without a worker; return the number of requests.

        Its time is the caller's and is not counted as the worker's.
        """
        done = 0
        while batch := [task for task in self._waiting(BATCH) if task is not None]:
            self._process(batch)
            done += len(batch)
        return done

    def discoveries(self, now: float | None = None, alpha: float = 0.05) -> tuple[str, ...]:
        """Return the tenants that e-BH rejects at false-discovery rate `alpha` by their present scores."""
        now = self._clock() if now is None else now
        tenants = self._tenants.all()
        scores = [gauge.faded(now, self.settings.evidence_half_life) for gauge in tenants]
        found = ebh(scores, alpha) if tenants else []
        return tuple(tenants[i].name for i in found)

    def snapshot(self, now: float | None = None) -> Snapshot:
        """Return the state in numbers."""
        now = self._clock() if now is None else now
        stances: dict[tuple[str, int], int] = {}
        with self._lock:
            self._sweep(now)
            for gauge in list(self._raised.values()):
                where = (gauge.level, gauge.rungs.level)
                stances[where] = stances.get(where, 0) + 1
            recent = tuple(self._alarms)
            counts = dict(self._alarm_counts)
        return Snapshot(
            calibrated=self._calibration is not None, requests=self.requests, queued=self._queue.qsize(),
            dropped=self.dropped, failed=self.failed, keys=len(self._keys), tenants=len(self._tenants),
            clusters=len(set(map(id, self._analyst.clusters.values()))), worker_seconds=self.worker_seconds,
            bank_bytes=self._analyst.nbytes, stances=stances, alarms=counts, recent=recent,
            conduct_alarms=self.conduct_alarms,
        )  # fmt: skip

    def _weight(self, seen: Seen) -> float:
        """Return w of signal A; negative counts, which no server should report, count as none."""
        settings = self.settings
        return (
            max(0, seen.answer_tokens)
            + settings.reasoning_weight * max(0, seen.reasoning_tokens)
            + settings.logprob_weight * max(0, seen.logprob_floats)
        )

    def _exempt(self, tenant: Gauge, now: float) -> BatchProfile | None:
        """Return the declaration that covers a tenant now."""
        profile = self._profiles.get(tenant.name)
        if profile is None:
            return None
        return profile if profile.holds(self._dates() if self._dates else now, tenant.volumes[2]) else None

    def _work(self) -> None:
        while (task := self._queue.get()) is not None:
            if self._queue.qsize() < BATCH:
                time.sleep(GATHER)  # many prompts together are read for a fraction of the time
            begin = time.thread_time()
            batch = [task, *self._waiting(BATCH - 1)]
            self._process([one for one in batch if one is not None])
            if None in batch:  # told to stop
                self._queue.put(None)
            self.worker_seconds += time.thread_time() - begin

    def _waiting(self, most: int) -> list[Task | None]:
        found: list[Task | None] = []
        with suppress(Empty):
            while len(found) < most:
                found.append(self._queue.get_nowait())
        return found

    def _process(self, batch: list[Task]) -> None:
        try:
            said = self._analyst.read(batch)
        except Exception as error:
            if len(batch) == 1:
                self._lose(error)
                return
            for task in batch:
                self._process([task])
            return
        for task, found in zip(batch, said, strict=True):
            try:
                self._analyst.take(task, found)
                self._judge_all(task)
                self._processed += 1
                self._lost = 0
                if self._processed % SWEEP == 0:
                    with self._lock:
                        self._sweep(task.time)
            except Exception as error:
                self._lose(error)

    def _lose(self, error: Exception) -> None:
        """One request must not end the watch; what it said is not logged."""
        self.failed += 1
        self._lost, self._lost_at = self._lost + 1, time.monotonic()
        _log.error("a request could not be taken into the detection: %s", type(error).__name__)

    def _judge_all(self, task: Task, always: bool = False) -> None:
        cluster = self._analyst.clusters.get(task.tenant.name) if task.linked else None
        for gauge in (task.key, task.tenant, cluster):
            if gauge is not None and (always or gauge.due):
                self._judge(gauge, task.time, exempt=not task.linked)

    def _judge(self, gauge: Gauge, now: float, exempt: bool) -> None:
        if gauge.watch_bounds(self.settings.run_length, self.settings.false_alarm) and gauge.level == "key":
            self.conduct_alarms += 1
        if self._nulls is not None:
            evalues = self._nulls.evalues(gauge.level, gauge.reading(self._benign))
            with self._lock:
                gauge.judged(evalues, evidence.score(evalues))
                if exempt:
                    self._lower(gauge)
                else:
                    self._climb(gauge, now)
        if self._on_judged is not None:
            self._on_judged(gauge, now)

    def _climb(self, gauge: Gauge, now: float) -> None:
        """Advance a ladder; the lock is held."""
        if self._rules is None:
            return
        before = gauge.rungs.level
        score = gauge.faded(now, self.settings.evidence_half_life)
        gauge.rungs = advance(gauge.rungs, score, now, self._rules)
        after = gauge.rungs.level
        if after and self._followed(gauge):
            self._raised[gauge.level, gauge.name] = gauge
        if not after and before:
            self._lower(gauge)
        self._change(gauge, before, after, now)

    def _followed(self, gauge: Gauge) -> bool:
        """Whether a gauge counts: a cluster may be none any more while a thread still holds it."""
        return gauge.level != "cluster" or self._analyst.clusters.get(gauge.name) is gauge

    def _regrouped(self, found: Regrouping) -> None:
        """Follow the clusters that there are now, and tell whose stance is another one by that."""
        with self._lock:
            for cluster in found.gone:
                self._drop_raised(cluster)
            for cluster in found.ended:
                self._change(cluster, cluster.rungs.level, 0, found.now)
            for cluster, before in found.made:
                if cluster.rungs.level:
                    self._raised[cluster.level, cluster.name] = cluster
                self._change(cluster, before, cluster.rungs.level, found.now)

    def _change(self, gauge: Gauge, before: int, after: int, now: float) -> None:
        """Note and tell a change of a stance; the lock is held."""
        if after == before:
            return
        alarm = Alarm(now, gauge.level, gauge.name, before, after, reasons_of(gauge, self._benign))
        self._alarms.append(alarm)
        if after > before:
            count = (gauge.level, after)
            self._alarm_counts[count] = self._alarm_counts.get(count, 0) + 1
        if self._on_alarm is not None:
            self._on_alarm(alarm)

    def _lower(self, gauge: Gauge) -> None:
        gauge.rungs = GROUND
        self._drop_raised(gauge)

    def _drop_raised(self, gauge: Gauge) -> None:
        with self._lock:
            if self._raised.get((gauge.level, gauge.name)) is gauge:
                del self._raised[gauge.level, gauge.name]

    def _sweep(self, now: float) -> None:
        """Let those come down that are silent; the lock is held."""
        for gauge in list(self._raised.values()):
            self._climb(gauge, now)

    def _hash_key(self, name: str) -> int:
        return self._reader.keyed("key", name)

    def _hash_tenant(self, name: str) -> int:
        return self._reader.keyed("tenant", name)
