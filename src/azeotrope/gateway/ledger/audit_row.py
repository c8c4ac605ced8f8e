"""One row of the audit log: what was asked and served, in numbers and digests. No text of a prompt or reply."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Final, Protocol

import msgspec

from azeotrope.gateway.ledger.secret import Secret

LONGEST: Final = 256  # characters of any text in a row: a client chooses the name of the model it asks for
MOST_REASONS: Final = 32
TENANTS: Final = 4096  # whose digest keys are kept at hand
MOST: Final = 2**53 - 1  # every JSON reader keeps integers up to here


class AuditRow(msgspec.Struct, frozen=True, kw_only=True):
    """What is recorded of one request.

    `policy`: hash of the policy that decided. `stance`: what it decided, `reasons`: why, as codes. `altered`:
    whether the reply differs from what the model wrote, by `chars_transformed` characters. Digests are keyed (see
    `Digester`).
    """

    time_ms: int
    request_id: str
    tenant: str
    key_id: str
    policy: str
    stance: str
    reasons: tuple[str, ...] = ()
    model_requested: str = ""
    model_served: str = ""
    dialect: str = ""
    streamed: bool = False
    status: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    chars_transformed: int = 0
    altered: bool = False
    latency_ms: float = 0.0
    overhead_ms: float = 0.0
    prompt_digest: str = ""
    reply_digest: str = ""


class StoredRow(AuditRow, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A row as it is stored: with the version of the form, and the SHA-256 of the sealed original ("": none)."""

    v: int = 1
    sealed: str = ""


_TEXTS: Final = tuple(
    field.name for field in msgspec.structs.fields(AuditRow) if field.type is str
)  # fmt: skip
_COUNTS: Final = tuple(field.name for field in msgspec.structs.fields(AuditRow) if field.type is int)
_SPANS: Final = tuple(field.name for field in msgspec.structs.fields(AuditRow) if field.type is float)
_FLAGS: Final = tuple(field.name for field in msgspec.structs.fields(AuditRow) if field.type is bool)
_ENCODER: Final = msgspec.json.Encoder(order="sorted")
_DECODER: Final = msgspec.json.Decoder(StoredRow)


def stored(row: AuditRow, sealed: str = "") -> StoredRow:
    """Return the row in the form that is stored.

    Texts lose what cannot be stored or shown (control characters, lone surrogates) and what is beyond 256
    characters; numbers are brought into range. So any row can be written: a client cannot prevent its own row.
    """
    values: dict[str, Any] = {name: plain(getattr(row, name)) for name in _TEXTS}
    values["reasons"] = tuple(plain(reason) for reason in row.reasons[:MOST_REASONS])
    for name in _COUNTS:
        values[name] = max(0, min(MOST, int(getattr(row, name))))
    for name in _SPANS:
        span = float(getattr(row, name))
        values[name] = round(min(max(span, 0.0), 1e9), 3) if math.isfinite(span) else 0.0
    for name in _FLAGS:
        values[name] = bool(getattr(row, name))
    return StoredRow(sealed=sealed, **values)


def encode(row: StoredRow) -> str:
    """Return the canonical JSON: UTF-8, keys sorted, no spaces, numbers in their shortest form."""
    return _ENCODER.encode(row).decode()


def decode(text: str) -> StoredRow:
    """Return the row of a JSON text. Raises ValueError for anything that is not exactly what `encode` writes."""
    row = _DECODER.decode(text)
    if encode(row) != text:
        raise ValueError("not canonical")
    return row


def plain(text: str) -> str:
    """Return at most 256 characters of `text`; what is not printable becomes a replacement character."""
    if len(text) <= LONGEST and text.isprintable():
        return text
    if len(text) > LONGEST:
        text = text[: LONGEST - 1] + "…"
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


class Digest(Protocol):
    """A digest to be."""

    def update(self, data: bytes, /) -> None:
        """Add bytes."""

    def hexdigest(self) -> str:
        """Return the digest of what was added."""


class Digester:
    """Keyed digests: equal texts of a tenant have equal digests, and without the key none can be guessed.

    Every tenant has its own key, so that digests of different tenants cannot be compared.
    """

    def __init__(self, key: Secret) -> None:
        self._own = lru_cache(TENANTS)(lambda tenant: Secret(key.sign(b"azeotrope digest:" + _bytes(tenant))))

    def begin(self, tenant: str) -> Digest:
        """Return a digest for text that comes in pieces."""
        return self._own(tenant).keyed()

    def digest(self, tenant: str, text: str) -> str:
        """Return the digest of `text` in hexadecimal."""
        found = self.begin(tenant)
        found.update(_bytes(text))
        return found.hexdigest()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", errors="surrogatepass")
