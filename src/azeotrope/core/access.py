"""What an attacker sees of a reply, as an ordered type."""

from __future__ import annotations

from enum import IntEnum


class Access(IntEnum):
    """Ordered access levels; an attack declares the least it needs and can never read above it."""

    TEXT = 0
    TOPK_LOGPROBS = 1
    FULL_LOGITS = 2
    WEIGHTS = 3

    @classmethod
    def named(cls, name: str) -> Access:
        """The level of a name as settings write it, e.g. ``full_logits``.

        >>> Access.named("topk_logprobs") is Access.TOPK_LOGPROBS
        True
        """
        return cls[name.upper()]
