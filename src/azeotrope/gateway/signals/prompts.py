"""What is read from a prompt: keyed hashes of its templates and body, and a small projection. No text leaves.

At most the first `WORDS` words of the first `CHARACTERS` characters are looked at, so the cost of a prompt is
bounded whatever its length and no expression below can take more than a bounded time.

Templates (spec 4.2 B). Numbers, quotations and addresses are masked. Word 3-shingles are hashed and
one-permutation MinHash (Li, Owen, Zhang 2012; empty bins by rotation, Shrivastava and Li 2014) gives 64 minima, 16
bands of 4 rows: two texts of similarity s share a band with probability 1 - (1 - s⁴)^16, with its knee at s = ½. A
template around a long filler is far below that, so the first and the last five masked words are two more keys.

Projection (spec 4.2 C, D): signed hashing of words and word pairs, without English function words, to 128 numbers,
scaled to unit length and rounded to one byte each.

Shapes: B texts, N words or shingles of all texts one after the other, K keys, D dimensions, E words at an end.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from itertools import chain
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from azeotrope.maths.sketches import MASK, Words, mix, salts

Places = NDArray[np.int64]

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
        found: NDArray[np.float32] = units([self])[0]
        return found


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
        return self.read_many([(prompt, length)])[0]

    def read_many(self, prompts: Sequence[tuple[str, int | None]]) -> list[Features | None]:
        """As `read` for (prompt, length) pairs; many together cost a fraction of as many alone."""
        words = [words_of(prompt) for prompt, _ in prompts]
        told = [at for at, tokens in enumerate(words) if tokens]
        if not told:
            return [None] * len(prompts)
        keys_BK = _keys(*self._hashes([[_masked(token) for token in words[at]] for at in told]))
        vectors_BD = self._project([prompts[at][0] for at in told])
        found: list[Features | None] = [None] * len(prompts)
        for at, keys, vector in zip(told, keys_BK.tolist(), vectors_BD, strict=True):
            prompt, length = prompts[at]
            whole = f"{len(prompt) if length is None else length} {' '.join(words[at])}"
            found[at] = Features(
                body=self._digest(whole), keys=tuple(keys), vector=vector.tobytes(), words=len(words[at])
            )
        return found

    def keyed(self, kind: str, value: str) -> int:
        """Return the keyed hash of a piece of metadata, as `Seen.links` wants it."""
        return self._digest(f"{kind}\x00{value}")

    def _project(self, prompts: Sequence[str]) -> NDArray[np.int8]:
        """Projections [B, D] of B prompts."""
        # What is quoted counts here: it is content, and only as a template's filler of no interest.
        found = (_WORDS.findall(prompt[:CHARACTERS].lower())[:WORDS] for prompt in prompts)
        content = [[word for word in words if word not in _FUNCTION_WORDS] for words in found]
        hashes_N, owner_N = self._hashes(content)
        paired = owner_N[:-1] == owner_N[1:]
        pairs = mix(hashes_N[:-1] * _PAIR[0] + hashes_N[1:] * _PAIR[1])[paired]
        grams = np.concatenate([hashes_N, pairs])
        owner = np.concatenate([owner_N, owner_N[1:][paired]])
        signs = 1.0 - 2.0 * ((grams >> np.uint64(7)) & np.uint64(1)).astype(np.float64)
        place = owner * DIMENSIONS + (grams & np.uint64(DIMENSIONS - 1)).astype(np.int64)
        sums_BD = np.bincount(place, signs, len(prompts) * DIMENSIONS).reshape(len(prompts), DIMENSIONS)
        largest_B1 = np.maximum(np.abs(sums_BD).max(axis=1, keepdims=True), 1.0)
        return np.asarray(np.rint(sums_BD * (127.0 / largest_B1)), dtype=np.int8)

    def _hashes(self, texts: Sequence[Sequence[str]]) -> tuple[Words, Places]:
        """Hashes of all words of all texts, and of each the number of its text."""
        known = self._known
        if len(known) > CACHED:
            known.clear()
        found = []
        for token in chain.from_iterable(texts):
            number = known.get(token)
            if number is None:
                number = self._digest(token)
                if len(token) <= SHORT:
                    known[token] = number
            found.append(number)
        owner_N = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
        return np.array(found, dtype=np.uint64), owner_N

    def _digest(self, text: str) -> int:
        data = text.encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.blake2b(data, key=self._secret, digest_size=8).digest(), "little")


def units(features: Sequence[Features]) -> NDArray[np.float32]:
    """Projections [B, D] as float32 of length 1 (0 for a text without content words)."""
    joined = np.frombuffer(b"".join(one.vector for one in features), dtype=np.int8)
    raw_BD = joined.reshape(len(features), DIMENSIONS).astype(np.float32)
    length_B1 = np.sqrt(np.einsum("bd,bd->b", raw_BD, raw_BD).astype(np.float64))[:, None]
    return np.asarray(raw_BD / np.maximum(length_B1, 1e-6).astype(np.float32), dtype=np.float32)


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


def _keys(masked_N: Words, owner_N: Places) -> Words:
    """Keys [B, K] of B texts, none of them empty: the 16 bands, then those of the beginning and the end."""
    counts_B = np.bincount(owner_N)
    count = len(counts_B)
    minima_BN = _minima(*_shingles(masked_N, owner_N, counts_B), count)
    bands = (minima_BN.reshape(count, BANDS, ROWS) * _ROW).sum(axis=2, dtype=np.uint64)
    first_B = np.cumsum(counts_B) - counts_B
    ends = []
    for start_B in (first_B, first_B + np.maximum(counts_B - EDGE, 0)):
        at_BE = start_B[:, None] + np.arange(EDGE)
        inside_BE = at_BE < (first_B + counts_B)[:, None]
        words_BE = np.where(inside_BE, masked_N[np.minimum(at_BE, len(masked_N) - 1)], np.uint64(0))
        ends.append((words_BE * _PLACE).sum(axis=1, dtype=np.uint64))
    return mix(np.column_stack([bands, *ends]) ^ _BAND)


def _shingles(words_N: Words, owner_N: Places, counts_B: Places) -> tuple[Words, Places]:
    """Hashes of three words in a row, and whose they are; a text of fewer than three is one shingle."""
    whole = owner_N[:-2] == owner_N[2:]
    found = mix(words_N[:-2] * _SHINGLE[0] + words_N[1:-1] * _SHINGLE[1] + words_N[2:] * _SHINGLE[2])[whole]
    short_B = np.flatnonzero(counts_B < 3)
    if not len(short_B):
        return found, owner_N[2:][whole]
    parts = [words_N[owner_N == text] for text in short_B]
    brief = [(part * _SHINGLE[: len(part)]).sum(dtype=np.uint64) for part in parts]
    return np.append(found, mix(np.array(brief, dtype=np.uint64))), np.append(owner_N[2:][whole], short_B)


def _minima(shingles_N: Words, owner_N: Places, count: int) -> Words:
    """One-permutation MinHash [B, bins]: the smallest hash of each bin; an empty one takes the next's, shifted."""
    minima = np.full(count * BINS, _EMPTY)
    bins_N = owner_N * BINS + (shingles_N >> np.uint64(58)).astype(np.int64)
    np.minimum.at(minima, bins_N, shingles_N & _VALUE)
    minima_BN = minima.reshape(count, BINS)
    at = np.arange(2 * BINS)
    used = np.where(np.tile(minima_BN != _EMPTY, 2), at, 2 * BINS)
    following = np.minimum.accumulate(used[:, ::-1], axis=1)[:, ::-1][:, :BINS]
    distance = (following - at[:BINS]).astype(np.uint64)
    return np.take_along_axis(minima_BN, following % BINS, axis=1) + distance * _ROTATION
