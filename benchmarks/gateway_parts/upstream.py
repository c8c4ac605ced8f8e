"""A mock upstream that answers at once, or after a delay: chat completions, streamed or not, of a set length.

What is sent depends on the request's `max_tokens` (chunks of a stream) and `seed` (milliseconds before the reply).
"""

from __future__ import annotations

import asyncio
import json
from functools import cache
from typing import Any

HEAD = {"id": "chatcmpl-123456789", "object": "chat.completion.chunk", "created": 1795380989, "model": "mock"}
WORDS = "First we look at the number and it is seven so we add three . Wait , that is not right . Hmm . ".split()
JSON = [(b"content-type", b"application/json")]
EVENTS = [(b"content-type", b"text/event-stream")]
END = b"data: [DONE]\n\n"


def frame(delta: dict[str, Any], reason: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
    return b"data: " + json.dumps({**HEAD, "choices": [choice], **more}).encode() + b"\n\n"


@cache
def frames(count: int) -> list[bytes]:
    """Half of them reasoning, half an answer."""
    words = [WORDS[n % len(WORDS)] + " " for n in range(count)]
    half = count // 2
    found = [frame({"reasoning_content": word}) for word in words[:half]]
    found += [frame({"content": word}) for word in words[half:]]
    usage = {"prompt_tokens": 20, "completion_tokens": count}
    return [*found, frame({}, "stop", usage=usage), END]


@cache
def body(count: int) -> bytes:
    words = [WORDS[n % len(WORDS)] for n in range(count)]
    half = count // 2
    message = {"role": "assistant", "reasoning_content": " ".join(words[:half]), "content": " ".join(words[half:])}
    usage = {"prompt_tokens": 20, "completion_tokens": count}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return json.dumps({**HEAD, "object": "chat.completion", "choices": [choice], "usage": usage}).encode()


async def read(receive: Any) -> bytes:
    """The body of a request."""
    data = b""
    while True:
        message = await receive()
        data += message.get("body", b"")
        if not message.get("more_body"):
            return data


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """ASGI."""
    if scope["type"] != "http":
        return
    if scope["method"] == "GET":
        await send({"type": "http.response.start", "status": 200, "headers": JSON})
        await send({"type": "http.response.body", "body": b"{}"})
        return
    asked = json.loads(await read(receive))
    count = asked.get("max_tokens") or 64
    if asked.get("seed"):
        await asyncio.sleep(asked["seed"] / 1000)
    if not asked.get("stream"):
        await send({"type": "http.response.start", "status": 200, "headers": JSON})
        await send({"type": "http.response.body", "body": body(count)})
        return
    await send({"type": "http.response.start", "status": 200, "headers": EVENTS})
    for piece in frames(count):
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
