"""The fields of a request for chat completions, and of its parts: the reader's allow-list and the schema."""

from __future__ import annotations

from azeotrope.gateway.wire import checks
from azeotrope.gateway.wire.schema import (
    ANY_OBJECT,
    BIASES,
    DETAIL,
    IMAGE,
    METADATA,
    NOTHING,
    either,
    flag,
    kind,
    many,
    name,
    one_of,
    real,
    record,
    said,
    some,
    text,
    whole,
)

MOST_CHOICES = 128
MOST_LOGPROBS = 20
MOST_STOPS = 16
ROLES = ("system", "developer", "user", "assistant", "tool")
STREAM_OPTIONS = {"include_usage": flag(), "include_obfuscation": flag()}
SAMPLING = {
    "temperature": real(0, 2),
    "top_p": real(0, 1),
    "top_k": whole(-1),
    "stop": either({"type": "string", "minLength": 1, "maxLength": 256},
                   many({"type": "string", "minLength": 1, "maxLength": 256}, most=MOST_STOPS)),
    "seed": whole(-(2**63), 2**63 - 1),
    "frequency_penalty": real(-2, 2),
    "presence_penalty": real(-2, 2),
}  # fmt: skip
TOOL_FUNCTION = {"name": name(), "description": text(), "parameters": ANY_OBJECT, "strict": flag()}
TOOL = {"type": kind("function"), "function": record(TOOL_FUNCTION, "name")}
CHOICE_FUNCTION = {"name": name()}
CHOICE = {"type": kind("function"), "function": record(CHOICE_FUNCTION, "name")}
FORMAT_SCHEMA = {"name": name(), "schema": ANY_OBJECT, "strict": flag(), "description": text()}
FORMAT = {
    "type": one_of("text", "json_object", "json_schema"),
    "json_schema": record(FORMAT_SCHEMA, "name", null=True),
}
REASONING = {
    "effort": one_of(*checks.EFFORTS), "max_tokens": whole(0), "enabled": flag(), "exclude": flag(),
}  # fmt: skip
TEXT_PART = {"type": kind("text"), "text": text()}
REFUSAL_PART = {"type": kind("refusal"), "refusal": text()}
IMAGE_URL = {"url": IMAGE, "detail": DETAIL}
IMAGE_PART = {"type": kind("image_url"), "image_url": record(IMAGE_URL, "url")}
CALL_FUNCTION = {"name": name(), "arguments": text()}
CALL = {
    "id": text(256), "type": one_of("function"), "function": record(CALL_FUNCTION, "name"), "index": {},
}  # fmt: skip
MESSAGE_FIELDS = {
    "role": {"enum": list(ROLES)},
    "content": either(text(), many(either(
        record(TEXT_PART, "type"), record(REFUSAL_PART, "type"), record(IMAGE_PART, "type", "image_url")))),
    "name": text(64),
    "tool_calls": many(record(CALL, "function")),
    "tool_call_id": text(256),
    "refusal": text(),
    "reasoning_content": text(),
    "reasoning": text(),
    "reasoning_details": {},
    "function_call": NOTHING,
    "audio": NOTHING,
    "annotations": {},
}  # fmt: skip
SAID = ("tool_calls", "refusal", "reasoning_content", "reasoning", "reasoning_details")  # by the assistant
SPOKEN = {**MESSAGE_FIELDS, "role": kind("assistant"), "tool_call_id": NOTHING}
ANSWER = {**MESSAGE_FIELDS, **dict.fromkeys(SAID, NOTHING), "role": kind("tool"), "tool_call_id": said(256, 1)}
OTHER = {**ANSWER, "role": {"enum": ["system", "developer", "user"]}, "tool_call_id": NOTHING}
SPEECH = either(record(SPOKEN, "role"), record(ANSWER, "role", "tool_call_id"), record(OTHER, "role"))
FIELDS = {
    "model": said(200),
    "messages": some(SPEECH, least=1),
    "stream": flag(),
    "stream_options": record(STREAM_OPTIONS, null=True),
    "n": whole(1, MOST_CHOICES),
    "max_tokens": whole(1),
    "max_completion_tokens": whole(1),
    **SAMPLING,
    "logprobs": flag(),
    "top_logprobs": whole(0, MOST_LOGPROBS),
    "logit_bias": BIASES,
    "tools": many(record(TOOL, "type", "function")),
    "tool_choice": either(one_of("auto", "none", "required"), record(CHOICE, "function")),
    "parallel_tool_calls": flag(),
    "response_format": record(FORMAT, null=True),
    "reasoning_effort": one_of(*checks.EFFORTS),
    "reasoning": record(REASONING, null=True),
    "user": text(512),
    "metadata": METADATA,
    "store": {"enum": [False, None]},
    "service_tier": one_of("auto", "default"),
    "safety_identifier": text(512),
    "prompt_cache_key": {},
    "modalities": either({"type": "null"}, {"enum": [[], ["text"]]}),
    "verbosity": one_of("medium"),
}
NEEDED = ("model", "messages")
