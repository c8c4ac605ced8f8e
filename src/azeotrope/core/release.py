"""A release: what leaves the building, seen through an access level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from azeotrope.core.access import Access
from azeotrope.core.errors import ConfigError
from azeotrope.core.types import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Defended traces and the level at which they were released.

    Token ids and per-token movement never leave the building: a view strips everything above its level.
    """

    traces: tuple[Trace, ...]
    access: Access = Access.TEXT

    def view(self, access: Access, *, reader: str = "the attack") -> Release:
        """Return the same release as seen through `access`. Raises ConfigError if it exceeds the release."""
        if access > self.access:
            raise ConfigError(
                f"{reader} needs access {access.name}, but the release only exposes {self.access.name}; "
                "choose another attack or release more."
            )
        return Release(traces=tuple(_strip(trace) for trace in self.traces), access=access)

    @classmethod
    def of(cls, traces: Sequence[Trace], access: Access = Access.TEXT) -> Release:
        """Build a release from any sequence of traces."""
        return cls(traces=tuple(traces), access=access)


def _strip(trace: Trace) -> Trace:
    return replace(trace, token_ids=None, moved=None, meta={})
