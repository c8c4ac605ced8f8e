"""Log-probabilities in the form of chat completions and of Responses: read, held against the text, written.

An upstream may send log-probabilities of more than the answer: of reasoning whose text it leaves out, of tags, of
the token that ends a turn. So they count as the answer's only where their tokens spell it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from azeotrope.gateway.wire import events as ev
from azeotrope.gateway.wire.fields import Json, objects, real, string


def read(entries: Any) -> tuple[ev.Logprob, ...]:
    """The tokens of a list of entries; those without a number are left out."""
    found = []
    for entry in objects(entries):
        if (value := real(entry.get("logprob"))) is None:
            continue
        top = tuple(
            ev.Alternative(string(other.get("token")), p)
            for other in objects(entry.get("top_logprobs"))
            if (p := real(other.get("logprob"))) is not None
        )
        token = string(entry.get("token"))
        found.append(ev.Logprob(token, value, top, _raw(entry.get("bytes"), token)))
    return tuple(found)


def _raw(value: Any, token: str) -> bytes:
    """The bytes of a token, if they are told and are not those of its text: a part of a character."""
    if not isinstance(value, list) or not all(type(n) is int and 0 <= n < 256 for n in value):
        return b""
    raw = bytes(value)
    return b"" if raw == _bytes(token) else raw


def spelling(tokens: Sequence[ev.Logprob], words: str) -> tuple[ev.Logprob, ...]:
    """The tokens that spell `words`, less the last if it goes beyond: it ends the turn, or a stop text is in it.

    Nothing if they spell anything else: then nobody can say which of them belong to `words`.

    >>> tokens = [ev.Logprob("4", -0.1), ev.Logprob("2", -0.2), ev.Logprob("<end>", -0.3)]
    >>> [token.token for token in spelling(tokens, "42")]
    ['4', '2']
    >>> spelling(tokens, "2")
    ()
    """
    wanted = _bytes(words)
    pieces = [token.raw or _bytes(token.token) for token in tokens]
    spelt = b"".join(pieces)
    if not wanted or not spelt.startswith(wanted):
        return ()
    if len(spelt) == len(wanted):
        return tuple(tokens)
    return tuple(tokens[:-1]) if len(spelt) - len(pieces[-1]) <= len(wanted) else ()


def entry(token: ev.Logprob) -> Json:
    """An entry of `content`."""
    top = [{"token": t.token, "logprob": t.logprob, "bytes": list(_bytes(t.token))} for t in token.top]
    raw = token.raw or _bytes(token.token)
    return {"token": token.token, "logprob": token.logprob, "bytes": list(raw), "top_logprobs": top}


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
