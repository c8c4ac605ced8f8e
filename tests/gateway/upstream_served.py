"""The gateway as a process between the official SDKs and a real server, and what either end says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import anthropic
import openai
from gateway_drive import Json
from serve_drive import server
from upstream_drive import UPSTREAM, Recorder, Said, needed, recording

DIALECTS = ("chat", "responses", "messages")
STANCES = ("exact", "guard", "hide")
GUARD: Any = {"unit": "count", "budget": 1, "markers": ["the", "a", "it", "this", "as", "when", "step"]}
POLICY = {
    "azeotrope_gateway": 1,
    "stances": {
        "exact": {"logprobs": "asked", "raw_prompts": True},
        "guard": {
            "fidelity": "omission",
            "distillability": "lowered",
            "defenses": [{"kind": "traceguard", **GUARD}],
        },
        "hide": {"disclose": "none", "reasoning_tokens": "hidden"},
    },
    "contexts": [
        *({"name": s, "when": {"model": [f"{d}-{s}" for d in DIALECTS]}, "stance": s} for s in STANCES[1:]),
        {"name": "others", "stance": "exact"},
    ],
}
RAIN: Any = [{"role": "user", "content": "Explain step by step how rain forms."}]
SAME: dict[str, Any] = {"temperature": 0.0, "max_tokens": 70}


class Served:
    """The gateway, clients of it, and what was said behind it."""

    def __init__(self, url: str, recorder: Recorder) -> None:
        self.url, self.recorder = url, recorder
        self.openai = openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0, timeout=300)
        self.anthropic = anthropic.Anthropic(base_url=url, api_key="any", max_retries=0, timeout=300)

    @property
    def last(self) -> Said:
        """The last exchange with the upstream."""
        return self.recorder.last

    def raw(self, path: str, body: Json) -> tuple[int, str]:
        """Status and bytes of a reply, without an SDK."""

        async def ask() -> tuple[int, str]:
            async with aiohttp.ClientSession() as session, session.post(self.url + path, json=body) as reply:
                return reply.status, await reply.text()

        return asyncio.run(ask())


@contextmanager
def real(folder: Path, target: str | None = None) -> Iterator[Served]:
    """The gateway as a process before the real upstream, by way of a recorder."""
    with recording(target or needed(UPSTREAM)) as (recorder, address):
        models = {f"{d}-{s}": {"upstream": d, "served": "smollm2"} for d in DIALECTS for s in STANCES}
        upstreams = {d: {"url": address, "dialect": d, "retries": 0} for d in DIALECTS}
        upstreams["chat"]["shows"] = "logprobs"
        (folder / "policy.yaml").write_text(json.dumps(POLICY), encoding="utf-8")
        file = {"upstreams": upstreams, "models": models, "policy": "policy.yaml"}
        (folder / "gateway.yaml").write_text(json.dumps(file), encoding="utf-8")
        with server("--config", str(folder / "gateway.yaml")) as (_, url):
            yield Served(url, recorder)


def chat(served: Served, model: str, stream: bool, **more: Any) -> tuple[str, str, str | None, Any]:
    """Text, reasoning, reason and usage of one chat completion."""
    create: Any = served.openai.chat.completions.create
    given = {"model": model, "messages": RAIN, **SAME, **more}
    if not stream:
        reply = create(**given)
        said = reply.choices[0].message
        return said.content, getattr(said, "reasoning_content", ""), reply.choices[0].finish_reason, reply.usage
    chunks = list(create(**given, stream=True, stream_options={"include_usage": True}))
    deltas = [c.choices[0].delta for c in chunks if c.choices]
    text = "".join(d.content or "" for d in deltas)
    thoughts = "".join(getattr(d, "reasoning_content", None) or "" for d in deltas)
    (reason,) = [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason]
    return text, thoughts, reason, chunks[-1].usage


def counts(chunks: list[Json]) -> list[int]:
    """The completion tokens of every report of a chat completion or completion."""
    return [chunk["usage"]["completion_tokens"] for chunk in chunks if chunk.get("usage")]


def parts(said: Said) -> dict[str, Any]:
    """What the server said, in whichever dialect."""
    last = said.chunks[-1]
    if said.path == "/v1/chat/completions":
        return {"text": said.told("content"), "thoughts": said.told("reasoning_content"),
                "tokens": counts(said.chunks)[-1]}  # fmt: skip
    if said.path == "/v1/responses":
        whole = last.get("response", last)
        found = {"text": "", "thoughts": "", "tokens": whole["usage"]["output_tokens"]}
        for item in whole["output"]:
            key = "thoughts" if item["type"] == "reasoning" else "text"
            found[key] += "".join(part["text"] for part in item["content"])
        return found
    found = {"text": "", "thoughts": "", "tokens": 0}
    for chunk in said.chunks:
        found["tokens"] = max(found["tokens"], (chunk.get("usage") or {}).get("output_tokens", 0))
        for piece in [chunk.get("delta") or {}, *chunk.get("content", ())]:
            found["text"] += piece.get("text", "")
            found["thoughts"] += piece.get("thinking", "")
    return found
