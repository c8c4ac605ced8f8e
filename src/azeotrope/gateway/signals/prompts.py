"""What is read from a prompt: keyed hashes of its templates and body, and a small projection. No text leaves.

At most the first `WORDS` words of the first `CHARACTERS` characters are looked at, so the cost of a prompt is
bounded whatever its length and no expression below can take more than a bounded time.

Templates (spec 4.2 B). Numbers, quotations and addresses are masked. Word 3-shingles are hashed and
one-permutation MinHash (Li, Owen, Zhang 2012; empty bins by rotation, Shrivastava and Li 2014) gives 64 minima, 16
bands of 4 rows: two texts of similarity s share a band with probability 1 - (1 - s⁴)^16, with its knee at s = ½. A
template around a long filler is far below that, so the first and the last five masked words are two more keys.

Projection (spec 4.2 C, D): signed hashing of words and word pairs, without English function words, to 128 numbers,
scaled to unit length and rounded to one byte each.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from azeotrope.maths.sketches import MASK, Words, mix, salts

WORDS: Final = 128
CHARACTERS: Final = 2048
BINS, BANDS, ROWS = 64, 16, 4
EDGE: Final = 5  # masked words at either end that make a key of their own
KEYS: Final = BANDS + 2
TELLING: Final = (0, BANDS // 2, BANDS, BANDS + 1)  # keys enough to recognize a template: two bands, both ends
DIMENSIONS: Final = 128
CACHED: Final = 1 << 16  # words whose hash is kept, of at most `SHORT` characters: below 16 MB
SHORT: Final = 24

# Addresses, quotations, numbers, single characters of scripts that do not write spaces, words.
_TOKENS: Final = re.compile(
    r'https?://\S+|"[^"\n]{1,120}"|“[^”\n]{1,120}”|\d[\d.,:/-]*|[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]'
    r"|[^\W\d_\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+"
)
_WORDS: Final = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\d_\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+"
)
_FUNCTION_WORDS: Final = frozenset(
    "a about all also am an and any are as at be because been but by can could did do does for from get had "
    "has have he her his how i if in into is it its just like make me more my need no not of on one only or "
    "our out please she should so some such than that the their them then there these they this those to up "
    "us was we were what when where which who why will with would you your".split()
)
_EMPTY: Final = np.uint64(1 << 63)
_VALUE: Final = np.uint64((1 << 58) - 1)
_SHINGLE: Final = salts(3, 1) | np.uint64(1)
_ROW: Final = salts(ROWS, 2) | np.uint64(1)
_BAND: Final = salts(KEYS, 3)
_PLACE: Final = salts(EDGE, 4) | np.uint64(1)
_PAIR: Final = salts(2, 5) | np.uint64(1)
_ROTATION: Final = np.uint64(0x9E3779B97F4A7C15)


class Features(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A prompt as hashes: enough for the signals, and for a log that holds no text.

    `body` stands for the text as it is, `keys` for its 16 bands, beginning and end, `vector` for its projection.
    """

    body: int
    keys: tuple[int, ...]
    vector: bytes
    words: int

    def __post_init__(self) -> None:
        if len(self.keys) != KEYS or len(self.vector) != DIMENSIONS:
            raise ValueError(f"features need {KEYS} keys and a vector of {DIMENSIONS} bytes")
        if not all(0 <= number <= MASK for number in (self.body, self.words, *self.keys)):
            raise ValueError("hashes are numbers of 64 bits")

    @property
    def template(self) -> tuple[int, ...]:
        """The few keys by which linkage recognizes the template."""
        return tuple(self.keys[i] for i in TELLING)

    def unit(self) -> NDArray[np.float32]:
        """Return the projection as float32 of length 1 (0 for a text without content words)."""
        raw = np.frombuffer(self.vector, dtype=np.int8).astype(np.float32)
        return raw / np.float32(max(float(np.einsum("d,d->", raw, raw)) ** 0.5, 1e-6))


class Reader:
    """Turns prompts into features under one secret, so that outsiders cannot compute a collision."""

    def __init__(self, secret: bytes = b"") -> None:
        self._secret = hashlib.blake2b(secret, digest_size=32, person=b"azeotrope/sig").digest()
        self._known: dict[str, int] = {}

    @property
    def fingerprint(self) -> str:
        """What a calibration remembers, so that it is not used under another secret."""
        return hashlib.blake2b(b"fingerprint", key=self._secret, digest_size=8).hexdigest()

    def read(self, prompt: str, length: int | None = None) -> Features | None:
        """Return the features of a prompt; None without words.

        `length` is that of the whole prompt if only its beginning is handed over.
        """
        tokens = words_of(prompt)
        if not tokens:
            return None
        masked = self._hashes([_masked(token) for token in tokens])
        whole = f"{len(prompt) if length is None else length} {' '.join(tokens)}"
        return Features(
            body=self._digest(whole),
            keys=tuple(_keys(masked).tolist()),
            vector=self._project(prompt).tobytes(),
            words=len(tokens),
        )

    def keyed(self, kind: str, value: str) -> int:
        """Return the keyed hash of a piece of metadata, as `Seen.links` wants it."""
        return self._digest(f"{kind}\x00{value}")

    def _project(self, prompt: str) -> NDArray[np.int8]:
        # What is quoted counts here: it is content, and only as a template's filler of no interest.
        words = _WORDS.findall(prompt[:CHARACTERS].lower())[:WORDS]
        content = [word for word in words if word not in _FUNCTION_WORDS]
        hashes = self._hashes(content)
        pairs = mix(hashes[:-1] * _PAIR[0] + hashes[1:] * _PAIR[1])
        grams = np.concatenate([hashes, pairs])
        signs = 1.0 - 2.0 * ((grams >> np.uint64(7)) & np.uint64(1)).astype(np.float64)
        sums = np.bincount((grams & np.uint64(DIMENSIONS - 1)).astype(np.int64), signs, DIMENSIONS)
        scaled = sums * (127.0 / max(float(np.abs(sums).max()), 1.0))
        return np.asarray(np.rint(scaled), dtype=np.int8)

    def _hashes(self, tokens: Sequence[str]) -> Words:
        known = self._known
        if len(known) > CACHED:
            known.clear()
        found = []
        for token in tokens:
            number = known.get(token)
            if number is None:
                number = self._digest(token)
                if len(token) <= SHORT:
                    known[token] = number
            found.append(number)
        return np.array(found, dtype=np.uint64)

    def _digest(self, text: str) -> int:
        data = text.encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.blake2b(data, key=self._secret, digest_size=8).digest(), "little")


def words_of(prompt: str) -> list[str]:
    """Return the words that are looked at, in lower case."""
    return _TOKENS.findall(prompt[:CHARACTERS].lower())[:WORDS]


def _masked(token: str) -> str:
    first = token[0]
    if first.isdecimal():
        return "<n>"
    if first in '"“':
        return "<q>"
    return "<u>" if token.startswith(("http://", "https://")) else token


def _keys(masked: Words) -> Words:
    """The 16 band keys of a text, then those of its beginning and its end."""
    minima = _minima(_shingles(masked))
    bands = (minima.reshape(BANDS, ROWS) * _ROW).sum(axis=1, dtype=np.uint64)
    ends = [(part * _PLACE[: len(part)]).sum(dtype=np.uint64) for part in (masked[:EDGE], masked[-EDGE:])]
    return mix(np.append(bands, np.array(ends, dtype=np.uint64)) ^ _BAND)


def _shingles(words: Words) -> Words:
    if len(words) < 3:
        return mix((words * _SHINGLE[: len(words)]).sum(keepdims=True, dtype=np.uint64))
    return mix(words[:-2] * _SHINGLE[0] + words[1:-1] * _SHINGLE[1] + words[2:] * _SHINGLE[2])


def _minima(shingles: Words) -> Words:
    """One-permutation MinHash: the smallest hash in each bin; an empty bin takes the next one's, shifted."""
    minima = np.full(BINS, _EMPTY)
    np.minimum.at(minima, (shingles >> np.uint64(58)).astype(np.int64), shingles & _VALUE)
    used = np.flatnonzero(minima != _EMPTY)
    at = np.arange(BINS)
    following = used[np.searchsorted(used, at) % len(used)]
    distance = ((following - at) % BINS).astype(np.uint64)
    return minima[following] + distance * _ROTATION
