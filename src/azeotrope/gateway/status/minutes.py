"""Numbers by the minute, for as many minutes as there is room for: of all traffic, and of one tenant."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from typing import Final, Literal

from azeotrope.gateway.metrics import SECONDS

Outcome = Literal["answered", "refused", "failed", "left"]
OUTCOMES: Final[tuple[Outcome, ...]] = ("answered", "refused", "failed", "left")
LEVELS: Final = 5  # of suspicion, 0 to 4
MOST_NAMES: Final = 32  # that are counted apart
OTHERS: Final = "(others)"
MINUTE_BYTES: Final = 32 * 1024  # of a minute whose every name is as long as one can be; usually 2 KB


def count(counts: dict[str, int], name: str) -> None:
    """Count a name. Beyond `MOST_NAMES` it is one of the others: the memory that names take is bounded."""
    if name not in counts and len(counts) >= MOST_NAMES:
        name = OTHERS
    counts[name] = counts.get(name, 0) + 1


class Minute:
    """What happened in one minute. `overhead` counts requests by `SECONDS`, the last one those above all."""

    __slots__ = ("at", "codes", "completion", "levels", "outcomes", "overhead", "prompt", "stances", "work")

    def __init__(self, at: int) -> None:
        self.at = at  # minutes since 1970
        self.outcomes: dict[str, int] = dict.fromkeys(OUTCOMES, 0)
        self.prompt = self.completion = 0
        self.stances: dict[str, int] = {}
        self.codes: dict[str, int] = {}
        self.levels = [0] * LEVELS
        self.overhead = [0] * (len(SECONDS) + 1)
        self.work = 0.0  # seconds of our own

    @property
    def requests(self) -> int:
        """How many were over in it."""
        return sum(self.outcomes.values())


class Minutes:
    """The latest minutes of all traffic, in a ring."""

    def __init__(self, length: int) -> None:
        self._ring: list[Minute | None] = [None] * length

    def __len__(self) -> int:
        return len(self._ring)

    def now(self, at: int) -> Minute:
        """The minute `at`, a new one where the ring still holds an older one."""
        place = at % len(self._ring)
        found = self._ring[place]
        if found is None or found.at != at:
            found = self._ring[place] = Minute(at)
        return found

    def last(self, length: int, at: int) -> list[Minute]:
        """The last minutes up to and with `at`, the oldest first; empty ones where nothing happened."""
        size = len(self._ring)
        found = []
        for one in range(at - min(length, size) + 1, at + 1):
            kept = self._ring[one % size]
            found.append(kept if kept is not None and kept.at == one else Minute(one))
        return found


class Lane:
    """The latest minutes of one tenant, in a ring: 25 bytes a minute."""

    __slots__ = ("_at", "errors", "level", "requests", "tokens")

    def __init__(self, length: int) -> None:
        self._at = array("Q", bytes(8 * length))
        self.requests = array("I", bytes(4 * length))
        self.errors = array("I", bytes(4 * length))
        self.tokens = array("Q", bytes(8 * length))
        self.level = array("B", bytes(length))

    def place(self, at: int) -> int:
        """Where the minute `at` is, made empty where an older one was."""
        place = at % len(self._at)
        if self._at[place] != at:
            self._at[place] = at
            self.requests[place] = self.errors[place] = self.tokens[place] = self.level[place] = 0
        return place

    def totals(self, length: int, at: int) -> tuple[int, int, int]:
        """Requests, errors and tokens of the last minutes up to and with `at`."""
        first = at - length + 1
        places = [n for n, one in enumerate(self._at) if one >= first]
        requests, errors, tokens = self.requests, self.errors, self.tokens
        return (
            sum([requests[n] for n in places]),
            sum([errors[n] for n in places]),
            sum([tokens[n] for n in places]),
        )

    def last(self, length: int, at: int) -> list[tuple[int, int, int, int, int]]:
        """The last minutes up to and with `at`: the minute, requests, errors, tokens, the highest level."""
        size = len(self._at)
        found = []
        for one in range(at - min(length, size) + 1, at + 1):
            n = one % size
            kept = self._at[n] == one
            values = (self.requests[n], self.errors[n], self.tokens[n], self.level[n]) if kept else (0, 0, 0, 0)
            found.append((one, *values))
        return found


def bucket(seconds: float) -> int:
    """The place of an overhead in `Minute.overhead`."""
    return bisect_left(SECONDS, seconds)


def quantile(counts: list[int], share: float) -> float | None:
    """Seconds that this share of requests stayed below, as far as buckets tell; None without requests."""
    total = sum(counts)
    if not total:
        return None
    wanted, below = share * total, 0.0
    for n, many in enumerate(counts):
        if many and below + many >= wanted:
            if n == len(SECONDS):
                return SECONDS[-1]
            low = SECONDS[n - 1] if n else 0.0
            return low + (SECONDS[n] - low) * (wanted - below) / many
        below += many
    return SECONDS[-1]
