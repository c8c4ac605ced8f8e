"""The two counters behind the limits. Times are seconds of a clock that never steps."""

from __future__ import annotations

from azeotrope.gateway.ledger.quota import DAY, MINUTE


class Bucket:
    """A token bucket with room for `size`, refilled with `size` a minute; starts full.

    It can be in debt: what was used beyond the estimate is taken from what comes.
    """

    __slots__ = ("at", "level", "size")

    def __init__(self, size: float, now: float) -> None:
        self.size, self.level, self.at = size, size, now

    def refill(self, size: float, now: float) -> None:
        """Bring the level up to date; `size` may be another one than before (the policy was changed)."""
        elapsed = now - self.at
        if elapsed > 0:
            self.level += elapsed * size / MINUTE
            self.at = now
        self.size = size
        self.level = min(self.level, size)

    def wait(self, amount: float) -> float | None:
        """Return how long until `amount` is there: 0 if it is, None if it never fits."""
        if amount > self.size:
            return None
        missing = amount - self.level
        return missing * MINUTE / self.size if missing > 0 else 0.0

    def full(self, now: float) -> bool:
        """Whether it is full by now."""
        return self.level + max(0.0, now - self.at) * self.size / MINUTE >= self.size

    def take(self, amount: float) -> None:
        """Take `amount`, or give back what is negative; more than full it never gets."""
        self.level = min(self.level - amount, self.size)


class Day:
    """What was used in a window of 24 hours, which begins with the first use after the last one ended."""

    __slots__ = ("start", "used")

    def __init__(self, now: float) -> None:
        self.start, self.used = now, 0.0

    def turn(self, now: float) -> None:
        """Begin a new window if this one is over."""
        if self.over(now):
            self.start, self.used = now, 0.0

    def over(self, now: float) -> bool:
        """Whether nothing counts against the quota any more."""
        return self.used == 0 or now - self.start >= DAY

    def wait(self, amount: float, limit: float, now: float) -> float | None:
        """Return how long until `amount` may be used: 0 if at once, None if never."""
        if amount > limit:
            return None
        return self.start + DAY - now if self.used + amount > limit else 0.0

    def take(self, amount: float, window: float) -> None:
        """Add `amount` that was reserved in the window that began at `window`.

        What was reserved in an earlier window is not given back to this one.
        """
        if amount > 0 or window == self.start:
            self.used = max(0.0, self.used + amount)
