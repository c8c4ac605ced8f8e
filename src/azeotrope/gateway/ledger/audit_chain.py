"""The chain of hashes over audit rows, and the signed heads that pin it.

``h_0 = SHA-256(genesis || chain id)`` and ``h_i = SHA-256(h_{i-1} || row_i)``, with row_i the bytes of its
canonical JSON. A bare chain can be rewritten from any row on, or cut short, by whoever can write to the database;
a head is (chain, number of rows, hash) signed with Ed25519, so that whoever has not the signing key can do
neither before the last head. Whoever has that key too is found out by the heads kept elsewhere.

Every process that writes has a chain of its own, so no process waits for another.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from pathlib import Path
from typing import Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from azeotrope.core.errors import ConfigError, MissingError, RunError
from azeotrope.gateway.ledger.keyfile import write_new
from azeotrope.gateway.ledger.secret import Secret

GENESIS: Final = b"azeotrope audit chain 1\n"
SIGNED: Final = b"azeotrope audit head 1\n"
LETTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")
LONGEST_FILE: Final = 1 << 20  # of public keys


def new_chain() -> str:
    """Return a new id: the time, for people, and 80 random bits."""
    return time.strftime("%Y%m%dt%H%M%Sz-", time.gmtime()).lower() + secrets.token_hex(10)


def genesis(chain: str) -> bytes:
    """Return the hash before the first row."""
    return hashlib.sha256(GENESIS + chain.encode()).digest()


def link(before: bytes, row: str) -> bytes:
    """Return the hash after a row."""
    return hashlib.sha256(before + row.encode()).digest()


class Head(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The state of a chain after `seq` rows, signed. `final`: the process ended well and no row follows."""

    chain: str
    final: bool
    hash: str
    seq: int
    signature: str = ""
    signer: str
    time_ms: int

    def signed_bytes(self) -> bytes:
        """Return what the signature covers."""
        return SIGNED + _ENCODER.encode(msgspec.structs.replace(self, signature=""))

    def line(self) -> str:
        """Return the head as one line of JSON."""
        return _ENCODER.encode(self).decode()


_ENCODER: Final = msgspec.json.Encoder(order="sorted")
_DECODER: Final = msgspec.json.Decoder(Head)


def read_head(line: str | bytes) -> Head:
    """Return the head on a line. Raises ValueError for anything else."""
    head = _DECODER.decode(line)
    if not LETTERS.issuperset(head.chain) or not 0 < len(head.chain) <= 48 or not 0 <= head.seq < 2**63:
        raise ValueError("not a head")
    if len(bytes.fromhex(head.hash)) != 32:
        raise ValueError("not a hash")
    return head


class Signer:
    """Signs heads with an Ed25519 key of which `seed` is the 32 secret bytes."""

    def __init__(self, seed: Secret) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed.reveal())
        self.public = self._key.public_key().public_bytes_raw()
        self.id = key_name(self.public)

    def sign(self, chain: str, seq: int, hash_: bytes, *, final: bool, time_ms: int) -> Head:
        """Return a signed head."""
        head = Head(chain=chain, final=final, hash=hash_.hex(), seq=seq, signer=self.id, time_ms=time_ms)
        return msgspec.structs.replace(head, signature=self._key.sign(head.signed_bytes()).hex())


class Verifier:
    """Checks heads against the public keys that one trusts."""

    def __init__(self, keys: list[bytes]) -> None:
        self._keys = {key_name(key): Ed25519PublicKey.from_public_bytes(key) for key in keys}

    def genuine(self, head: Head) -> bool:
        """Whether one of the keys signed the head."""
        key = self._keys.get(head.signer)
        if key is None:
            return False
        try:
            key.verify(bytes.fromhex(head.signature), head.signed_bytes())
        except (InvalidSignature, ValueError):
            return False
        return True


def key_name(public: bytes) -> str:
    """Return the short name of a public key that heads carry."""
    return hashlib.sha256(public).hexdigest()[:16]


def publish(path: Path, public: bytes) -> None:
    """Add a public key to the file of those that verify heads, if it is not there. Raises RunError."""
    try:
        if path.exists():
            if public in read_public_keys(path):
                return
            with open(path, "a", encoding="ascii") as file:
                file.write(public.hex() + "\n")
            return
        write_new(path, public.hex() + "\n", 0o644)
    except FileExistsError:  # another process was first
        publish(path, public)
    except OSError as error:
        raise RunError(f"The file of public keys '{path}' cannot be written: {error.strerror}.") from None


def read_public_keys(path: Path) -> list[bytes]:
    """Return the public keys in a file, one a line in hexadecimal. Raises MissingError, ConfigError."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            lines = file.read(LONGEST_FILE).split()
    except FileNotFoundError:
        raise MissingError(
            f"There is no file of public keys '{path}'; copy it from the gateway's folder."
        ) from None
    except OSError as error:
        raise ConfigError(f"The file of public keys '{path}' cannot be read: {error.strerror}.") from None
    return [parse_public_key(line, f"'{path}'") for line in lines]


def parse_public_key(text: str, where: str) -> bytes:
    """Return a public key written as 64 hexadecimal digits. Raises ConfigError."""
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise ConfigError(f"{where} holds something that is not a public key (64 hexadecimal digits).")
    return key
