"""One chain of audit rows, written to the database in batches. Everything here blocks; see `audit_log`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from azeotrope.gateway.ledger.audit_chain import Head, Signer, genesis, link, new_chain
from azeotrope.gateway.ledger.audit_row import AuditRow, encode, stored
from azeotrope.gateway.ledger.database import Database, DatabaseError
from azeotrope.gateway.ledger.schema import audit_heads, audit_originals, audit_rows
from azeotrope.gateway.ledger.sealed import Sealer, sealed_digest
from azeotrope.gateway.ledger.secret import Secret

_TAIL: Final = sa.select(audit_rows.c.seq, audit_rows.c.hash).order_by(audit_rows.c.seq.desc()).limit(1)


class ChainError(DatabaseError):
    """The chain in the database is not the one this process wrote: somebody else changed it."""


@dataclass(frozen=True, eq=False)
class Entry:
    """A row to be written, and what the model had written before it was altered, if that is to be kept."""

    row: AuditRow
    original: Secret | None = None

    @property
    def size(self) -> int:
        """Roughly the memory it takes while it waits."""
        return 1024 + (len(self.original.reveal()) if self.original is not None else 0)


@dataclass(frozen=True, eq=False)
class Batch:
    """Entries chained and ready to be written; `seqs` has None for an entry that cannot be written at all."""

    entries: Sequence[Entry]
    seq: int
    hash: bytes
    seqs: list[int | None] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    originals: list[dict[str, Any]] = field(default_factory=list)


class ChainWriter:
    """Writes a new chain. For one thread. Raises DatabaseError, also from the constructor."""

    def __init__(self, database: Database, signer: Signer, sealer: Sealer | None = None) -> None:
        self.chain = new_chain()
        self.seq, self.hash = 0, genesis(self.chain)
        self.signed_seq, self.signed_at = 0, time.monotonic()
        self._database, self._signer, self._sealer = database, signer, sealer
        self._doubtful: Batch | None = None  # whether it was committed is not known
        self.head = self.sign()

    def write(self, entries: Sequence[Entry], *, with_head: bool = False) -> tuple[list[int | None], Head | None]:
        """Commit rows, and with them a signed head if asked; return their numbers and the head.

        The number of an entry that no table could hold is None. Raises DatabaseError: then nothing is written, or
        everything and the connection broke before that was known. Called again with the same entries (the same
        object) it finds out, and writes nothing twice; a head that was asked for is then still due.
        """
        batch = self.settle_doubt(entries)
        if batch is not None:
            return batch.seqs, None
        batch = self._doubtful = self._prepare(entries)
        head = self._commit(batch, with_head=with_head)
        self._doubtful = None
        self.seq, self.hash = batch.seq, batch.hash
        if head is not None:
            self._signed(head)
        return batch.seqs, head

    def sign(self, *, final: bool = False) -> Head:
        """Commit a signed head of the chain as it is. Raises DatabaseError."""
        head = self._head(self.seq, self.hash, final=final)
        with self._database.write() as connection:
            self._insert_head(connection, head)
        self._signed(head)
        return head

    def settle_doubt(self, entries: Sequence[Entry] | None = None) -> Batch | None:
        """Find out whether the last batch was committed after all, if that is in doubt.

        Return it if it was and is the batch of `entries`. Raises DatabaseError, ChainError.
        """
        doubtful = self._doubtful
        if doubtful is None:
            return None
        with self._database.read() as connection:
            found = connection.execute(_TAIL.where(audit_rows.c.chain == self.chain)).first()
        tail = (int(found[0]), bytes(found[1])) if found is not None else (0, genesis(self.chain))
        if tail == (self.seq, self.hash):
            self._doubtful = None
            return None
        if tail != (doubtful.seq, doubtful.hash):
            raise ChainError(
                f"The audit chain '{self.chain}' in '{self._database.name}' is not as this process wrote it: it "
                f"has {tail[0]} rows; run: azeotrope audit verify."
            )
        self._doubtful = None
        self.seq, self.hash = doubtful.seq, doubtful.hash
        return doubtful if doubtful.entries is entries else None

    def _prepare(self, entries: Sequence[Entry]) -> Batch:
        seq, hash_ = self.seq, self.hash
        seqs: list[int | None] = []
        rows: list[dict[str, Any]] = []
        originals: list[dict[str, Any]] = []
        for entry in entries:
            try:
                text, row, sealed = self._text(entry)
            except (TypeError, ValueError, AttributeError, OverflowError):  # a field that is not what it should be
                seqs.append(None)
                continue
            seq += 1
            hash_ = link(hash_, text)
            rows.append({
                "chain": self.chain, "seq": seq, "hash": hash_, "row": text, "time_ms": row.time_ms,
                "tenant": row.tenant, "request_id": row.request_id,
            })  # fmt: skip
            if sealed:
                originals.append({"chain": self.chain, "seq": seq, "sealed": sealed})
            seqs.append(seq)
        return Batch(entries, seq, hash_, seqs, rows, originals)

    def _text(self, entry: Entry) -> tuple[str, AuditRow, bytes]:
        row, sealed = stored(entry.row), b""
        if entry.original is not None and self._sealer is not None:
            sealed = self._sealer.seal(entry.original, self.chain, row.tenant, row.request_id)
            row = msgspec.structs.replace(row, sealed=sealed_digest(sealed))
        return encode(row), row, sealed

    def _commit(self, batch: Batch, *, with_head: bool) -> Head | None:
        if not with_head:
            self._database.insert({audit_rows: batch.rows, audit_originals: batch.originals})
            return None
        head = self._head(batch.seq, batch.hash, final=False)
        with self._database.write() as connection:
            if batch.rows:
                connection.execute(sa.insert(audit_rows), batch.rows)
            if batch.originals:
                connection.execute(sa.insert(audit_originals), batch.originals)
            self._insert_head(connection, head)
        return head

    def _head(self, seq: int, hash_: bytes, *, final: bool) -> Head:
        return self._signer.sign(self.chain, seq, hash_, final=final, time_ms=time.time_ns() // 1_000_000)

    def _insert_head(self, connection: sa.Connection, head: Head) -> None:
        table = audit_heads.c
        same = sa.and_(table.chain == head.chain, table.seq == head.seq, table.final == int(head.final))
        connection.execute(sa.delete(audit_heads).where(same))  # signed before, or in doubt
        connection.execute(
            sa.insert(audit_heads).values(chain=head.chain, seq=head.seq, final=int(head.final), line=head.line())
        )

    def _signed(self, head: Head) -> None:
        self.signed_seq, self.signed_at = head.seq, time.monotonic()
