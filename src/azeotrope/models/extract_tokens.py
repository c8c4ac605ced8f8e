"""Which token of a public tokenizer a reply means: requests name tokens by id, replies mostly by text.

Texts are ambiguous: every token that is part of a character decodes to "\\ufffd". A reply is about few tokens,
those that were asked for, so it is enough that no two tokens of one request look alike.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Protocol

from azeotrope.core.errors import ConfigError
from azeotrope.models.extract_reply import Entry

_BY_ID = re.compile(r"token_id:(\d{1,9})", re.ASCII)  # vLLM's return_tokens_as_token_ids
_BY_BYTES = re.compile(r"bytes:((?:\\x[0-9a-f]{2})+)", re.ASCII | re.IGNORECASE)  # OpenAI's /completions
_ONE_BYTE = re.compile(r"<0x([0-9A-F]{2})>", re.ASCII)  # SentencePiece


class Tokens(Protocol):
    """What is used of a tokenizer."""

    def get_vocab(self) -> dict[str, int]:
        """Pieces and their ids."""

    def decode(self, ids: list[int]) -> Any:
        """The text of ids."""


class Vocabulary:
    """The tokens of a model: id → text, piece and bytes, and back where that is unambiguous.

    `size` is the length of a logit vector, where that is not the tokenizer's largest id and one; ids without a
    token can be named by their number only. Raises ConfigError for a tokenizer without tokens.
    """

    def __init__(self, tokenizer: Tokens, size: int | None = None) -> None:
        ids = {i: piece for piece, i in tokenizer.get_vocab().items()}
        self.size = size or max(ids, default=-1) + 1
        if self.size < 2:
            raise ConfigError("The tokenizer has no tokens; name another one.")
        byte_level = _is_byte_level(tokenizer)
        self.texts: list[str | None] = [None] * self.size
        self._pieces: list[str | None] = [None] * self.size
        self._raw: list[bytes | None] = [None] * self.size
        for i, piece in ids.items():
            if i < self.size:
                self.texts[i] = str(tokenizer.decode([i]))
                self._pieces[i], self._raw[i] = piece, _bytes_of(piece, byte_level)
        self._by_text, self._by_raw = _index(self.texts), _index(self._raw)
        self._by_piece = _index(self._pieces)
        self._spellings = {piece.replace("▁", " ") for piece in self._pieces if piece is not None}

    @property
    def most_alike(self) -> int:
        """How many tokens the most frequent text has."""
        return max(map(len, self._by_text.values()), default=0)

    def unique(self, token: int) -> bool:
        """Whether no other token has this one's text."""
        text = self.texts[token]
        return text is not None and len(self._by_text[text]) == 1

    def exact(self, entry: Entry) -> bool:
        """Whether an entry's name is a token's number or bytes, which no other token has."""
        raw = _raw_of(entry)
        return is_number(entry) or (raw is not None and len(self._by_raw.get(raw, ())) == 1)

    def groups(self, ids: Sequence[int], size: int, *, by_id: bool = False) -> list[list[int]]:
        """Split tokens into the fewest groups of at most `size` in which no text comes twice (unless `by_id`)."""
        if not ids:
            return []
        alike = {} if by_id else _index([self.texts[i] for i in ids])
        count = max(-(-len(ids) // size), max((len(same) for same in alike.values()), default=1))
        ordered = sorted(ids, key=lambda i: (self.texts[i] or "", i))  # equal texts follow each other
        return [ordered[start::count] for start in range(min(count, len(ordered)))]

    def identify(self, entry: Entry, asked: Collection[int]) -> int | None:
        """The one token of `asked` that an entry means, by id, bytes, text or piece; None if none or unclear."""
        by_id = _BY_ID.fullmatch(entry.name)
        if by_id is not None:
            token = int(by_id[1])
            return token if token in asked else None
        raw = _raw_of(entry)
        for tried in (
            [i for i in asked if raw is not None and self._raw[i] == raw],
            [i for i in asked if self.texts[i] == entry.name],
            [i for i in asked if _spelled(self._pieces[i], entry.name)],
        ):
            if tried:
                return tried[0] if len(tried) == 1 else None
        return None

    def find(self, entry: Entry) -> int | None:
        """The token that an entry means if nothing is known of it; None if several could be meant."""
        by_id = _BY_ID.fullmatch(entry.name)
        if by_id is not None:
            return int(by_id[1]) if int(by_id[1]) < self.size else None
        raw = _raw_of(entry)
        for same in (
            self._by_raw.get(raw) if raw is not None else None,
            self._by_text.get(entry.name),
            self._by_piece.get(entry.name),
        ):
            if same:
                return same[0] if len(same) == 1 else None
        return None

    def strange(self, entry: Entry) -> bool:
        """Whether an entry is surely of another vocabulary: no token has its number, its bytes or its text."""
        by_id, raw = _BY_ID.fullmatch(entry.name), _raw_of(entry)
        if by_id is not None:
            return int(by_id[1]) >= self.size
        known = entry.name in self._by_text or entry.name in self._by_piece or entry.name in self._spellings
        return not (known or raw in self._by_raw or "\ufffd" in entry.name or _BY_BYTES.fullmatch(entry.name))

    def spread(self, n: int, without: Collection[int]) -> list[int]:
        """`n` tokens of unique texts, from all over the vocabulary, that are not in `without`."""
        free = [i for i in range(self.size) if self.unique(i) and i not in without]
        step = max(1, len(free) // max(1, n))
        return free[step // 2 :: step][:n]


def is_number(entry: Entry) -> bool:
    """Whether a token is named by its number."""
    return _BY_ID.fullmatch(entry.name) is not None


def _index(items: Iterable[Any]) -> dict[Any, list[int]]:
    """Value → the positions that have it; None is no value."""
    found: dict[Any, list[int]] = {}
    for i, item in enumerate(items):
        if item is not None:
            found.setdefault(item, []).append(i)
    return found


def _spelled(piece: str | None, name: str) -> bool:
    return piece is not None and name in (piece, piece.replace("▁", " "))


def _raw_of(entry: Entry) -> bytes | None:
    """The bytes an entry says it is. None where it does not say, or says those of a replaced character."""
    legacy = _BY_BYTES.fullmatch(entry.name)
    if legacy is not None:
        return bytes.fromhex(legacy[1].replace("\\x", "").replace("\\X", ""))
    replaced = entry.raw is not None and entry.raw == entry.name.encode("utf-8", "replace")
    return None if replaced and "\ufffd" in entry.name else entry.raw


def _is_byte_level(tokenizer: Any) -> bool:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return False
    decoder = json.loads(backend.to_str()).get("decoder") or {}
    parts = decoder.get("decoders", [decoder])
    return any(part.get("type") == "ByteLevel" for part in parts)


def _bytes_of(piece: str, byte_level: bool) -> bytes:
    """The bytes of a piece, as byte-level BPE or SentencePiece writes them."""
    if byte_level and all(sign in _BYTES for sign in piece):
        return bytes(_BYTES[sign] for sign in piece)
    one = _ONE_BYTE.fullmatch(piece)
    return bytes.fromhex(one[1]) if one else piece.replace("▁", " ").encode("utf-8", "replace")


def _byte_alphabet() -> dict[str, int]:
    """The signs of byte-level BPE: printable Latin-1 for itself, the other bytes from 256 on, in order."""
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + n): b for n, b in enumerate(others)}


_BYTES = _byte_alphabet()
