"""What one reply shows of the next token's distribution: asked for, read and kept in the cache. Untrusted.

Two shapes are in use: `/completions` shows a mapping from a token's text to its log-probability (tokens of one
text are one entry of it), `/chat/completions` a list whose entries may carry the token's bytes. Both are kept as
JSON in place of a completion's text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from azeotrope.models.endpoint_cache import Reply

LOWEST = -9000.0  # nats; servers write -9999 for log 0
MAX_ENTRIES = 1000
MAX_NAME = 1000  # characters


@dataclass(frozen=True, slots=True)
class Entry:
    """A token as a reply names it, its log-probability (nats), and its bytes if they are told."""

    name: str
    logprob: float
    raw: bytes | None = None


@dataclass(frozen=True, slots=True)
class Shown:
    """The text of a reply of one token, why it ended, that token, and the most likely tokens, largest first."""

    text: str
    finish: str
    said: Entry | None
    top: tuple[Entry, ...]

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All tokens that are shown, each once."""
        if self.said is None or any((e.name, e.raw) == (self.said.name, self.said.raw) for e in self.top):
            return self.top
        return (*self.top, self.said)


def fields(
    api: Literal["chat", "completions"], k: int, bias: Mapping[int, float], *, token_ids: bool = False
) -> dict[str, Any]:
    """The fields of a request for `k` log-probabilities (0 for none) under a bias of token ids."""
    out: dict[str, Any] = {}
    if k and api == "chat":
        out |= {"logprobs": True, "top_logprobs": k}
    elif k:
        out |= {"logprobs": k}
    if bias:
        out["logit_bias"] = {str(token): bias[token] for token in sorted(bias)}
    if k and token_ids:
        out["return_tokens_as_token_ids"] = True  # vLLM's; other servers refuse or ignore it
    return out


def read_choice(choice: Mapping[str, Any]) -> tuple[str, str]:
    """What is kept of a choice: text, token and log-probabilities as JSON. Never fails; junk is left out."""
    message = choice.get("message")
    text = message.get("content") if isinstance(message, Mapping) else choice.get("text")
    said, top = _found(choice.get("logprobs"))
    kept = {
        "text": text if isinstance(text, str) else "",
        "said": _packed(said),
        "top": [_packed(entry) for entry in sorted(top, key=lambda e: -e.logprob)[:MAX_ENTRIES]],
    }
    return json.dumps(kept, separators=(",", ":")), ""


def shown(reply: Reply) -> Shown:
    """Read what `read_choice` kept."""
    kept = json.loads(reply.content)
    top = tuple(_unpacked(item) for item in kept["top"])
    said = _unpacked(kept["said"]) if kept["said"] else None
    return Shown(kept["text"], reply.finish, said, top)


def _found(logprobs: Any) -> tuple[Entry | None, list[Entry]]:
    """The generated token and the most likely ones, in either shape, at the first position."""
    if not isinstance(logprobs, Mapping):
        return None, []
    content = logprobs.get("content")
    if isinstance(content, list):
        first = content[0] if content and isinstance(content[0], Mapping) else {}
        several = first.get("top_logprobs")
        return _entry(first), _entries(several if isinstance(several, list) else [])
    tokens, values, tops = (logprobs.get(name) for name in ("tokens", "token_logprobs", "top_logprobs"))
    name, value, top = (item[0] if isinstance(item, list) and item else None for item in (tokens, values, tops))
    pairs = top.items() if isinstance(top, Mapping) else ()
    return _entry({"token": name, "logprob": value}), _entries({"token": n, "logprob": v} for n, v in pairs)


def _entries(items: Iterable[Any]) -> list[Entry]:
    found = (_entry(item) for item in items if isinstance(item, Mapping))
    return [entry for entry in found if entry is not None]


def _entry(item: Mapping[str, Any]) -> Entry | None:
    """One token, or None for what is none: no name, no number, log 0."""
    name, value, raw = item.get("token"), item.get("logprob"), item.get("bytes")
    if not isinstance(name, str) or len(name) > MAX_NAME:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not math.isfinite(value) or value < LOWEST:
        return None
    listed = isinstance(raw, list) and 0 < len(raw) <= MAX_NAME
    known = listed and all(type(b) is int and 0 <= b < 256 for b in raw or ())
    return Entry(name, min(float(value), 0.0), bytes(raw or ()) if known else None)


def _packed(entry: Entry | None) -> list[Any] | None:
    if entry is None:
        return None
    return [entry.name, entry.logprob, entry.raw.hex() if entry.raw is not None else None]


def _unpacked(item: list[Any]) -> Entry:
    return Entry(item[0], item[1], bytes.fromhex(item[2]) if item[2] is not None else None)
