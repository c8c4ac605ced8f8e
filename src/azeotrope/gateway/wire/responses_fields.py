"""The fields of a request in the Responses dialect, and of its parts: the reader's allow-list and the schema."""

from __future__ import annotations

from azeotrope.gateway.wire import checks
from azeotrope.gateway.wire.schema import (
    ANY_OBJECT,
    DETAIL,
    IMAGE,
    METADATA,
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

INCLUDED = ("reasoning.encrypted_content", "message.output_text.logprobs")
STATUSES = ("in_progress", "completed", "incomplete")
SUMMARIES = ("auto", "concise", "detailed")
MOST_LOGPROBS = 20
SPEAKERS = ("system", "developer", "user", "assistant")
STREAM_OPTIONS = {"include_obfuscation": flag()}
REASONING = {"effort": one_of(*checks.EFFORTS), "summary": one_of(*SUMMARIES)}
TOOL = {
    "type": kind("function"), "name": name(), "description": text(), "parameters": ANY_OBJECT, "strict": flag(),
}  # fmt: skip
CHOICE = {"type": kind("function"), "name": name()}
FORMAT = {
    "type": one_of("text", "json_object", "json_schema"), "name": text(64), "schema": ANY_OBJECT, "strict": flag(),
    "description": text(),
}  # fmt: skip
TEXT = {"format": record(FORMAT, null=True), "verbosity": one_of("medium")}
INPUT_TEXT = {"type": kind("input_text"), "text": text()}
INPUT_IMAGE = {"type": kind("input_image"), "image_url": IMAGE, "detail": DETAIL}
OUTPUT_TEXT = {"type": kind("output_text"), "text": text(), "annotations": {}, "logprobs": {}}
REFUSAL = {"type": kind("refusal"), "refusal": text()}
THOUGHT = {"type": kind("reasoning_text"), "text": text()}
SUMMARY = {"type": kind("summary_text"), "text": text()}
LABELS = {"id": text(256), "status": one_of(*STATUSES)}
INPUTS = either(said(), some(either(record(INPUT_TEXT, "type"), record(INPUT_IMAGE, "type", "image_url"))))
OUTPUTS = either(said(), some(either(record(OUTPUT_TEXT, "type"), record(REFUSAL, "type"))))
MESSAGE = {
    "type": one_of("message"),
    "role": {"enum": [role for role in SPEAKERS if role != "assistant"]},
    "content": INPUTS,
    **LABELS,
}
SPOKEN = {**MESSAGE, "role": kind("assistant"), "content": OUTPUTS}
THINKING = {
    "type": kind("reasoning"),
    **LABELS,
    "summary": many(record(SUMMARY, "type")),
    "content": many(record(THOUGHT, "type")),
    "encrypted_content": text(),
}
CALL = {"type": kind("function_call"), **LABELS, "call_id": said(256, 1), "name": name(), "arguments": text()}
OUTPUT = {"type": kind("function_call_output"), **LABELS, "call_id": said(256, 1), "output": INPUTS}
ITEM = either(
    record(MESSAGE, "role", "content"),
    record(SPOKEN, "role", "content"),
    record(THINKING, "type"),
    record(CALL, "type", "call_id", "name"),
    record(OUTPUT, "type", "call_id", "output"),
)
FIELDS = {
    "model": said(200),
    "input": either(said(), some(ITEM, least=1)),
    "instructions": text(),
    "tools": many(record(TOOL, "type", "name")),
    "tool_choice": either(one_of("auto", "none", "required"), record(CHOICE, "type", "name")),
    "parallel_tool_calls": flag(),
    "text": record(TEXT, null=True),
    "reasoning": record(REASONING, null=True),
    "include": many({"enum": list(INCLUDED)}),
    "max_output_tokens": whole(1),
    "temperature": real(0, 2),
    "top_p": real(0, 1),
    "top_logprobs": whole(0, MOST_LOGPROBS),
    "stream": flag(),
    "stream_options": record(STREAM_OPTIONS, null=True),
    "truncation": one_of("disabled"),
    "metadata": METADATA,
    "user": text(512),
    "safety_identifier": text(512),
    "store": {"enum": [False, None]},
    "service_tier": one_of("auto", "default"),
    "prompt_cache_key": text(512),
}  # fmt: skip
NEEDED = ("model", "input")
