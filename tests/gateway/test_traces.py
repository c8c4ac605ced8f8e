"""OpenTelemetry traces: their spans, what is in them and what is not, whose trace it is, and how they are sent."""

from __future__ import annotations

import gzip
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from gateway_drive import Mock, Running, frames, free_port, message, serving, serving_app, upstream
from test_gateway_desk import Watched, key
from test_gateway_serving import ASK, HIDE, SECRET, STREAM, THOUGHTS, post

from azeotrope.core.errors import ConfigError, MissingError
from azeotrope.gateway import boot
from azeotrope.gateway.desk import open_desk
from azeotrope.gateway.policy import Failing
from azeotrope.gateway.settings import LedgerSettings, LimitSettings, parse_settings
from azeotrope.gateway.traces.opening import open_tracing
from azeotrope.gateway.traces.settings import TelemetrySettings

pytest.importorskip("opentelemetry.sdk", reason="OpenTelemetry is not installed; pip install 'azeotrope[otel]'")

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode

from azeotrope.gateway.traces.spans import SCHEMA, Tracing

CLIENTS = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TRACE = int("4bf92f3577b34da6a3ce929d0e0e4736", 16)


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_SDK_DISABLED",
        "OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_SERVICE_NAME", "OTEL_TRACES_SAMPLER",
    ):  # fmt: skip
        monkeypatch.delenv(name, raising=False)


class Traced:
    """A gateway whose spans are kept in memory."""

    def __init__(self, running: Running, exporter: InMemorySpanExporter) -> None:
        self.running, self.mock, self._exporter = running, running.mock, exporter

    def ask(self, body: Any, path: str = "/v1/chat/completions", **headers: str) -> int:
        self._exporter.clear()
        return post(self.running, body, path, **headers)[0]

    def spans(self, count: int = 2) -> list[ReadableSpan]:
        """The spans of the last request: the upstream's first."""
        until = time.monotonic() + 10
        while len(self._exporter.get_finished_spans()) < count:
            assert time.monotonic() < until, self._exporter.get_finished_spans()
            time.sleep(0.01)
        return list(self._exporter.get_finished_spans())


def tracing(exporter: InMemorySpanExporter, sampling: float = 1.0, *, follow: bool = True) -> Tracing:
    provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(sampling)), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Tracing(provider, follow=follow)


def serve(tmp_path: Path, sampling: float = 1.0, *, follow: bool = True, **more: Any) -> Iterator[Traced]:
    exporter = InMemorySpanExporter()
    mock = Mock(frames=frames(*STREAM), body=message(THOUGHTS, "It is rock."))
    made = tracing(exporter, sampling, follow=follow)
    settings = {"shows": "logprobs", "retries": 0, **more}
    with serving(mock, policy=HIDE, tmp=tmp_path, tracing=made, **settings) as running:
        yield Traced(running, exporter)


@pytest.fixture
def traced(tmp_path: Path) -> Iterator[Traced]:
    yield from serve(tmp_path)


def kept(mock: Mock) -> bool:
    """Whether the upstream is told that the trace is kept: the last bit of the flags."""
    return bool(int(mock.seen[-1]["traceparent"].rpartition("-")[2], 16) & 1)


def told(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


@pytest.mark.parametrize("stream", [True, False])
def test_a_request_is_a_span_and_its_upstream_another_below_it(traced: Traced, stream: bool) -> None:
    assert traced.ask({**ASK, "model": "asked", "stream": stream, "max_tokens": 300, "temperature": 0.5}) == 200
    below, above = traced.spans()
    assert (above.name, above.kind, above.parent) == ("POST /v1/chat/completions", SpanKind.SERVER, None)
    assert (below.name, below.kind) == ("chat asked", SpanKind.CLIENT)
    assert below.parent is not None
    assert below.parent.span_id == above.context.span_id
    assert below.context.trace_id == above.context.trace_id
    assert (above.start_time or 0) <= (below.start_time or 0) < (below.end_time or 0) <= (above.end_time or 0)
    assert above.status.status_code is StatusCode.UNSET
    assert above.instrumentation_scope.schema_url == SCHEMA
    shared = {
        "gen_ai.operation.name": "chat", "gen_ai.request.model": "asked", "gen_ai.response.model": "asked",
        "gen_ai.request.max_tokens": 300, "gen_ai.request.temperature": 0.5,
        "gen_ai.response.finish_reasons": ("stop",), "gen_ai.usage.input_tokens": 5,
        "gen_ai.usage.output_tokens": 9, "gen_ai.usage.reasoning.output_tokens": 4,
    }  # fmt: skip
    assert told(above).items() >= shared.items()
    assert told(below).items() >= shared.items()
    assert told(above).items() >= {
        "http.request.method": "POST", "http.route": "/v1/chat/completions", "http.response.status_code": 200,
        "azeotrope.stance": "guard", "azeotrope.context": "all", "azeotrope.level": 0, "azeotrope.altered": True,
        "azeotrope.policy_hash": traced.running.gateway.policy.current.hash,
    }.items()  # fmt: skip
    assert told(above)["azeotrope.request_id"].startswith("req_")
    assert 0 < told(above)["azeotrope.overhead_ms"] < 10_000
    assert told(below)["gen_ai.provider.name"] == "openai"
    assert told(below)["server.address"] == "127.0.0.1"
    assert str(told(below)["server.port"]) in traced.running.gateway.settings.upstreams["main"].url
    assert ("gen_ai.response.time_to_first_chunk" in told(below)) is stream
    assert ("gen_ai.request.stream" in told(above)) is stream
    assert "error.type" not in told(above)


def test_names_are_those_of_the_conventions(traced: Traced) -> None:
    from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
    from opentelemetry.semconv.attributes import (
        error_attributes,
        http_attributes,
        server_attributes,
        url_attributes,
    )
    from opentelemetry.semconv.schemas import Schemas

    modules = (gen_ai_attributes, error_attributes, http_attributes, server_attributes, url_attributes)
    known = {value for one in modules for value in vars(one).values() if isinstance(value, str)}
    assert SCHEMA in {one.value for one in Schemas}
    many = {"n": 2, "top_p": 0.5, "seed": 7, "frequency_penalty": 0.1, "presence_penalty": 0.2, "stream": True}
    traced.ask({**ASK, **many})
    found = [told(span) for span in traced.spans()]
    traced.mock.fail = [500]
    traced.ask(ASK)
    found += [told(span) for span in traced.spans()]
    names = {name for one in found for name in one if not name.startswith("azeotrope.")}
    assert names <= known
    assert {"error.type", "gen_ai.request.choice.count", "gen_ai.request.seed"} <= names


@pytest.mark.parametrize(
    ("path", "body", "operation"),
    [
        ("/v1/chat/completions", ASK, "chat"),
        ("/v1/completions", {"model": "clean", "prompt": "The moon"}, "text_completion"),
        ("/v1/responses", {"model": "any", "input": "What?"}, "chat"),
        ("/v1/messages", {**ASK, "max_tokens": 60}, "chat"),
    ],
)
def test_every_dialect_is_traced(traced: Traced, path: str, body: Any, operation: str) -> None:
    if path == "/v1/completions":
        traced.mock.body = {"id": "x", "object": "text_completion", "created": 1, "model": "m",
                            "choices": [{"index": 0, "text": "is rock.", "finish_reason": "stop"}]}  # fmt: skip
    assert traced.ask(body, path) == 200
    below, above = traced.spans()
    assert above.name == f"POST {path}"
    assert told(above)["gen_ai.operation.name"] == told(below)["gen_ai.operation.name"] == operation


def test_no_text_and_no_key_is_in_a_span(tmp_path: Path) -> None:
    exporter = InMemorySpanExporter()
    desk = open_desk(LedgerSettings(folder=tmp_path / "ledger", keys="required"), LimitSettings(), Failing())
    mock = Mock(frames=frames(*STREAM), body=message(THOUGHTS, "It is rock."))
    with serving(mock, policy=HIDE, tmp=tmp_path, desk=desk, tracing=tracing(exporter), retries=0) as running:
        traced, api = Traced(running, exporter), key(tmp_path / "ledger", "secret-tenant")
        texts = ""
        for body in ({**ASK, "stream": True}, {**ASK, "stop": ["canary-stop"], "user": "canary-user"}):
            assert traced.ask(body, Authorization=f"Bearer {api}", **{"user-agent": "canary-agent"}) == 200
            texts += "".join(span.to_json() for span in traced.spans())
        mock.fail = [400]
        assert traced.ask(ASK, Authorization=f"Bearer {api}") == 400
        texts += "".join(span.to_json() for span in traced.spans())
        assert traced.ask(ASK, Authorization="Bearer canary-key") == 401
        texts += "".join(span.to_json() for span in traced.spans(1))
    for secret in (
        "What is the moon", "It is rock", SECRET[:20], "First we look", api, api.split(".")[-1], "canary",
        "secret-tenant", "SECRET upstream",
    ):  # fmt: skip
        assert secret not in texts
    assert "invalid_api_key" in texts


def test_a_clients_trace_goes_on_to_the_upstream(traced: Traced) -> None:
    traced.ask(ASK, traceparent=CLIENTS, tracestate="vendor=what-a-client-likes", baggage="a=b")
    below, above = traced.spans()
    assert above.context.trace_id == TRACE
    assert above.parent is not None
    assert above.parent.span_id == int("00f067aa0ba902b7", 16)
    sent = traced.mock.seen[-1]
    assert sent["traceparent"] == f"00-{TRACE:032x}-{below.context.span_id:016x}-01"
    assert "tracestate" not in sent
    assert "baggage" not in sent


@pytest.mark.parametrize(
    "header",
    ["", "00-0-0-01", "garbage", "00-" + "0" * 32 + "-00f067aa0ba902b7-01", CLIENTS + "\u00e4", "x" * 5000],
)
def test_what_is_no_trace_begins_one(traced: Traced, header: str, caplog: pytest.LogCaptureFixture) -> None:
    assert traced.ask(ASK, traceparent=header) == 200
    below, above = traced.spans()
    assert above.parent is None
    assert caplog.records == [], "a client must not fill the log"
    ids = f"00-{above.context.trace_id:032x}-{below.context.span_id:016x}-"
    assert traced.mock.seen[-1]["traceparent"].startswith(ids)
    assert kept(traced.mock)


def test_a_clients_trace_may_be_ignored(tmp_path: Path) -> None:
    for traced in serve(tmp_path, follow=False):
        traced.ask(ASK, traceparent=CLIENTS)
        assert traced.spans()[1].context.trace_id != TRACE
        assert f"{TRACE:032x}" not in traced.mock.seen[-1]["traceparent"]


def test_sampling(tmp_path: Path) -> None:
    for traced in serve(tmp_path, sampling=0.0):
        for stream in (True, False):
            assert traced.ask({**ASK, "stream": stream}) == 200
            assert not kept(traced.mock)
        time.sleep(0.1)
        assert traced.spans(0) == []
        traced.ask(ASK, traceparent=CLIENTS)
        assert len(traced.spans()) == 2, "the client wants it kept"
        traced.ask(ASK, traceparent=CLIENTS[:-1] + "0")
        assert traced.mock.seen[-1]["traceparent"].startswith(f"00-{TRACE:032x}-")
        assert traced.spans(0) == []


def test_without_traces_nothing_is_added(tmp_path: Path) -> None:
    with serving(Mock(body=message("", "ok")), policy=HIDE, tmp=tmp_path) as running:
        post(running, ASK, traceparent=CLIENTS)
        assert "traceparent" not in running.mock.seen[-1]


def test_refusals_and_failures(traced: Traced) -> None:
    assert traced.ask({**ASK, "model": "closed"}) == 403
    (above,) = traced.spans(1)
    assert told(above)["error.type"] == "refused_by_policy"
    assert told(above)["azeotrope.stance"] == "closed"
    assert above.status.status_code is StatusCode.UNSET, "what a client did wrong is no failure of a server"
    assert traced.ask(b"{") == 400
    (above,) = traced.spans(1)
    assert told(above)["error.type"] == "invalid_json"
    traced.mock.fail = [503]
    assert traced.ask(ASK) == 503
    for span in traced.spans():
        assert told(span)["error.type"] == "upstream_overloaded"
        assert span.status.status_code is StatusCode.ERROR
        assert not span.status.description
        assert "gen_ai.response.model" not in told(span)


def test_a_stream_that_breaks_off(traced: Traced) -> None:
    traced.mock.frames, traced.mock.cut = frames(*STREAM[:3], done=False), True
    assert traced.ask({**ASK, "stream": True}) == 200
    for span in traced.spans():
        assert told(span)["error.type"] == "upstream_closed"
        assert span.status.status_code is StatusCode.ERROR


def test_an_upstream_that_is_not_there(tmp_path: Path) -> None:
    for traced in serve(tmp_path, url="http://127.0.0.1:9/v1"):
        assert traced.ask(ASK) == 502
        below, above = traced.spans()
        assert told(below)["error.type"] == told(above)["error.type"] == "upstream_unreachable"
        assert (below.end_time or 0) <= (above.end_time or 0)


def test_a_client_that_goes(traced: Traced) -> None:
    import asyncio

    import aiohttp

    traced.mock.frames, traced.mock.hang = frames(*STREAM[:3], done=False), True

    async def leave() -> None:
        async with aiohttp.ClientSession() as session:
            url = traced.running.url + "/v1/chat/completions"
            async with session.post(url, json={**ASK, "stream": True}) as reply:
                await reply.content.readany()

    asyncio.run(leave())
    below, above = traced.spans()
    assert told(above)["error.type"] == told(below)["error.type"] == "client_gone"
    assert above.status.status_code is StatusCode.UNSET


def test_the_level_and_its_reasons(tmp_path: Path) -> None:
    exporter = InMemorySpanExporter()
    desk = open_desk(LedgerSettings(folder=tmp_path / "ledger", keys="required"), LimitSettings(), Failing())
    desk.suspicion = Watched()
    with serving(
        Mock(body=message("", "ok")), policy=HIDE, tmp=tmp_path, desk=desk, tracing=tracing(exporter)
    ) as running:
        traced = Traced(running, exporter)
        assert traced.ask(ASK, Authorization=f"Bearer {key(tmp_path / 'ledger', 'thief')}") == 200
        _, above = traced.spans()
        assert told(above)["azeotrope.level"] == 3
        assert told(above)["azeotrope.reasons"] == ("volume", "template")


class Receiver:
    """An OTLP/HTTP receiver on a port of its own. `fail`: the status of its answers."""

    def __init__(self, status: int = 200) -> None:
        self.status, self.got = status, []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    data = gzip.decompress(data)
                outer.got.append((self.path, self.headers, data))
                self.send_response(outer.status)
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.got: list[tuple[str, Any, bytes]] = []
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def spans(self) -> list[tuple[dict[str, str], Any]]:
        """The resource and the span, of all that came."""
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        found = []
        for _, _, data in self.got:
            for group in ExportTraceServiceRequest.FromString(data).resource_spans:
                about = {one.key: one.value.string_value for one in group.resource.attributes}
                found += [(about, span) for scope in group.scope_spans for span in scope.spans]
        return found


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    yield found
    found.server.shutdown()
    found.server.server_close()


def gateway(receiver_url: str, upstream_url: str, monkeypatch: pytest.MonkeyPatch, **telemetry: Any) -> Any:
    monkeypatch.setenv("AZ_OTLP", receiver_url)
    given = {"upstreams": {"main": {"url": upstream_url}}, "telemetry": {"otlp_env": "AZ_OTLP", **telemetry}}
    return boot.build(parse_settings(given, "server.yaml"))


@pytest.mark.parametrize("suffix", ["", "/", "/v1/traces", "/prefix"])
def test_spans_arrive_over_otlp(receiver: Receiver, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    import asyncio

    from test_gateway_serving import ask

    mock = Mock(body=message(THOUGHTS, "It is rock."))
    with (
        upstream(mock, free_port()) as address,
        serving_app(gateway(receiver.url + suffix, address, monkeypatch, service="front")) as url,
    ):
        assert asyncio.run(ask(url, ASK))[0] == 200
    found = receiver.spans()  # stopping the gateway sent what waited
    assert sorted(span.name for _, span in found) == ["POST /v1/chat/completions", "chat any"]
    assert {about["service.name"] for about, _ in found} == {"front"}
    assert {path for path, _, _ in receiver.got} == {"/prefix/v1/traces" if suffix == "/prefix" else "/v1/traces"}
    sent = b"".join(data for _, _, data in receiver.got)
    assert b"What is the moon" not in sent
    assert b"rock" not in sent


def test_the_standard_variables_ask_for_it_too(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    from test_gateway_serving import ask

    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-team=lab")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "named-there")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    with upstream(Mock(body=message("", "ok")), free_port()) as address:
        made = boot.build(parse_settings({"upstreams": {"main": {"url": address}}}, "x"))
        with serving_app(made) as url:
            assert asyncio.run(ask(url, ASK))[0] == 200
    found = receiver.spans()
    assert len(found) == 2
    assert found[0][0].items() >= {"service.name": "named-there", "deployment.environment.name": "test"}.items()
    assert receiver.got[0][1]["x-team"] == "lab"


@pytest.mark.parametrize(
    "off", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}, {"OTEL_EXPORTER_OTLP_ENDPOINT": ""}]
)
def test_it_is_off_unless_it_is_asked_for(off: dict[str, str]) -> None:
    assert open_tracing(None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", **off}) is None
    assert open_tracing(None, {}) is None


@pytest.mark.parametrize(
    ("environment", "error", "words"),
    [
        ({}, MissingError, "AZ_OTLP with the address for traces is not set"),
        ({"AZ_OTLP": "user:secret@host:4318"}, ConfigError, "AZ_OTLP must hold an address"),
        ({"AZ_OTLP": "http://x", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, ConfigError, "http/protobuf only"),
    ],
)
def test_what_is_wrong_is_said_at_the_start(
    environment: dict[str, str], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as told:
        open_tracing(TelemetrySettings(otlp_env="AZ_OTLP"), environment)
    assert "secret" not in str(told.value)


@pytest.mark.parametrize("given", [{"sampling": 1.5}, {"clients": "maybe"}, {"endpoint": "http://x"}])
def test_settings_that_there_are_not(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(given))):
        parse_settings({"upstreams": {"main": {"url": "http://x/v1"}}, "telemetry": given}, "server.yaml")


WITHOUT = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
import os
os.environ.pop("OTEL_EXPORTER_OTLP_ENDPOINT", None)
from azeotrope.core.errors import MissingError
from azeotrope.gateway import boot
from azeotrope.gateway.settings import parse_settings
main = {"upstreams": {"main": {"url": "http://127.0.0.1:9/v1"}}}
boot.build(parse_settings(main, "x"))
for given in ({"telemetry": {}}, {}):
    os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://127.0.0.1:9"
    try:
        boot.build(parse_settings({**main, **given}, "x"))
    except MissingError as error:
        print(error)
"""


def test_without_the_package_it_says_so_and_is_not_needed_otherwise() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    first, second = done.stdout.splitlines()
    assert "pip install 'azeotrope[otel]'" in first
    assert "'telemetry' in the server's file" in first
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in second


def test_nothing_is_loaded_unless_it_is_asked_for() -> None:
    script = (  # the Redis client loads a part of OpenTelemetry itself where it is installed
        "import sys; from azeotrope.gateway import app, boot; "
        "print([n for n in sys.modules if n.startswith(('opentelemetry.exporter', 'azeotrope.gateway.traces.s'))])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "['azeotrope.gateway.traces.settings']"


def test_a_receiver_that_is_not_there_costs_requests_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    from test_gateway_serving import ask

    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "2")
    with upstream(Mock(body=message("", "ok")), free_port()) as address:
        made = gateway("http://127.0.0.1:9", address, monkeypatch)
        with serving_app(made) as url:
            began = time.monotonic()
            for _ in range(5):
                assert asyncio.run(ask(url, ASK))[0] == 200
            assert time.monotonic() - began < 5
            began = time.monotonic()
        assert time.monotonic() - began < 15
