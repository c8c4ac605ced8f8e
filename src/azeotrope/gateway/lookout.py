"""Extraction detection in the server: what it is told of a reply, and what it says of the next request.

The watch (`azeotrope.gateway.signals`) does the work; this is what it sees of a request here. Tokens are the
upstream's numbers, shared out by characters between what was hidden, what was disclosed and the answer.
"""

from __future__ import annotations

import logging
import os
import time as clocks
from collections import OrderedDict
from collections.abc import Iterator
from queue import SimpleQueue
from threading import Thread
from time import time
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from azeotrope.core.errors import ConfigError, RunError
from azeotrope.gateway.http import Scope, header
from azeotrope.gateway.ledger.identity import Identity
from azeotrope.gateway.logs import log
from azeotrope.gateway.settings import MEGABYTE, SignalSettings
from azeotrope.gateway.signals.calibration import load
from azeotrope.gateway.signals.conduct import wording
from azeotrope.gateway.signals.exempt import BatchProfile
from azeotrope.gateway.signals.prompts import CHARACTERS, Reader
from azeotrope.gateway.signals.reasons import Alarm
from azeotrope.gateway.signals.seen import Flag, Seen
from azeotrope.gateway.signals.watch import Snapshot, Watch
from azeotrope.gateway.wire.request import Message, Request

if TYPE_CHECKING:
    from azeotrope.gateway.case import Case

LONG: Final = 8192  # tokens: whoever allows a lone question that many wants all that there is
EARLIER: Final = 4  # texts at either end of a conversation whose wording is looked at
STEADY: Final = getattr(clocks, "CLOCK_BOOTTIME", clocks.CLOCK_MONOTONIC)  # it goes on while a machine sleeps
TEXTS: Final = 1024  # of a key that are remembered: conversations that its tool turns may belong to
ALL: Final = 65_536  # of all keys, some 10 MB
WAITING: Final = 4096  # requests that may wait to be written down


class Lookout:
    """The detection of one server process. Raises ConfigError, MissingError, RunError."""

    def __init__(self, settings: SignalSettings) -> None:
        secret = os.environ.get(settings.secret_env, "").encode()
        if not secret and (settings.log or settings.calibration):
            raise ConfigError(
                f"The environment variable {settings.secret_env} is empty: hashes of prompts and addresses "
                "need a secret; set it to 32 random bytes in hexadecimal."
            )
        self._links = settings.links
        self._heard = Heard()
        self._began, self._set = time(), clocks.clock_gettime(STEADY)
        self.watch = Watch(
            settings.watch,
            None if settings.calibration is None else load(settings.calibration),
            secret=secret,
            profiles=[BatchProfile(one.tenant, one.end, one.tokens_per_day, one.note) for one in settings.batch],
            clock=self._now,
            dates=time,
            on_alarm=_tell,
        )
        self._notes = None if settings.log is None else Notes(settings, secret)

    def start(self) -> None:
        """Start the worker."""
        self.watch.start()
        if self._notes is not None:
            self._notes.start()

    def stop(self) -> None:
        """Finish what waits, and stop. Blocks."""
        self.watch.stop()
        if self._notes is not None:
            self._notes.stop()

    def level(self, identity: Identity) -> tuple[int, tuple[str, ...]]:
        """How suspicious the traffic of a key is, 0 to 4, and the codes of the reasons."""
        stance = self.watch.stance(_key(identity), tenant_name=identity.tenant)
        return stance.level, tuple(dict.fromkeys(f"{r.level}_{r.code}" for r in stance.reasons))

    def observe(self, case: Case, scope: Scope) -> None:
        """Take a request in that was answered, if only in part."""
        if case.request is None or case.job is None or case.job.shield is None:
            return
        seen = self._seen(case, case.request, scope)
        self.watch.observe(seen)
        if self._notes is not None:
            self._notes.put(seen, case.identity.tier)

    def _seen(self, case: Case, request: Request, scope: Scope) -> Seen:
        assert case.job is not None and case.job.shield is not None  # noqa: PT018
        change, usage = case.job.shield.change, case.job.usage
        key, prompt = _key(case.identity), newest(request)
        goes_on = self._heard.before(key, prompt) and _step(request)  # with what was asked and counted
        said = change.came + change.answer
        tokens = usage.completion if usage and usage.completion is not None else said // 4
        return Seen(
            key=key,
            tenant=case.identity.tenant,
            time=self._now(),
            prompt="" if goes_on else prompt,
            answer_tokens=tokens * change.answer // max(1, said),
            reasoning_tokens=tokens * min(change.left, change.came) // max(1, said),
            logprob_floats=change.numbers,
            flags=conduct(request, step=goes_on),
            sampling=crc32(repr((request.temperature, request.top_p, request.top_k, request.seed)).encode()),
            links={kind: self.watch.keyed(kind, value) for kind in self._links if (value := _trait(kind, scope))},
        )

    def _now(self) -> float:
        """The time by a clock that nobody sets: after a step into the future nothing would fade before that.

        Declared batch work goes by the date that the machine has now.
        """
        return self._began + clocks.clock_gettime(STEADY) - self._set

    def collector(self) -> Collector:
        """What Prometheus reads."""
        return _Numbers(self.watch)


def newest(request: Request) -> str:
    """The newest text of the user."""
    for message in reversed(request.messages):
        if message.role == "user":
            return _words(message)
    return request.prompt


def conduct(request: Request, *, step: bool = False) -> int:
    """What a request itself shows; what its newest text and the request before it show, the watch sees.

    `step`: it only brings a tool's result to what was asked before.
    """
    flags = Flag(0) if step else _instructions(request)
    if request.logprobs:
        flags |= Flag.LOGPROBS
    if request.bias:
        flags |= Flag.BIAS
    if request.n > 1:
        flags |= Flag.MANY
    if len(request.messages) == 1 and not request.tools and (request.max_tokens or 0) >= LONG:
        flags |= Flag.BARE
    return int(flags)


def _step(request: Request) -> bool:
    """Whether a request ends with a tool's result. Its user's text may be new all the same."""
    return bool(request.messages) and request.messages[-1].role == "tool"


def _instructions(request: Request) -> Flag:
    """What is worded anywhere but in the newest text, which the watch reads itself."""
    places = [n for n, m in enumerate(request.messages) if m.role in ("system", "developer", "user")]
    newest_at = max((n for n in places if request.messages[n].role == "user"), default=-1)
    flags = Flag(0)
    for place in sorted({*places[:EARLIER], *places[-EARLIER:]} - {newest_at}):
        flags |= wording(_words(request.messages[place]))
    return flags


def _words(message: Message) -> str:
    return "".join(part for part in message.parts if isinstance(part, str))


def _key(identity: Identity) -> str:
    return identity.key_id or identity.tenant


def _trait(kind: str, scope: Scope) -> str:
    if kind == "agent":
        return header(scope, b"user-agent")[:256]
    client = scope.get("client")
    return str(client[0]) if client else ""


def _tell(alarm: Alarm) -> None:
    """Log a change of a stance: who, and why. No text of a client is in it."""
    codes = ", ".join(reason.code for reason in alarm.reasons)
    facts = {"subject": alarm.level, "name": alarm.name, "from": alarm.before, "to": alarm.after, "why": codes}
    log.log(logging.WARNING if alarm.after > alarm.before else logging.INFO, "stance", extra={"facts": facts})


class _Numbers(Collector):
    """The watch in numbers, made when they are asked for."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def collect(self) -> Iterator[Metric]:
        """See `Collector.collect`."""
        now = self._watch.snapshot()
        for name, text, value in _counted(now):
            yield CounterMetricFamily(f"azeotrope_signals_{name}", text, value=value)
        for name, text, value in _measured(now):
            yield GaugeMetricFamily(f"azeotrope_signals_{name}", text, value=value)
        alarms = CounterMetricFamily("azeotrope_signals_alarms", "rises of a stance", labels=("level", "stance"))
        raised = GaugeMetricFamily("azeotrope_signals_raised", "subjects above 0", labels=("level", "stance"))
        for family, counts in ((alarms, now.alarms), (raised, now.stances)):
            for (level, rung), count in counts.items():
                family.add_metric((level, str(rung)), count)
        yield alarms
        yield raised


def _counted(now: Snapshot) -> list[tuple[str, str, float]]:
    return [
        ("requests", "requests that the detection was told of", now.requests),
        ("dropped", "prompts that the worker had no time for", now.dropped),
        ("failed", "requests that the worker could not take in", now.failed),
        ("worker_seconds", "processor time of the worker", now.worker_seconds),
        ("conduct_alarms", "keys past a false-alarm bound of conduct", now.conduct_alarms),
    ]


def _measured(now: Snapshot) -> list[tuple[str, str, float]]:
    return [
        ("keys", "keys that are remembered", now.keys),
        ("tenants", "tenants that are remembered", now.tenants),
        ("clusters", "groups of linked tenants", now.clusters),
        ("waiting", "prompts that wait for the worker", now.queued),
    ]


class Heard:
    """What the keys asked last, as hashes: up to `TEXTS` of a key, `ALL` of all, those of the silent go first."""

    def __init__(self) -> None:
        self._texts: OrderedDict[str, OrderedDict[int, None]] = OrderedDict()
        self.size = 0

    def before(self, key: str, text: str) -> bool:
        """Whether a key asked this before; it has now."""
        mine = self._texts.pop(key, None)
        self._texts[key] = mine = OrderedDict() if mine is None else mine
        name = hash(text)
        known = name in mine
        mine[name] = None
        mine.move_to_end(name)
        self.size += not known
        if len(mine) > TEXTS:
            mine.popitem(last=False)
            self.size -= 1
        while self.size > ALL:
            _, gone = self._texts.popitem(last=False)
            self.size -= len(gone)
        return known


class Notes:
    """What the detection was told, in a file to calibrate on: hashes in place of prompts, one line a request.

    A thread of its own makes the hashes. Raises RunError if the file cannot be opened.
    """

    def __init__(self, settings: SignalSettings, secret: bytes) -> None:
        assert settings.log is not None
        self._reader, self._most = Reader(secret), settings.log_megabytes * MEGABYTE
        self._queue: SimpleQueue[tuple[Seen, int, str] | None] = SimpleQueue()
        self._thread: Thread | None = None
        try:  # nobody else reads who asked when; unbuffered, so that lines of several processes stay whole
            handle = os.open(settings.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            self._file = os.fdopen(handle, "ab", buffering=0)
        except OSError as error:
            raise RunError(f"The detection's log '{settings.log}' cannot be written: {error.strerror}.") from None
        self.missing = 0  # requests that are not in it
        self._problem = ""

    def start(self) -> None:
        """Start the thread."""
        if self._thread is None:
            self._thread = Thread(target=self._work, name="azeotrope-notes", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Write what waits, and close the file."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
        self._file.close()

    def put(self, seen: Seen, group: str) -> None:
        """Write a request down, unless too many wait."""
        if self._queue.qsize() >= WAITING:
            self.missing += 1
        else:
            short = msgspec.structs.replace(seen, prompt=seen.prompt[:CHARACTERS])
            self._queue.put((short, len(seen.prompt), group))

    def _work(self) -> None:
        while (noted := self._queue.get()) is not None:
            try:
                problem = self._write(*noted)
            except OSError as error:
                problem = f"it cannot be written: {error.strerror}"
            self.missing += bool(problem)
            if problem and problem != self._problem:
                log.error("The detection's log misses requests: %s.", problem)
            self._problem = problem

    def _write(self, seen: Seen, length: int, group: str) -> str:
        """Write a line; return why it was not written, "" if it was."""
        line: dict[str, Any] = msgspec.structs.asdict(seen) | {"group": group or "all"}
        prompt = line.pop("prompt")
        line["features"] = self._reader.read(prompt, length)
        line["flags"] = int(seen.flags | wording(prompt))
        data = msgspec.json.encode(line) + b"\n"
        if os.fstat(self._file.fileno()).st_size + len(data) > self._most:
            return "it has reached its size"
        self._file.write(data)
        return ""
