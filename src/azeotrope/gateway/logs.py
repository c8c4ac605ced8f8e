"""Structured logs: one JSON object a line on stderr, of requests and of what went wrong. No text, no secret."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

import msgspec

NAME = "azeotrope.gateway"
log = logging.getLogger(NAME)


class Lines(logging.Formatter):
    """Records as JSON, with what a record carries as `facts`; a traceback is told by its place."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        told = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            told |= _place(record.exc_info[1])
        return msgspec.json.encode(told).decode()


def _place(error: BaseException) -> dict[str, str]:
    """The kind of an error and where it was raised. Its text may quote a client, so it is not told."""
    trace, place = error.__traceback__, ""
    while trace is not None:
        code = trace.tb_frame.f_code
        place = f"{code.co_filename}:{trace.tb_lineno} {code.co_name}"
        trace = trace.tb_next
    return {"error": type(error).__name__, "at": place}


def set_up(*, requests: bool, stream: TextIO | None = None) -> None:
    """Send this process's logs to `stream` (stderr). `requests`: a line for every request, too."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(Lines())
    log.setLevel(logging.INFO if requests else logging.WARNING)
    for one in (log, logging.getLogger("opentelemetry")):  # which says where traces cannot be sent
        one.handlers[:] = [handler]
        one.propagate = False
