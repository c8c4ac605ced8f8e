"""Originals of altered replies, sealed so that only an auditor can open them: not even the gateway can.

HPKE (RFC 9180) with X25519, HKDF-SHA256 and ChaCha20-Poly1305 encrypts to the auditor's public key; the chain,
tenant and request are bound to it, so that a sealed original cannot be passed off as that of another request.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from azeotrope.core.errors import ConfigError, RunError
from azeotrope.gateway.ledger.keyfile import load_key
from azeotrope.gateway.ledger.secret import Secret

_SUITE: Final = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
_INFO: Final = b"azeotrope sealed original 1"


class Sealer:
    """Seals for the auditor whose public key this is (32 bytes). Raises ConfigError if it cannot be used."""

    def __init__(self, public: bytes) -> None:
        self._public = X25519PublicKey.from_public_bytes(public)
        try:
            self.seal(Secret(b""), "", "", "")
        except ValueError:  # one of the few points that make no secret
            raise ConfigError(
                "The auditor's public key is weak; make another: azeotrope audit auditor-key."
            ) from None

    def seal(self, original: Secret, chain: str, tenant: str, request_id: str) -> bytes:
        """Return the original, encrypted."""
        return _SUITE.encrypt(original.reveal(), self._public, _info(chain, tenant, request_id))


class Unsealer:
    """Opens what was sealed for the auditor's key of which `key` is the 32 secret bytes."""

    def __init__(self, key: Secret) -> None:
        self._key = X25519PrivateKey.from_private_bytes(key.reveal())

    def open(self, sealed: bytes, chain: str, tenant: str, request_id: str) -> Secret:
        """Return the original. Raises RunError if it was sealed for another key or request, or was changed."""
        try:
            return Secret(_SUITE.decrypt(sealed, self._key, _info(chain, tenant, request_id)))
        except (InvalidTag, ValueError):
            raise RunError(
                "A sealed original cannot be opened: it was changed, or sealed for another auditor's key."
            ) from None


def auditor_key(path: Path, *, create: bool) -> tuple[Secret, bytes]:
    """Return an auditor's secret and public key from the file of the secret one, made if `create`.

    Raises ConfigError, MissingError.
    """
    secret = load_key(path, create=create)
    return secret, X25519PrivateKey.from_private_bytes(secret.reveal()).public_key().public_bytes_raw()


def sealed_digest(sealed: bytes) -> str:
    """Return what the audit row keeps of a sealed original."""
    return hashlib.sha256(sealed).hexdigest()


def _info(*names: str) -> bytes:
    """Bind the names, each with its length, so that no two lists of names give the same bytes."""
    parts = [name.encode("utf-8", errors="surrogatepass") for name in names]
    return b"".join([_INFO, *(len(part).to_bytes(4, "big") + part for part in parts)])
