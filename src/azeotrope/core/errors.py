"""Errors a user can act on: one sentence that says what was wrong, where, and what to do.

Exit codes (also in docs/cli.md): 0 success, 1 unexpected failure (a bug), 2 bad input or configuration,
3 something needed is missing (file, model, optional package), 4 the run failed on its own terms
(NaN loss, full disk, corrupt store), 130 interrupted.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AzeotropeError(Exception):
    """Base of every error that is shown to the user without a stack trace."""

    exit_code = 1


class ConfigError(AzeotropeError):
    """A setting is unknown, of the wrong type, or contradicts another."""

    exit_code = 2


class MissingError(AzeotropeError):
    """A file, model, data set or optional package that is needed is not there."""

    exit_code = 3


class RunError(AzeotropeError):
    """Work started and could not be completed: NaN loss, full disk, corrupt file."""

    exit_code = 4


def nearest(name: str, options: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the option nearest to `name`, or the list of options."""
    known = sorted(options)
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if match:
        return f" Did you mean '{match[0]}'?"
    return f" Known: {', '.join(known)}." if known else ""
