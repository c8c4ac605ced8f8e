"""The text of an API key: ``azk_<id>.<secret>``.

The id is public: 10 random characters and 4 that only who has the pepper can compute, so that made-up ids are
refused without asking the database. The secret is 256 random bits. Only HMAC-SHA256(pepper, secret) is ever
stored: the secret has full entropy, so a fast hash is the right one.
"""

from __future__ import annotations

import base64
import hmac
import secrets
from typing import Final, NamedTuple

from azeotrope.gateway.ledger.secret import Secret

PREFIX: Final = "azk_"
ID_RANDOM: Final = 10
ID_CHECK: Final = 4
ID_SIZE: Final = ID_RANDOM + ID_CHECK
SECRET_BYTES: Final = 32
SECRET_SIZE: Final = 43  # 32 bytes in URL-safe base64 without padding
SIZE: Final = len(PREFIX) + ID_SIZE + 1 + SECRET_SIZE
ID_LETTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyz234567")
_BEARER: Final = "bearer "


class KeyText(NamedTuple):
    """A key as it was sent, taken apart; `secret` is still text, so that nothing is decoded twice."""

    id: str
    secret: Secret


def parse_key_text(header: str) -> KeyText | None:
    """Return the parts of ``Bearer azk_...`` or ``azk_...``, or None if it has not the form of a key."""
    if len(header) > SIZE + 16:
        return None
    text = header.strip(" \t")
    if text[: len(_BEARER)].lower() == _BEARER:
        text = text[len(_BEARER) :].strip(" \t")
    if len(text) != SIZE or not text.isascii() or not text.startswith(PREFIX):
        return None
    key_id = text[len(PREFIX) : len(PREFIX) + ID_SIZE]
    if text[len(PREFIX) + ID_SIZE] != "." or not ID_LETTERS.issuperset(key_id):
        return None
    return KeyText(key_id, Secret(text[-SECRET_SIZE:]))


def key_digest(pepper: Secret, secret: Secret) -> bytes:
    """Return what is stored of a secret."""
    return pepper.sign(secret.reveal())


def new_id(pepper: Secret) -> str:
    """Return a new random public id."""
    start = _letters(secrets.token_bytes(8))[:ID_RANDOM]
    return start + _check(pepper, start)


def new_secret() -> Secret:
    """Return a new random secret."""
    return Secret(secrets.token_urlsafe(SECRET_BYTES))


def issued(pepper: Secret, key_id: str) -> bool:
    """Whether the id can have been made with this pepper (made-up ones pass one time in a million)."""
    return hmac.compare_digest(_check(pepper, key_id[:ID_RANDOM]), key_id[ID_RANDOM:])


def full_text(key_id: str, secret: Secret) -> Secret:
    """Return the whole key, to be shown once."""
    return Secret(f"{PREFIX}{key_id}.{secret.text()}")


def fingerprint(pepper: Secret) -> str:
    """Return what tells two peppers apart and gives neither away."""
    return pepper.sign(b"azeotrope pepper fingerprint").hex()[:32]


def _check(pepper: Secret, start: str) -> str:
    return _letters(pepper.sign(b"azeotrope key id:" + start.encode())[:ID_CHECK])[:ID_CHECK]


def _letters(value: bytes) -> str:
    return base64.b32encode(value).decode().lower().rstrip("=")
