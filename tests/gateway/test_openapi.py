"""The published document: it is what the code says, and a running gateway behaves as it says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from gateway_drive import Json, Mock, Running, frames, message, serving
from hypothesis import HealthCheck, Phase, given, reject, seed, settings
from hypothesis import strategies as st
from raw_drive import ask_raw
from test_gateway_serving import STREAM

from azeotrope.gateway.app import ROUTES
from azeotrope.gateway.dialects import NAMES, PATHS, fields
from azeotrope.gateway.openapi import made
from azeotrope.gateway.wire import chat_fields, responses_fields

POLICY = """
azeotrope_gateway: 1
stances: {exact: {logprobs: asked, raw_prompts: true}}
contexts: [{name: all, stance: exact}]
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    def answer(asked: Json) -> Any:
        if "prompt" in asked:
            return {"id": "u", "choices": [{"index": 0, "text": "ok", "finish_reason": "stop"}]}
        return message("Hm.", "ok")

    mock = Mock(frames=frames(*STREAM), body=message("Hm.", "ok"))
    tmp = tmp_path_factory.mktemp("policy")
    with serving(mock, policy=POLICY, tmp=tmp, shows="logprobs", retries=0) as found:
        mock.answer = None
        found.mock.plain = answer  # type: ignore[attr-defined]
        yield found


def test_it_is_served_and_names_every_address(running: Running) -> None:
    (answer,) = ask_raw(running.url, b"GET /openapi.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert (answer.status, answer.header("content-type")) == (200, "application/json")
    told = answer.json
    assert told == made()
    assert told["openapi"] == "3.1.0"
    methods = {(path, method) for path, item in told["paths"].items() for method in item}
    ours = {(path, "post") for path in ROUTES} | {(path, "get") for path in running.gateway.pages}
    assert methods == ours


@pytest.mark.parametrize("name", ["chat", "completions", "responses"])
def test_the_fields_of_requests_are_those_that_are_read(name: str) -> None:
    module = {"chat": chat_fields, "responses": responses_fields}.get(name)
    schema = made()["paths"]["/v1" + PATHS[name]]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert schema == fields(name)
    assert schema["additionalProperties"] is False
    assert module is None or set(schema["properties"]) == set(module.FIELDS)


def test_references_lead_somewhere() -> None:
    document = made()
    text = json.dumps(document)
    for name in {part.partition('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert name in document["components"]["schemas"]
    assert "\\\\Z" not in text
    assert '"_' not in text


def test_other_methods_are_refused_in_the_dialects_shape(running: Running) -> None:
    for path, allowed in (
        *((path, "POST") for path in ROUTES),
        *((path, "GET, HEAD") for path in running.gateway.pages),
    ):
        method = "DELETE" if allowed == "POST" else "POST"
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        (answer,) = ask_raw(running.url, head.encode())
        assert (answer.status, answer.header("allow")) == (405, allowed)
        assert answer.json["error"]["type"] == "invalid_request_error"
        assert ("type" in answer.json) == path.startswith("/v1/messages")


@st.composite
def drawn(draw: Any, strategy: Any) -> Any:
    """What a strategy draws; mutations of a schema that nothing can fit are passed over."""
    from schemathesis.core.errors import InvalidSchema

    try:
        return draw(strategy)
    except InvalidSchema:
        reject()


@pytest.mark.slow
@pytest.mark.parametrize("name", [*NAMES, "count_tokens", "pages"])
def test_a_running_gateway_behaves_as_published(running: Running, name: str) -> None:
    """schemathesis: boundaries, examples and random requests, those that fit the schemas and those that do not."""
    schemathesis = pytest.importorskip("schemathesis")
    from schemathesis import GenerationMode
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        negative_data_rejection,
        response_schema_conformance,
        status_code_conformance,
        unsupported_method,
    )

    checks = [
        not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance,
        negative_data_rejection, unsupported_method,
    ]  # fmt: skip
    schema = schemathesis.openapi.from_url(f"{running.url}/openapi.json")
    special = {"pages": {*running.gateway.pages}, "count_tokens": {"/v1/messages/count_tokens"}}
    paths = special.get(name) or {"/v1" + PATHS[name]}
    running.mock.answer = running.mock.plain if name == "completions" else None  # type: ignore[attr-defined]
    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.path not in paths:
            continue
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            if mode is GenerationMode.NEGATIVE and name == "pages":
                continue

            @seed(1)
            @settings(
                max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck),
                phases=[Phase.explicit, Phase.generate],
            )  # fmt: skip
            @given(case=drawn(operation.as_strategy(generation_mode=mode)))
            def check(case: Any) -> None:
                case.call_and_validate(checks=checks, timeout=20)

            check()
