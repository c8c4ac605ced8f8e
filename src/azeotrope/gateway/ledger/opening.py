"""The audit log opened from the gateway's folder."""

from __future__ import annotations

from contextlib import suppress

from azeotrope.gateway.ledger.audit_chain import Signer, Verifier, parse_public_key, publish, read_public_keys
from azeotrope.gateway.ledger.audit_log import AuditLog, AuditSettings
from azeotrope.gateway.ledger.database import Database
from azeotrope.gateway.ledger.folder import Folder
from azeotrope.gateway.ledger.heads_file import HeadsFile
from azeotrope.gateway.ledger.sealed import Sealer
from azeotrope.gateway.ledger.tails import sign_tails


def open_audit_log(
    database: Database, folder: Folder, settings: AuditSettings | None = None, auditor: str = ""
) -> AuditLog:
    """Open the audit log: sign with the folder's key, publish its public key, append heads to the folder's file.

    What a gateway that was killed left unsigned is signed first.
    `auditor` is the public key that `azeotrope audit auditor-key` prints; without it no original is kept.
    Blocks. Raises ConfigError, RunError, DatabaseError.
    """
    signer = Signer(folder.signing_key())
    publish(folder.public_keys, signer.public)
    heads = HeadsFile(folder.heads)
    for head in sign_tails(database, signer, Verifier(read_public_keys(folder.public_keys))):
        with suppress(OSError):  # the log's own first head will tell of it
            heads.append(head)
    sealer = Sealer(parse_public_key(auditor, "The auditor's public key")) if auditor else None
    return AuditLog(database, signer, folder.heads, settings, sealer)
