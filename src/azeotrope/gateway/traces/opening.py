"""Whether traces are asked for, and OpenTelemetry set up for them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from azeotrope.core.errors import ConfigError, MissingError
from azeotrope.gateway.traces.settings import TelemetrySettings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from azeotrope.gateway.traces.spans import Tracing

ADDRESSES: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
SPOKEN: Final = "http/protobuf"
FILE: Final = "'telemetry' in the server's file"


def open_tracing(
    settings: TelemetrySettings | None, environment: Mapping[str, str] = os.environ
) -> Tracing | None:
    """Traces, if the server's file or a standard variable asks for them.

    OTEL_SDK_DISABLED=true and OTEL_TRACES_EXPORTER=none turn them off. Raises MissingError and ConfigError.
    """
    why = FILE if settings is not None else next((name for name in ADDRESSES if environment.get(name)), "")
    off = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if not why or off or environment.get("OTEL_TRACES_EXPORTER", "").strip() == "none":
        return None
    for name in PROTOCOLS:
        if environment.get(name, SPOKEN).strip() not in ("", SPOKEN):
            raise ConfigError(f"Traces are sent by {SPOKEN} only; set {name} to it, or unset it.")
    settings = settings or TelemetrySettings()
    address = _address(settings.otlp_env, environment)
    try:
        from azeotrope.gateway.traces.spans import Tracing

        provider = _provider(settings, address, environment)
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("opentelemetry"):
            raise
        raise MissingError(
            f"Traces are asked for by {why} and OpenTelemetry is not installed; pip install 'azeotrope[otel]', or "
            "set OTEL_SDK_DISABLED=true."
        ) from None
    return Tracing(provider, follow=settings.clients == "follow")


def _address(variable: str | None, environment: Mapping[str, str]) -> str | None:
    """Where traces are sent; None: the standard variables say it. No error quotes it: it may hold a password."""
    if variable is None:
        return None
    if not (found := environment.get(variable, "").strip()):
        raise MissingError(f"The environment variable {variable} with the address for traces is not set.")
    parts = urlsplit(found)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{variable} must hold an address for traces such as http://127.0.0.1:4318.")
    path = parts.path.rstrip("/")
    return parts._replace(path=path if path.endswith("/v1/traces") else f"{path}/v1/traces").geturl()


def _provider(settings: TelemetrySettings, address: str | None, environment: Mapping[str, str]) -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    import azeotrope

    about = {"service.version": azeotrope.__version__}
    if not environment.get("OTEL_SERVICE_NAME"):
        about["service.name"] = settings.service
    sampler = None if settings.sampling is None else ParentBased(TraceIdRatioBased(settings.sampling))
    provider = TracerProvider(sampler=sampler, resource=Resource.create(about), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=address)))
    return provider
