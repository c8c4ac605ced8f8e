"""Real logs through the watch: JSON lines in, alarms with reasons out, whatever single lines are like.

A line is an object with

    time              seconds, or an ISO 8601 date and time (without an offset: UTC)
    key, tenant       identifiers; without a tenant, the key is one
    prompt            the newest user message, or `features` as this package writes them, or neither
    answer_tokens, reasoning_tokens, logprob_floats          whole numbers
    sampling          a number that changes with the sampling parameters
    flags             names of `Flag` in lower case ("logprobs", "bias", ...) or their sum
    links             kind of metadata -> value; texts are hashed under the secret, numbers are taken as hashed
    group             what the caller is like, for calibrations

Other names are ignored. A line that cannot be understood is reported by its number and left out; what it says is
never quoted.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from azeotrope.core.errors import MissingError, RunError
from azeotrope.gateway.signals.calibration import Calibration
from azeotrope.gateway.signals.fit import Labeled
from azeotrope.gateway.signals.linkage import KINDS
from azeotrope.gateway.signals.prompts import Features, Reader
from azeotrope.gateway.signals.reasons import Alarm
from azeotrope.gateway.signals.seen import NAME_LIMIT, Flag, Seen
from azeotrope.gateway.signals.settings import WatchSettings
from azeotrope.gateway.signals.watch import Snapshot, Watch
from azeotrope.maths.sketches import MASK

LONGEST: Final = 8 << 20  # bytes of a line
MOST_TOKENS: Final = 10**9
LATEST: Final = 1e12  # seconds
DISORDER: Final = 60.0  # seconds that a line may be older than one before it without being counted
_FLAGS: Final = {str(flag.name).lower(): flag for flag in Flag}

Complain = Callable[[int, str], None]


class _Line(msgspec.Struct):
    time: float | str
    key: str
    tenant: str = ""
    prompt: str = ""
    features: Features | None = None
    answer_tokens: int = 0
    reasoning_tokens: int = 0
    logprob_floats: int = 0
    flags: int | list[str] = 0
    sampling: int = 0
    links: dict[str, str | int] = {}
    group: str = "all"


class Report(msgspec.Struct, frozen=True):
    """What a replay found. `malformed` counts lines that were left out; `disordered` those that came late."""

    lines: int
    malformed: int
    disordered: int
    alarms: tuple[Alarm, ...]
    snapshot: Snapshot
    discoveries: tuple[str, ...]


class Log:
    """A log file, read line by line; counts what it met."""

    def __init__(self, path: Path, secret: bytes, complain: Complain = lambda _number, _why: None) -> None:
        self._path, self._reader, self._complain = path, Reader(secret), complain
        self._decoder = msgspec.json.Decoder(_Line)
        self.lines = self.malformed = self.disordered = 0
        self.last = -math.inf

    def __iter__(self) -> Iterator[Labeled]:
        """Yield the requests of the lines that can be understood. Raises MissingError and RunError."""
        self.lines = self.malformed = self.disordered = 0
        self.last = -math.inf
        for number, line in enumerate(_raw_lines(self._path), 1):
            if line is not None and not line.strip():
                continue
            self.lines += 1
            try:
                found = self._parse(line)
            except (ValueError, RecursionError) as error:
                self.malformed += 1
                self._complain(number, _sentence(error))
                continue
            self.disordered += found.seen.time < self.last - DISORDER
            self.last = max(self.last, found.seen.time)
            yield found

    def _parse(self, line: bytes | None) -> Labeled:
        if line is None:
            raise ValueError(f"it is longer than {LONGEST >> 20} MiB")
        row = self._decoder.decode(line)
        counts = (row.answer_tokens, row.reasoning_tokens, row.logprob_floats)
        if not all(0 <= count <= MOST_TOKENS for count in counts):
            raise ValueError("a count of tokens is negative or absurd")
        if not row.key or max(len(row.key), len(row.tenant)) > NAME_LIMIT:
            raise ValueError(f"key and tenant need names of at most {NAME_LIMIT} characters")
        seen = Seen(
            key=row.key, tenant=row.tenant or row.key, time=_seconds(row.time), prompt=row.prompt,
            features=row.features, answer_tokens=row.answer_tokens, reasoning_tokens=row.reasoning_tokens,
            logprob_floats=row.logprob_floats, flags=_flags(row.flags), sampling=row.sampling,
            links=self._links(row.links),
        )  # fmt: skip
        return Labeled(seen, row.group[:NAME_LIMIT])

    def _links(self, links: dict[str, str | int]) -> dict[str, int]:
        found = {}
        for kind in KINDS[1:]:
            if (value := links.get(kind)) is not None:
                found[kind] = self._reader.keyed(kind, value) if isinstance(value, str) else value & MASK
        return found


def part_of(log: Iterable[Labeled], part: int, parts: int = 3) -> Iterator[Labeled]:
    """Yield the requests of one part of the tenants, dealt out by a hash of their names."""
    for item in log:
        if zlib.crc32(item.seen.tenant.encode("utf-8", "surrogatepass")) % parts == part:
            yield item


def replay(
    path: Path,
    calibration: Calibration,
    settings: WatchSettings | None = None,
    secret: bytes = b"",
    complain: Complain = lambda _number, _why: None,
) -> Report:
    """Run a log through a watch of its own; return the alarms, rises and falls, in order of time.

    Raises MissingError and RunError for a file that cannot be read, ConfigError for a calibration of another
    secret.
    """
    alarms: list[Alarm] = []
    watch = Watch(settings, calibration, secret=secret, on_alarm=alarms.append)
    log = Log(path, secret, complain)
    for item in log:
        watch.observe(item.seen)
        watch.drain()
    last = log.last if math.isfinite(log.last) else 0.0
    found, snapshot = watch.discoveries(last), watch.snapshot(last)
    return Report(log.lines, log.malformed, log.disordered, tuple(alarms), snapshot, found)


def _raw_lines(path: Path) -> Iterator[bytes | None]:
    """Yield the lines of a file; None for one that is too long to hold."""
    try:
        with path.open("rb") as file:
            while line := file.readline(LONGEST + 1):
                if len(line) <= LONGEST:
                    yield line
                    continue
                yield None
                while not line.endswith(b"\n") and (line := file.readline(LONGEST)):
                    pass
    except FileNotFoundError:
        raise MissingError(f"There is no log '{path}'; check the path.") from None
    except OSError as error:
        raise RunError(f"The log '{path}' cannot be read: {error.strerror}.") from None


def _seconds(time: float | str) -> float:
    if isinstance(time, str):
        try:
            moment = datetime.fromisoformat(time)
        except ValueError:
            raise ValueError("its time is neither a number nor an ISO 8601 date and time") from None
        time = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not math.isfinite(time) or abs(time) > LATEST:
        raise ValueError("its time is out of range")
    return float(time)


def _flags(flags: int | list[str]) -> int:
    if isinstance(flags, int):
        return max(0, flags) & MASK
    if unknown := [flag for flag in flags if flag not in _FLAGS]:
        raise ValueError(f"{len(unknown)} of its flags are unknown; there are {', '.join(_FLAGS)}")
    return int(sum(set(map(_FLAGS.__getitem__, flags))))


def _sentence(error: Exception) -> str:
    """Say what is wrong with a line without quoting it: names of fields and types are ours, the rest is not."""
    if isinstance(error, msgspec.ValidationError):
        text = "unknown field in `features`" if "unknown field" in str(error) else str(error)
        return f"it does not have the right form: {text}"
    if isinstance(error, msgspec.DecodeError | UnicodeDecodeError):
        return "it is not JSON"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return str(error)
