"""The published document: what the gateway answers at which address, in OpenAPI 3.1.

Requests come from the readers' own allow-lists, errors from the writers' own words; addresses are checked against
the application's by a test. Replies are described as far as clients depend on them: readers must pass over fields
that they do not know.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from azeotrope import __version__
from azeotrope.gateway.counting import PATH as COUNT
from azeotrope.gateway.dialects import NAMES, PATHS, fields
from azeotrope.gateway.wire import chat_writer, messages_request, messages_writer
from azeotrope.gateway.wire.fields import encode

Json = dict[str, Any]
REF = "#/components/schemas/"
TITLES = {
    "chat": "A chat completion",
    "completions": "A plain completion",
    "responses": "A response",
    "messages": "A message",
}
STATUSES = {
    400: "The request cannot be read, or holds what is not accepted; `param` names it.",
    401: "The key is not known.",
    403: "The policy refuses this.",
    404: "There is no such model for this key, or nothing at this address.",
    405: "Another method is wanted; see `Allow`.",
    408: "The request did not arrive in time.",
    409: "The reasoning of an earlier turn is not kept any more.",
    413: "The request is too large.",
    415: "The request's body is compressed.",
    422: "The upstream cannot work with the request.",
    429: "A limit is reached; see `Retry-After`.",
    500: "The gateway failed.",
    502: "The upstream failed.",
    503: "The gateway or something that it leans on is not available; see `Retry-After`.",
    504: "The upstream took too long.",
}
ADVICE = {405: "Allow", 429: "Retry-After", 503: "Retry-After"}
COUNTED: Json = {"type": "integer", "minimum": 0}
TEXT: Json = {"type": "string"}
MAYBE: Json = {"type": ["string", "null"]}


def _object(needed: Json, **more: Json) -> Json:
    return {"type": "object", "required": list(needed), "properties": {**needed, **more}}


def _list(item: Json) -> Json:
    return {"type": "array", "items": item}


def _usage(*names: str) -> Json:
    return _object(dict.fromkeys(names, COUNTED))


def _replies() -> Json:
    head = {"id": TEXT, "model": TEXT}
    told = _usage("prompt_tokens", "completion_tokens", "total_tokens")
    said = _object({"role": {"const": "assistant"}, "content": MAYBE}, reasoning_content=MAYBE)
    reason: Json = {"finish_reason": MAYBE, "index": COUNTED}
    return {
        "chat_reply": _object(
            {**head, "object": {"const": "chat.completion"}, "created": COUNTED,
             "choices": _list(_object({**reason, "message": said}))}, usage=told),
        "completions_reply": _object(
            {**head, "object": {"const": "text_completion"}, "created": COUNTED,
             "choices": _list(_object({**reason, "text": TEXT}))}, usage=told),
        "responses_reply": _object(
            {**head, "object": {"const": "response"}, "created_at": COUNTED, "status": TEXT,
             "output": _list(_object({"type": TEXT})), "store": {"const": False}}),
        "messages_reply": _object(
            {**head, "type": {"const": "message"}, "role": {"const": "assistant"}, "stop_reason": MAYBE,
             "content": _list(_object({"type": TEXT})), "usage": _usage("input_tokens", "output_tokens")}),
        "count_reply": _object({"input_tokens": COUNTED}),
        "models": _object({"object": {"const": "list"}, "data": _list(_object(
            {"id": TEXT, "object": {"const": "model"}, "created": COUNTED, "owned_by": TEXT}))}),
        "state": _object({"status": {"enum": ["ok", "draining"]}}),
    }  # fmt: skip


def _errors() -> Json:
    openai = {"type": {"enum": sorted(set(chat_writer.KINDS.values()))}, "message": TEXT}
    anthropic = {"type": {"enum": sorted(set(messages_writer.TYPES.values()))}, "message": TEXT}
    return {
        "openai_error": _object({"error": _object({**openai, "param": MAYBE, "code": MAYBE})}),
        "anthropic_error": _object({"type": {"const": "error"}, "error": _object(anthropic)}),
    }


def _ref(name: str) -> Json:
    return {"$ref": REF + name}


def _content(schema: Json, media: str = "application/json") -> Json:
    return {media: {"schema": schema}}


def _failures(shape: str, *statuses: int) -> Json:
    found: Json = {}
    for status in statuses:
        found[str(status)] = {"description": STATUSES[status], "content": _content(_ref(shape))}
        if name := ADVICE.get(status):
            kind = "integer" if name == "Retry-After" else "string"
            found[str(status)]["headers"] = {name: {"schema": {"type": kind}}}
    return found


def _post(title: str, asked: Json, reply: str, shape: str, *, streams: bool) -> Json:
    content = _content(_ref(reply))
    if streams:
        content |= {"text/event-stream": {}}
    done = {"description": title, "content": content, "headers": {"X-Request-Id": {"schema": TEXT}}}
    return {
        "summary": title,
        "operationId": reply.removesuffix("_reply"),
        "requestBody": {"required": True, "content": _content(asked)},
        "responses": {"200": done, **_failures(shape, *STATUSES)},
        "security": [{}, {"bearer": []}, {"key": []}],
    }


def _get(title: str, name: str, schema: Json, media: str = "application/json", *also: str) -> Json:
    responses: Json = {
        status: {"description": title, "content": _content(schema, media)} for status in ("200", *also)
    }
    responses |= _failures("openai_error", 405)
    return {"summary": title, "operationId": name, "responses": responses, "security": [{}]}


def _pages() -> Json:
    listed = _get("The models that a key may use", "models", _ref("models"))
    listed["responses"] |= _failures("openai_error", 401, 503)
    listed["security"] = [{}, {"bearer": []}, {"key": []}]
    return {
        "/v1/models": listed,
        "/healthz": _get("Whether it runs", "healthz", _ref("state")),
        "/readyz": _get("Whether it takes requests", "readyz", _ref("state"), "application/json", "503"),
        "/metrics": _get("Figures for Prometheus", "metrics", TEXT, "text/plain"),
        "/openapi.json": _get("This document", "openapi", {"type": "object"}),
    }


def made() -> Json:
    """The document."""
    requests, parts = messages_request.schemas(REF + "{name}")
    paths: Json = {}
    for name in NAMES:
        asked = requests["reply"] if name == "messages" else fields(name)
        shape = "anthropic_error" if name == "messages" else "openai_error"
        paths["/v1" + PATHS[name]] = {"post": _post(TITLES[name], asked, f"{name}_reply", shape, streams=True)}
    count = _post("The tokens of a prompt", requests["count"], "count_reply", "anthropic_error", streams=False)
    paths["/v1" + COUNT] = {"post": count}
    paths |= {path: {"get": page} for path, page in _pages().items()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Azeotrope gateway",
            "version": __version__,
            "summary": "Defended replies in front of any OpenAI-compatible server.",
            "description": "Keys are asked for where the operator does. Fields that are not named are refused.",
        },
        "paths": paths,
        "components": {
            "schemas": {**_replies(), **_errors(), **parts},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
            },
        },
    }


@cache
def document() -> bytes:
    """The document as it is sent."""
    return encode(made())
