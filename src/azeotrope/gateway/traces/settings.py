"""Settings of the traces."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from azeotrope.core.methods import Settings


class TelemetrySettings(Settings):
    """OpenTelemetry traces, over OTLP/HTTP.

    `otlp_env` names a variable with the receiver's address, such as http://127.0.0.1:4318; without it the standard
    variables say it (OTEL_EXPORTER_OTLP_ENDPOINT, ...). `sampling` is the share of traces that are kept, of those
    whose client did not decide; without it OTEL_TRACES_SAMPLER says so, or all are. `clients`: whether a client's
    `traceparent` is followed, with its decision whether the trace is kept, or every request begins a trace.
    """

    otlp_env: str | None = None
    sampling: float | None = Field(None, ge=0, le=1)
    clients: Literal["follow", "ignore"] = "follow"
    service: str = Field("azeotrope-gateway", min_length=1, description="service.name, unless OTEL_SERVICE_NAME")
