"""The gateway's folder: where its keys, its SQLite database and its heads file are, unless told otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from azeotrope.gateway.ledger.keyfile import load_key
from azeotrope.gateway.ledger.secret import Secret

FOLDER = Path("azeotrope-gateway")
FOLDER_VARIABLE = "AZEOTROPE_FOLDER"
DATABASE_VARIABLE = "AZEOTROPE_DATABASE"
PEPPER_VARIABLE = "AZEOTROPE_PEPPER"
SIGNING_VARIABLE = "AZEOTROPE_SIGNING_KEY"
DIGEST_VARIABLE = "AZEOTROPE_DIGEST_KEY"
GATEWAY_VARIABLE = "AZEOTROPE_GATEWAY_KEY"


@dataclass(frozen=True)
class Folder:
    """Paths below one folder; every key may come from an environment variable instead of its file.

    `pepper`: without it no API key works. `signing_key`: signs the heads of the audit log; `public_keys` lists,
    one a line, the keys that verify them. `digest_key`: keys the digests of prompts and replies.
    `gateway_key`: what the vault, random choices and cache salts of all processes follow from. `heads`: the
    signed heads, to be copied to (or kept on) write-once storage.
    """

    path: Path = FOLDER

    @property
    def database(self) -> str:
        """The URL of the SQLite database."""
        return f"sqlite:///{self.path / 'gateway.db'}"

    @property
    def heads(self) -> Path:
        """The file of signed heads."""
        return self.path / "audit_heads.jsonl"

    @property
    def public_keys(self) -> Path:
        """The file of the public keys that verify heads."""
        return self.path / "audit_signing.pub"

    def pepper(self, *, create: bool = True) -> Secret:
        """Return the pepper of the API keys."""
        return load_key(self.path / "pepper.key", PEPPER_VARIABLE, create=create)

    def signing_key(self, *, create: bool = True) -> Secret:
        """Return the seed of the key that signs heads."""
        return load_key(self.path / "audit_signing.key", SIGNING_VARIABLE, create=create)

    def gateway_key(self, *, create: bool = True) -> Secret:
        """Return the key that the processes of a gateway share."""
        return load_key(self.path / "gateway.key", GATEWAY_VARIABLE, create=create)

    def digest_key(self, *, create: bool = True) -> Secret:
        """Return the key of the digests of prompts and replies."""
        return load_key(self.path / "audit_digest.key", DIGEST_VARIABLE, create=create)
